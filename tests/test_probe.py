"""A head that starts from a linear probe: the fit by its gradient, and the model's log-odds."""

import numpy as np
import pytest
import torch
from helpers.tiny import save_tiny
from helpers.training import arguments, rows, trainer_for
from scipy.special import expit
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

from realfake.training.model import fit_probe, start_head


@pytest.fixture(scope="module")
def sixteen():
    return rows(16)


def test_the_fit_has_no_gradient():
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.4
    features = rng.normal(size=(200, 3)) * [1, 10, 0.1] + truth[:, None] * [1, 5, 0] + 3
    probe = fit_probe(features, truth, penalty=0.05)
    log_odds = features @ probe.weights + probe.bias
    residual = expit(log_odds) - truth
    scale = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / scale
    gradient = scaled.T @ residual / 200 + 0.05 * probe.weights * scale
    np.testing.assert_allclose(gradient, 0, atol=1e-3)
    assert residual.mean() == pytest.approx(0, abs=1e-3)
    signed = np.where(truth, log_odds, -log_odds)
    assert probe.loss == pytest.approx(np.logaddexp(0, -signed).mean(), abs=1e-4)
    assert probe.accuracy == pytest.approx((signed > 0).mean())


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="--probe_images"):
        fit_probe(np.zeros((4, 2)), np.ones(4, dtype=bool))


@pytest.mark.parametrize("labels", [("real", "ai"), ("ai", "real")])
def test_the_model_has_the_log_odds_of_the_probe(tmp_path, sixteen, labels):
    folder = save_tiny("dinov2", tmp_path / "dinov2", labels=labels)
    args = arguments(tmp_path / "run", probe_images=16)
    trainer = trainer_for(folder, sixteen, args, data={"augmentation": 0.0})
    model = trainer.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    probe = trainer.start_head()
    moved = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert moved == {"classifier.weight", "classifier.bias"}
    with torch.inference_mode():
        batch = trainer.eval_collator([trainer.train_dataset[index] for index in range(16)])
        logits = model.eval()(batch["pixel_values"]).logits
        ai, real = labels.index("ai"), labels.index("real")
        log_odds = (logits[:, ai] - logits[:, real]).numpy()
    is_ai = (batch["labels"] == ai).numpy()
    signed = np.where(is_ai, log_odds, -log_odds)
    assert np.logaddexp(0, -signed).mean() == pytest.approx(probe.loss, abs=0.02)
    assert probe.loss < np.log(2) and (signed > 0).mean() == pytest.approx(probe.accuracy, abs=0.1)


@pytest.mark.parametrize("data", [{"balance": 0.5}, {"cutmix": 1.0}, {"consistency": 1.0}])
def test_a_training_starts_from_a_probe(tiny_vit, sixteen, tmp_path, data):
    trainer = trainer_for(tiny_vit, sixteen, arguments(tmp_path, probe_images=12), data=data)
    before = trainer.model.classifier.weight.detach().clone()
    trainer.start_head()
    assert not torch.equal(trainer.model.classifier.weight, before)
    trainer.train()


def test_the_probe_sees_what_the_training_sees(sixteen, tmp_path):
    folder = save_tiny("dinov2", tmp_path / "dinov2")
    args = arguments(tmp_path / "run", probe_images=4, patch_dropout=0.5)
    trainer = trainer_for(folder, sixteen, args)
    sizes = []
    block = trainer.model.dinov2.encoder.layer[0]
    block.register_forward_pre_hook(lambda module, given: sizes.append(given[0].shape[1]))
    trainer.start_head()
    assert sizes == [9]


def test_the_probe_keeps_running_statistics(sixteen, tmp_path):
    folder = save_tiny("resnet", tmp_path / "resnet")
    trainer = trainer_for(folder, sixteen, arguments(tmp_path / "run", probe_images=8))
    before = {name: tensor.clone() for name, tensor in trainer.model.named_buffers()}
    trainer.start_head()
    assert before and all(
        torch.equal(tensor, before[name]) for name, tensor in trainer.model.named_buffers()
    )


def test_models_with_two_heads_are_refused():
    config = DeiTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        id2label={0: "real", 1: "ai"},
        label2id={"real": 0, "ai": 1},
    )
    model = DeiTForImageClassificationWithTeacher(config)
    batch = {"pixel_values": torch.randn(4, 3, 32, 32), "labels": torch.tensor([0, 1, 0, 1])}
    with pytest.raises(ValueError, match="--probe_images"):
        start_head(model, [batch])
