"""The page's words and cards: languages, numbers, sentences about rates, and escaping."""

import ast
import json
import re
import shutil
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.space import FACTS, HOSTILE, FakeDetector, markup_in, prediction, shown
from helpers.tiny import save_tiny

from realfake.attribution.faithfulness import Evidence
from realfake.attribution.methods import METHODS
from realfake.detector import Detector
from realfake.imaging.degradations import GRID
from realfake.labels import AI, NAMES, REAL
from realfake.prediction import VARIANTS, Stability
from realfake.provenance.reading import Finding, Provenance, Statement, read_settings, statement_of
from realfake.space import api
from realfake.space.maps import Map, tiles_of
from realfake.space.quality import about, measurement
from realfake.space.text import (
    ENGLISH,
    EXAMPLES,
    LANGUAGES,
    MAX_CHARACTERS,
    Words,
    escape,
    is_hub_id,
    render,
    words,
)

NORWEGIAN = words("nb")
SPACE = Path(api.__file__).parent
WRONG = {"value": 0.0576, "low": 0.0421, "high": 0.0758, "n": 712}


def evaluation(real: dict | None = WRONG, ai: dict | None = WRONG) -> dict:
    return {"test": {"figures": {"verdicts": {"wrong": {REAL: real, AI: ai}}}}}


# Languages


def fields(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


def test_all_languages_have_the_same_keys_and_placeholders():
    english = LANGUAGES["en"]
    assert set(LANGUAGES) == {"de", "en", "es", "fr", "nb"}
    for language, strings in LANGUAGES.items():
        assert strings.keys() == english.keys(), language
        for key, sentence in strings.items():
            assert sentence, (language, key)
            assert fields(sentence) == fields(english[key]), (language, key)
            assert not re.search(r"\bTODO\b|[<>]", sentence), (language, key)


@pytest.mark.parametrize("language", sorted({*LANGUAGES} - {"en"}))
def test_every_sentence_is_translated(language):
    """Words that are the same in two languages are short; a sentence of four words is not."""
    strings, english = LANGUAGES[language], LANGUAGES["en"]
    same = [key for key, sentence in strings.items() if sentence == english[key]]
    names = re.compile(r"(degradation|number|time|detector)\.")
    long = [key for key in same if len(english[key].split()) > 3 and not names.match(key)]
    assert long == [] and len(same) < 60


def test_a_missing_translation_is_english_on_the_page(monkeypatch):
    monkeypatch.setitem(LANGUAGES, "xx", {"label.ai": "KI"})
    t = Words("xx")
    assert t("label.ai") == "KI" and t("label.real") == ENGLISH("label.real")


# Keys that the code and the templates put together, by their parts.
NAMED = [key.partition(".")[2] for key in LANGUAGES["en"] if key.startswith("detector.")]
CLAIMS = ("ai", "partly_ai", "camera")
REASONS = ("between", "no_thresholds", "out_of_distribution", "unstable", "differing")
COMPOSED = {
    "about.input_": ("native", "whole", "part", "views"),
    "batch.": ("name", "verdict", "probability", "csv", "json"),
    "code.": tuple(api.snippets(None)),
    "degradation.": tuple(GRID),
    "detector.": NAMED,
    "empty.step_": "123",
    "evidence.name.": NAMES,
    "example.": [name.removesuffix(".jpg") for name in EXAMPLES],
    "label.": NAMES,
    "limits.": "123",
    "looked.": [f"{part}.{n}" for part in ("whole", "part") for n in ("one", "many")],
    "map.": ("areas", "detail"),
    "map.all.": NAMES,
    "map.balance.": NAMES,
    "method.": tuple(METHODS),
    "origin.": ("but", "same", "other", "trusted", "untrusted", "unsigned"),
    "origin": [f".{claim}{by}" for claim in CLAIMS for by in ("", ".by")],
    "place.": ("top", "middle", "bottom", "left", "right", "centre"),
    "provenance.": ("c2pa", "iptc", "generator_parameters", "camera"),
    "quality.": (
        *("auroc", "accuracy", "ece", "given", "right", "wrong_real", "wrong_ai"),
        *("figure", "value", "interval", "predicted", "observed", "count"),
        *("false_alarms", "found", "generator", "source", "summary"),
        *(
            f"{name}{ending}"
            for name in ("reliability", "generators", "sources", "degradations")
            for ending in ("", "_note")
        ),
    ),
    "purpose.": NAMED,
    "rate.": (*NAMES, "inconclusive"),
    "reason.": REASONS,
    "report.": ("html", "json"),
    "short.": REASONS,
    "stability.": (
        *("variant", "verdict", "probability"),
        *("yes", "partly", "no", "same", "moved"),
    ),
    "state.": ("trusted", "untrusted", "invalid", "unchecked", "present"),
    "variant.": tuple(VARIANTS),
    "verdict.": (*NAMES, "inconclusive"),
    "why.": [f"{n}.{verdict}" for n in ("one", "many", "all") for verdict in NAMES],
    "": [f"{line}.title" for line in ("prior", "advanced", "feedback")]
    + [f"{tab}.{part}" for tab in ("batch", "compare", "code") for part in ("title", "body")]
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
        literals |= set(re.findall(r'"([\w.-]+)"', text))
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
        ("de-DE,nb;q=0.9", "de"),
        ("fr", "fr"),
        ("es-MX", "es"),
        ("it-IT,nb;q=0.9", "en"),
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
    assert [ENGLISH.duration(s) for s in (0.2, 45, 300)] == ["under 1 s", "45 s", "5 min"]


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
        (ENGLISH, ("712", "6 of 100", "4.2%", "7.6%")),
        (NORWEGIAN, ("712", "6 av 100", "4,2\u00a0%", "7,6\u00a0%")),
    ):
        sentence = t.error_rate(verdict, measured)
        assert all(figure in sentence for figure in figures), sentence
    assert ENGLISH.error_rate(verdict, evaluation(**{other: WRONG | {"value": 0.0}}))


@pytest.mark.parametrize(
    "record",
    [None, [], evaluation(None, None), evaluation({"value": 0.1}, 3), evaluation(0.1, "x")],
)
def test_an_unmeasured_rate_is_not_stated(record):
    for verdict in (*NAMES, "inconclusive"):
        assert ENGLISH.error_rate(verdict, record) is None


def test_without_a_verdict_the_share_of_clear_answers_is_stated():
    given = {"value": 0.503, "low": 0.476, "high": 0.529, "n": 1484}
    record = {"test": {"figures": {"verdicts": {"verdict_rate": given}}}}
    sentence = ENGLISH.error_rate("inconclusive", record)
    assert all(figure in sentence for figure in ("50 of 100", "47.6%", "1,484"))


def test_a_small_rate_is_not_rounded_to_nothing():
    rare = WRONG | {"value": 0.004, "low": 0.001, "high": 0.009}
    assert "0.4 of 100" in ENGLISH.error_rate(AI, evaluation(real=rare))


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
        statement=None,
        why="",
        looked="",
        rates=[],
    )
    assert not re.search(r"\d+ (in|av|of) 1?00?\b", shown(card))


@pytest.mark.parametrize(
    ("reason", "more", "key"),
    [
        ("between", {}, "between"),
        ("between", {"alpha": None}, "no_thresholds"),
        (None, {"alpha": None}, "no_thresholds"),
        ("no_thresholds", {}, "no_thresholds"),
        ("out_of_distribution", {"ood": 0.013}, "out_of_distribution"),
        ("unstable", {}, "unstable"),
        ("differing", {}, "differing"),
    ],
)
def test_a_missing_verdict_has_its_reason(reason, more, key):
    withheld = prediction(0.7, "inconclusive", reason=reason, **more)
    assert ENGLISH.reason(withheld) == ENGLISH(f"reason.{key}")
    assert ENGLISH.reason(prediction()) is None


def test_a_verdict_has_a_reason_too():
    found = prediction(0.9, AI)
    tiles = tiles_of(found, (60, 40))
    assert ENGLISH.why(found, tiles) == ENGLISH("why.many.ai", n=1, total=2)
    assert ENGLISH.why(found, tiles[:1]) == ENGLISH("why.one.ai")
    assert ENGLISH.why(found, [tiles[0], tiles[0]]) == ENGLISH("why.all.ai", total=2)


@pytest.mark.parametrize(
    ("examined", "views", "key"),
    [(1, 1, "whole.one"), (1, 2, "whole.many"), (0.2, 1, "part.one"), (0.2, 2, "part.many")],
)
def test_what_was_looked_at(examined, views, key):
    found = prediction()
    found = replace(found, views=found.views[:views], examined=examined, ood_share=0.5)
    looked = ENGLISH.looked(found)
    assert looked.startswith(ENGLISH(f"looked.{key}", n=views, share="20%"))
    assert (ENGLISH("looked.unusual", n=1) in looked) == (views == 2)


# Evidence and changed copies


def test_evidence_is_one_sentence_in_percent():
    sentence = ENGLISH.evidence(Evidence(AI, 0.1, 0.94, 0.31, (0.9, 0.9, 0.91, 0.89, 0.9)))
    assert re.findall(r"\d+%", sentence) == ["10%", "94%", "31%", "10%", "90%"]
    assert not re.search(r"0\.\d", sentence)


@pytest.mark.parametrize(
    ("copies", "answer", "moved"),
    [
        ([(0.88, AI), (0.91, AI)], "yes", "half_size"),
        ([(0.88, AI), (0.6, "inconclusive")], "partly", "crop"),
        ([(0.2, REAL), (0.9, AI)], "no", "half_size"),
    ],
)
def test_whether_a_verdict_holds_and_what_moved_most(copies, answer, moved):
    names = ("half_size", "crop")
    variants = [("original", prediction(0.9, AI))]
    variants += [(name, prediction(*each)) for name, each in zip(names, copies)]
    found, sentence = ENGLISH.holds(Stability(variants))
    assert found == answer and ENGLISH(f"variant.{moved}") in sentence and "90%" in sentence


def test_regions_in_one_place_are_one_entry():
    corner, middle = (0, 0, 0.1, 0.1), (0.4, 0.4, 0.6, 0.6)
    regions = [(corner, 0.2), (middle, 0.1), (corner, 0.05)]
    assert ENGLISH.regions(regions) == "top left (25%), centre (10%)"


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


def test_a_detail_names_regions_caveats_and_what_was_not_examined():
    values = {"method": "gradcam", "target": AI, "plain": b"", "coloured": b"", "tiles": ()}
    regions = (((0, 0, 0.1, 0.1), 0.67), ((0.4, 0.4, 0.6, 0.6), 0.1))
    values |= {"evidence": None, "caveats": ("<b>",), "file_name": "a"}
    drawn = Map(**values, regions=regions, partial=True)
    card = render("check", "detail", NORWEGIAN, map=drawn)
    assert "67\u00a0%" in card and NORWEGIAN("map.unseen") in card and "&lt;b&gt;" in card
    card = render("check", "detail", ENGLISH, map=replace(drawn, partial=False, regions=()))
    assert ENGLISH("regions.none", label=ENGLISH("label.ai")) in shown(card)
    assert ENGLISH("map.unseen") not in card


# What a file says of itself


def finding(kind: str, claim: str | None, state: str = "present", **fields: str) -> Finding:
    return Finding(kind, state, "title", "detail", claim, fields)


@pytest.mark.parametrize(
    ("settings", "model", "prompt"),
    [
        (
            "a red fox\nNegative prompt: dog\nSteps: 20, Sampler: X, Model: dreamer",
            "dreamer",
            "a red fox",
        ),
        ('{"positive_prompt": "a hill", "model": {"model_name": "flux"}}', "flux", "a hill"),
        (
            '{"3": {"class_type": "L", "inputs": {"ckpt_name": "sd.ckpt", "text": "a sea"}}}',
            "sd.ckpt",
            "a sea",
        ),
        ("a castle --v 6 Job ID: 1234", None, "a castle --v 6"),
        ("[" * 100_000, None, "[" * 119 + "…"),
        ("", None, None),
    ],
)
def test_model_and_prompt_are_read_from_settings(settings, model, prompt):
    found = read_settings(settings)
    assert found[0] == model and (found[1] or "")[:60] == (prompt or "")[:60]


def test_a_signed_statement_keeps_its_signer_and_others_add_what_they_know():
    statement = statement_of(
        Provenance(
            [
                finding("c2pa", "ai", "trusted", signer="OpenAI"),
                finding("iptc", None, "absent"),
                finding("generator_parameters", "ai", generator="ComfyUI", settings="a hill"),
            ]
        )
    )
    assert (statement.claim, statement.signed, statement.signer) == ("ai", "trusted", "OpenAI")
    assert statement.by == "ComfyUI" and statement.prompt == "a hill"


def test_only_a_signed_camera_is_a_statement():
    camera = finding("camera", "camera", make="Canon")
    assert statement_of(Provenance([camera])) is None and statement_of(None) is None
    signed = finding("c2pa", "camera", "untrusted", signer="Nikon")
    assert statement_of(Provenance([camera, signed])).claim == "camera"
    broken = finding("c2pa", None, "invalid", signer="Nikon")
    assert statement_of(Provenance([broken])) is None


@pytest.mark.parametrize(
    ("verdict", "claim", "key"),
    [
        (REAL, "ai", "but"),
        (AI, "ai", "same"),
        (AI, "camera", "but"),
        (REAL, "camera", "same"),
        ("inconclusive", "ai", "other"),
        (REAL, "partly_ai", "but"),
    ],
)
def test_the_banner_contradicts_or_agrees_and_escapes(verdict, claim, key):
    statement = Statement(claim, HOSTILE, HOSTILE, "untrusted", HOSTILE)
    card = render("check", "banner", ENGLISH, statement=statement, verdict=verdict)
    assert ENGLISH(f"origin.{key}") in shown(card) and not markup_in(card)
    assert render("check", "banner", ENGLISH, statement=None, verdict=verdict) == ""


# Cards


def test_the_verdict_card_has_the_verdict_and_both_probabilities():
    arguments = {
        "prediction": prediction(0.9, AI),
        "statement": None,
        "why": "Because",
        "looked": "Everywhere",
        "rates": ["R & D"],
    }
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
    record = {
        "test": {
            "figures": {"summary": summary, "worst_generator": HOSTILE, "worst_source": HOSTILE}
        }
    }
    detector = FakeDetector(facts=facts, name=HOSTILE, revision=HOSTILE)
    card = render("check", "about", ENGLISH, name="x", pairs=about(ENGLISH, detector, record))
    assert not markup_in(card) and "huggingface.co" not in card


def test_about_states_corpus_calibration_and_figures():
    summary = {"auroc": {"value": 0.912, "low": 0.9, "high": 0.92, "n": 2000}}
    wrong = {"real": {"value": 0.04}, "ai": {"value": 0.0}}
    verdicts = {"verdict_rate": {"value": 0.71}, "wrong": wrong}
    figures = {
        "summary": summary,
        "verdicts": verdicts,
        "worst_generator": "dalle3",
        "worst_source": "kodak",
    }
    facts = dict(about(ENGLISH, FakeDetector(facts=FACTS), {"test": {"figures": figures}}))
    assert facts[ENGLISH("about.corpus")] == "scenes"
    assert "2,400" in facts[ENGLISH("about.calibration")]
    assert "5%" in facts[ENGLISH("about.thresholds")]
    measured = facts[ENGLISH("about.measured")]
    assert all(
        part in measured for part in ("2,000", "0.91", "0.90", "71%", "4%", "dalle3", "Kodak")
    )
    # Where no verdict was wrong, the share is 0 % and not "less than 1 %".
    assert re.search(r"\b0%", measured) and ENGLISH("number.least") not in measured


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"do_resize": False}, "native"),
        ({"size": {"height": 32, "width": 48}, "crop_size": {"height": 32, "width": 32}}, "part"),
    ],
)
def test_about_states_what_the_processor_does(tmp_path, changes, kind):
    folder = save_tiny("vit", tmp_path / "tiny", image_size=32)
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text()) | {"do_center_crop": True}
    crop = {"crop_size": {"height": 32, "width": 32}}
    path.write_text(json.dumps(values | crop | changes))
    detector = Detector.from_pretrained(folder)
    expected = ENGLISH(f"about.input_{kind}", width=32, height=32)
    assert dict(about(ENGLISH, detector))[ENGLISH("about.input")] == expected
    if kind == "native":
        detector.facts["views"] = 9
        expected = ENGLISH("about.input_views", n=9, width=32, height=32)
        assert dict(about(ENGLISH, detector))[ENGLISH("about.input")] == expected


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
    card = render(
        "check", "about", ENGLISH, name="x", pairs=[(ENGLISH("about.model"), "user/model")]
    )
    assert 'href="https://huggingface.co/user/model"' in card
    hostile = ("../user", "photos", "user/model/tree", "user/../model", "javascript:alert(1)")
    for name in (*hostile, "a/b..c"):
        assert not is_hub_id(name)
        card = render("check", "about", ENGLISH, name="x", pairs=[(ENGLISH("about.model"), name)])
        assert "<a " not in card, name


def test_a_long_string_is_cut():
    assert len(escape("x" * 10_000)) == MAX_CHARACTERS


def test_a_number_and_its_unit_stay_on_one_line():
    assert escape("1\u00a0484 \n images,  5 %") == "1\u00a0484 images, 5\u00a0%"


# Code


def test_the_pipeline_snippet_of_the_bundled_detector_runs_from_any_folder(
    tmp_path, monkeypatch, capsys
):
    shutil.copy(SPACE / "examples" / "temple.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(api.snippets(None)["pipeline"], "snippet", "exec"), {})
    assert "score" in capsys.readouterr().out


def test_a_hostile_name_cannot_end_its_string_in_a_snippet():
    hostile = 'x"); import os; os.system("y")\n#'
    for name in ("local", "pipeline"):
        tree = compile(api.snippets(hostile)[name], name, "exec")
        assert "system" not in tree.co_names
    assert not markup_in(api.code(ENGLISH, HOSTILE))
