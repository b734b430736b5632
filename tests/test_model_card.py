"""The model card: metadata that the Hub reads, and text that is true whatever was measured."""

import json
import re

import markdown_it
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from realfake.card.claims import limits
from realfake.card.facts import CardFacts, hub_id
from realfake.card.render import card_data, render, write_card
from realfake.evaluation.measure import measure
from realfake.formatting import code, fence, md, number, percent
from realfake.statistics.verdicts import Thresholds

EVIL = "a|b <script>alert(1)</script> {{ 7*7 }} [x](http://evil) `c` *d*\n## Heading"
THRESHOLDS = Thresholds(alpha=0.1, real=-1.0, ai=1.0, n_real=100, n_ai=100)


def evaluated(split="test", generators=("good", "poor"), n=300, **changes):
    rng = np.random.default_rng(0)
    is_ai = np.arange(n) % 2 == 1
    made_by = np.where(is_ai, np.resize(np.repeat(generators, 2), n), "none")
    centre = np.where(is_ai, np.where(made_by == "poor", -2.5, 2.5), -1.5)
    log_odds = rng.normal(centre, 1.0)
    measured = measure(
        log_odds,
        is_ai,
        generators=made_by,
        sources=["web"] * n,
        thresholds=changes.pop("thresholds", THRESHOLDS),
        n_resamples=100,
    )
    before = measure(3 * log_odds, is_ai, n_resamples=20)
    record = {
        "date": "2026-02-03T04:05:06+00:00",
        "checkpoint_sha256": "c" * 64,
        "corpus": "corpus",
        "command": "python x.py",
        "corpus_fingerprint": "f00",
        "versions": {},
        "figures": measured,
        "before_calibration": before,
    }
    return {split: {**record, **changes}}


@pytest.fixture(scope="module")
def evaluation():
    return evaluated()


@pytest.fixture
def facts(evaluation):
    return CardFacts(
        name="photos",
        repo_id="user/photos",
        license="apache-2.0",
        model_class="ViTForImageClassification",
        parameters=5_500_000,
        base_model="owner/base",
        base_model_id="owner/base",
        preprocessing="native",
        image_size=224,
        corpus="owner/corpus",
        corpus_id="owner/corpus",
        corpus_revision="0" * 40,
        corpus_report={
            "splits": {"train": {"generators": {"good": 77}}},
            "dropped": [{}, {}],
            "notes": ["a note"],
        },
        parts={"train": {"real": 1234, "ai": 567}},
        calibration={
            "method": "temperature_bias",
            "temperature": 2.5,
            "bias": -0.25,
            "n": 321,
            "reason": None,
        },
        thresholds=THRESHOLDS.to_dict(),
        evaluation=evaluation,
        command="python train_hf.py --dataset owner/corpus",
        seed=7,
        world_size=2,
        hyperparameters={"learning_rate": 3e-4},
        augmentation={"strength": 0.5, "rescale": {"p": 0.45, "factor": [0.8, 1.2]}},
        versions={"torch": "2.13.0"},
        plots=[{"file": "plots/roc test.png", "caption": "ROC"}],
        scores={"test": "scores-test.parquet"},
        limits=["Small corpus."],
    )


def html(card) -> str:
    return markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)


def test_facts_survive_json(facts):
    assert CardFacts.from_dict(json.loads(json.dumps({**facts.to_dict(), "unknown": 1}))) == facts


def test_metadata_reads_back(tmp_path, facts):
    card = ModelCard.load(write_card(tmp_path, facts))
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    assert data["base_model"] == "owner/base" and data["datasets"] == ["owner/corpus"]
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    summary = facts.figures["summary"]
    assert values["roc_auc"] == round(summary["auroc"]["value"], 4)
    assert values["accuracy"] == round(summary["accuracy"]["value"], 4)
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}
    (entry,) = parse_eval_result_entries(
        yaml.safe_load((tmp_path / ".eval_results" / "realfake.yaml").read_text())
    )
    assert (entry.dataset_id, entry.dataset_revision) == ("owner/corpus", "0" * 40)
    assert entry.value == values["accuracy"] and "n = 300" in entry.notes


def test_a_local_corpus_has_no_hub_dataset(tmp_path, facts):
    write_card(tmp_path, facts)
    facts.corpus_id = facts.corpus_revision = None
    facts.corpus = "../my corpus/"
    data = ModelCard.load(write_card(tmp_path, facts)).data.to_dict()
    assert "datasets" not in data
    dataset = data["model-index"][0]["results"][0]["dataset"]
    assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", dataset["type"])
    assert not (
        tmp_path / ".eval_results" / "realfake.yaml"
    ).exists()  # not even the one of the run before


def test_the_card_has_the_facts(facts):
    text = render(facts).text
    for said in (
        'pipeline("image-classification", model="user/photos")',
        'Detector.from_pretrained("user/photos")',
        "T = 2.5",
        "b = -0.25",
        "on 321 images",
        "150 real and 150 generated images",
        "python train_hf.py --dataset owner/corpus",
        "| `train` | 1,234 | 567 |",
        "2 unusable rows were dropped",
        "central 224 × 224 pixels",
        "torch 2.13.0",
        "Small corpus.",
        "](plots/roc%20test.png)",
        "| rescale | 45.0 % | factor: 0.8 to 1.2 |",
        "cccccccc",
        "| Seed | 7 |",
        "| Processes | 2 |",
    ):
        assert said in text, said
    # The two thresholds are log-odds of -1 and 1.
    assert "is above 0.731" in text and "is below 0.269" in text
    assert not re.search(r"\bNone\b|\bnan\b|\{\{|\{%|Undefined", text)
    assert "\n\n\n" not in text


def test_weak_generator_is_named_first_and_among_the_limits(facts):
    text = render(facts).text
    entry = facts.figures["by_generator"]["poor"]
    assert facts.figures["worst_generator"] == "poor"
    assert f"weakest on **poor**: AUROC {entry['auroc']['value']:.3f}" in text
    tables = text.split("### By generator")[1].split("###")[0]
    rows = [line for line in tables.splitlines() if line.startswith(("| poor", "| good"))]
    assert [row.split()[1] for row in rows] == ["poor", "good"]
    assert "| none |" in rows[0] and "| 77 |" in rows[1]  # in training
    said = "\n".join(limits(facts))
    assert "Worse than chance** on poor" in said
    assert "Most images of these generators have p(ai) ≤ ½: poor" in said and "good" not in said
    # Every second generated image is of a generator that it calls real: more than the tenth that
    # was aimed at.
    assert "rate of wrong verdicts does not hold" in said and "stated rate is 10.0 %" in said


@pytest.mark.parametrize(
    "auroc, said",
    [
        ((0.30, 0.2, 0.4), "Worse than chance"),
        ((0.45, 0.4, 0.55), "Not shown to be better than chance"),
        ((0.60, 0.49, 0.7), "Not shown to be better than chance"),
        ((0.60, 0.55, 0.7), "Weak on g"),
        ((0.90, 0.85, 0.95), None),
    ],
)
def test_the_limit_of_a_generator_follows_its_interval(auroc, said):
    figures = measure([1.0, -1.0], [True, False], generators=["g", ""], n_resamples=0)
    figures["by_generator"]["g"]["auroc"] = {**dict(zip(("value", "low", "high"), auroc)), "n": 2}
    found = "\n".join(limits(CardFacts(name="x", evaluation={"test": {"figures": figures}})))
    for phrase in ("Worse than chance", "Not shown to be better than chance", "Weak on g"):
        assert (phrase in found) == (phrase == said)


def test_strong_results_are_not_called_weak():
    said = "\n".join(
        limits(
            CardFacts(name="x", evaluation=evaluated(generators=("good",)), calibration={"n": 1})
        )
    )
    for phrase in (
        "chance**",
        "Weak",
        "Most images",
        "does not hold",
        "Many photographs",
        "not calibrated",
    ):
        assert phrase not in said


@pytest.mark.parametrize("split", ["selection", "validation", "calibration", "train", "elsewhere"])
def test_the_card_names_a_split_other_than_test(split):
    facts = CardFacts(name="x", evaluation=evaluated(split))
    text = render(facts).text
    assert "No test split was measured" in text and "held out:" not in text
    assert card_split(facts) == split


def card_split(facts):
    return card_data(facts).eval_results[0].dataset_split


def test_the_test_split_has_the_headline(evaluation):
    facts = CardFacts(
        name="x", evaluation={**evaluated("calibration"), **evaluated("own"), **evaluation}
    )
    assert facts.split == "test"
    text = render(facts).text
    assert "### Other splits" in text and "`calibration`: used to fit calibration" in text


def test_bare_card_has_no_empty_sections(tmp_path):
    card = ModelCard.load(write_card(tmp_path, CardFacts(name="bare")))
    assert "model-index" not in card.data.to_dict() and "metrics" not in card.data.to_dict()
    headings = re.findall(r"^## (.*)$", card.text, re.M)
    assert headings == [
        "How to use it",
        "What the probability means",
        "Verdicts",
        "Limits",
        "Licence",
    ]
    assert "No figures were measured" in card.text and "are not calibrated" in card.text
    assert "None" not in card.text


def test_one_label_only(tmp_path):
    measured = measure(
        [1.0, -0.5, 2.0], [True] * 3, generators=["g"] * 3, thresholds=THRESHOLDS, n_resamples=20
    )
    facts = CardFacts(name="x", evaluation={"test": {"figures": measured}})
    text = ModelCard.load(write_card(tmp_path, facts)).text
    assert "0 real and 3 generated images" in text and "AUROC" not in text.split("##")[0]
    assert not re.search(r"\bNone\b|\bnan\b", text)


@pytest.mark.parametrize(
    "thresholds, said",
    [
        (Thresholds(0.05, None, 2.0, 30, 3), "It is never `real`"),
        (Thresholds(0.05, -2.0, None, 3, 30), "It is never `ai`"),
        (Thresholds(0.05, None, None, 3, 3), "never gives a verdict"),
        # Crossed: between them neither label is alone in the prediction set.
        (
            Thresholds(0.05, 1.0, -1.0, 30, 30),
            "`ai` if the probability of `ai` is above 0.731, `real` if it is below 0.269",
        ),
    ],
)
def test_verdict_rule(thresholds, said):
    assert said in render(CardFacts(name="x", thresholds=thresholds.to_dict())).text


def test_identity_calibration_changes_nothing():
    facts = CardFacts(
        name="x",
        calibration={
            "method": "identity",
            "temperature": 1.0,
            "bias": 0.0,
            "n": 9,
            "reason": "too few",
        },
    )
    text = render(facts).text
    assert (
        "left the network's probabilities unchanged: too few" in text
        and "are calibrated" not in text
    )


def test_names_are_escaped():
    facts = CardFacts(
        name=EVIL,
        base_model=EVIL,
        model_class="X",
        corpus=EVIL,
        hardware=EVIL,
        evaluation=evaluated(generators=(EVIL, "poor")),
        parts={EVIL: {"real": 1, "ai": 2}},
        corpus_origins=[{"source": EVIL, "origin": EVIL, "licence": EVIL}],
        plots=[{"file": 'a" onload="x.png', "caption": EVIL}],
        class_names=[EVIL, "b```"],
        repo_id='u/x")\n```\n<script>',
        hyperparameters={EVIL: EVIL},
        augmentation=EVIL,
        versions={EVIL: EVIL},
        command="a\n```\n<script>",
        corpus_report={"label_map": {EVIL: "ai"}, "notes": [EVIL]},
    )
    card = render(facts)
    page = html(card)
    assert "<script" not in page
    assert 'href="http://evil"' not in page and "<h2>Heading" not in page
    assert "{{ 7*7 }}" in card.text.replace("\\*", "*")
    # Every row of a table has as many cells as its head.
    for block in re.findall(r"(?:^\|.*\|\n)+", card.text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert ModelCard(str(card)).data.to_dict()["model-index"][0]["name"] == EVIL


@pytest.mark.parametrize(
    "text", ["plain", "a|b", "<b>&amp;", "x*y_z", "`q`", "\\|", "$a$", "[l](u)", "~~s~~"]
)
def test_escaped_text_reads_as_it_was(text):
    page = (
        markdown_it.MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .render(f"| {md(text)} |\n| -- |")
    )
    cell = re.search(r"<th[^>]*>(.*)</th>", page).group(1)
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        cell = cell.replace(entity, letter)
    assert cell == text


def test_code_and_fence_hold_backticks():
    assert code("a`b") == "`` a`b ``" and code("a|b") == "`a\\|b`"
    assert fence("x\n```\ny").startswith("````\n")


def test_rounding_never_gives_0_or_100_per_cent():
    assert percent(0.99999) == "> 99.9 %" and percent(1.0) == "100.0 %"
    assert percent(0.0001) == "< 0.1 %" and percent(0.0) == "0.0 %"
    assert number(0.9996) == "0.9996"


def test_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "vit").mkdir(parents=True)
    assert hub_id("owner/name") == "owner/name"
    assert [
        hub_id(text) for text in ("runs/vit", "./a/b", "../x", "name", "a/b/c", "/a/b", None)
    ] == [None] * 7
