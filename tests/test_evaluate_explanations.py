"""`realfake evaluate explanations`: files, continuation, the stored method, checks, errors."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.maps import smooth_noise
from helpers.tiny import draw_corpus, save_tiny

from realfake.cli.main import main
from realfake.evaluation import explanations
from realfake.evaluation.explanations import (
    Findings,
    choose,
    max_sensitivity,
    randomised,
    rank_correlation,
    summarise,
)
from realfake.evaluation.report import best_method, explanations_page

METHODS = "gradcam,occlusion"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explanations")
    for split, n in (("train", 4), ("validation", 8), ("test", 6)):
        draw_corpus(folder / "corpus" / split, n=n, size=40, seed=len(split))
    return save_tiny("resnet", folder / "model"), folder / "corpus"


def run(monkeypatch, inputs, output, *options):
    model, corpus = inputs
    arguments = [model, "--dataset", corpus, "--output", output]
    if "--methods" not in options:
        options = ("--methods", METHODS, *options)
    small = ["--splices=2", "--n_checks=2", "--steps=3", "--n_random=2", "--n_resamples=50"]
    log = ["--measurement_log", str(output / "log.jsonl")]
    return main(["evaluate", "explanations", *arguments, *small, *log, *options])


def test_it_measures_and_stores_the_layer(monkeypatch, inputs, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(inputs[0], model)
    options = ("--layers", "3", "--store")
    assert run(monkeypatch, (model, inputs[1]), tmp_path / "out", *options) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "explanations.json").read_text())["validation"]
    figures, page = record["figures"], (tmp_path / "out" / "explanations.md").read_text()
    names = list(figures["faithfulness"])
    assert names[:2] == ["gradcam", "occlusion"] and all(
        name.startswith("gradcam@") for name in names[2:]
    )
    for name in names:
        found = figures["faithfulness"][name]
        assert found["deletion_gain"]["n"] == record["n"] == 8
        assert found["sensitivity"]["n"] == found["randomised"]["n"] == 2
        assert (
            -1
            <= found["deletion_gain"]["low"]
            <= found["deletion_gain"]["value"]
            <= found["deletion_gain"]["high"]
            <= 1
        )
        assert found["milliseconds"]["value"] > 0
        assert f"{name}" in page
    for kind in ("ai_in_real", "real_in_ai"):
        found = figures["localisation"][kind]["occlusion"]
        assert found["energy"]["n"] == 2 and 0 <= found["energy"]["value"] <= 1
        assert {"energy_over_chance", "energy_over_control", "share"} <= set(found)
    stored = (
        json.loads((model / "config.json").read_text()).get("realfake", {}).get("gradcam_layer")
    )
    gains = {
        name: figures["faithfulness"][name]["gain"]["value"]
        for name in names
        if name != "occlusion"
    }
    best = max(gains, key=gains.get)
    assert stored == (best.partition("@")[2] or None)
    facts = json.loads((model / "config.json").read_text()).get("realfake", {})
    assert facts.get("explanation_method") == ((figures["default"] or "").partition("@")[0] or None)
    assert ("nothing, no map" in printed) == (not facts)
    assert not (tmp_path / "out" / "log.jsonl").exists()


def test_a_finished_run_is_not_measured_again(monkeypatch, inputs, tmp_path):
    assert run(monkeypatch, inputs, tmp_path, "--methods", "gradcam") == 0
    first = json.loads((tmp_path / "explanations.json").read_text())["validation"]["figures"]

    def fail(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("realfake.evaluation.explanations.attribute", fail)
    assert run(monkeypatch, inputs, tmp_path, "--methods", "gradcam") == 0
    assert (
        json.loads((tmp_path / "explanations.json").read_text())["validation"]["figures"] == first
    )


def test_an_interrupted_run_continues(monkeypatch, inputs, tmp_path):

    calls, real = [], explanations.attribute

    def dies(*args, **options):
        calls.append(1)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr("realfake.evaluation.explanations.attribute", dies)
    options = ("--methods", "gradcam", "--n_checks", "0")
    assert run(monkeypatch, inputs, tmp_path, *options) == 130
    (path,) = (tmp_path / ".explanations").glob("*.jsonl")
    with open(path, "a") as file:
        file.write('\n{"section": "faithfulness", "item": 7, "na')  # as a crash leaves it
    calls.clear()
    monkeypatch.setattr(
        "realfake.evaluation.explanations.attribute",
        lambda *a, **o: calls.append(1) or real(*a, **o),
    )
    assert run(monkeypatch, inputs, tmp_path, *options) == 0
    assert len(calls) == 1 + 2 * 2 * 2  # one image was left; four splices with their controls
    record = json.loads((tmp_path / "explanations.json").read_text())["validation"]
    assert record["figures"]["faithfulness"]["gradcam"]["gain"]["n"] == 8


def test_a_measurement_of_test_images_is_logged_once(monkeypatch, inputs, tmp_path):
    options = ("--methods", "gradcam", "--split", "test", "--splices", "0", "--n_checks", "0")
    for _ in range(2):
        assert run(monkeypatch, inputs, tmp_path, *options) == 0
    (line,) = (tmp_path / "log.jsonl").read_text().split("\n")[:-1]
    logged = json.loads(line)
    assert logged["split"] == "test" and logged["corpus"] == "corpus (maps)" and logged["n"] == 6
    assert "gradcam" in logged["figures"]["gain_over_chance"]


@pytest.mark.parametrize(
    "options, words",
    [
        (("--methods", "magic"), "gradcam, integrated_gradients"),
        (("--steps", "1"), "--steps must be at least 2"),
        (("--store", "--layers", "2", "--split", "test"), "--split validation"),
        (("--store",), "--layers"),
        (("--split", "selections"), "invalid choice"),
    ],
)
def test_errors_are_one_line(monkeypatch, inputs, tmp_path, capsys, options, words):
    try:
        status = run(monkeypatch, inputs, tmp_path, *options)
    except SystemExit as exit_:
        status = exit_.code
    printed = capsys.readouterr().err.strip().split("\n")
    assert status == 2 and words in printed[-1] and "Traceback" not in "".join(printed)


# Figures


def planted(tmp_path, gains):
    findings = Findings(tmp_path / "findings.jsonl")
    rng = np.random.default_rng(0)
    for name, gain in gains.items():
        for item in range(40):
            found = {
                "deletion_gain": gain + rng.normal(0, 0.05),
                "insertion_gain": gain + rng.normal(0, 0.05),
            }
            findings.add(
                "faithfulness", item, name, **found, milliseconds=5.0, beats_random=bool(gain > 0)
            )
    return findings


def test_the_best_method_is_chosen_if_one_beats_chance(tmp_path):
    figures = summarise(
        planted(tmp_path / "a", {"bad": -0.1, "good": 0.1, "better": 0.2}),
        ["bad", "good", "better"],
    )
    assert figures["default"] == "better"
    assert figures["faithfulness"]["better"]["gain"]["value"] == pytest.approx(0.4, abs=0.03)
    assert figures["faithfulness"]["good"]["beats_random"]["value"] == 1
    low, high = (figures["faithfulness"]["good"]["deletion_gain"][key] for key in ("low", "high"))
    assert 0.02 < high - low < 0.05  # 4 * 0.05 / sqrt(40)
    nothing = summarise(planted(tmp_path / "b", {"chance": 0.0, "bad": -0.1}), ["chance", "bad"])
    assert nothing["default"] is None
    assert choose({"unmeasured": {"gain": {"value": None, "n": 0}}}) is None
    sure = {"low": 0.1, "value": 0.2, "high": 0.3}
    few, all_ = (
        {
            way: {**sure, "value": value, "n": n}
            for way in ("gain", "deletion_gain", "insertion_gain")
        }
        for value, n in ((0.9, 20), (0.2, 200))
    )
    assert choose({"few": few, "all": all_}) == "all", "what explained a few images is not chosen"
    record = {"figures": nothing, "settings": {"steps": 8, "n_random": 3, "n_checks": 2}}
    record |= {"model": "m", "corpus": "c", "split": "validation", "n": 40, "command": "x"}
    assert best_method(record) in explanations_page(record) and "unproven" in best_method(record)


def test_groups_widen_the_interval(tmp_path):
    findings = planted(tmp_path, {"good": 0.1})
    for line in findings.lines.values():
        line["deletion_gain"] = 0.1 * (line["item"] % 4)  # four groups, alike within
    plain = summarise(findings, ["good"])["faithfulness"]["good"]["deletion_gain"]
    grouped = summarise(findings, ["good"], [str(i % 4) for i in range(40)])["faithfulness"][
        "good"
    ]["deletion_gain"]
    assert grouped["high"] - grouped["low"] > 1.5 * (plain["high"] - plain["low"])


# Checks of a map


def test_sensitivity_of_a_map_by_hand():
    pixels = torch.linspace(0, 1, 48).reshape(1, 3, 4, 4)
    assert max_sensitivity(lambda x: np.ones((4, 4)), pixels) == 0
    # The map is the image: what changes is at most the noise, of which the ball's radius is known.
    found = max_sensitivity(lambda x: x[0].mean(dim=0).numpy(), pixels, radius=0.1)
    assert 0 < found < 0.1 * 4 / float(pixels[0].mean(dim=0).norm())
    state = torch.get_rng_state()
    assert found == max_sensitivity(lambda x: x[0].mean(dim=0).numpy(), pixels, radius=0.1)
    assert torch.equal(state, torch.get_rng_state())


def test_shuffled_weights_keep_their_values():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2))
    broken = randomised(model, seed=1)
    for ours, theirs in zip(model.parameters(), broken.parameters()):
        assert not torch.equal(ours, theirs)
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values)
    assert torch.equal(broken[0].weight, randomised(model, seed=1)[0].weight)


def test_rank_correlation():
    one = smooth_noise((10, 10))
    assert rank_correlation(one, 2 * one + 1) == pytest.approx(1) == -rank_correlation(one, -one)
    assert rank_correlation(one, np.zeros((10, 10))) == 0
    seen = np.where(np.arange(100).reshape(10, 10) < 50, one, np.nan)
    assert rank_correlation(seen, one) == pytest.approx(1)
