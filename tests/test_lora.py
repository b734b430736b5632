"""Low-rank adapters: what is trained, the merge, checkpoints, and the folder for peft."""

import json

import pytest
import torch
from helpers.tiny import save_tiny
from helpers.training import arguments, rows, trainer_for
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification

from realfake.training import lora

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'realfake[train]'")


@pytest.fixture(scope="module")
def sixteen():
    return rows(16)


@pytest.fixture(scope="module", params=["vit", "deit", "dinov2", "swin"])
def transformer(request, tmp_path_factory):
    return save_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return save_tiny("dinov2", tmp_path_factory.mktemp("tiny") / "dinov2")


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def opened(folder):
    return AutoModelForImageClassification.from_pretrained(folder).eval()


def adapted(folder, dataset, tmp_path, rank=2, **options):
    return trainer_for(folder, dataset, arguments(tmp_path, **options), lora_rank=rank)


def test_only_adapters_and_head_move(transformer, sixteen, tmp_path):
    trainer = adapted(transformer, sixteen, tmp_path)
    model = trainer.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.train()
    heads = ("classifier.", "cls_classifier.", "distillation_classifier.")
    for name, tensor in model.state_dict().items():
        moved = not torch.equal(tensor, before[name])
        assert moved == ("lora_" in name or name.startswith(heads)), name


def test_merged_logits_equal_unmerged_ones(transformer, sixteen, pixels, tmp_path):
    trainer = adapted(transformer, sixteen, tmp_path)
    trainer.train()
    model = trainer.plain_model().eval()
    base, names = opened(transformer), set(opened(transformer).state_dict())
    with torch.inference_mode():
        before = model(pixels).logits
        lora.merge_adapters(model)
        torch.testing.assert_close(model(pixels).logits, before, rtol=0, atol=1e-5)
        model.save_pretrained(tmp_path / "merged")
        again = opened(tmp_path / "merged")
        torch.testing.assert_close(again(pixels).logits, before, rtol=0, atol=1e-5)
        assert not torch.allclose(base(pixels).logits, before, atol=1e-3)
    assert type(model) is type(base) and set(model.state_dict()) == names
    assert not lora.has_adapters(model) and all(p.requires_grad for p in model.parameters())
    lora.merge_adapters(model)  # does nothing without adapters


def test_the_adapter_is_scaled_by_alpha_over_rank(dinov2):
    for alpha, scale in ((None, 2.0), (8.0, 4.0)):
        model = opened(dinov2)
        lora.add_adapters(model, 2, alpha)
        layer = model.dinov2.encoder.layer[0].mlp.fc1
        torch.nn.init.ones_(layer.lora_B["default"].weight)
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        name = "dinov2.encoder.layer.0.mlp.fc1.weight"
        added = lora.merged_state(model)[name] - opened(dinov2).state_dict()[name]
        torch.testing.assert_close(added, scale * product, rtol=1e-3, atol=1e-5)


def test_peft_opens_the_saved_adapters(dinov2, sixteen, pixels, tmp_path):
    trainer = adapted(dinov2, sixteen, tmp_path)
    trainer.train()
    model = trainer.model.eval()
    lora.save_adapters(model, tmp_path, str(dinov2))
    folder = tmp_path / lora.ADAPTER_FOLDER
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(dinov2) and config["r"] == 2
    with torch.inference_mode():
        again = peft.PeftModel.from_pretrained(opened(dinov2), folder).eval()
        torch.testing.assert_close(again(pixels).logits, model(pixels).logits)


def test_the_card_of_the_adapters_names_their_base(dinov2, tmp_path):
    model = opened(dinov2)
    lora.add_adapters(model, 2)
    lora.save_adapters(model, tmp_path, "user/base")
    card = ModelCard.load(tmp_path / lora.ADAPTER_FOLDER / "README.md")
    assert (card.data.base_model, card.data.library_name) == ("user/base", "peft")
    lora.save_adapters(model, tmp_path, str(dinov2))
    card = ModelCard.load(tmp_path / lora.ADAPTER_FOLDER / "README.md")
    assert card.data.base_model is None and str(dinov2) not in card.content


def test_a_resumed_training_continues_exactly(transformer, sixteen, pixels, tmp_path):
    options = {
        "save_strategy": "steps",
        "save_steps": 2,
        "ema_decay": 0.5,
        "max_steps": 4,
        "num_train_epochs": 2,
    }
    whole = adapted(transformer, sixteen, tmp_path / "whole", **options)
    whole.train()
    again = adapted(transformer, sixteen, tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, msg=name)
    # A checkpoint holds merged weights, so it opens without peft.
    stored = opened(tmp_path / "whole" / "checkpoint-4")
    with torch.inference_mode():
        expected = whole.model.eval()(pixels).logits
        torch.testing.assert_close(stored(pixels).logits, expected, rtol=0, atol=1e-5)


def test_the_best_checkpoint_is_loaded(dinov2, sixteen, pixels, tmp_path):
    options = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    trainer = adapted(dinov2, sixteen, tmp_path, load_best_model_at_end=True, **options)
    trainer.train()
    best = opened(trainer.state.best_model_checkpoint)
    with torch.inference_mode():
        expected = best(pixels).logits
        logits = trainer.plain_model().eval()(pixels).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_another_rank_does_not_continue_a_checkpoint(dinov2, sixteen, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    adapted(dinov2, sixteen, tmp_path, **options).train()
    other = adapted(dinov2, sixteen, tmp_path, rank=4, **options)
    with pytest.raises(ValueError, match="--lora_rank"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_network_of_convolutions_alone_is_refused(tmp_path):
    model = opened(save_tiny("resnet", tmp_path))
    with pytest.raises(ValueError, match="--lora_rank"):
        lora.add_adapters(model, 2)
