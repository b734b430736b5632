"""`realfake evaluate robustness`: figures by hand, resumed runs, and controls."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from helpers.tiny import draw_picture, save_tiny

from realfake.cli.main import INTERRUPTED, main
from realfake.detector import Detector
from realfake.evaluation import probes
from realfake.evaluation.log import read_log
from realfake.evaluation.report import summary, tiers_table
from realfake.evaluation.results import checkpoint_hash
from realfake.evaluation.robustness import grid_figures, headline, measure_finished_run
from realfake.evaluation.scores import (
    Scorer,
    degrade,
    detector_scorer,
    possible_degradations,
    score_grid,
)
from realfake.imaging.decode import open_image
from realfake.imaging.degradations import GRID
from realfake.prediction import Scores
from realfake.statistics.verdicts import Thresholds

SIZES = {"train": 60, "validation": 24, "test": 40}
FEW = "clean,jpeg_40,noise_5"


def draw_described_corpus(folder: Path) -> Path:
    """Draw splits whose labels follow from a residue, and partly from the files."""
    rng, seed = np.random.default_rng(0), 0
    for split, n in SIZES.items():
        rows = ["file_name,label,generator,source,group"]
        for number in range(n):
            is_ai = number % 2 == 1
            label = "ai" if is_ai else "real"
            generator = ("alpha", "beta")[number // 2 % 2] if is_ai else ""
            source = ("web", "faces-300")[number // 4 % 2]
            path = folder / split / label / f"{number:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            quality = 95 if is_ai and rng.random() < 0.8 else 90
            draw_picture(40, seed=seed, residue=is_ai).save(path, quality=quality)
            rows.append(f"{label}/{path.name},{label},{generator},{source},{split}{number // 4}")
            seed += 1
        (folder / split / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_described_corpus(tmp_path_factory.mktemp("described") / "corpus")


def call(model, corpus, output, *options):
    words = [str(model), "--dataset", str(corpus), "--output", str(output), *map(str, options)]
    words += [
        "--measurement_log",
        str(Path(output).parent / "log.jsonl"),
        "--preprocessing_num_workers",
        "1",
    ]
    return main(["evaluate", "robustness", *words])


def strict(path: Path) -> dict:
    def refuse(word):
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def measured(tiny_vit, corpus, tmp_path_factory):
    """The folder of one run of the script."""
    output = tmp_path_factory.mktemp("measured") / "out"
    options = ("--degradations", FEW, "--n_resamples", 50, "--batch_size", 16)
    assert call(tiny_vit, corpus, output, *options) == 0
    return output


def expected_log_odds(model, corpus, name):
    """Independently: each image on its own, by the public ways in."""
    import hashlib

    detector = Detector.from_pretrained(model)
    log_odds, truth = [], []
    for path in sorted((corpus / "test").glob("*/*.jpg"), key=lambda path: path.name):
        content = path.read_bytes()
        seed = int.from_bytes(hashlib.sha256(content).digest()[:4], "big")
        log_odds.append(detector.predict(GRID[name](open_image(content), seed)).log_odds)
        truth.append(path.parent.name == "ai")
    return np.array(log_odds), np.array(truth)


@pytest.mark.parametrize("name", FEW.split(","))
def test_figures_follow_from_the_images(measured, tiny_vit, corpus, name):
    figures = strict(measured / "robustness.json")["test"]["degradations"][name]
    log_odds, truth = expected_log_odds(tiny_vit, corpus, name)
    called = log_odds > 0
    assert figures["n"] == {"real": 20, "ai": 20}
    assert figures["false_positives"]["value"] == pytest.approx(called[~truth].mean())
    assert figures["summary"]["balanced_accuracy"]["value"] == pytest.approx(
        (called[truth].mean() + (~called[~truth]).mean()) / 2
    )
    pairs = log_odds[truth][:, None] - log_odds[~truth][None, :]
    auroc = (pairs > 0).mean() + 0.5 * (pairs == 0).mean()
    assert figures["summary"]["auroc"]["value"] == pytest.approx(auroc, abs=0.005)
    alpha = truth & (np.arange(40) // 2 % 2 == 0)
    assert figures["by_generator"]["alpha"]["n"] == 10
    assert figures["by_generator"]["alpha"]["detected"]["value"] == pytest.approx(
        called[alpha].mean()
    )
    faces = np.arange(40) // 4 % 2 == 1
    assert figures["by_slice"]["faces"]["n"] == {
        "real": int((faces & ~truth).sum()),
        "ai": int((faces & truth).sum()),
    }
    assert figures["by_slice"]["faces"]["detected"]["value"] == pytest.approx(
        called[faces & truth].mean()
    )


def test_record_and_report(measured, tiny_vit):
    record = strict(measured / "robustness.json")["test"]
    assert record["checkpoint_sha256"] == checkpoint_hash(tiny_vit)
    assert list(record["degradations"]) == FEW.split(",")
    assert set(record["controls"]) == {probes.SPECTRUM, probes.CONTAINER}
    assert set(record["controls"][probes.SPECTRUM]) == set(FEW.split(","))
    assert set(record["controls"][probes.CONTAINER]) == {"clean"}
    # The residue is a line in the spectrum, and most generated files were saved with another
    # quality.
    assert record["controls"][probes.SPECTRUM]["clean"]["summary"]["auroc"]["value"] > 0.95
    assert record["controls"][probes.CONTAINER]["clean"]["summary"]["auroc"]["value"] > 0.75
    assert record["controls_n"] == 60
    assert record["command"].startswith("realfake evaluate robustness ")
    text = (measured / "evaluation.md").read_text()
    tiers = [
        entry["summary"]["balanced_accuracy"]["value"] for entry in record["degradations"].values()
    ]
    assert f"Balanced accuracy {100 * min(tiers):.1f} %" in text.split("##")[0]
    assert text.count("\n| model |") == 3 and text.count("\n| *`power-spectrum`* |") == 3
    assert "\n| faces |" in text
    for name in ("robustness-test.png", "roc-test-clean.png", "reliability-test-clean.png"):
        assert (measured / "plots" / name).is_file() and f"plots/{name}" in text


def test_a_finished_run_is_logged_once(measured, tiny_vit, corpus, tmp_path):
    log = measured.parent / "log.jsonl"
    (line,) = read_log(log)
    assert line["split"] == "test" and line["checkpoint_sha256"] == checkpoint_hash(tiny_vit)
    assert line["figures"]["headline"]["worst_degradation"]["degradation"] in FEW.split(",")
    before = strict(measured / "robustness.json")["test"]
    options = ("--degradations", FEW, "--n_resamples", 50, "--batch_size", 16)
    assert call(tiny_vit, corpus, measured, *options) == 0
    assert len(read_log(log)) == 1  # nothing was scored
    after = strict(measured / "robustness.json")["test"]
    assert (
        after["degradations"] == before["degradations"] and after["controls"] == before["controls"]
    )
    assert (
        call(
            tiny_vit,
            corpus,
            tmp_path / "out",
            "--degradations",
            "clean",
            "--split",
            "selection",
            "--no_controls",
            "--n_resamples",
            0,
        )
        == 0
    )
    assert read_log(tmp_path / "log.jsonl") == []
    record = strict(tmp_path / "out" / "robustness.json")["selection"]
    assert record["controls"] == {} and record["controls_n"] == 0


def test_a_killed_run_continues_with_the_same_results(
    measured, tiny_vit, corpus, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    options = ("--degradations", FEW, "--n_resamples", 50, "--batch_size", 16)
    scores, scored = Detector.scores, []

    def dies(self, images, *args):
        if len(scored) == 4:  # three batches of the first degradation and one of the second
            raise KeyboardInterrupt
        scored.append(len(images))
        return scores(self, images, *args)

    monkeypatch.setattr("realfake.evaluation.scores.lone_threads", one_thread)
    monkeypatch.setattr(Detector, "scores", dies)
    assert call(tiny_vit, corpus, out, *options) == INTERRUPTED
    assert not (out / "robustness.json").exists() and not (tmp_path / "log.jsonl").exists()

    again = []
    monkeypatch.setattr(
        Detector,
        "scores",
        lambda self, images, *args: again.append(len(images)) or scores(self, images, *args),
    )
    assert call(tiny_vit, corpus, out, *options) == 0
    assert sum(again) == 2 * 40  # the first degradation was finished and saved
    whole, resumed = (strict(folder / "robustness.json")["test"] for folder in (measured, out))
    for key in ("degradations", "controls", "headline"):
        assert resumed[key] == whole[key]
    assert len(read_log(tmp_path / "log.jsonl")) == 1


def one_thread(workers=None):
    return ThreadPoolExecutor(1)


def rows(n=10):
    """Pictures in memory."""
    from io import BytesIO

    contents = []
    for seed in range(n):
        buffer = BytesIO()
        draw_picture(32, seed=seed).save(buffer, "PNG")
        contents.append({"bytes": buffer.getvalue(), "path": None})
    return Dataset.from_dict({"image": contents}, features=Features({"image": Image(decode=False)}))


def mean_level(images):
    return Scores(np.array([np.asarray(image, dtype=np.float64).mean() for image in images]))


def test_other_weights_other_images_and_torn_files_are_scored_again(tmp_path):
    table = rows()
    scorer = Scorer("model", "weights", mean_level)
    first, scored = score_grid(table, ["clean", "blur_1"], [scorer], tmp_path, "f", batch_size=4)
    assert scored == 20
    expected = mean_level([open_image(row["image"]) for row in table]).log_odds
    np.testing.assert_allclose(first["model"]["clean"].log_odds, expected)
    assert score_grid(table, ["clean", "blur_1"], [scorer], tmp_path, "f", batch_size=3)[1] == 0
    assert score_grid(table, ["clean", "jpeg_40"], [scorer], tmp_path, "f")[1] == 10
    assert (
        score_grid(table, ["clean"], [Scorer("model", "others", mean_level)], tmp_path, "f")[1]
        == 10
    )
    assert score_grid(table, ["clean"], [scorer], tmp_path, "g")[1] == 10
    for path in (tmp_path / ".scores").glob("model-blur_1-*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    again, scored = score_grid(table, ["clean", "blur_1"], [scorer], tmp_path, "f")
    assert scored == 10
    np.testing.assert_array_equal(
        again["model"]["blur_1"].log_odds, first["model"]["blur_1"].log_odds
    )


def test_degradations_do_not_depend_on_the_subset(tmp_path):
    scorer = Scorer("model", "weights", mean_level)
    whole, _ = score_grid(rows(), ["noise_5"], [scorer], tmp_path / "a", "f", batch_size=4)
    some, _ = score_grid(rows().select([7, 2]), ["noise_5"], [scorer], tmp_path / "b", "g")
    np.testing.assert_array_equal(
        some["model"]["noise_5"].log_odds, whole["model"]["noise_5"].log_odds[[7, 2]]
    )


def test_too_small_an_image_names_the_degradation():
    with pytest.raises(ValueError, match="leave half_size out of --degradations"):
        degrade(draw_picture(12), "half_size", 0)


# Four real images of two sources and four generated ones of two generators.
TRUTH = [False] * 4 + [True] * 4
GENERATORS = ["none"] * 4 + ["good", "good", "poor", "poor"]
SOURCES = ["camera", "camera", "web", "web", "web", "web", "camera", "camera"]
LOG_ODDS = {
    "clean": np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 1.5, -0.5]),
    "jpeg_40": np.array([-3.0, -2.0, 1.0, 2.0, 3.0, 4.0, -1.0, -4.0]),
}


def test_grid_figures_by_hand():
    thresholds = Thresholds(alpha=0.1, real=-1.5, ai=1.2, n_real=40, n_ai=40)
    figures = grid_figures(
        LOG_ODDS,
        TRUTH,
        thresholds=thresholds,
        generators=GENERATORS,
        sources=SOURCES,
        slices={"net": ["web"]},
        n_resamples=20,
    )
    clean, jpeg = figures["clean"], figures["jpeg_40"]
    assert clean["false_positives"]["value"] == 1 / 4 and jpeg["false_positives"]["value"] == 2 / 4
    assert clean["summary"]["balanced_accuracy"]["value"] == (3 / 4 + 3 / 4) / 2
    assert jpeg["summary"]["balanced_accuracy"]["value"] == (2 / 4 + 2 / 4) / 2
    assert clean["by_generator"]["good"]["balanced_accuracy"]["value"] == (3 / 4 + 1) / 2
    assert jpeg["by_generator"]["poor"]["balanced_accuracy"]["value"] == (2 / 4 + 0) / 2
    # -1 beats two of four, -4 none: 2 of 8 pairs.
    assert jpeg["by_generator"]["poor"]["auroc"]["value"] == 2 / 8
    assert clean["verdicts"]["verdict_rate"]["value"] == 5 / 8
    assert clean["by_slice"]["net"]["n"] == {"real": 2, "ai": 2}
    assert (
        jpeg["by_slice"]["net"]["false_positives"]["value"] == 1
        and jpeg["by_slice"]["net"]["auroc"]["value"] == 1
    )
    low, high = (clean["false_positives"][end] for end in ("low", "high"))
    assert low <= 1 / 4 <= high


def test_the_headline_is_the_worst_case():
    figures = grid_figures(LOG_ODDS, TRUTH, generators=GENERATORS, n_resamples=0)
    found = headline(figures)
    assert found["worst_degradation"]["degradation"] == "jpeg_40"
    assert found["worst_degradation"]["balanced_accuracy"]["value"] == 0.5
    assert found["clean"]["value"] == 0.75 and found["mean"] == 0.625
    worst = found["worst_generator"]
    assert (worst["generator"], worst["degradation"], worst["detected"]["value"]) == (
        "poor",
        "jpeg_40",
        0.0,
    )
    text = summary({"degradations": figures})
    assert text.index("50.0 %") < text.index("poor") < text.index("The mean")


def test_unchanged_images_are_not_called_a_degradation():
    swapped = {"clean": LOG_ODDS["jpeg_40"], "jpeg_40": LOG_ODDS["clean"]}
    text = summary({"degradations": grid_figures(swapped, TRUTH, generators=GENERATORS)})
    assert "`clean`" not in text and "worst degradation" not in text
    assert "on the unchanged images**, and no lower under the other degradation." in text
    assert "poor, on the unchanged images" in text


def test_verdicts_and_probabilities_have_their_own_columns():
    thresholds = Thresholds(alpha=0.1, real=-1.5, ai=1.2, n_real=40, n_ai=40)
    model = grid_figures(LOG_ODDS, TRUTH, thresholds=thresholds, n_resamples=0)
    control = grid_figures({"clean": LOG_ODDS["clean"]}, TRUTH, n_resamples=0)
    header, _, clean, jpeg, spectrum = (
        [cell.strip() for cell in line.split("|")]
        for line in tiers_table(
            {"degradations": model, "controls": {probes.SPECTRUM: control}}
        ).splitlines()
    )
    called, verdict = (
        header.index("photographs with p(ai) > ½"),
        header.index("photographs with verdict `ai`"),
    )
    # Of the log-odds -3, -2, 1 and 2, two are above 0 and one is above 1.2.
    assert jpeg[called].startswith("50.0 %") and jpeg[verdict].startswith("25.0 %")
    assert clean[called].startswith("25.0 %") and clean[verdict].startswith("0.0 %")
    assert spectrum[called].startswith("25.0 %") and spectrum[verdict] == "–"


@pytest.mark.parametrize(
    "options, message",
    [
        (("--degradations", "clean,jpeg_4"), "'jpeg_4'; choose from clean"),
        (("--degradations", ","), "--degradations"),
        (("--slice", "faces"), "NAME=SOURCE"),
        (("--slice", "faces=nobody"), "its sources are faces-300, web"),
        (("--max_samples", "1"), "--max_samples must be at least 2"),
        (("--update_card",), "either --output"),
        (("--label_map", "cat=ai"), "'cat'"),
    ],
)
def test_mistakes_end_in_one_line(tiny_vit, corpus, tmp_path, capsys, options, message):
    code = call(tiny_vit, corpus, tmp_path / "out", "--no_controls", *options)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("realfake: error: ") and message in lines[0]


def test_update_card_needs_a_finished_run(tiny_vit, corpus, tmp_path, capsys, monkeypatch):
    words = [str(tiny_vit), "--dataset", str(corpus), "--update_card"]
    assert main(["evaluate", "robustness", *words]) == 2
    assert "has no training.json" in capsys.readouterr().err


def test_the_card_is_updated(tiny_vit, corpus, tmp_path, monkeypatch):
    """And says what robustness.json, which lies beside the weights then, says."""
    folder = shutil.copytree(tiny_vit, tmp_path / "run")
    (folder / "training.json").write_text(json.dumps({"hyperparameters": {}, "model_class": "ViT"}))
    log = tmp_path / "log.jsonl"
    words = [
        str(folder),
        "--dataset",
        str(corpus),
        "--update_card",
        "--degradations",
        "clean,blur_1",
        "--n_resamples",
        "20",
    ]
    words += ["--preprocessing_num_workers", "1", "--measurement_log", str(log), "--no_controls"]
    assert main(["evaluate", "robustness", *words]) == 0
    record = strict(folder / "robustness.json")["test"]
    assert record["checkpoint_sha256"] == checkpoint_hash(folder) and record["of"] == 40
    # Nothing else was measured of this checkpoint: the record alone gives no figure for the split.
    assert "No figures were measured" in (folder / "README.md").read_text()
    (line,) = read_log(log)
    assert line["degradations"] == ["blur_1", "clean"]
    assert main(["evaluate", "robustness", *words]) == 0 and len(read_log(log)) == 1
    assert not list(folder.glob("*.md.tmp")) and (folder / ".scores").is_dir()


def test_measurement_of_a_finished_run(tiny_vit, corpus, tmp_path):
    from realfake.corpus.load import load_corpus

    splits = load_corpus(corpus, num_proc=1).splits
    folder, log = shutil.copytree(tiny_vit, tmp_path / "run"), tmp_path / "log.jsonl"
    detector = Detector.from_pretrained(folder)
    options = {
        "corpus": "corpus",
        "command": "python train_hf.py",
        "measurement_log": log,
        "seed": 0,
    }
    assert measure_finished_run(detector, folder, splits, 0, **options) is None
    assert measure_finished_run(detector, folder, {"train": splits["train"]}, 9, **options) is None
    record = measure_finished_run(detector, folder, splits, 16, **options)
    assert record["of"] == 40 and record["controls_n"] == 16
    first = record["degradations"]["clean"]
    assert first["n"] == {"real": 8, "ai": 8} and first["by_generator"]["alpha"]["n"] == 4
    assert list(record["degradations"]) == list(GRID) == possible_degradations(splits["test"])
    assert list(record["slices"]) == ["faces"]
    assert read_log(log)[0]["n"] == {"real": 8, "ai": 8}


def test_degradations_that_make_images_too_small_are_left_out():
    from io import BytesIO

    def table(*sizes):
        contents = []
        for size in sizes:
            buffer = BytesIO()
            draw_picture(size).save(buffer, "PNG")
            contents.append({"bytes": buffer.getvalue(), "path": None})
        return Dataset.from_dict(
            {"image": contents}, features=Features({"image": Image(decode=False)})
        )

    assert set(GRID) - set(possible_degradations(table((32, 32), (12, 12)))) == {
        "half_size",
        "crop_60",
    }
    assert "resize_512_jpeg_40" not in possible_degradations(table((900, 10), (40, 40)))
    assert possible_degradations(table((32, 32))) == list(GRID)


@pytest.mark.parametrize("name", ["vit", "mobilenet_v2"])
def test_ood_scores_are_those_of_a_prediction(name, tmp_path):
    """Several threads; each captures the features of the forward pass that it runs."""
    from realfake.models import ood

    detector = Detector.from_pretrained(save_tiny(name, tmp_path / name))
    pictures = [draw_picture(32, seed=500 + seed) for seed in range(60)]
    features, _ = detector.features(pictures)
    detector.ood = ood.fit(features, np.arange(60) % 2 == 1, alpha=0.2)
    scorer = detector_scorer(detector, "weights", 4)
    scores, scored = score_grid(
        rows(24), ["clean", "blur_1"], [scorer], tmp_path, "f", batch_size=2, workers=4
    )
    assert set(scores) == {"model"} and scored == 48
    for degradation in ("clean", "blur_1"):
        images = [GRID[degradation](open_image(row["image"]), 0) for row in rows(24)]
        expected = detector.predict(images)
        np.testing.assert_allclose(
            scores["model"][degradation].log_odds, [each.log_odds for each in expected], atol=1e-4
        )
        np.testing.assert_allclose(
            scores["model"][degradation].ood, [each.ood for each in expected], atol=0.06
        )
    assert len(np.unique(scores["model"]["clean"].ood)) > 3
    assert score_grid(rows(24), ["clean"], [scorer], tmp_path, "f")[1] == 0
