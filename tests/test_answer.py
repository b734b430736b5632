"""The JSON form of an answer, for one image and for many."""

import base64
import hashlib
import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
from helpers.tiny import draw_picture
from PIL import Image

from realfake import answer as answers_module
from realfake.answer import answer, answers, read_once
from realfake.detector import Detector

KEYS = {
    "verdict",
    "reason",
    "label",
    "probabilities",
    "prior_ai",
    "log_odds",
    "alpha",
    "differing",
    "examined",
    "frames",
    "ood_share",
    "views",
    "ood",
    "stability",
    "provenance",
    "model",
    "revision",
    "sha256",
}


@pytest.fixture(scope="module")
def detector(tiny_vit):
    return Detector.from_pretrained(tiny_vit)


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    draw_picture(48, seed=seed).save(file, "PNG")
    return file.getvalue()


def test_an_answer_holds_the_prediction_and_its_origin(detector, tiny_vit):
    data = png()
    found = answer(detector, data)
    expected = detector.predict(data)
    assert set(found) == KEYS
    assert found["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert (found["verdict"], found["label"], found["prior_ai"]) == (
        expected.verdict,
        expected.label,
        0.5,
    )
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert (found["model"], found["stability"], found["provenance"]) == (tiny_vit.name, None, None)
    assert json.loads(json.dumps(found)) == found


def test_the_same_file_gets_the_same_answer_from_every_source(detector, tmp_path, monkeypatch):
    data = png(1)
    path = tmp_path / "image.png"
    path.write_bytes(data)
    monkeypatch.setattr(answers_module, "fetch", lambda url, max_bytes: data)
    expected = answer(detector, data)
    ways = [
        path,
        str(path),
        bytearray(data),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
    ]
    for image in [*ways, "https://example.invalid/x.png?secret"]:
        assert answer(detector, image) == expected


def test_pixels_without_a_file_have_no_hash_and_no_provenance(detector):
    picture = draw_picture(48, seed=2)
    for image in (picture, np.asarray(picture)):
        found = answer(detector, image, provenance=True)
        assert (found["sha256"], found["provenance"]) == (None, None)


def test_the_prior_moves_the_probabilities_and_not_the_verdict(detector):
    even, rare = (answer(detector, png(3), prior_ai=prior) for prior in (0.5, 0.01))
    assert rare["prior_ai"] == 0.01
    assert rare["probabilities"]["ai"] < even["probabilities"]["ai"]
    assert (rare["log_odds"], rare["verdict"]) == (even["log_odds"], even["verdict"])
    with pytest.raises(ValueError):
        answer(detector, png(3), prior_ai=1.0)


def test_provenance_is_added_on_request(detector):
    plain, with_it = answer(detector, png(4)), answer(detector, png(4), provenance=True)
    kinds = [finding["kind"] for finding in with_it["provenance"]["findings"]]
    assert kinds == ["c2pa", "iptc", "generator_parameters", "camera"]
    assert {**with_it, "provenance": None} == plain
    json.dumps(with_it)


@dataclass
class Flipping:
    verdict, reason, flips = "inconclusive", "unstable", True
    variants: list


def test_a_verdict_that_flips_is_inconclusive(detector, monkeypatch):
    one, other = detector.predict([png(5), png(6)])
    stability = Flipping([("as it is", one), ("half size", other)])
    monkeypatch.setattr(Detector, "stability", lambda *_: stability)
    found = answer(detector, png(5), stability=True)
    assert (found["verdict"], found["reason"], found["stability"]["flips"]) == (
        "inconclusive",
        "unstable",
        True,
    )
    assert [variant["name"] for variant in found["stability"]["variants"]] == [
        "as it is",
        "half size",
    ]
    json.dumps(found)


def test_stability_uses_the_same_prior(detector):
    found = answer(detector, png(5), stability=True, prior_ai=0.2)
    tested = found["stability"]
    assert len(tested["variants"]) == 4
    assert tested["variants"][0]["log_odds"] == pytest.approx(found["log_odds"], abs=1e-5)
    assert tested["variants"][0]["probabilities"] == pytest.approx(found["probabilities"], abs=1e-5)
    assert (found["verdict"] == "inconclusive") >= tested["flips"]


def test_answers_keep_the_order_and_yield_errors_in_place(detector, tmp_path):
    missing = tmp_path / "missing.png"
    images = [png(0), b"text", png(1), missing, png(2), Image.new("RGB", (2, 2)), png(3)]
    for batch_size in (1, 2, 3, 16):
        found = list(answers(detector, iter(images), batch_size=batch_size))
        assert [type(one) for one in found] == [
            dict,
            ValueError,
            dict,
            FileNotFoundError,
            dict,
            ValueError,
            dict,
        ]
        for image, one in zip(images, found, strict=True):
            if isinstance(one, dict):
                assert one["log_odds"] == pytest.approx(detector.predict(image).log_odds, abs=1e-5)
                assert one["sha256"] == hashlib.sha256(image).hexdigest()
    assert list(answers(detector, [])) == []


def test_errors_name_the_file(detector, tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("hello")
    with pytest.raises(ValueError, match="notes.jpg is a text file"):
        read_once(path)
    with pytest.raises(ValueError, match="data: URL"):
        read_once("data:image/png;base64,AAAA")
    with pytest.raises(ValueError):
        read_once(7)


def test_the_frames_of_an_animation_are_judged_and_named(detector):
    pictures = [draw_picture(48, seed=seed) for seed in range(3)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=90)
    found = answer(detector, buffer.getvalue())
    assert [frame["index"] for frame in found["frames"]] == [0, 1, 2]
    assert {frame["count"] for frame in found["frames"]} == {3}
    assert found["frames"][0]["log_odds"] == found["log_odds"]
    assert len({frame["log_odds"] for frame in found["frames"]}) == 3
    assert answer(detector, png())["frames"] is None


def test_a_data_uri_has_the_hash_of_its_file(detector):
    data = png()
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    assert answer(detector, uri)["sha256"] == hashlib.sha256(data).hexdigest()
