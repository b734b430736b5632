"""The order of training images: shares worked out by hand, aligned pairs, and their mixtures."""

import io
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from helpers.tiny import draw_picture
from helpers.training import arguments, trainer_for
from PIL import Image

from realfake.training.augment import Augmentation
from realfake.training.balance import BalancedOrder, find_pairs
from realfake.training.data import Pick, TrainingImages
from realfake.training.views import ViewAugmentation, join_frequencies, mix_pair

LABEL2ID = {"real": 0, "ai": 1}
FEATURES = Features(
    {
        "image": ImageFeature(decode=False),
        "label": ClassLabel(names=["real", "ai"]),
        **{name: Value("string") for name in ("generator", "family", "source", "group")},
    }
)


def drawn(entries) -> Dataset:
    """Return rows of (label, source, group, generator), each with another image."""
    rows = []
    for index, (label, source, group, generator) in enumerate(entries):
        buffer = io.BytesIO()
        draw_picture(64, seed=index).save(buffer, "PNG")
        rows.append(
            {
                "image": {"bytes": buffer.getvalue(), "path": None},
                "label": int(label == "ai"),
                "generator": generator,
                "family": generator,
                "source": source,
                "group": group,
            }
        )
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture(scope="module")
def uneven() -> Dataset:
    """64 and 4 photographs of two sources, 16 generated images, and 4 reconstructions."""
    return drawn(
        [("real", "large", f"l{i}", "camera") for i in range(64)]
        + [("real", "small", f"s{i}", "camera") for i in range(4)]
        + [("ai", "web", f"w{i}", "sdxl") for i in range(16)]
        + [("ai", "large", f"l{i}", "autoencoder (tiny)") for i in range(4)]
    )


def order(dataset, epoch=0, seed=0, **options) -> list[Pick]:
    return list(BalancedOrder(dataset, SimpleNamespace(epoch=epoch), seed, **options))


@pytest.mark.parametrize("options", [{}, {"pair_share": 0.5}])
def test_the_classes_alternate(uneven, options):
    assert [uneven["label"][pick.row] for pick in order(uneven, **options)] == [0, 1] * 44


@pytest.mark.parametrize("exponent, share", [(1.0, 4 / 68), (0.5, 2 / 10), (0.0, 0.5)])
def test_a_source_has_the_stated_share(uneven, exponent, share):
    counts = Counter(
        uneven["source"][pick.row]
        for epoch in range(20)
        for pick in order(uneven, epoch, exponent=exponent)[::2]
    )
    assert counts["small"] / counts.total() == pytest.approx(share, abs=0.02)


def test_a_row_is_drawn_again_only_after_all_others_of_its_cell(uneven):
    counts = Counter(pick.row for pick in order(uneven, exponent=0.0)[::2])
    for rows in (range(64), range(64, 68)):
        times = [counts[row] for row in rows]
        assert max(times) - min(times) <= 1


def test_the_order_depends_on_seed_and_epoch_only(uneven):
    first = order(uneven, pair_share=0.5)
    assert order(uneven, pair_share=0.5) == first
    assert order(uneven, epoch=1, pair_share=0.5) != first != order(uneven, seed=1, pair_share=0.5)


def test_pairs_are_neighbours_and_share_their_draw(uneven):
    picks = order(uneven, pair_share=0.5)
    groups = uneven["group"]
    twos = list(zip(picks[::2], picks[1::2]))
    pairs = [(a, b) for a, b in twos if groups[a.row] == groups[b.row]]
    assert len(pairs) == 22
    for real, ai in pairs:
        assert real.draw == ai.draw and ai.photograph == real.row and real.photograph is None
    others = [b for a, b in twos if groups[a.row] != groups[b.row]]
    assert len(others) == 22
    assert all(pick.row < 84 for pick in others), "a reconstruction comes with its photograph only"
    draws = Counter(pick.draw for pick in picks)
    assert Counter(draws.values()) == {1: 44, 2: 22}


def test_photographs_and_reconstructions_alone_are_all_pairs(uneven):
    rows = [*range(4), *range(84, 88)]
    picks = order(uneven.select(rows), pair_share=0.2)
    assert all(a.draw == b.draw for a, b in zip(picks[::2], picks[1::2]))


def test_a_corpus_without_sources_is_balanced_by_class():
    columns = ["generator", "family", "source", "group"]
    plain = drawn([("real", "", "", "")] * 6 + [("ai", "", "", "")] * 2).remove_columns(columns)
    assert Counter(pick.row for pick in order(plain)[1::2]) == {6: 2, 7: 2}


def test_one_class_or_no_pairs_are_refused(uneven):
    with pytest.raises(ValueError, match="--balance"):
        order(uneven.select(range(10)))
    with pytest.raises(ValueError, match="--pair_share"):
        order(uneven.select(range(4, 84)), pair_share=0.5)


def test_pairs_by_hand():
    is_ai = np.array([False, True, True, False, False, True])
    assert find_pairs(is_ai, ["a", "a", "b", "c", "a", None]) == {1: [0, 4]}
    assert find_pairs(is_ai, None) == {}


@pytest.mark.parametrize("augmentation", [ViewAugmentation(48), Augmentation(1.0, 48)])
def test_the_draw_decides_crop_and_degradations(uneven, augmentation):
    images = TrainingImages(uneven, augmentation, LABEL2ID, 0)
    expected = augmentation(draw_picture(64, seed=3), np.random.default_rng((0, 0, 7)))
    assert images[Pick(3, 7)]["image"].tobytes() == expected.tobytes()
    assert images[Pick(3, 7)]["draw"] == (0, 0, 7)
    assert images[7]["image"].tobytes() == images[Pick(7, 7)]["image"].tobytes()


def test_a_mixture_keeps_crop_and_label(uneven):
    plain, mixed = (
        TrainingImages(uneven, ViewAugmentation(48, 0.0), LABEL2ID, 0, pair_mix=share)
        for share in (0.0, 1.0)
    )
    pick = Pick(84, 5, 0)
    photograph = np.asarray(plain[Pick(0, 5)]["image"], dtype=float)
    one, other = (np.asarray(images[pick]["image"], dtype=float) for images in (plain, mixed))
    assert not np.array_equal(one, other)
    assert np.abs(other - photograph).mean() < np.abs(one - photograph).mean()
    assert mixed[pick]["label"] == LABEL2ID["ai"]


def test_joined_frequencies_by_hand():
    flat = Image.new("RGB", (32, 32), (100, 100, 100))
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    board = Image.fromarray(np.repeat(board[..., None], 3, 2))
    # The level 100 and the pattern of ±127: from 0 (clipped) to 227.
    inside = np.asarray(join_frequencies(flat, board, 3.0))[8:24, 8:24, 0]
    assert inside.min() == 0 and inside.max() >= 226
    # The level of the board without its pattern.
    inside = np.asarray(join_frequencies(board, flat, 3.0))[8:24, 8:24].astype(int)
    assert np.abs(inside - 127).max() <= 2


def test_a_reconstruction_of_another_size_is_not_mixed():
    photograph, other = draw_picture(64, seed=0), draw_picture(40, seed=1)
    assert mix_pair(photograph, other, np.random.default_rng(0)) is other


def test_a_training_with_pairs_and_worker_processes(tiny_vit, uneven, tmp_path):
    options = {
        "balance": 0.5,
        "pair_share": 0.5,
        "pair_mix": 0.5,
        "native_views": True,
        "augmentation": 1.0,
    }
    args = arguments(tmp_path, max_steps=12, dataloader_num_workers=1)
    trainer = trainer_for(tiny_vit, uneven, args, "native", options)
    loader = iter(trainer.get_train_dataloader())
    for _ in range(3):
        assert next(loader)["labels"].tolist() == [0, 1] * 4
    trainer.train()
    assert trainer.state.global_step == 12 and trainer.train_dataset.epoch == 1


def test_a_resumed_training_sees_the_same_order(tiny_vit, uneven, tmp_path):
    def trained(folder, resume=None):
        args = arguments(folder, max_steps=14, save_strategy="steps", save_steps=12)
        data = {"balance": 0.5, "pair_share": 0.5}
        trainer = trainer_for(tiny_vit, uneven, args, "native", data)
        trainer.train(resume_from_checkpoint=resume)
        return {row["step"]: row["loss"] for row in trainer.state.log_history if "loss" in row}

    whole = trained(tmp_path / "whole")
    again = trained(tmp_path / "again", str(tmp_path / "whole" / "checkpoint-12"))
    for step in (13, 14):
        assert again[step] == pytest.approx(whole[step], abs=1e-5)
