"""What is measured on a split, how it is written down, and the log of measurements."""

import hashlib
import json
import math

import numpy as np
import pytest
from scipy.stats import beta

from realfake.card.facts import CardFacts
from realfake.card.render import render
from realfake.evaluation.log import count, count_weights, log_measurement, plain, read_log
from realfake.evaluation.measure import measure
from realfake.evaluation.results import (
    add_calibration_bands,
    checkpoint_hash,
    read_evaluation,
    read_scores,
    write_evaluation,
    write_scores,
)
from realfake.statistics.verdicts import Thresholds

THRESHOLDS = Thresholds(alpha=0.1, real=-1.0, ai=1.0, n_real=40, n_ai=40)


@pytest.fixture
def split():
    """Six real images of two sources and six generated ones of two generators."""
    return {
        "log_odds": [-3.0, -2.0, -0.5, -0.2, 0.5, 2.0, 3.0, 2.0, 0.4, -0.4, -0.6, -2.0],
        "is_ai": [False] * 6 + [True] * 6,
        "generators": ["none"] * 6 + ["good"] * 3 + ["poor"] * 3,
        "sources": ["camera"] * 4 + ["web"] * 2 + ["irrelevant"] * 6,
    }


def noisy(n=300, seed=0):
    rng = np.random.default_rng(seed)
    is_ai = rng.random(n) < 0.4
    return rng.normal(np.where(is_ai, 1.0, -1.0), 1.5), is_ai


def headers(**changes):
    values = {
        "checkpoint_hash": "a" * 64,
        "command": "python train_hf.py --dataset corpus",
        "corpus": "corpus",
        "corpus_fingerprint": "f00",
        "date": "2026-01-01T00:00:00+00:00",
        "versions": {"torch": "2"},
    }
    return {**values, **changes}


def test_figures_by_hand(split):
    figures = measure(**split, thresholds=THRESHOLDS, n_resamples=50)
    assert figures["n"] == {"real": 6, "ai": 6}
    assert figures["confusion"] == {"real": {"real": 4, "ai": 2}, "ai": {"real": 3, "ai": 3}}
    assert figures["summary"]["accuracy"]["value"] == pytest.approx(7 / 12)
    verdicts = figures["verdicts"]
    assert verdicts["counts"] == {
        "real": {"real": 2, "inconclusive": 3, "ai": 1},
        "ai": {"real": 1, "inconclusive": 3, "ai": 2},
    }
    assert verdicts["verdict_rate"]["value"] == pytest.approx(6 / 12)
    assert verdicts["wrong"]["real"]["value"] == pytest.approx(1 / 6)
    assert verdicts["wrong"]["ai"]["value"] == pytest.approx(1 / 6)
    assert verdicts["accuracy"] == pytest.approx(
        {"value": 4 / 6, "low": beta.ppf(0.025, 4, 3), "high": beta.ppf(0.975, 5, 2), "n": 6}
    )


def test_each_generator_is_compared_with_all_real_images(split):
    figures = measure(**split, thresholds=THRESHOLDS, n_resamples=50)
    good, poor = figures["by_generator"]["good"], figures["by_generator"]["poor"]
    assert set(figures["by_generator"]) == {"good", "poor"}  # "none" is what real images say
    # 3.0 beats 6 of 6 real images, 2.0 beats 5 and ties with one, 0.4 beats 4; 18 pairs.
    assert good["auroc"]["value"] == pytest.approx((6 + 5.5 + 4) / 18)
    # -0.4 beats 3, -0.6 beats 2, and -2.0 beats one and ties with one.
    assert poor["auroc"]["value"] == pytest.approx((3 + 2 + 1.5) / 18)
    assert good["detected"]["value"] == 1 and poor["detected"]["value"] == 0
    assert poor["verdicts"] == pytest.approx({"real": 1 / 3, "inconclusive": 2 / 3, "ai": 0})
    assert figures["worst_generator"] == "poor"
    assert figures["by_source"]["camera"]["false_positives"]["value"] == 0
    assert figures["by_source"]["web"]["false_positives"]["value"] == 1
    assert figures["worst_source"] == "web"
    assert "irrelevant" not in figures["by_source"]


def test_worst_generator_has_enough_images():
    log_odds, is_ai = noisy()
    generators = np.where(is_ai, "many", "none").astype(object)
    odd = int(np.flatnonzero(is_ai)[0])
    generators[odd] = "single"
    log_odds[odd] = -50
    figures = measure(log_odds, is_ai, generators=generators, n_resamples=0)
    assert figures["by_generator"]["single"]["auroc"]["value"] == 0
    assert figures["worst_generator"] == "many"


def test_share_of_zero_has_an_exact_interval():
    is_ai = np.arange(40) >= 20
    log_odds = np.where(is_ai, 2.0, -2.0)
    figures = measure(log_odds, is_ai, sources=["one"] * 40, n_resamples=50)
    # Clopper and Pearson for 0 of 20; a bootstrap would claim that it is impossible.
    expected = 1 - 0.025 ** (1 / 20)
    assert figures["by_source"]["one"]["false_positives"]["high"] == pytest.approx(expected)
    assert figures["summary"]["recall_real"]["low"] == pytest.approx(1 - expected)
    # The same images in pairs are ten observations, not twenty.
    grouped = measure(
        log_odds, is_ai, sources=["one"] * 40, groups=[i // 2 for i in range(40)], n_resamples=50
    )
    assert grouped["by_source"]["one"]["false_positives"]["high"] == pytest.approx(
        1 - 0.025 ** (1 / 10)
    )


def test_copies_in_one_group_do_not_narrow_intervals():
    log_odds, is_ai = noisy(120)
    generators = np.where(is_ai, "x", "none")
    alone = measure(log_odds, is_ai, generators=generators, groups=range(120), n_resamples=300)
    copies = measure(
        np.tile(log_odds, 4),
        np.tile(is_ai, 4),
        generators=np.tile(generators, 4),
        groups=list(range(120)) * 4,
        n_resamples=300,
    )
    assert copies["n_groups"] == alone["n_groups"] == 120

    def width(figures):
        auroc = figures["by_generator"]["x"]["auroc"]
        return auroc["high"] - auroc["low"]

    assert width(copies) == pytest.approx(width(alone), rel=0.15)


def test_images_without_a_group_are_independent():
    log_odds, is_ai = noisy(50)
    assert (
        measure(log_odds, is_ai, groups=["a", "a", *[None] * 48], n_resamples=0)["n_groups"] == 49
    )


def test_stated_rate_allows_for_chance():
    log_odds, is_ai = noisy(2000)
    rated = measure(log_odds, is_ai, thresholds=THRESHOLDS, n_resamples=0)["verdicts"]
    assert 0.1 < rated["max_wrong"]["real"] < 0.4
    never = Thresholds(alpha=0.1, real=None, ai=None, n_real=0, n_ai=0)
    rated = measure(log_odds, is_ai, thresholds=never, n_resamples=0)["verdicts"]
    assert rated["verdict_rate"]["value"] == 0
    assert rated["accuracy"] == {"value": None, "low": None, "high": None, "n": 0}
    assert rated["max_wrong"] == {"real": None, "ai": None}


@pytest.mark.parametrize("label", [True, False])
def test_one_label_alone_is_strict_json(label):
    figures = measure(
        [0.5, -0.5, 1.0],
        [label] * 3,
        generators=["g"] * 3,
        sources=["s"] * 3,
        thresholds=THRESHOLDS,
        n_resamples=20,
    )
    json.dumps(figures, allow_nan=False)
    assert figures["summary"]["auroc"]["value"] is None
    assert ("by_generator" in figures, "by_source" in figures) == (label, not label)
    if label:
        assert figures["by_generator"]["g"]["auroc"]["value"] is None
        assert figures["worst_generator"] is None


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="generators has 1 entries for 2 images"):
        measure([1.0, 2.0], [True, False], generators=["x"])


def test_scores_give_the_same_figures_again(tmp_path):
    log_odds, is_ai = noisy()
    columns = {
        "generators": np.where(is_ai, "gen", None).tolist(),
        "sources": np.where(is_ai, None, "web").tolist(),
        # Names whose alphabetical order is not the order in which they turn up.
        "groups": [None if i % 7 == 0 else f"g{(i * 37) % 101}" for i in range(len(log_odds))],
    }
    path = write_scores(tmp_path, "test", log_odds, is_ai, **columns)
    assert path.name == "scores-test.parquet"
    again = measure(**read_scores(path), thresholds=THRESHOLDS, n_resamples=100)
    assert again == measure(log_odds, is_ai, **columns, thresholds=THRESHOLDS, n_resamples=100)


def test_scores_are_small(tmp_path):
    log_odds, is_ai = noisy(20_000)
    groups = [f"a-long-name-of-a-group-of-images-{i}" for i in range(20_000)]
    path = write_scores(
        tmp_path, "test", log_odds, is_ai, generators=np.where(is_ai, "a", "b"), groups=groups
    )
    assert path.stat().st_size < 1_000_000


def test_scores_of_older_versions_are_read(tmp_path):
    """The bundled files have the columns `margin` and `novel`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"margin": [1.0, -2.0], "is_ai": [True, False], "novel": [False, True]}
    pq.write_table(pa.table(columns), tmp_path / "scores-test.parquet")
    scores = read_scores(tmp_path / "scores-test.parquet")
    assert scores["log_odds"].tolist() == columns["margin"]
    assert scores["out_of_distribution"].tolist() == columns["novel"]


def test_errors_of_scores_files(tmp_path):
    with pytest.raises(OSError, match="file of scores"):
        read_scores(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="broken.parquet is not a file of scores"):
        read_scores(tmp_path / "broken.parquet")


def test_evaluation_keeps_other_splits_of_the_same_weights(tmp_path):
    write_evaluation(tmp_path, "selection", {"x": np.float64(1)}, **headers())
    write_evaluation(tmp_path, "test", {"x": math.nan}, before={"x": 3}, **headers())
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(content) == ["selection", "test"]
    assert content["test"]["figures"] == {"x": None} and content["test"]["before_calibration"] == {
        "x": 3
    }
    assert content["test"]["checkpoint_sha256"] == "a" * 64
    # Figures of weights that are no longer there are not this checkpoint's.
    content = write_evaluation(tmp_path, "test", {"x": 2}, **headers(checkpoint_hash="b" * 64))
    assert list(content) == ["test"] and read_evaluation(tmp_path) == content


def test_broken_evaluation_is_not_overwritten(tmp_path):
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match="remove it and measure again"):
        write_evaluation(tmp_path, "test", {}, **headers())
    assert (tmp_path / "evaluation.json").read_text() == "{"


def test_checkpoint_hash(tmp_path):
    with pytest.raises(OSError, match="no model.safetensors"):
        checkpoint_hash(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert checkpoint_hash(tmp_path) == hashlib.sha256(b"weights").hexdigest()


def logged(**changes):
    values = {
        "checkpoint_hash": "a",
        "corpus": "c",
        "split": "test",
        "n": 3,
        "date": "2026-01-01",
        "command": "x\u2028y\nz",
        "figures": {"auroc": np.float32(0.5), "ece": math.nan},
    }
    return {**values, **changes}


def test_log_is_appended_to_and_counted(tmp_path):
    path = tmp_path / "deep" / "measurements.jsonl"
    assert read_log(path) == [] and count_weights(path, "test", "c") == 0
    log_measurement(path, **logged())
    first = path.read_bytes()
    log_measurement(path, **logged(checkpoint_hash="b"))
    log_measurement(path, **logged(split="selection"))
    assert path.read_bytes().startswith(first)
    log_measurement(path, **logged())
    assert (count(path, "test", "c"), count_weights(path, "test", "c")) == (3, 2)
    assert (count(path, "selection", "c"), count(path, "test", "other")) == (1, 0)
    assert read_log(path)[0]["figures"] == {"auroc": 0.5, "ece": None}
    assert read_log(path)[0]["command"] == "x\u2028y\nz"
    assert read_log(tmp_path / "deep") == read_log(path)


def test_log_survives_a_line_cut_short(tmp_path):
    path = tmp_path / "measurements.jsonl"
    path.write_text('{"split": "te')
    log_measurement(path, **logged())
    assert len(path.read_text().splitlines()[-1]) > 20
    with pytest.raises(ValueError, match="line 1: not a measurement record"):
        count_weights(path, "test", "c")


def test_log_refuses_what_json_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        log_measurement(tmp_path, **logged(figures={"x": object()}))
    assert not list(tmp_path.iterdir())


def test_plain():
    assert plain({"a": (np.int64(1), np.array([np.inf, 2.0])), 3: True}) == {
        "a": [1, [None, 2.0]],
        "3": True,
    }


def perfect(n, seed):
    """Log-odds of a model whose probabilities are right: they are the log-odds of ai."""
    rng = np.random.default_rng(seed)
    is_ai = rng.random(n) < 0.5
    # Two normal densities of variance 4 at +2 and -2 have the log-odds x.
    return rng.normal(np.where(is_ai, 2.0, -2.0), 2.0), is_ai


def test_calibration_bands_of_splits(tmp_path):
    right, wrong = perfect(900, 1), perfect(900, 2)
    parts = {"calibration": perfect(400, 0), "selection": right, "test": (3 * wrong[0], wrong[1])}
    for split, (log_odds, is_ai) in parts.items():
        write_scores(tmp_path, split, log_odds, is_ai)
        write_evaluation(tmp_path, split, measure(log_odds, is_ai, n_resamples=0), **headers())
    add_calibration_bands(tmp_path, {"method": "temperature"})
    bands = {
        split: record["figures"].get("calibration_band")
        for split, record in read_evaluation(tmp_path).items()
    }
    assert bands["calibration"] is None
    assert bands["selection"]["within"] and not bands["test"]["within"]
    assert (bands["test"]["n"], bands["test"]["n_calibration"]) == (900, 400)
    text = render(CardFacts(name="x", evaluation=read_evaluation(tmp_path))).text
    test, selection = (
        next(line for line in text.splitlines() if line.startswith(f"- on `{split}` ("))
        for split in ("test", "selection")
    )
    assert "**above the range" in test and selection.endswith("within the range.")
    assert "- on `calibration` (" not in text


@pytest.mark.parametrize("calibration", [None, {"method": "identity"}])
def test_without_a_calibration_there_is_no_band(tmp_path, calibration):
    for split in ("calibration", "test"):
        write_scores(tmp_path, split, *perfect(50, 0))
        write_evaluation(tmp_path, split, measure(*perfect(50, 0), n_resamples=0), **headers())
    add_calibration_bands(tmp_path, calibration)
    assert "calibration_band" not in read_evaluation(tmp_path)["test"]["figures"]
