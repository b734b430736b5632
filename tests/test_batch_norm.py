"""Folded batch normalisations: the same answers, and the model itself where that cannot be had."""

from types import SimpleNamespace

import pytest
import torch
from helpers.tiny import save_tiny
from torch import nn
from transformers import AutoModelForImageClassification

from realfake.models.folding import fold_batch_norms


class Classifier(nn.Module):
    """A convolution, its normalisation, and a second use of the convolution's output."""

    def __init__(self, leak: float):
        super().__init__()
        self.convolution, self.normalisation = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head, self.leak = nn.Linear(4, 2), leak

    def forward(self, pixel_values, output_hidden_states=False):
        made = self.convolution(pixel_values)
        features = self.normalisation(made) + self.leak * made
        return SimpleNamespace(logits=self.head(features.mean((2, 3))), hidden_states=None)


def excite(model: nn.Module) -> nn.Module:
    """Give the normalisations statistics of their own; fresh ones do nothing."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.running_mean.shape, generator=generator) / 5
            module.running_var = torch.rand(module.running_var.shape, generator=generator) + 0.5
            module.weight.data = torch.rand(module.weight.shape, generator=generator) + 0.5
            module.bias.data = torch.randn(module.bias.shape, generator=generator) / 5
    return model.eval()


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet", "efficientnet"])
def test_answers_stay_as_they_are(name, tmp_path):
    model = excite(
        AutoModelForImageClassification.from_pretrained(save_tiny(name, tmp_path / name))
    )
    pixels = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    folded = fold_batch_norms(model, pixels[:1])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        one, two = (each(pixel_values=pixels).logits for each in (model, folded))
    assert one.std() > 1e-3
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])  # the model is left alone


def test_without_batch_normalisation_it_is_the_model_itself(tiny_vit):
    model = AutoModelForImageClassification.from_pretrained(tiny_vit).eval()
    assert fold_batch_norms(model, torch.zeros(1, 3, 32, 32)) is model


def test_an_output_that_something_else_takes_is_noticed():
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alone, shared = (excite(Classifier(leak)) for leak in (0.0, 1.0))
    assert fold_batch_norms(alone, pixels) is not alone
    assert fold_batch_norms(shared, pixels) is shared
