"""The card in plain words, its section on degradations, and the files that it is written from."""

import dataclasses
import json
import re
import shutil

import markdown_it
import numpy as np
import pytest
from helpers.tiny import save_tiny

from realfake.card.claims import in_short, judgement, unsuitable
from realfake.card.facts import CardFacts, license_of, public_name
from realfake.card.render import card_data, render, rewrite_card
from realfake.card.sections import describe_processor
from realfake.evaluation import results
from realfake.evaluation.measure import measure, measure_operating_points
from realfake.evaluation.report import coverage_table, slices_table, summary
from realfake.evaluation.results import write_evaluation, write_scores
from realfake.evaluation.robustness import grid_figures, headline, known_slices, short_figures
from realfake.io import write_record
from realfake.statistics.verdicts import Thresholds, fit_thresholds, operating_point

EVIL = "a|b <script>alert(1)</script> [x](http://evil) `c`"
THRESHOLDS = Thresholds(alpha=0.05, real=-1.0, ai=1.0, n_real=400, n_ai=400)


def scored(n=400, seed=0, names=("good", "poor")):
    """Log-odds whose `poor` generator lies where photographs do."""
    rng = np.random.default_rng(seed)
    is_ai = np.arange(n) % 2 == 1
    made_by = np.where(is_ai, np.resize(np.repeat(names, 2), n), "")
    centre = np.where(is_ai, np.where(made_by == names[1], -2.0, 3.0), -3.0)
    sources = np.where(np.arange(n) % 8 < 4, "web", "faces-300")
    return rng.normal(centre, 1.0), is_ai, made_by, sources


def recorded(names=("good", "poor"), **changes):
    """A record of two degradations, the second of which moves all images towards `real`."""
    log_odds, is_ai, made_by, sources = scored(names=names)
    tiers = {"clean": log_odds, "jpeg_40": log_odds - 1.5}
    figures = grid_figures(
        tiers,
        is_ai,
        thresholds=THRESHOLDS,
        generators=made_by.tolist(),
        sources=sources.tolist(),
        slices={"faces": ["faces-300"]},
        n_resamples=40,
    )
    control = grid_figures(
        {"clean": log_odds / 4}, is_ai, generators=made_by.tolist(), n_resamples=0
    )
    return {
        "date": "2026-02-03",
        "checkpoint_sha256": "c" * 64,
        "model": "photos",
        "corpus": "corpus",
        "corpus_fingerprint": "f",
        "command": "realfake evaluate robustness x",
        "versions": {},
        "of": 400,
        "headline": headline(figures),
        "described": dict.fromkeys(tiers, "What it does."),
        "slices": {},
        "degradations": figures,
        "controls": {"power-spectrum": control},
        "controls_n": 99,
        **changes,
    }


@pytest.fixture(scope="module")
def facts():
    log_odds, is_ai, made_by, sources = scored()
    measured = measure(
        log_odds, is_ai, generators=made_by, sources=sources, thresholds=THRESHOLDS, n_resamples=100
    )
    record = {"checkpoint_sha256": "c" * 64, "corpus": "corpus", "figures": measured}
    return CardFacts(
        name="photos",
        thresholds=THRESHOLDS.to_dict(),
        evaluation={"test": record},
        robustness={"test": recorded()},
        robustness_plots=[{"file": "plots/robustness-test.png", "caption": "Heat"}],
    )


def html(text) -> str:
    return markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def figures_of(auroc, wrong, promised):
    entry = {
        "auroc": dict(zip(("value", "low", "high"), auroc)),
        "wrong": {"value": wrong},
        "max_wrong": promised,
    }
    return {"by_generator": {"g": entry}}


@pytest.mark.parametrize(
    "auroc, wrong, promised, reasons",
    [
        ((0.70, 0.60, 0.74), 0.0, 0.1, ["AUROC interval below 0.75"]),
        ((0.70, 0.60, 0.76), 0.0, 0.1, []),  # it may be better
        ((0.95, 0.90, 0.99), 0.11, 0.1, ["too many verdicts `real`"]),
        ((0.95, 0.90, 0.99), 0.10, 0.1, []),  # chance explains as much
        ((0.60, 0.50, 0.70), 0.50, 0.1, ["AUROC interval below 0.75", "too many verdicts `real`"]),
        ((0.60, None, None), None, None, []),  # nothing is sure without an interval
    ],
)
def test_unsuitable_generators(auroc, wrong, promised, reasons):
    assert unsuitable(figures_of(auroc, wrong, promised)) == ({"g": reasons} if reasons else {})


def test_the_main_results_are_at_the_top(facts):
    text = render(facts).text
    short = text.split("## What it can and cannot do")[1].split("\n## ")[0]
    figures = facts.figures
    withheld, wrong = (
        1 - figures["verdicts"]["verdict_rate"]["value"],
        figures["verdicts"]["wrong"]["real"],
    )
    assert f"`inconclusive`** for {100 * withheld:.1f} %" in short and "of the 400 images" in short
    assert f"{100 * wrong['value']:.1f} %" in short and "of 200 unchanged photographs" in short
    assert "generators**: poor." in short
    section = text.split("## Generators that it fails on")[1].split("\n## ")[0]
    entry = figures["by_generator"]["poor"]
    assert (
        f"| poor | {entry['n']} | {entry['auroc']['value']:.3f}" in section
        and "| good |" not in section
    )
    assert "lies below 0.75" in section and "stated 5.0 %" in section
    # `good` holds on the images as they are, and no longer once they are recompressed.
    assert ("good (`jpeg_40`)" in section) == bool(
        unsuitable(facts.degraded["degradations"]["jpeg_40"]).get("good")
    )


def test_precision_if_generated_images_are_rare(facts):
    counts, n = facts.figures["verdicts"]["counts"], facts.figures["n"]
    found, false = counts["ai"]["ai"] / n["ai"], counts["real"]["ai"] / n["real"]
    right = 0.1 * found / (0.1 * found + 0.9 * false)
    (sentence,) = [line for line in in_short(facts) if "one image in 10 is generated" in line]
    value, low, high = (
        float(number)
        for number in re.search(
            r"is generated, ([\d.]+) % \(([\d.]+) – ([\d.]+)\)", sentence
        ).groups()
    )
    assert value == round(100 * right, 1) and low < value <= high


def test_degradations_are_shown_with_their_controls(facts):
    text = render(facts).text
    record = facts.robustness["test"]
    worst = record["headline"]["worst_degradation"]
    assert worst["degradation"] == "jpeg_40"
    top = text.split("\n- ")[0]
    assert (
        f"Balanced accuracy {100 * worst['balanced_accuracy']['value']:.1f} %" in top
        and "poor" in top
    )
    section = text.split("### After recompression, resizing and cropping")[1].split("### Other")[0]
    assert section.count("\n| model |") == 2 and section.count("\n| *`power-spectrum`* |") == 1
    rated = record["degradations"]["jpeg_40"]["verdicts"]
    row = next(line for line in section.splitlines() if line.startswith("| model | `jpeg_40`"))
    for figure in (rated["wrong"]["real"], rated["verdict_rate"], rated["accuracy"]):
        assert f"{100 * figure['value']:.1f} %" in row
    assert f"n = {rated['accuracy']['n']}" in row  # of the verdicts, not of the images
    assert (
        "](plots/robustness-test.png)" in section and "- `jpeg_40`: JPEG at quality 40." in section
    )
    assert not re.search(r"\bNone\b|\bnan\b", text)


def test_figures_of_other_weights_are_not_shown(facts):
    others = CardFacts(
        name="x",
        evaluation=facts.evaluation,
        robustness={"test": recorded(checkpoint_sha256="d" * 64)},
    )
    text = render(others).text
    assert (
        "After recompression" not in text
        and "not measured on recompressed, resized or cropped images" in text
    )


def test_too_many_wrong_verdicts_are_marked():
    figures = recorded()["degradations"]
    lines = coverage_table(figures).splitlines()
    poor = next(line for line in lines if line.startswith("| poor"))
    good = next(line for line in lines if line.startswith("| good"))
    assert poor.count("✗") == 2
    cell = figures["clean"]["by_generator"]["poor"]
    wrong, withheld = cell["wrong"]["value"], cell["verdicts"]["inconclusive"]
    assert f"**{100 * wrong:.1f} %** ✗ ({100 * withheld:.1f} %)" in poor
    assert good.split("|")[3].strip().startswith("0.0 % (")
    assert "**all `real`**" in lines[2] and lines[2].split("|")[2].strip() == "200"


def test_slices_are_shown_unchanged_and_at_their_worst():
    figures = recorded()["degradations"]
    rows = slices_table(figures).splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows][0] == "`clean`"
    assert f"{figures['clean']['by_slice']['faces']['auroc']['value']:.3f}" in rows[0]
    assert list(known_slices(["web", "tpdne", None])) == ["faces"]
    assert list(known_slices(["fjell"])) == ["matched subjects", "fjell (matched subjects)"]
    assert known_slices(None) == {}


def test_a_slice_of_photographs_only_is_shown():
    names = ["recaptured", "recaptured", "web", "web"]
    tiers = dict.fromkeys(("clean", "jpeg_40"), np.array([-2.0, 2.0, 1.0, -1.0]))
    figures = grid_figures(
        tiers,
        [False, False, True, False],
        thresholds=THRESHOLDS,
        sources=names,
        slices={**known_slices(names), "none": ["nowhere"]},
        n_resamples=0,
    )
    (row,) = slices_table(figures).splitlines()[2:]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[1:5] == ["photographs of screens and prints", "`clean`", "2 / 0", "–"]
    assert cells[6].startswith("50.0 %")  # the verdict ai


def test_names_are_escaped():
    log_odds, is_ai, _, _ = scored(names=(EVIL, "poor"))
    record = recorded(
        names=(EVIL, EVIL + "2"), corpus=EVIL, described={"clean": EVIL, "jpeg_40": EVIL}
    )
    evaluated = {"checkpoint_sha256": "c" * 64, "figures": record["degradations"]["clean"]}
    facts = CardFacts(
        name="x", evaluation={"test": evaluated}, robustness={"test": record}, base_model=EVIL
    )
    page = html(render(facts).text)
    assert "<script" not in page and 'href="http://evil"' not in page
    for block in re.findall(r"(?:^\|.*\|\n)+", render(facts).text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_one_label_has_no_headline():
    log_odds = np.array([-1.0, -2.0])
    figures = grid_figures(
        {"clean": log_odds}, [False, False], thresholds=THRESHOLDS, n_resamples=0
    )
    assert "no balanced accuracy" in summary({"degradations": figures})


def test_out_of_distribution_images_get_no_verdict():
    log_odds, is_ai, made_by, sources = scored()
    out_of_distribution = np.zeros(len(log_odds), dtype=bool)
    out_of_distribution[:100] = True
    figures = measure(
        log_odds,
        is_ai,
        thresholds=THRESHOLDS,
        out_of_distribution=out_of_distribution,
        generators=made_by,
        n_resamples=0,
    )
    before = measure(log_odds[100:], is_ai[100:], thresholds=THRESHOLDS, n_resamples=0)
    assert figures["verdicts"]["out_of_distribution"]["real"]["value"] == 50 / 200
    for label in ("real", "ai"):
        for verdict in ("real", "ai"):
            assert (
                figures["verdicts"]["counts"][label][verdict]
                == before["verdicts"]["counts"][label][verdict]
            )
    grid = grid_figures(
        {"clean": log_odds},
        is_ai,
        thresholds=THRESHOLDS,
        columns={"clean": {"out_of_distribution": out_of_distribution}},
        n_resamples=0,
    )
    assert grid["clean"]["verdicts"]["counts"] == figures["verdicts"]["counts"]


def test_operating_points_by_hand():
    points = [
        operating_point(np.arange(100.0), np.zeros(100, dtype=bool), rate) for rate in (0.01, 0.05)
    ]
    scores = {
        "log_odds": np.array([94.5, 95.5, 96.5, 99.5]),
        "is_ai": np.array([False, False, True, True]),
    }
    one, five = measure_operating_points(points, scores, n_resamples=0)
    # The 5th and the 1st largest of 100 photographs: floor(0.05 · 101) and floor(0.01 · 101).
    assert (five["threshold"], one["threshold"]) == (95.0, 99.0)
    assert five["photographs"]["value"] == 0.5 and five["found"]["value"] == 1.0
    assert one["photographs"]["value"] == 0.0 and one["found"]["value"] == 0.5
    text = render(CardFacts(name="x", operating_points=[one, five])).text
    assert "### Thresholds for moderators" in text and "| 5.0 % |" in text
    few = operating_point(np.arange(10.0), np.zeros(10, dtype=bool), 0.01)
    (none,) = measure_operating_points([few], scores, n_resamples=0)
    assert none["threshold"] is None and none["found"]["value"] == 0.0
    assert (
        "### Thresholds for moderators"
        not in render(CardFacts(name="x", operating_points=[none])).text
    )


def test_out_of_distribution_images_in_the_card(facts):
    assert "unlike the calibration" not in render(facts).text
    facts = CardFacts.from_dict(
        {**facts.to_dict(), "ood": {"alpha": 0.05, "n": {"real": 9, "ai": 9}}}
    )
    text = render(facts).text
    assert "than 95.0 % of these are" in text and "unlike the calibration images" in text


def test_a_starting_point_has_a_public_name(tmp_path):
    folder = tmp_path / "somewhere" / "vit_small"
    folder.mkdir(parents=True)
    assert public_name("owner/name") == "owner/name" and public_name(None) is None
    assert public_name(str(folder)) == public_name("../gone/vit_small") == "vit_small"
    (folder / "README.md").write_text(
        "---\nlicense: mit\n# a comment\n---\n\n# ViT small, from the lab\ntext\n"
    )
    assert public_name(str(folder)) == "ViT small, from the lab"
    (folder / "config.json").write_text(json.dumps({"_name_or_path": "lab/vit-small"}))
    assert public_name(str(folder)) == "lab/vit-small"
    (folder / "config.json").write_text(json.dumps({"_name_or_path": str(folder)}))
    assert public_name(str(folder)) == "ViT small, from the lab"


def with_auroc(value, low, high, control=None, split="test"):
    """Facts of a model with this AUROC, and of a control measured on the same images."""

    def figure(numbers):
        return {**dict(zip(("value", "low", "high"), numbers)), "n": 100}

    figures = measure([1.0, -1.0], [True, False], n_resamples=0)
    figures["summary"]["auroc"] = figure((value, low, high))
    tiers = {"clean": {**figures, "false_positives": figure((0.5, 0.4, 0.6))}}
    facts = CardFacts(name="x", evaluation={split: {"figures": figures}})
    if control:
        measured = measure([1.0, -1.0], [True, False], n_resamples=0)
        measured["summary"]["auroc"] = figure(control)
        measured["false_positives"] = figure((0.5, 0.4, 0.6))
        record = {
            "degradations": tiers,
            "controls": {"power-spectrum": {"clean": measured}},
            "controls_n": 9,
            "described": {"clean": ""},
        }
        facts.robustness = {split: record}
    return facts


@pytest.mark.parametrize(
    "auroc, control, opening",
    [
        ((0.90, 0.88, 0.92), (0.70, 0.65, 0.75), "better than controls"),
        ((0.90, 0.88, 0.92), (0.95, 0.93, 0.97), "not better than a control"),
        ((0.90, 0.88, 0.92), (0.89, 0.87, 0.91), "not clearly better than a control"),
        ((0.90, 0.88, 0.92), None, "not compared with controls"),
        ((0.52, 0.48, 0.56), (0.40, 0.35, 0.45), "not shown to be better than chance"),
        ((0.40, 0.36, 0.44), None, "worse than chance"),
    ],
)
def test_a_card_opens_with_what_controls_and_intervals_show(auroc, control, opening):
    facts = with_auroc(*auroc, control)
    assert opening in judgement(facts)
    section = render(facts).text.split("## What it can and cannot do")[1]
    assert section.lstrip().startswith(judgement(facts))


def test_a_card_without_any_verdict():
    never = Thresholds(alpha=0.05, real=None, ai=None, n_real=3, n_ai=3)
    log_odds, is_ai, *_ = scored()
    figures = measure(log_odds, is_ai, thresholds=never, n_resamples=0)
    facts = CardFacts(
        name="x", thresholds=never.to_dict(), evaluation={"test": {"figures": figures}}
    )
    text = render(facts).text
    assert "never gives a verdict" in text and "for some images" not in text
    assert any("gave no verdict" in line for line in in_short(facts))


@pytest.mark.parametrize("split", ["calibration", "validation", "train"])
def test_a_card_does_not_praise_figures_of_images_that_were_fitted_on(split):
    text = judgement(with_auroc(0.99, 0.98, 1.0, (0.6, 0.5, 0.7), split=split))
    assert "better" not in text and "used to train or calibrate" in text


@pytest.mark.parametrize("split", ["calibration", "validation", "train"])
def test_rates_of_images_that_were_calibrated_on_are_not_stated(facts, split):
    fitted = dataclasses.replace(facts, evaluation={split: facts.record}, robustness={})
    lines = "\n".join(in_short(fitted))
    assert "with the verdict" not in lines and "is generated" not in lines
    assert "with the verdict" in "\n".join(in_short(facts))


@pytest.mark.parametrize(
    "processor, parts",
    [
        ({"do_resize": True, "size": {"height": 64, "width": 32}}, ["32 × 64 pixels"]),
        (
            {
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
            },
            ["shorter side to 256 pixels", "central 224 × 224 pixels"],
        ),
        (
            {"do_resize": False, "do_center_crop": True, "crop_size": 288},
            ["central 288 × 288 pixels"],
        ),
        # transformers resizes to int(224 / 0.875) and crops below 384, and warps from there on.
        (
            {
                "image_processor_type": "ConvNextImageProcessor",
                "size": {"shortest_edge": 224},
                "crop_pct": 0.875,
            },
            ["shorter side to 256 pixels", "central 224 × 224 pixels"],
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
            ["384 × 384 pixels"],
        ),
    ],
)
def test_what_a_processor_does(processor, parts):
    text = describe_processor(processor)
    assert all(part in text for part in parts)
    assert ("central" in text) == any("central" in part for part in parts)
    facts = CardFacts(name="x", preprocessing="processor", processor=processor)
    assert text in render(facts).text


def test_the_licence_is_that_of_the_base_model(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n\n# Base\n")
    assert license_of(None, str(tmp_path)) == "cc-by-nc-4.0"
    assert license_of("mit", str(tmp_path)) == "mit"
    assert license_of(None, None) == "apache-2.0"  # random weights
    (tmp_path / "README.md").unlink()
    assert license_of(None, str(tmp_path)) is None
    facts = CardFacts(name="x", base_model="owner/base")
    assert card_data(facts).license is None
    assert "owner/base" in render(facts).text.split("## Licence")[1]


@pytest.fixture
def finished(tmp_path):
    """A checkpoint's folder as a run leaves it, its figures of today's making but for one."""
    folder = save_tiny("vit", tmp_path / "run")
    weights = results.checkpoint_hash(folder)
    log_odds, is_ai, made_by, sources = scored()
    columns = {"generators": made_by.tolist(), "sources": sources.tolist()}
    thresholds = fit_thresholds(log_odds, is_ai)
    headers = {
        "checkpoint_hash": weights,
        "command": "python train_hf.py",
        "corpus": "corpus",
        "corpus_fingerprint": "f",
        "date": "2026-01-01",
        "versions": {},
    }
    for split in ("calibration", "test"):
        figures = measure(log_odds, is_ai, **columns, thresholds=thresholds)
        for entry in figures["by_generator"].values():
            del entry["wrong"]  # as an older version wrote it
        write_evaluation(folder, split, figures, **headers)
        write_scores(folder, split, log_odds, is_ai, **columns)
    config = json.loads((folder / "config.json").read_text())
    calibration = {"method": "temperature", "temperature": 2.0, "bias": 0.0, "n": 400}
    points = [operating_point(log_odds, is_ai, 0.05).to_dict()]
    config["realfake"] = {
        "thresholds": thresholds.to_dict(),
        "calibration": calibration,
        "operating_points": points,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_record(folder / "robustness.json", "test", recorded(checkpoint_sha256=weights))
    facts = {
        "hyperparameters": {"seed": 3},
        "model_class": "ViT",
        "base_model": "../elsewhere/vit_base",
        "log_history": [],
    }
    (folder / "training.json").write_text(json.dumps(facts))
    return folder


def test_a_card_shows_the_groups_that_were_measured(finished, tmp_path):
    log_odds, is_ai, _, _ = scored()
    thresholds = fit_thresholds(log_odds, is_ai)
    everything = np.ones(len(is_ai), dtype=bool)
    options = {"seed": 0, "n_resamples": 20}
    figures = short_figures(log_odds, ~everything, everything, thresholds, {}, options)
    group = {"described": {"hdr": "Local contrast."}, "degradations": {"hdr": figures}}
    record = {
        "checkpoint_sha256": results.checkpoint_hash(finished),
        "categories": {"retouched": {**group, "of": 400}},
    }
    write_record(finished / "categories.json", "test", record)
    text = rewrite_card(finished, tmp_path / "log.jsonl").read_text()
    assert "### Retouched photographs" in text and "- `hdr`: Local contrast." in text
    assert "### Small images" not in text


def test_a_card_is_rewritten_from_its_files(finished, tmp_path):
    text = rewrite_card(finished, tmp_path / "log.jsonl").read_text()
    assert "fine-tuned from vit\\_base" in text and "elsewhere" not in text
    for name in ("robustness-test", "roc-test", "scores-test", "reliability-test"):
        assert (finished / "plots" / f"{name}.png").is_file() and f"plots/{name}.png" in text
    record = results.read_evaluation(finished)["test"]
    assert "wrong" in record["figures"]["by_generator"]["poor"] and record["date"] == "2026-01-01"
    assert "### Thresholds for moderators" in text and "After recompression" in text
    again = rewrite_card(finished, tmp_path / "log.jsonl").read_text()
    assert again == text


def test_a_folder_without_a_run_is_an_error(tmp_path, finished):
    folder = shutil.copytree(finished, tmp_path / "other")
    (folder / "training.json").unlink()
    with pytest.raises(OSError, match=r"has no training\.json"):
        rewrite_card(folder, tmp_path / "log.jsonl")
    (folder / "training.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        rewrite_card(folder, tmp_path / "log.jsonl")


# --- maps


def explained(split, gains, default, **changes):
    """A record of maps whose methods gain these over chance."""

    def figure(value, n=200):
        return {"value": value, "low": value - 0.02, "high": value + 0.02, "n": n}

    faithfulness = {
        name: {
            "deletion_gain": figure(gain),
            "insertion_gain": figure(gain),
            "gain": figure(2 * gain),
            "beats_random": figure(0.5),
            "sensitivity": figure(0.2),
            "randomised": figure(0.01),
            "milliseconds": {"value": 31.4, "n": 200},
        }
        for name, gain in gains.items()
    }
    found = {
        key: figure(0.1, 20)
        for key in ("share", "energy", "energy_over_chance", "energy_over_control")
    }
    return {
        "checkpoint_sha256": "c" * 64,
        "split": split,
        "n": 200,
        "settings": {"n_random": 3},
        "corpus": "corpus",
        "figures": {
            "faithfulness": faithfulness,
            "localisation": {"ai_in_real": {"gradcam": found}},
            "default": default,
        },
        **changes,
    }


def with_maps(facts, **records):
    return render(dataclasses.replace(facts, explanations=records)).text


def test_the_default_map_method_in_the_card(facts):
    gains = {"gradcam": 0.05, "occlusion": 0.01}
    records = {
        split: explained(split, gains, "gradcam@stage.2") for split in ("validation", "test")
    }
    text = with_maps(facts, **records)
    assert "The default method is `gradcam`." in text and "on 200 validation images" in text
    assert "200 test images" in text and "does not beat chance" not in text
    assert "| `gradcam` | 200 | 0.050 (0.030 – 0.070) |" in text and "| 31 |" in text
    assert "| a generated region in a photograph | 20 |" in text and "explanations.md" in text


def test_maps_that_do_not_beat_chance_are_unproven(facts):
    nothing = explained("validation", {"gradcam": 0.0}, None)
    assert "**the maps of this detector are unproven.**" in with_maps(facts, validation=nothing)
    chosen, fails = (
        explained(split, {"gradcam": gain}, "gradcam")
        for split, gain in (("validation", 0.1), ("test", 0.01))
    )
    assert "**On test it does not beat chance in both" in with_maps(
        facts, validation=chosen, test=fails
    )


def test_maps_of_other_weights_are_not_in_the_card(facts):
    other = explained("test", {"gradcam": 0.1}, "gradcam", checkpoint_sha256="d" * 64)
    assert "explanations.md" not in with_maps(facts, test=other) + with_maps(facts)


def test_a_detector_of_several_views(facts):
    one = {"alpha": 0.05, "real": -1.0, "ai": 1.0, "n": {"real": 99, "ai": 99}}
    views = {
        "mean_views": 3.5,
        "verdict_rate": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 9},
        "wrong": dict.fromkeys(("real", "ai"), {"value": 0.1, "low": 0.0, "high": 0.2, "n": 9}),
        **dict.fromkeys(
            ("auroc", "balanced_accuracy", "ece"), {"value": 0.7, "low": 0.6, "high": 0.8, "n": 9}
        ),
    }
    share = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 50}
    parts = dict.fromkeys(("spliced", "control", "untouched"), share)
    sha = next(iter(facts.evaluation.values()))["checkpoint_sha256"]
    record = {"checkpoint_sha256": sha, "views": {"1": views, "16": views}, "parts": parts}
    own = {
        **facts.to_dict(),
        "preprocessing": "native",
        "image_size": 224,
        "views": 16,
        "thresholds": {**one, "by_views": {"6": {**one, "real": -0.4, "ai": 0.4}}},
        "differing": {"alpha": 0.05, "by_views": {"6": 2.0}, "n": 90},
        "by_views": {facts.split: record},
    }
    text = render(CardFacts.from_dict(own)).text
    assert "up to 16 views" in text and "sees the central view only" in text
    assert "In images with 6 or more views" in text and "above 0.599 and `real` below 0.401" in text
    assert "more than in 95.0 % of the calibration photographs" in text
    assert "| 16 | 3.5 |" in text and "reports a part that differs in 25.0 %" in text
    assert "at most 16 views of 224 × 224 pixels" in text
    alone = render(CardFacts.from_dict({**own, "views": 1, "by_views": {}})).text
    assert "sees the central 224 × 224 pixels" in alone and "### Numbers of views" not in alone
