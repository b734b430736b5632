"""The page's words and HTML: what is said of probabilities, in which language, and that nothing foreign becomes markup."""

import ast
import re
import string
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_space import FACTS, HOSTILE, prediction, shown

from realfake.attribution.faithfulness import Evidence
from realfake.attribution.methods import METHODS
from realfake.attribution.regions import EvidenceRegion
from realfake.imaging.degradations import GRID
from realfake.labels import AI, NAMES, REAL
from realfake.prediction import VARIANTS
from realfake.space import about, code, markup, render, text
from realfake.space.languages import LANGUAGES
from realfake.space.text import ENGLISH, Words, words

NORWEGIAN = words("nb")


def fields(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


# Languages


def test_every_language_has_the_same_keys_with_the_same_values_in_them():
    english = LANGUAGES["en"]
    for language, strings in LANGUAGES.items():
        assert strings.keys() == english.keys(), language
        for key, sentence in strings.items():
            assert sentence, (language, key)
            assert fields(sentence) == fields(english[key]), (language, key)
            assert not re.search(r"\bTODO\b|[<>]", sentence), (language, key)


def test_what_reads_the_same_in_both_languages_is_no_sentence():
    same = {key for key, sentence in LANGUAGES["nb"].items() if sentence == LANGUAGES["en"][key]}
    allowed = re.compile(
        r"\{n\}( %)?|\W*|https://.*|[\w ]*\d+( px)?[\w ,]*|SHA-256|Data \(JSON\)|Send|Generator|Variant|\{.*\} \{.*\}|\{n\} \w+"
    )
    assert not [key for key in same if not allowed.fullmatch(LANGUAGES["en"][key])]


# Keys that the code puts together, by how it writes them: `f"label.{…}"`, `named("label", …)`.
VERDICTS = (*NAMES, "inconclusive")
MADE = {
    "about.input_{}": ("native", "processor"),
    "batch.{}": ("name", "verdict", "probability"),
    "code.{}": tuple(code.snippets(None)),
    "evidence.name.{}": NAMES,
    "evidence.nothing.{}": NAMES,
    "evidence.{}.{}": [
        f"{what}.{way}" for what in ("marked", "random") for way in ("lowers", "raises", "leaves")
    ],
    "example.{}": [name.removesuffix(".jpg") for name in text.EXAMPLES],
    "kind.{}": NAMES,
    "label.{}": NAMES,
    "lead.{}": NAMES,
    "method.{}": tuple(METHODS),
    "place.{}": ("top", "middle", "bottom", "left", "right", "centre"),
    "quality.{}": (
        "auroc",
        "accuracy",
        "ece",
        "given",
        "right",
        "wrong_real",
        "wrong_ai",
        "figure",
        "value",
        "interval",
        "predicted",
        "observed",
        "count",
        "false_alarms",
        "found",
        "reliability",
        "roc",
        "generators",
        "sources",
        "degradations",
    ),
    "quality.{}_note": ("reliability", "roc", "generators", "sources", "degradations"),
    "stability.{}": ("variant", "verdict", "probability"),
    "verdict.{}": VERDICTS,
    "{}.title": ("batch", "compare", "code"),
    "{}.body": ("batch", "compare", "code"),
}
NAMED = {
    "degradation": tuple(GRID),
    "method": tuple(METHODS),
    "provenance": ("c2pa", "iptc", "generator_parameters", "camera"),
    "short": ("between", "out_of_distribution", "unstable"),
    "state": ("trusted", "untrusted", "invalid", "unchecked", "present"),
    "variant": tuple(VARIANTS),
}


def calls(tree: ast.AST):
    """The first argument, and the second, of each call of something that takes keys."""
    takers = {"words", "local", "ENGLISH", "self", "named", "said"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            if name in takers or isinstance(node.func, ast.Call):
                yield name, node.args


def test_every_key_is_used_and_every_key_that_is_used_exists():
    source = "\n".join(path.read_text() for path in Path(text.__file__).parent.glob("*.py"))
    tree = ast.parse(source.replace("from __future__", "#"))
    literals = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    used, unlisted = literals & LANGUAGES["en"].keys(), []
    for name, arguments in calls(tree):
        first = arguments[0]
        if name == "named" and isinstance(first, ast.Constant):
            used |= {f"{first.value}.{each}" for each in NAMED[first.value]}
        elif isinstance(first, ast.JoinedStr):
            form = "".join(
                part.value if isinstance(part, ast.Constant) else "{}" for part in first.values
            )
            if form in MADE:
                used |= {re.sub(r"\{\}(\.\{\})?", each, form, count=1) for each in MADE[form]}
            elif re.fullmatch(r"(\w+|\{\})(\.(\w+|\{\})+)+", form) and not form.startswith("html."):
                unlisted.append(form)
        elif name in ("words", "local", "ENGLISH") and isinstance(first, ast.Constant):
            assert first.value in LANGUAGES["en"], first.value
    assert unlisted == []
    assert LANGUAGES["en"].keys() - used == set(), "unused"
    assert used - LANGUAGES["en"].keys() == set(), "missing"


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
def test_the_language_is_the_first_that_the_browser_asks_for(header, language):
    assert Words.asked_for(header).language == language


def test_numbers_are_written_as_the_language_writes_them():
    assert (
        ENGLISH.number(12345) == "12,345"
        and ENGLISH.decimal(0.917) == "0.92"
        and ENGLISH.percent(0.5) == "50%"
    )
    assert NORWEGIAN.number(12345) == "12\u00a0345" and NORWEGIAN.decimal(0.917) == "0,92"
    assert NORWEGIAN.percent(0.5) == "50 %"
    assert [ENGLISH.duration(s) for s in (0.2, 45, 300)] == ["1 s", "45 s", "5 min"]


# Probabilities


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (0.0, "fewer than 1 in 100"),
        (0.004, "fewer than 1 in 100"),
        (0.01, "about 1 in 100"),
        (0.04, "about 4 in 100"),
        (0.06, "about 1 in 10"),
        (0.3, "about 3 in 10"),
        (0.46, "about half"),
        (0.5, "about half"),
        (0.56, "about 6 in 10"),
        (0.9, "about 9 in 10"),
        (0.94, "about 9 in 10"),
        (0.96, "about 96 in 100"),
        (0.99, "about 99 in 100"),
        (0.9951, "more than 99 in 100"),
        (1.0, "more than 99 in 100"),
    ],
)
def test_a_frequency_is_worded_as_a_share_of_images(probability, said):
    assert ENGLISH.share(probability) == said


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_probability_is_worded_as_certainty_and_both_sides_agree(language):
    said = words(language)
    for p in np.linspace(0, 1, 4001):
        assert not re.search(
            r"\b(10 (in|av) 10|100 (in|av) 100|0 (in|av) 10|0 (in|av) 100)\b", said.share(p)
        )
        assert not re.fullmatch(r"(0|100) ?%", said.percent(p))
        if said.percent(p) == said("number.least"):
            assert said.percent(1 - p) == said("number.most")


def test_percent_of_both_labels_adds_up():
    for p in np.arange(0.01, 1, 0.01):
        assert int(ENGLISH.percent(p)[:-1]) + int(ENGLISH.percent(1 - p)[:-1]) == 100


def test_a_calibrated_verdict_is_explained_as_a_frequency():
    assert text.meaning(ENGLISH, prediction(0.9), calibrated=True) == (
        "Of images scored like this one, about 9 in 10 were AI-generated, "
        "if photographs and generated images are equally common beforehand."
    )
    assert "about 97 in 100 were photographs" in text.meaning(
        ENGLISH, prediction(0.03, REAL), calibrated=True
    )


def test_an_uncalibrated_score_is_never_called_a_frequency():
    said = text.meaning(ENGLISH, prediction(0.9), calibrated=False)
    assert "Of images scored like this one" not in said and "Nobody has calibrated it" in said


@pytest.mark.parametrize(
    ("reason", "more", "said"),
    [
        (
            "between",
            {},
            "not clear enough for a verdict, which may be wrong for at most 5% of images.",
        ),
        ("out_of_distribution", {"ood": 0.013}, "Of those, only 1% were as unusual."),
        ("out_of_distribution", {}, "its score cannot be trusted."),
        ("unstable", {}, "recompressed, resized or cropped, so none is given."),
    ],
)
def test_a_missing_verdict_says_why(reason, more, said):
    withheld = prediction(0.7, "inconclusive", reason=reason, **more)
    assert text.reason(ENGLISH, withheld).endswith(said)
    card = shown(render.verdict(ENGLISH, withheld, True))
    assert "Why there is no verdict:" in card and "about 7 in 10 were AI-generated" in card
    assert text.reason(ENGLISH, prediction()) is None


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
def test_the_page_words_evidence_as_the_library_does(evidence):
    assert text.evidence(ENGLISH, evidence) == evidence.sentence()
    said = text.evidence(NORWEGIAN, evidence)
    assert said.endswith(".") and not re.search(r"\b(the|removing|random)\b", said, re.I)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((0, 0, 10, 10), "top left"),
        ((90, 90, 100, 100), "bottom right"),
        ((40, 40, 60, 60), "centre"),
        ((0, 0, 100, 10), "top"),
        ((90, 40, 100, 60), "middle right"),
        ((0, 0, 100, 100), "centre"),
    ],
)
def test_a_region_is_said_to_be_where_it_is(box, said):
    assert text.place(ENGLISH, box, (100, 100)) == said


def test_the_strongest_regions_are_listed_with_their_shares():
    explanation = SimpleNamespace(
        evidence=None,
        target=AI,
        image=SimpleNamespace(size=(100, 100)),
        heatmap=np.zeros((100, 100)),
    )
    regions = [EvidenceRegion((0, 0, 10, 10), 0.67, ()), EvidenceRegion((40, 40, 60, 60), 0.1, ())]
    said = shown(render.map_evidence(ENGLISH, explanation, regions))
    assert "top left, 67% of the evidence centre, 10% of the evidence" in said
    assert "No region stands out" in shown(render.map_evidence(ENGLISH, explanation, []))


def test_the_colours_of_a_map_are_told_in_the_readers_language():
    explanation = SimpleNamespace(
        evidence=None, target=REAL, image=SimpleNamespace(size=(9, 9)), heatmap=np.zeros((9, 9))
    )
    said = shown(render.map_evidence(NORWEGIAN, explanation, []))
    assert said.startswith("taler for «Fotografi» taler mot det") and "ikke undersøkt" not in said
    explanation.heatmap[0, 0] = np.nan
    assert "ikke undersøkt" in shown(render.map_evidence(NORWEGIAN, explanation, []))


# Cards


def test_the_verdict_card_says_it_in_words_and_in_numbers():
    card = render.verdict(ENGLISH, prediction(0.9, AI), calibrated=True)
    assert "Likely AI-generated" in shown(card)
    assert "Calibrated probabilities AI-generated 90%" in shown(card)
    assert "Photograph 10%" in shown(card)
    assert "width:90.0%" in card
    assert "Calibrated" not in shown(render.verdict(ENGLISH, prediction(), calibrated=False))


@pytest.mark.parametrize(
    "facts",
    [
        {
            "corpus": HOSTILE,
            "preprocessing": HOSTILE,
            "image_size": HOSTILE,
            "calibration": HOSTILE,
            "thresholds": HOSTILE,
        },
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
def test_nothing_a_checkpoint_says_reaches_the_page_as_markup(facts):
    figures = {"summary": {"auroc": {"value": 0.9, "n": 5}}, "worst_generator": HOSTILE}
    card = about.about(ENGLISH, HOSTILE, HOSTILE, facts, {"test": {"figures": figures}})
    assert "<img" not in card
    # Gradio's HTML component is a template: what it would evaluate must not survive either.
    assert not set("{}$`") & set(card)
    assert "huggingface.co" not in card


def test_about_states_corpus_calibration_and_figures():
    summary = {"auroc": {"value": 0.912, "n": 2000}}
    verdicts = {"given": {"value": 0.71}, "wrong": {"real": {"value": 0.04}, "ai": {"value": 0.0}}}
    figures = {"summary": summary, "verdicts": verdicts, "worst_generator": "dalle3"}
    said = shown(about.about(ENGLISH, "user/model", "abc", FACTS, {"test": {"figures": figures}}))
    assert "Trained on scenes" in said
    assert "the middle of the image, 288 × 288 pixels" in said
    assert "calibrated on 2,400 images" in said
    assert "at most 5% of the photographs and 5% of the generated ones" in said
    assert "on 2,000 test images, AUROC 0.91; a verdict for 71% of them" in said
    assert (
        "4% of photographs and less than 1% of generated images; weakest on images made by dalle3"
        in said
    )


@pytest.mark.parametrize(
    "evaluation", [None, [], {"test": 3}, {"test": {"figures": {"summary": {"auroc": 0.9}}}}]
)
def test_a_malformed_evaluation_leaves_the_figures_out(evaluation):
    assert about.measurement(ENGLISH, evaluation) is None


def test_a_checkpoint_that_says_nothing_is_said_to_say_nothing():
    said = shown(about.about(ENGLISH, "m", None, {}))
    assert "does not say" in said and "not calibrated" in said and "never the answer" in said


def test_only_a_hub_id_becomes_a_link():
    assert 'href="https://huggingface.co/user/model"' in about.model_link("user/model")
    for name in (
        "../user",
        "photos",
        "user/model/tree",
        "user/../model",
        "javascript:alert(1)",
        "a/b..c",
    ):
        assert "<a " not in about.model_link(name), name


def test_a_long_foreign_string_is_cut():
    assert len(markup.escape("x" * 10_000)) == markup.MAX_CHARACTERS


def test_a_number_is_not_parted_from_what_belongs_to_it():
    assert markup.escape("1\u00a0484 \n images,  5 %") == "1\u00a0484 images, 5\u00a0%"


# Code


def test_a_name_in_a_snippet_cannot_end_its_string_or_its_line():
    hostile = 'x"); import os; os.system("y")\n#'
    for name in ("local", "pipeline"):
        tree = compile(code.snippets(hostile)[name], name, "exec")
        assert "system" not in tree.co_names
    card = code.code(ENGLISH, HOSTILE)
    assert "<img" not in card and not set("{}$`") & set(card)
