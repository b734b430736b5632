"""Learning rates, patch dropout, CutMix and the consistency loss, computed by hand."""

import copy
import json

import numpy as np
import pytest
import torch
from helpers.tiny import save_tiny
from helpers.training import arguments, rows, trainer_for
from PIL import Image
from scipy.spatial.distance import jensenshannon
from transformers import AutoModelForImageClassification

from realfake.training.arguments import DataArguments
from realfake.training.augment import Augmentation
from realfake.training.data import Collator, CutMixCollator, StreamedImages, TrainingImages
from realfake.training.model import PatchDropout
from realfake.training.optimization import clock_schedule, jensen_shannon

PLAIN = {
    "optim": "sgd",
    "learning_rate": 0.05,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "num_train_epochs": 1,
}


@pytest.fixture(scope="module")
def sixteen():
    return rows(16)


def state_of(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def moved(folder, dataset, tmp_path, name, **options) -> dict[str, torch.Tensor]:
    """How far each weight moved in a run without augmentation, from the same start."""
    torch.manual_seed(0)
    args = arguments(tmp_path / name, **{**PLAIN, **options})
    trainer = trainer_for(folder, dataset, args, data={"augmentation": 0.0})
    before = state_of(trainer)
    trainer.train()
    return {name: tensor - before[name] for name, tensor in state_of(trainer).items()}


def test_the_backbones_learning_rate(tiny_vit, sixteen, tmp_path):
    one = {"max_steps": 1}
    whole = moved(tiny_vit, sixteen, tmp_path, "whole", **one)
    tenth = moved(tiny_vit, sixteen, tmp_path, "tenth", backbone_lr_factor=0.1, **one)
    for name, step in whole.items():
        expected = step if name.startswith("classifier.") else step * 0.1
        torch.testing.assert_close(tenth[name], expected, atol=1e-6, rtol=1e-2, msg=name)
    assert (
        whole["classifier.weight"].abs().max() > 1e-4
        and tenth["vit.layernorm.weight"].abs().max() > 1e-7
    )


def test_the_logged_learning_rate_is_the_heads(tiny_vit, sixteen, tmp_path):
    trainer = trainer_for(tiny_vit, sixteen, arguments(tmp_path, backbone_lr_factor=0.1))
    trainer.train()
    logged = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert logged == [1e-2, 1e-2]
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {1e-2, 1e-3}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"backbone_lr_factor": 0.0}, "--backbone_lr_factor must lie in"),
        ({"backbone_lr_factor": 2.0}, "--backbone_lr_factor must lie in"),
        ({"max_minutes": -1.0}, "--max_minutes"),
        ({"max_minutes": 1.0}, "--lr_scheduler_type"),
        ({"patch_dropout": 1.0}, "--patch_dropout must lie in"),
        ({"patch_dropout": 0.5, "patch_dropout_until": 1.5}, "--patch_dropout_until"),
        ({"patch_dropout_until": 0.5}, "needs --patch_dropout"),
    ],
)
def test_invalid_options(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


# --- a training by the clock


def test_the_learning_rate_falls_by_the_clock():
    now = [0.0]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = clock_schedule(optimizer, 1, lambda: now[0])
    rates = [optimizer.param_groups[0]["lr"]]
    for now[0] in (0.0, 0.5, 1.0, 1.0):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 2.0, 1.0, 0.0, 0.0])


def test_a_training_stops_when_its_time_is_over(tiny_vit, sixteen, tmp_path):
    trainer = trainer_for(tiny_vit, sixteen, by_the_clock(tmp_path, 0.02))
    trainer.train()
    assert 1 <= trainer.state.global_step < 5_000
    assert trainer.lr_scheduler.get_last_lr() == pytest.approx([0, 0], abs=1e-12)


def test_the_clock_survives_an_interruption(tiny_vit, sixteen, tmp_path):
    first = by_the_clock(tmp_path, 10, max_steps=2, save_strategy="steps", save_steps=2)
    trainer_for(tiny_vit, sixteen, first).train()
    path = tmp_path / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text())
    state["stateful_callbacks"]["ElapsedCallback"]["args"]["seconds"] = 601.0
    path.write_text(json.dumps(state))
    resumed = trainer_for(tiny_vit, sixteen, by_the_clock(tmp_path, 10))
    resumed.train(resume_from_checkpoint=str(path.parent))
    assert resumed.state.global_step == 3


def by_the_clock(folder, minutes, **options):
    settings = {"lr_scheduler_type": "cosine", "max_steps": 100_000, "max_minutes": minutes}
    return arguments(folder, **{**settings, **options})


# --- patch dropout


@pytest.fixture(scope="module", params=["vit", "deit", "dinov2"])
def transformer(request, tmp_path_factory):
    folder = save_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)
    return AutoModelForImageClassification.from_pretrained(folder).eval()


def embeddings_of(model):
    return next(each for name, each in model.named_modules() if name.endswith(".embeddings"))


def test_patches_are_dropped_in_training_only(transformer):
    pixels = torch.randn(3, 3, 32, 32).mean(0, keepdim=True).repeat(3, 1, 1, 1)
    model = copy.deepcopy(transformer)
    embed = embeddings_of(model)
    whole = embed(pixels)
    dropout = PatchDropout(model, 0.75)
    assert torch.equal(embed(pixels), whole)
    model.train()
    patches = (32 // embed.patch_embeddings.patch_size[0]) ** 2
    first = whole.shape[1] - patches
    seen = set()
    for _ in range(8):
        kept = embed(pixels)
        assert kept.shape[1] == first + patches // 4
        torch.testing.assert_close(kept[:, :first], whole[:, :first])
        places = torch.cdist(kept[0, first:], whole[0, first:]).argmin(1).tolist()
        torch.testing.assert_close(kept[:, first:], whole[:, [first + each for each in places]])
        assert places == sorted(set(places))
        seen.add(tuple(places))
    assert len(seen) > 1
    model(pixel_values=pixels).logits.sum().backward()
    dropout.active = False
    assert torch.equal(embed(pixels), whole)


def test_patches_are_dropped_until_a_share_of_the_training(sixteen, tmp_path):
    folder = save_tiny("dinov2", tmp_path / "dinov2")
    options = {"patch_dropout": 0.5, "patch_dropout_until": 0.5, "num_train_epochs": 2}
    trainer = trainer_for(folder, sixteen, arguments(tmp_path, max_steps=4, **options))
    sizes = []
    block = trainer.model.dinov2.encoder.layer[0]
    block.register_forward_pre_hook(lambda module, given: sizes.append(given[0].shape[1]))
    trainer.train()
    assert sizes == [9, 9, 17, 17]
    trainer.evaluate()
    assert set(sizes[4:]) == {17}


def test_a_network_without_patches_is_refused(tiny_convnext, sixteen, tmp_path):
    with pytest.raises(ValueError, match="--patch_dropout"):
        trainer_for(tiny_convnext, sixteen, arguments(tmp_path, patch_dropout=0.5))


# --- mixed images


class Levels:
    """A processor that keeps the levels."""

    def __call__(self, images, return_tensors):
        stack = np.stack(
            [np.asarray(image, dtype=np.float32).transpose(2, 0, 1) for image in images]
        )
        return {"pixel_values": torch.from_numpy(stack)}


def drawn(n=8, side=16, epoch=0):
    return [
        {
            "image": Image.new("RGB", (side, side), (index * 10,) * 3),
            "label": index % 2,
            "draw": (0, epoch, index),
        }
        for index in range(n)
    ]


def batches(alpha, count=40):
    collator = CutMixCollator(Levels(), alpha)
    return [collator(drawn(epoch=epoch)) for epoch in range(count)]


def test_cutmix_keeps_every_pixel_of_one_or_the_other():
    cut = 0
    for batch in batches(1.0):
        share = batch["share"][0].item()
        for index, (pixels, label, partner_label) in enumerate(
            zip(batch["pixel_values"], batch["labels"], batch["partner_labels"], strict=True)
        ):
            values, counts = pixels[0].unique(return_counts=True)
            assert len(values) <= 2 and label == index % 2
            if len(values) == 2:
                cut += 1
                kept = dict(zip(values.tolist(), counts.tolist(), strict=True))[index * 10]
                assert kept / 256 == pytest.approx(share, abs=1e-6)
                (other,) = [value for value in values.tolist() if value != index * 10]
                assert partner_label == (other // 10) % 2
    assert cut > 100


def test_mixing_can_be_repeated_and_changes_with_the_epoch():
    collator = CutMixCollator(Levels(), 1.0)
    first, again, later = (collator(drawn(epoch=epoch)) for epoch in (0, 0, 1))
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert not torch.equal(first["pixel_values"], later["pixel_values"])
    assert torch.equal(
        Collator(Levels())(drawn())["pixel_values"][:, 0, 0, 0],
        torch.arange(8, dtype=torch.float32) * 10,
    )


# --- twins


def test_jensen_shannon_is_the_mean_divergence_from_the_middle():
    first, second = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    p, q = first.softmax(-1).numpy(), second.softmax(-1).numpy()
    expected = jensenshannon(p, q, axis=1) ** 2
    assert jensen_shannon(first, second).item() == pytest.approx(expected.mean(), abs=1e-6)
    assert jensen_shannon(first, first).item() == pytest.approx(0, abs=1e-7)
    opposite = torch.tensor([[50.0, -50.0]])
    assert jensen_shannon(opposite, -opposite).item() == pytest.approx(np.log(2))


def test_streamed_twins_are_those_of_the_whole_corpus(sixteen):
    common = (Augmentation(1.0), {"real": 0, "ai": 1}, 0, True)
    streamed = list(StreamedImages(sixteen.to_iterable_dataset(), *common))
    whole = TrainingImages(sixteen, *common)
    assert [row["twin"].tobytes() for row in streamed] == [
        whole[i]["twin"].tobytes() for i in range(16)
    ]


def test_the_loss_of_a_batch_with_twins(tiny_vit, sixteen, tmp_path):
    trainer = trainer_for(tiny_vit, sixteen, arguments(tmp_path), data={"consistency": 3.0})
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["twin_values"].shape == batch["pixel_values"].shape
    assert not torch.equal(batch["twin_values"], batch["pixel_values"])
    trainer.model.eval()
    losses, logits = [], []
    for name in ("pixel_values", "twin_values"):
        loss, outputs = trainer.compute_loss(
            trainer.model,
            {"pixel_values": batch[name], "labels": batch["labels"]},
            return_outputs=True,
        )
        losses.append(loss.item())
        logits.append(outputs["logits"])
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    assert loss == pytest.approx(np.mean(losses) + 3 * jensen_shannon(*logits).item(), abs=1e-6)
    assert "twin_values" not in next(iter(trainer.get_eval_dataloader()))
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"consistency": -1.0}, "--consistency must lie in"),
        ({"consistency": 12.0, "cutmix": 0.2}, "leave out --cutmix"),
    ],
)
def test_invalid_consistency(options, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(dataset="corpus", **options)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_a_mixed_batch(weighted, tiny_vit, sixteen, tmp_path):
    weights = {"class_weights": "balanced"} if weighted else {}
    trainer = trainer_for(tiny_vit, sixteen, arguments(tmp_path), data={"cutmix": 0.5, **weights})
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    plain = {"pixel_values": batch["pixel_values"]}
    own, other = (
        trainer.compute_loss(trainer.model, {**plain, "labels": batch[name]}).item()
        for name in ("labels", "partner_labels")
    )
    share = batch["share"][0].item()
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    assert loss == pytest.approx(share * own + (1 - share) * other, abs=1e-6)
    assert "partner_labels" not in next(iter(trainer.get_eval_dataloader()))
    trainer.train()
    assert trainer.state.global_step == 2
