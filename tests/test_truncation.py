"""A transformer that is cut to its first blocks: its configuration, and opening it again."""

import pytest
import torch
from helpers.tiny import save_tiny
from transformers import AutoModelForImageClassification

from realfake.training.arguments import ModelArguments
from realfake.training.model import prepare_classifier, truncate


def opened(folder):
    return AutoModelForImageClassification.from_pretrained(folder).eval()


@pytest.mark.parametrize("architecture", ["vit", "deit", "dinov2", "siglip"])
def test_a_truncated_model_opens_again_with_the_same_logits(architecture, tmp_path):
    model = opened(save_tiny(architecture, tmp_path / "whole"))
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    size = sum(p.numel() for p in model.parameters())
    with torch.inference_mode():
        before = model(pixels).logits
        truncate(model, 1)
        model.save_pretrained(tmp_path / "cut")
        again, info = AutoModelForImageClassification.from_pretrained(
            tmp_path / "cut", output_loading_info=True
        )
        logits = model(pixels).logits
        torch.testing.assert_close(again.eval()(pixels).logits, logits)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), (
        info
    )
    assert not torch.allclose(logits, before)
    assert sum(p.numel() for p in again.parameters()) < size
    config = getattr(again.config, "vision_config", again.config)
    assert config.num_hidden_layers == 1


def test_the_stages_of_a_truncated_backbone_are_shortened(tmp_path):
    model = opened(save_tiny("dinov2", tmp_path))
    truncate(model, 1)
    config = model.config.to_dict()
    assert config["stage_names"] == ["stem", "stage1"]
    assert (config["out_features"], config["out_indices"]) == (["stage1"], [1])


def test_a_classifier_to_train_has_the_number_of_blocks_of_the_option(tmp_path):
    folder = save_tiny("dinov2", tmp_path)
    model, _ = prepare_classifier(ModelArguments(model_name_or_path=str(folder), blocks=1))
    assert len(model.dinov2.encoder.layer) == model.config.num_hidden_layers == 1


@pytest.mark.parametrize("blocks", [0, 3])
def test_a_wrong_number_of_blocks_names_the_option_and_the_range(blocks, tmp_path):
    with pytest.raises(ValueError, match="--blocks .*1 and 2"):
        truncate(opened(save_tiny("dinov2", tmp_path)), blocks)


@pytest.mark.parametrize("architecture", ["convnextv2", "swin"])
def test_networks_without_one_list_of_blocks_are_refused(architecture, tmp_path):
    with pytest.raises(ValueError, match="--blocks"):
        truncate(opened(save_tiny(architecture, tmp_path)), 1)
