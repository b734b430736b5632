"""Detectors that examine the whole image in views: the grid, the mean, the tiles, the flags."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from helpers.tiny import draw_picture, save_tiny
from PIL import Image
from transformers import pipeline

from realfake.detector import Detector
from realfake.engines import Choice
from realfake.models.classifiers import use_native_pixels
from realfake.models.views import (
    crop_view,
    neighbours,
    overlaps,
    spread_order,
    tile_boxes,
    view_boxes,
    view_size,
)
from realfake.scoring.scorer import Scorer
from realfake.scoring.source import Row
from realfake.statistics.contrast import ContrastThresholds, contrast, fit_contrast
from realfake.statistics.stopping import STEP, mean_interval
from realfake.statistics.verdicts import Thresholds, verdicts

SIDE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny("vit", tmp_path_factory.mktemp("views") / "vit")
    detector = Detector.from_pretrained(folder)
    use_native_pixels(detector.processor, SIDE)
    detector.processor.save_pretrained(folder)
    detector.model.config.realfake = {"views": 16}
    detector.model.save_pretrained(folder)
    return folder


@pytest.fixture
def detector(folder):
    return Detector.from_pretrained(folder)


# The grid


@pytest.mark.parametrize(
    ("size", "limit", "count"),
    [
        ((32, 32), 16, 1),
        ((20, 10), 16, 1),
        ((33, 32), 16, 2),
        ((64, 64), 16, 4),
        ((96, 70), 16, 9),
        ((20, 100), 16, 4),
        ((4000, 3000), 16, 16),
        ((4000, 40), 16, 16),
        ((96, 96), 4, 4),
        ((500, 400), 1, 1),
    ],
)
def test_views_cover_the_image_up_to_the_limit(size, limit, count):
    boxes = view_boxes(*size, (SIDE, SIDE), limit)
    assert len(boxes) == len(set(boxes)) == count
    covered = np.zeros(size[::-1], dtype=bool)
    for left, top, right, bottom in boxes:
        assert (right - left, bottom - top) == (min(SIDE, size[0]), min(SIDE, size[1]))
        assert left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]
        covered[top:bottom, left:right] = True
    if -(-size[0] // SIDE) * -(-size[1] // SIDE) <= limit:
        assert covered.all()


def test_views_of_a_large_image_are_spread_over_it():
    boxes = np.array(view_boxes(4000, 3000, (SIDE, SIDE), 16))
    centres = boxes[:, :2] + SIDE / 2
    assert centres.min(axis=0) == pytest.approx([4000 / 8, 3000 / 8], abs=1)
    assert centres.max(axis=0) == pytest.approx([4000 * 7 / 8, 3000 * 7 / 8], abs=1)


def test_a_single_view_is_the_crop_of_the_processor(detector):
    image = draw_picture((51, 77), seed=1)
    (box,) = view_boxes(*image.size, (SIDE, SIDE), 1)
    cut = detector.processor(images=crop_view(image, box, (SIDE, SIDE)), return_tensors="pt")
    assert torch.equal(cut["pixel_values"], detector.pixels(image))


def test_tiles_are_disjoint_and_cover_what_the_views_cover():
    boxes = view_boxes(100, 75, (SIDE, SIDE), 16)
    count = np.zeros((75, 100), dtype=int)
    for left, top, right, bottom in tile_boxes(boxes):
        count[top:bottom, left:right] += 1
    assert (count == 1).all()


def test_small_images_are_reflected_and_not_padded_with_black():
    image = Image.new("RGB", (10, 20), (200, 100, 50))
    view = np.asarray(crop_view(image, (0, 0, 10, 20), (SIDE, SIDE)))
    assert view.shape == (SIDE, SIDE, 3) and (view == (200, 100, 50)).all()


def test_overlaps_and_neighbours_of_a_grid():
    boxes = view_boxes(48, 48, (SIDE, SIDE), 16)
    shared = overlaps(boxes)
    assert shared[0] == pytest.approx([1, 0.5, 0.5, 0.25])
    assert neighbours(boxes) == [(0, 1), (0, 2), (1, 3), (2, 3)]


# The mean


def test_the_log_odds_are_the_mean_of_the_views(detector):
    image = draw_picture((80, 70), seed=3)
    prediction = detector.predict(image)
    values = [view.log_odds for view in prediction.views]
    assert len(values) == 9 and np.ptp(values) > 0.01
    assert prediction.log_odds == pytest.approx(np.mean(values), abs=1e-9)
    assert sum(tile.share for tile in prediction.tiles) == pytest.approx(
        prediction.log_odds, abs=1e-6
    )
    for view in prediction.views:
        alone = detector.predict(image.crop(view.box), views=1)
        assert alone.log_odds == pytest.approx(view.log_odds, abs=1e-5)
    assert prediction.examined == 1
    assert prediction.strongest.log_odds == max(values)


def test_the_examined_share_of_a_large_image(detector):
    prediction = detector.predict(draw_picture((400, 300), seed=1))
    assert len(prediction.views) == 16
    assert prediction.examined == pytest.approx(16 * SIDE**2 / (400 * 300))


@pytest.mark.parametrize(
    "architecture", ["vit", "deit", "dinov2", "convnext", "resnet", "mobilenet_v2"]
)
def test_one_view_equals_the_stock_pipeline(architecture, tmp_path):
    folder = save_tiny(architecture, tmp_path / architecture)
    detector = Detector.from_pretrained(folder)
    use_native_pixels(detector.processor, SIDE)
    detector.processor.save_pretrained(folder)
    stock = pipeline("image-classification", model=str(folder), device="cpu")
    for seed in range(0, 50, 4):
        image = draw_picture((24 + seed, 90 - seed), seed=seed)
        expected = {entry["label"]: entry["score"] for entry in stock(image)}
        assert detector.predict(image, views=1).probabilities == pytest.approx(expected, abs=1e-5)


def test_results_do_not_depend_on_the_batch(detector):
    pictures = [draw_picture((20 + 9 * n, 90 - 5 * n), seed=n) for n in range(9)]
    alone = [detector.predict(picture) for picture in pictures]
    for batch_size in (1, 3, 16):
        together = detector.predict(pictures, batch_size=batch_size)
        assert [len(p.views) for p in together] == [len(p.views) for p in alone]
        assert [p.log_odds for p in together] == pytest.approx(
            [p.log_odds for p in alone], abs=1e-5
        )


def test_the_setting_of_the_checkpoint_is_the_default(detector):
    image = draw_picture(80, seed=1)
    assert detector.views == 16 and len(detector.predict(image).views) == 9
    assert len(detector.predict(image, views=4).views) == 4
    detector.facts.pop("views")
    assert detector.views == 1 and len(detector.predict(image).views) == 1


@pytest.mark.parametrize("views", [0, -1, 2.5, True])
def test_a_wrong_number_of_views_is_refused(detector, views):
    with pytest.raises(ValueError, match="views"):
        detector.predict(draw_picture(40), views=views)


def test_a_detector_that_resizes_has_one_view(tiny_vit):
    detector = Detector.from_pretrained(tiny_vit)
    assert view_size(detector.processor) is None
    prediction = detector.predict(draw_picture((90, 60)))
    assert [view.box for view in prediction.views] == [(0, 0, 90, 60)] and prediction.examined == 1
    with pytest.raises(ValueError, match="views=1"):
        detector.predict(draw_picture(90), views=4)


def test_copies_are_examined_in_at_most_four_views(detector):
    stability = detector.stability(draw_picture(100, seed=2))
    counts = [len(prediction.views) for _, prediction in stability.variants]
    assert counts[0] == 16 and max(counts[1:]) == 4


def test_the_scorer_gives_the_same_answers(detector, tmp_path):
    rows = []
    for index, size in enumerate([(70, 40), (32, 32), (20, 25), (200, 150)]):
        path = tmp_path / f"{index}.png"
        draw_picture(size, seed=index).save(path)
        rows.append(Row(path.name, path.name, {"bytes": None, "path": str(path)}))
    for choice in (Choice(), Choice("torch-bf16", "torch-fp32", band=0.5)):
        answers, _ = Scorer(detector, choice)(rows)
        for row, answer in zip(rows, answers, strict=True):
            expected = detector.predict(row.image["path"])
            assert answer["log_odds"] == pytest.approx(expected.log_odds, abs=1e-5)
            assert (answer["n_views"], answer["verdict"]) == (len(expected.views), expected.verdict)


# Maps


def test_early_exit_stops_where_the_verdict_is_settled(detector, tmp_path):
    image = draw_picture((120, 100), seed=4)
    image.save(tmp_path / "picture.png")
    rows = [Row("0", None, {"bytes": (tmp_path / "picture.png").read_bytes(), "path": None})]
    full = detector.predict(image)
    detector.thresholds = Thresholds(0.05, full.log_odds - 9, full.log_odds + 9, 100, 100)
    (answer,), _ = Scorer(detector, early_exit=True)(rows)
    assert (answer["n_views"], answer["verdict"]) == (STEP, "inconclusive")
    # All views are needed next to a threshold.
    detector.thresholds = Thresholds(0.05, full.log_odds + 1e-6, full.log_odds + 9, 100, 100)
    (answer,), _ = Scorer(detector, early_exit=True)(rows)
    assert answer["n_views"] == len(full.views) == 16
    assert answer["log_odds"] == pytest.approx(full.log_odds, abs=1e-5)


def test_an_image_that_stopped_early_is_not_tested_for_a_part_that_differs(detector, tmp_path):
    image = draw_picture((120, 100), seed=4)
    image.save(tmp_path / "picture.png")
    rows = [Row("0", None, {"bytes": (tmp_path / "picture.png").read_bytes(), "path": None})]
    log_odds = detector.predict(image).log_odds
    detector.thresholds = Thresholds(0.05, log_odds - 9, log_odds + 9, 100, 100)
    detector.differing = ContrastThresholds(0.05, {STEP: -1.0, 16: -1.0}, 100)
    # The band makes the image doubtful, so its views are computed again.
    choice = Choice("torch-bf16", "torch-fp32", band=100.0)
    (answer,), _ = Scorer(detector, choice, early_exit=True)(rows)
    assert (answer["n_views"], answer["recomputed"], answer["differing"]) == (STEP, True, False)
    (answer,), _ = Scorer(detector, choice)(rows)
    assert (answer["n_views"], answer["recomputed"], answer["differing"]) == (16, True, True)


def test_the_first_views_are_spread_over_the_image():
    boxes = view_boxes(96, 96, (SIDE, SIDE), 16)
    order = spread_order(boxes)
    assert sorted(order) == list(range(9))
    assert order[0] == 4 and {boxes[view][:2] for view in order[1:5]} == {
        (0, 0),
        (64, 0),
        (0, 64),
        (64, 64),
    }


def test_the_interval_holds_the_mean_of_all_views():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(2000):
        log_odds = rng.normal(0.3, 2, size=16)
        low, high = mean_interval(log_odds[:4], 16, 0.05)
        missed += not low <= log_odds.mean() <= high
    assert 0.03 < missed / 2000 < 0.07
    assert mean_interval(log_odds, 16, 0.05) == pytest.approx((log_odds.mean(),) * 2)


def test_a_map_of_integrated_gradients_adds_up_to_the_shares(detector):
    image = draw_picture((60, 50), seed=4)
    explanation = detector.explain(
        image, "integrated_gradients", n_steps=64, max_steps=512, tolerance=0.005
    )
    assert explanation.heatmap.shape == (50, 60) and np.isfinite(explanation.heatmap).all()
    shares = [tile.share for tile in explanation.tiles]
    by_view = explanation.details["by_view"]
    assert sorted(by_view) == explanation.details["mapped_views"] == [0, 1, 2, 3]
    n = len(shares)
    for index, details in by_view.items():
        pixels = shares[index] - details["score_baseline"] / n + details["convergence_delta"] / n
        assert details["sum"] == pytest.approx(pixels, abs=1e-4)


def test_slow_methods_map_the_strongest_views_and_the_others_evenly(detector):
    image = draw_picture((90, 90), seed=5)
    explanation = detector.explain(image, "occlusion", window=16, stride=16)
    mapped = explanation.details["mapped_views"]
    sizes = np.abs([view.log_odds for view in explanation.prediction.views])
    assert len(mapped) == 4 and set(mapped) == set(np.argsort(-sizes)[:4].tolist())
    fast = detector.explain(image, "gradcam")
    assert len(fast.details["mapped_views"]) == 9


def test_the_removal_test_takes_all_views(detector):
    explanation = detector.explain(draw_picture((60, 50), seed=6), "gradcam", evidence=True)
    evidence = explanation.evidence
    expected = 1 / (1 + np.exp(-explanation.prediction.log_odds))
    assert evidence.before == pytest.approx(expected, abs=1e-6)
    assert len(set(evidence.random_values)) > 1


def test_what_no_view_covers_is_not_a_number(detector):
    heatmap = detector.explain(draw_picture((300, 200)), "gradcam").heatmap
    assert 0.2 < np.isfinite(heatmap).mean() < 0.3


# Thresholds and the part that differs


def test_thresholds_by_the_number_of_views():
    wide, narrow = Thresholds(0.05, -2.0, 2.0, 99, 99), Thresholds(0.05, -1.0, 1.0, 90, 90)
    thresholds = Thresholds(0.05, -2.0, 2.0, 99, 99, {4: narrow})
    assert Thresholds.from_dict(thresholds.to_dict()) == thresholds
    assert Thresholds.from_dict(wide.to_dict()).by_views == {}
    found = verdicts([1.5, 1.5, 1.5, -1.5], thresholds, [1, 4, 9, 3])
    assert found.tolist() == ["inconclusive", "ai", "ai", "inconclusive"]
    assert verdicts([1.5], thresholds).tolist() == ["inconclusive"]


def test_the_contrast_finds_the_view_that_stands_out():
    boxes = view_boxes(96, 96, (SIDE, SIDE), 16)
    log_odds = np.zeros(9)
    log_odds[4] = 3.0
    found = contrast(log_odds, overlaps(boxes), neighbours(boxes))
    # Disjoint views: the variance of the difference is 1 + 1/8.
    assert found.views == (4,) and found.value == pytest.approx(3 / np.sqrt(1.125))
    log_odds[5] = 3.0
    assert contrast(log_odds, overlaps(boxes), neighbours(boxes)).views == (4, 5)
    assert contrast([1.0, 2.0], np.eye(2), [(0, 1)]) is None


def test_overlapping_views_of_noise_have_the_same_contrasts_as_separate_ones():
    rng = np.random.default_rng(0)

    def spread(size: int) -> float:
        boxes = view_boxes(size, size, (SIDE, SIDE), 4)
        values = []
        for _ in range(400):
            field = rng.normal(size=(size, size)) * SIDE
            log_odds = [field[t:b, left:r].mean() for left, t, r, b in boxes]
            values.append(contrast(log_odds, overlaps(boxes), neighbours(boxes)).value)
        return float(np.quantile(values, 0.9))

    assert spread(40) == pytest.approx(spread(64), rel=0.25)


def test_the_threshold_keeps_its_rate_of_false_alarms():
    rng = np.random.default_rng(1)
    boxes = view_boxes(64, 64, (SIDE, SIDE), 16)
    shared, pairs = overlaps(boxes), neighbours(boxes)
    values = [contrast(rng.normal(size=4), shared, pairs).value for _ in range(2400)]
    limits = fit_contrast(values[:400], 4, 16, alpha=0.1)
    assert sorted(limits.by_views) == list(range(4, 17)) and limits.n == 400
    assert ContrastThresholds.from_dict(limits.to_dict()) == limits
    flagged = limits.differs(np.array(values[400:]), np.full(2000, 4))
    assert 0.06 < flagged.mean() < 0.14
    # More views have more chances to stand out.
    assert limits.by_views[16] > limits.by_views[4]
    assert not limits.differs(np.array([np.nan, 99.0]), np.array([4, 17])).any()
    assert fit_contrast(values[:5], 4, 16) is None


def test_a_part_that_differs_keeps_the_verdict_from_real(detector):
    image = draw_picture((64, 64), seed=7)
    detector.thresholds = Thresholds(0.05, 99.0, 100.0, 99, 99)
    assert detector.predict(image).verdict == "real"
    detector.differing = ContrastThresholds(0.05, {4: -1.0}, 99)
    prediction = detector.predict(image)
    assert (prediction.verdict, prediction.reason) == ("inconclusive", "differing")
    assert prediction.differing and max(prediction.differing) < 4
    detector.differing = ContrastThresholds(0.05, {4: 99.0}, 99)
    assert detector.predict(image).differing is None


def test_a_release_fits_thresholds_by_the_number_of_views(detector, tmp_path):
    from helpers.training import rows

    from realfake.training.measuring import compute_logits, compute_scores
    from realfake.training.release import fit_calibration, release

    # 40 pixels: four views each.
    dataset = rows(160)
    logits = compute_logits(detector, dataset, 16, "logits")
    calibration = fit_calibration(detector, logits, dataset, "temperature_bias")
    stored = release(
        detector, calibration, dataset, logits, tmp_path, {}, 0.05, 16, max_shard_size="20KB"
    ).detector
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert stored.views == 16 and list(stored.thresholds.by_views) == [4]
    own = stored.thresholds.for_views(9)
    assert own != stored.thresholds.for_views(1) and own.n_real + own.n_ai == 160
    assert sorted(stored.differing.by_views) == list(range(4, 17))
    scores = compute_scores(stored, dataset, 16, "scores")
    flagged = stored.differing.differs(scores.contrast, scores.n_views)
    truth = np.array(dataset["label"]) == dataset.features["label"].str2int("ai")
    assert flagged[~truth].mean() <= 0.05
    # The last layer holds the calibration of the mean over the views.
    before = (scores.log_odds - calibration.bias) * calibration.temperature
    assert before == pytest.approx(logits[:, 1] - logits[:, 0], abs=1e-2)


# The measurement


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus in which generated images are redder, and 64 pixels large."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for split, label in product(("train", "validation", "test"), ("real", "ai")):
        (folder / split / label).mkdir(parents=True)
        for index in range(24 if split == "test" else 4):
            pixels = rng.integers(0, 190, (64, 64, 3))
            pixels[..., 0] += 60 * (label == "ai")
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / split / label / f"{index}.png")
    return folder


def test_the_command_compares_numbers_of_views(folder, corpus, tmp_path, capsys):
    from realfake.cli.main import main

    words = ["evaluate", "views", str(folder), "--dataset", str(corpus), "--output", str(tmp_path)]
    words += ["--numbers", "1", "4", "--splices", "6", "--n_resamples", "50"]
    assert main(words) == 0
    record = json.loads((tmp_path / "views.json").read_text())["test"]
    assert record["n"] == {"real": 24, "ai": 24}
    one, four = record["views"]["1"], record["views"]["4"]
    assert (one["mean_views"], four["mean_views"]) == (1, 4)
    difference = four["difference"]["auroc"]
    assert difference["value"] == pytest.approx(four["auroc"]["value"] - one["auroc"]["value"])
    assert difference["low"] <= difference["value"] <= difference["high"]
    parts = record["parts"]
    assert parts["untouched"]["value"] == 0 and parts["untouched"]["n"] == 24
    assert parts["spliced"]["n"] == parts["control"]["n"] == 6 and parts["n_views"] == 4
    assert (tmp_path / "measurements.jsonl").read_text().count("\n") == 1
    assert "| 4 |" in capsys.readouterr().out
