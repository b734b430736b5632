"""The page's words and cards: languages, numbers, sentences about rates, and escaping."""

import ast
import os
import re
import shutil
import string
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.space import FACTS, HOSTILE, FakeDetector, markup_in, prediction, shown

from realfake.attribution.faithfulness import Evidence
from realfake.attribution.methods import METHODS
from realfake.detector import BUNDLED, Detector
from realfake.imaging.degradations import GRID
from realfake.labels import AI, NAMES, REAL
from realfake.prediction import VARIANTS
from realfake.space import code
from realfake.space.quality import about, measurement
from realfake.space.render import MAX_CHARACTERS, escape, is_hub_id, render
from realfake.space.text import ENGLISH, EXAMPLES, LANGUAGES, Words, words

NORWEGIAN = words("nb")
SPACE = Path(code.__file__).parent
WRONG = {"value": 0.0576, "low": 0.0421, "high": 0.0758, "n": 712}


def evaluation(real: dict | None = WRONG, ai: dict | None = WRONG) -> dict:
    return {"test": {"figures": {"verdicts": {"wrong": {REAL: real, AI: ai}}}}}


# Languages


def fields(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


def test_all_languages_have_the_same_keys_and_placeholders():
    english = LANGUAGES["en"]
    assert set(LANGUAGES) == {"en", "nb"}
    for language, strings in LANGUAGES.items():
        assert strings.keys() == english.keys(), language
        for key, sentence in strings.items():
            assert sentence, (language, key)
            assert fields(sentence) == fields(english[key]), (language, key)
            assert not re.search(r"\bTODO\b|[<>]", sentence), (language, key)


def test_every_sentence_is_translated():
    same = {key for key, sentence in LANGUAGES["nb"].items() if sentence == LANGUAGES["en"][key]}
    allowed = re.compile(
        r"https://.*|[\w ]*\d+( px)?[\w ,]*|SHA-256|Data \(JSON\)|Send|\{.*\} \{.*\}|\{n\} \w+"
    )
    assert [key for key in same if not allowed.fullmatch(LANGUAGES["en"][key])] == []


# Keys that the code and the templates put together, by their parts.
COMPOSED = {
    "about.input_": ("native", "whole", "part"),
    "batch.": ("name", "verdict", "probability", "csv", "json"),
    "code.": tuple(code.snippets(None)),
    "degradation.": tuple(GRID),
    "evidence.": [
        f"{part}.{way}" for part in ("marked", "random") for way in ("lowers", "raises", "leaves")
    ],
    "evidence.name.": NAMES,
    "evidence.nothing.": NAMES,
    "example.": [name.removesuffix(".jpg") for name in EXAMPLES],
    "label.": NAMES,
    "lead.": NAMES,
    "limits.": "123",
    "map.": ("empty", "waiting"),
    "method.": tuple(METHODS),
    "place.": ("top", "middle", "bottom", "left", "right", "centre"),
    "provenance.": ("c2pa", "iptc", "generator_parameters", "camera"),
    "quality.": (
        *("auroc", "accuracy", "ece", "given", "right", "wrong_real", "wrong_ai"),
        *("figure", "value", "interval", "predicted", "observed", "count"),
        *("false_alarms", "found", "generator", "source", "summary"),
        *(
            f"{name}{ending}"
            for name in ("reliability", "roc", "generators", "sources", "degradations")
            for ending in ("", "_note")
        ),
    ),
    "rate.": NAMES,
    "reason.": ("between", "no_thresholds", "out_of_distribution", "ood_share", "unstable"),
    "report.": ("html", "json"),
    "short.": ("between", "no_thresholds", "out_of_distribution", "unstable"),
    "stability.": ("variant", "verdict", "probability"),
    "state.": ("trusted", "untrusted", "invalid", "unchecked", "present"),
    "variant.": tuple(VARIANTS),
    "verdict.": (*NAMES, "inconclusive"),
    "": [f"{tab}.{part}" for tab in ("batch", "compare", "code") for part in ("title", "body")]
    + [f"{state}.{part}" for state in ("empty", "waiting") for part in ("headline", "body")],
}


def test_every_key_is_used_and_every_used_key_exists():
    literals = set()
    for path in SPACE.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        literals |= {value for value in constants if isinstance(value, str)}
    called = set()
    for path in (SPACE / "templates").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        literals |= set(re.findall(r'"([\w.]+)"', text))
        called |= set(re.findall(r'\bt\("([\w.]+)"[,)]', text))
    composed = {prefix + part for prefix, parts in COMPOSED.items() for part in parts}
    keys = LANGUAGES["en"].keys()
    assert keys - literals - composed == set(), "unused"
    assert (composed | called) - keys == set(), "missing"


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("nb-NO,nb;q=0.9", "nb"),
        ("no", "nb"),
        ("nn-NO", "nb"),
        ("en-GB,nb;q=0.9", "en"),
        ("de-DE,nb;q=0.9", "en"),
        ("<script>", "en"),
        (" NB ;q=1", "nb"),
    ],
)
def test_the_language_is_the_first_in_the_header(header, language):
    assert Words.from_header(header).language == language


def test_numbers_have_the_format_of_the_language():
    assert ENGLISH.number(12345) == "12,345" and ENGLISH.decimal(0.917) == "0.92"
    assert ENGLISH.percent(0.5) == "50%" and ENGLISH.rate(0.0576) == "5.8%"
    assert ENGLISH.rate(0.05) == "5%" and ENGLISH.rate(0.05, "0.0") == "5.0%"
    assert NORWEGIAN.number(12345) == "12\u00a0345" and NORWEGIAN.decimal(0.917) == "0,92"
    assert NORWEGIAN.percent(0.5) == "50\u00a0%" and NORWEGIAN.rate(0.0576) == "5,8\u00a0%"
    assert [ENGLISH.duration(s) for s in (0.2, 45, 300)] == ["1 s", "45 s", "5 min"]


# Probabilities and rates


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_probability_is_shown_as_certain_and_both_sides_agree(language):
    t = words(language)
    for p in np.linspace(0, 1, 4001):
        assert not re.fullmatch(r"(0|100)\s?%", t.percent(p))
        if t.percent(p) == t("number.least"):
            assert t.percent(1 - p) == t("number.most")


def test_both_percentages_add_up():
    for p in np.arange(0.01, 1, 0.01):
        assert int(ENGLISH.percent(p)[:-1]) + int(ENGLISH.percent(1 - p)[:-1]) == 100


@pytest.mark.parametrize(("verdict", "other"), [(REAL, AI), (AI, REAL)])
def test_an_error_rate_is_the_measured_one_with_its_interval(verdict, other):
    measured = evaluation(**{other: WRONG, verdict: None})
    for t, figures in (
        (ENGLISH, ("712", "5.8%", "4.2%", "7.6%")),
        (NORWEGIAN, ("712", "5,8\u00a0%", "4,2\u00a0%", "7,6\u00a0%")),
    ):
        sentence = t.error_rate(verdict, measured)
        assert all(figure in sentence for figure in figures), sentence
    assert ENGLISH.error_rate(verdict, evaluation(**{other: WRONG | {"value": 0.0}}))


@pytest.mark.parametrize(
    "record",
    [None, [], evaluation(None, None), evaluation({"value": 0.1}, 3), evaluation(0.1, "x")],
)
def test_an_unmeasured_rate_is_not_stated(record):
    for verdict in NAMES:
        assert ENGLISH.error_rate(verdict, record) is None
    assert ENGLISH.error_rate("inconclusive", evaluation()) is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_card_states_only_the_measured_rate(language):
    """A calibrated probability says nothing about a share of other images."""
    t = words(language)
    card = render(
        "check",
        "verdict",
        t,
        prediction=prediction(0.01, REAL),
        calibrated=True,
        why=None,
        rate=None,
    )
    assert not re.search(r"\d+ (in|av|of) 1?00?\b", shown(card))


@pytest.mark.parametrize(
    ("reason", "more", "key", "values"),
    [
        ("between", {}, "between", {"alpha": "5%"}),
        ("between", {"alpha": None}, "no_thresholds", {}),
        (None, {"alpha": None}, "no_thresholds", {}),
        ("no_thresholds", {}, "no_thresholds", {}),
        ("out_of_distribution", {"ood": 0.013}, "ood_share", {"share": "1%"}),
        ("out_of_distribution", {}, "out_of_distribution", {}),
        ("unstable", {}, "unstable", {}),
    ],
)
def test_a_missing_verdict_has_its_reason(reason, more, key, values):
    withheld = prediction(0.7, "inconclusive", reason=reason, **more)
    assert ENGLISH.reason(withheld) == ENGLISH(f"reason.{key}", **values)
    assert ENGLISH.reason(prediction()) is None


# Evidence


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(AI, 0.1, 0.94, 0.31, (0.9, 0.9, 0.91, 0.89, 0.9)),
        Evidence(AI, 0.1, 0.5, 0.52, (0.5, 0.5, 0.5, 0.5, 0.5)),
        Evidence(REAL, 0.034, 0.99991, 0.9998, (0.99991,) * 5),
        Evidence(REAL, 0.1, 1.0, 1.0, (1.0,) * 5),
        Evidence(AI, 0.0, 0.5, 0.5, (0.5,) * 5),
        Evidence(REAL, 0.0, 0.5, 0.5, (0.5,) * 5),
    ],
)
def test_evidence_has_the_numbers_of_the_library(evidence):
    def numbers(sentence: str) -> list[str]:
        return re.findall(r"\d[\d.]*", sentence.replace(",", "."))

    expected = numbers(evidence.sentence())
    assert numbers(ENGLISH.evidence(evidence)) == expected
    assert numbers(NORWEGIAN.evidence(evidence)) == expected
    assert not re.search(r"\b(the|removing|random)\b", NORWEGIAN.evidence(evidence), re.I)


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0, 0, 0.1, 0.1), "top left"),
        ((0.9, 0.9, 1, 1), "bottom right"),
        ((0.4, 0.4, 0.6, 0.6), "centre"),
        ((0, 0, 1, 0.1), "top"),
        ((0.9, 0.4, 1, 0.6), "middle right"),
        ((0, 0, 1, 1), "centre"),
    ],
)
def test_the_place_of_a_region(box, place):
    assert ENGLISH.place(box) == place


def test_a_map_lists_regions_caveats_and_what_was_not_examined():
    drawn = SimpleNamespace(
        method="gradcam",
        target=AI,
        plain=b"",
        coloured=b"",
        regions=(((0, 0, 0.1, 0.1), 0.67), ((0.4, 0.4, 0.6, 0.6), 0.1)),
        partial=True,
        evidence=None,
        caveats=("Inexact <b>.",),
        file_name="a.jpg",
    )
    card = render("check", "map", NORWEGIAN, map=drawn)
    assert "67\u00a0%" in card and NORWEGIAN("map.unseen") in card and "&lt;b&gt;" in card
    drawn.partial, drawn.regions = False, ()
    card = render("check", "map", ENGLISH, map=drawn)
    assert ENGLISH("regions.none") in card and ENGLISH("map.unseen") not in card


# Cards


def test_the_verdict_card_has_the_verdict_and_both_probabilities():
    arguments = {"prediction": prediction(0.9, AI), "why": None, "rate": "R & D"}
    card = render("check", "verdict", ENGLISH, calibrated=True, **arguments)
    text = shown(card)
    assert ENGLISH("verdict.ai") in text and "90%" in text and "10%" in text
    assert "width:90.0%" in card and "R &amp; D" in card
    assert ENGLISH("meaning.uncalibrated") not in text
    card = render("check", "verdict", ENGLISH, calibrated=False, **arguments)
    assert ENGLISH("meaning.uncalibrated") in shown(card)


@pytest.mark.parametrize(
    "facts",
    [
        {"corpus": HOSTILE, "calibration": HOSTILE, "thresholds": HOSTILE},
        {
            "corpus": [HOSTILE],
            "calibration": {"folded": True, "n": HOSTILE},
            "thresholds": {"alpha": HOSTILE},
        },
        [HOSTILE],
        HOSTILE,
        None,
    ],
)
def test_facts_of_a_checkpoint_cannot_become_markup(facts):
    summary = {"auroc": {"value": 0.9, "low": 0.8, "high": 1, "n": 5}}
    record = {"test": {"figures": {"summary": summary, "worst_generator": HOSTILE}}}
    detector = FakeDetector(facts=facts, name=HOSTILE, revision=HOSTILE)
    card = render("check", "about", ENGLISH, pairs=about(ENGLISH, detector, record))
    assert not markup_in(card) and "huggingface.co" not in card


def test_about_states_corpus_calibration_and_figures():
    summary = {"auroc": {"value": 0.912, "low": 0.9, "high": 0.92, "n": 2000}}
    verdicts = {"given": {"value": 0.71}, "wrong": {"real": {"value": 0.04}, "ai": {"value": 0.0}}}
    figures = {"summary": summary, "verdicts": verdicts, "worst_generator": "dalle3"}
    facts = dict(about(ENGLISH, FakeDetector(facts=FACTS), {"test": {"figures": figures}}))
    assert facts[ENGLISH("about.corpus")] == "scenes"
    assert "2,400" in facts[ENGLISH("about.calibration")]
    assert "5%" in facts[ENGLISH("about.thresholds")]
    measured = facts[ENGLISH("about.measured")]
    assert all(part in measured for part in ("2,000", "0.91", "0.90", "71%", "4%", "dalle3"))
    # Where no verdict was wrong, the share is 0 % and not "less than 1 %".
    assert re.search(r"\b0%", measured) and ENGLISH("number.least") not in measured


@pytest.mark.parametrize(
    ("checkpoint", "kind", "size"), [("photos", "native", 288), ("cifake-mobilenet", "part", 64)]
)
def test_about_states_what_the_processor_does(checkpoint, kind, size):
    detector = Detector.from_pretrained(BUNDLED / checkpoint)
    facts = dict(about(ENGLISH, detector))
    expected = ENGLISH(f"about.input_{kind}", width=size, height=size)
    assert facts[ENGLISH("about.input")] == expected


def test_about_says_that_a_squashing_processor_sees_the_whole_image(tiny_vit):
    facts = dict(about(ENGLISH, Detector.from_pretrained(tiny_vit)))
    assert facts[ENGLISH("about.input")] == ENGLISH("about.input_whole", width=32, height=32)


@pytest.mark.parametrize(
    "record", [None, [], {"test": 3}, {"test": {"figures": {"summary": {"auroc": 0.9}}}}]
)
def test_a_malformed_evaluation_has_no_measurement(record):
    assert measurement(ENGLISH, record) is None


def test_missing_facts_are_called_missing():
    facts = dict(about(ENGLISH, FakeDetector(facts={})))
    assert facts[ENGLISH("about.corpus")] == ENGLISH("about.silent")
    assert facts[ENGLISH("about.calibration")] == ENGLISH("about.uncalibrated")
    assert facts[ENGLISH("about.thresholds")] == ENGLISH("about.without_thresholds")


def test_thresholds_that_could_not_be_calibrated_are_called_missing():
    stored = {"alpha": 0.05, "real": None, "ai": None, "n": {"real": 9, "ai": 9}}
    facts = dict(about(ENGLISH, FakeDetector(facts=FACTS | {"thresholds": stored})))
    assert facts[ENGLISH("about.thresholds")] == ENGLISH("about.no_thresholds")


def test_only_a_hub_id_becomes_a_link():
    card = render("check", "about", ENGLISH, pairs=[(ENGLISH("about.model"), "user/model")])
    assert 'href="https://huggingface.co/user/model"' in card
    hostile = ("../user", "photos", "user/model/tree", "user/../model", "javascript:alert(1)")
    for name in (*hostile, "a/b..c"):
        assert not is_hub_id(name)
        card = render("check", "about", ENGLISH, pairs=[(ENGLISH("about.model"), name)])
        assert "<a " not in card, name


def test_a_long_string_is_cut():
    assert len(escape("x" * 10_000)) == MAX_CHARACTERS


def test_a_number_and_its_unit_stay_on_one_line():
    assert escape("1\u00a0484 \n images,  5 %") == "1\u00a0484 images, 5\u00a0%"


# Code


def test_the_pipeline_snippet_of_the_bundled_detector_runs_from_any_folder(tmp_path):
    shutil.copy(SPACE / "examples" / "cat.jpg", tmp_path / "photo.jpg")
    snippet = code.snippets(None)["pipeline"]
    variables = os.environ | {"PYTHONPATH": str(SPACE.parents[1])}
    command = [sys.executable, "-c", snippet]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "score" in done.stdout


def test_a_hostile_name_cannot_end_its_string_in_a_snippet():
    hostile = 'x"); import os; os.system("y")\n#'
    for name in ("local", "pipeline"):
        tree = compile(code.snippets(hostile)[name], name, "exec")
        assert "system" not in tree.co_names
    assert not markup_in(code.code(ENGLISH, HOSTILE))
