"""Ways to spare a pretrained backbone, mixed images and twins: each does what its option says, and nothing else."""

import numpy as np
import pytest
import torch
from helpers.tiny import save_tiny
from PIL import Image
from scipy.spatial.distance import jensenshannon
from test_training import arguments, rows, trainer_for
from transformers import TrainerCallback

from realfake.training.arguments import DataArguments
from realfake.training.augment import Augmentation
from realfake.training.data import Collator, MixingCollator, StreamedImages, TrainingImages
from realfake.training.trainer import head_parameters, jensen_shannon

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


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return save_tiny("resnet", tmp_path_factory.mktemp("tiny") / "resnet")


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


class AtEpochEnds(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer
        self.states = []

    def on_epoch_end(self, args, state, control, **kwargs):
        self.states.append(state_of(self.trainer))


class BeforeSteps(AtEpochEnds):
    """Added last, so that it looks just before the optimizer moves the weights."""

    def on_epoch_end(self, args, state, control, **kwargs):
        pass

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.states.append(state_of(self.trainer))


@pytest.mark.parametrize("strength, kept", [(0.0, 1.0), (4.0, 0.8), (20.0, 0.0), (1000.0, 0.0)])
def test_the_pull_towards_the_start(strength, kept, tiny_vit, sixteen, tmp_path):
    """At a learning rate of 0.05, a strength of 4 takes back a fifth of the way before each step."""
    args = arguments(tmp_path, **PLAIN, l2_to_pretrained=strength)
    trainer = trainer_for(tiny_vit, sixteen, args, data={"augmentation": 0.0})
    start = state_of(trainer)
    watch, ends = BeforeSteps(trainer), []
    trainer.add_callback(watch)
    original = trainer.training_step
    trainer.training_step = lambda *words: (ends.append(state_of(trainer)), original(*words))[1]
    trainer.train()
    assert len(watch.states) == len(ends) == 2
    for name, tensor in watch.states[1].items():
        way = ends[1][name] - start[name]  # after the first step
        expected = way if name.startswith("classifier.") else kept * way
        torch.testing.assert_close(tensor - start[name], expected, atol=1e-7, rtol=1e-4, msg=name)
    assert (ends[1]["vit.layernorm.weight"] - start["vit.layernorm.weight"]).abs().max() > 1e-6


def test_the_pull_takes_the_place_of_weight_decay(tiny_vit, sixteen, tmp_path):
    trainer = trainer_for(
        tiny_vit, sixteen, arguments(tmp_path, weight_decay=0.3, l2_to_pretrained=1.0, max_steps=1)
    )
    trainer.train()
    head = head_parameters(trainer.model)
    of = {id(p): name for name, p in trainer.model.named_parameters()}
    decay = {
        of[id(p)]: group["weight_decay"]
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    }
    assert len(decay) == len(of)
    assert {name for name, value in decay.items() if value} == head & {"classifier.weight"}


def test_the_head_alone_first(resnet, sixteen, tmp_path):
    args = arguments(
        tmp_path / "whole",
        num_train_epochs=3,
        head_epochs=2,
        save_strategy="epoch",
        save_total_limit=3,
    )
    trainer = trainer_for(resnet, sixteen, args)
    start = state_of(trainer)
    epochs = AtEpochEnds(trainer)
    trainer.add_callback(epochs)
    trainer.train()
    for number, end in enumerate(epochs.states, start=1):
        for name, tensor in end.items():
            same = torch.equal(tensor, start[name])
            # The running statistics are the backbone's too.
            assert same == (number <= 2 and not name.startswith("classifier.")), (number, name)
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())

    resumed = trainer_for(
        resnet,
        sixteen,
        arguments(
            tmp_path / "resumed",
            num_train_epochs=3,
            head_epochs=2,
            save_strategy="epoch",
            save_total_limit=3,
        ),
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, tensor in state_of(trainer).items():
        assert torch.equal(tensor, state_of(resumed)[name]), name


def test_frozen_layers_stay_frozen_after_the_head(resnet, sixteen, tmp_path):
    trainer = trainer_for(
        resnet, sixteen, arguments(tmp_path, num_train_epochs=2, head_epochs=1), trainable="last:1"
    )
    start = state_of(trainer)
    free = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    trainer.train()
    changed = {
        name for name, tensor in state_of(trainer).items() if not torch.equal(tensor, start[name])
    }
    assert changed & {name for name, _ in trainer.model.named_parameters()} == free
    assert free > head_parameters(trainer.model)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"backbone_lr_factor": 0.0}, "--backbone_lr_factor must lie in"),
        ({"backbone_lr_factor": 2.0}, "--backbone_lr_factor must lie in"),
        ({"l2_to_pretrained": -1.0}, "must not be negative"),
        ({"head_epochs": -1}, "must not be negative"),
    ],
)
def test_options_that_make_no_sense(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


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


def batches(mixup, cutmix, count=40):
    collator = MixingCollator(Levels(), mixup, cutmix)
    return [collator(drawn(epoch=epoch)) for epoch in range(count)]


def test_mixup_blends_pixels_and_labels_alike():
    shares = []
    for batch in batches(0.2, 0.0):
        share = batch["share"][0].item()
        shares.append(share)
        levels = batch["pixel_values"][:, 0, 0, 0].numpy()
        assert (batch["pixel_values"] == batch["pixel_values"][:, :1, :1, :1]).all(), (
            "the whole image, evenly"
        )
        own = 10.0 * np.arange(8)
        partners = (levels - share * own) / max(1 - share, 1e-9) / 10
        if share < 0.99:
            found = partners.round().astype(int)
            np.testing.assert_allclose(partners, found, atol=0.02)
            assert sorted(found) == list(range(8))
            assert batch["partner_labels"].tolist() == [number % 2 for number in found]
        assert batch["labels"].tolist() == [0, 1] * 4
    # Beta(0.2, 0.2): mean 1/2, and mostly near the ends.
    assert (
        abs(np.mean(shares) - 0.5) < 0.2
        and np.mean([abs(share - 0.5) > 0.4 for share in shares]) > 0.5
    )


def test_cutmix_keeps_every_pixel_of_one_or_the_other():
    cut = 0
    for batch in batches(0.0, 1.0):
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
    collator = MixingCollator(Levels(), 1.0, 1.0)
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
        ({"consistency": -1.0}, "--consistency must lie between 0 and 100"),
        ({"consistency": 12.0, "cutmix": 0.2}, "leave out --mixup and --cutmix"),
    ],
)
def test_a_consistency_that_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(dataset="corpus", **options)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_a_mixed_batch(weighted, tiny_vit, sixteen, tmp_path):
    weights = {"class_weights": "balanced"} if weighted else {}
    trainer = trainer_for(tiny_vit, sixteen, arguments(tmp_path), data={"mixup": 0.5, **weights})
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
