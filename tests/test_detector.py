"""Predictions, verdicts, priors and explanations of a detector."""

import io
import json

import numpy as np
import pytest
import torch
from helpers.tiny import draw_picture, save_tiny
from PIL import Image
from scipy.special import expit

from realfake.detector import DEFAULT_CHECKPOINT, Detector, stored_facts
from realfake.prediction import Explanation, Prediction


@pytest.fixture(scope="module")
def detector(tiny_vit):
    return Detector.from_pretrained(tiny_vit)


@pytest.fixture
def picture():
    return draw_picture((56, 40), seed=5, residue=True)


def png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def with_thresholds(detector, real, ai, alpha=0.1):
    detector.model.config.realfake = {
        "thresholds": {"alpha": alpha, "real": real, "ai": ai, "n": {"real": 9, "ai": 9}}
    }
    try:
        return Detector(detector.model, detector.processor)
    finally:
        del detector.model.config.realfake


# Predictions


def test_every_form_of_an_image_gets_the_same_prediction(detector, picture, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png(picture))
    forms = [
        path,
        str(path),
        png(picture),
        picture,
        np.asarray(picture),
        {"bytes": png(picture), "path": None},
    ]
    alone = [detector.predict(form) for form in forms]
    assert all(isinstance(prediction, Prediction) for prediction in alone)
    assert len({prediction.log_odds for prediction in alone}) == 1
    together = detector.predict(forms)
    assert isinstance(together, list) and len(together) == len(forms)
    assert [p.log_odds for p in together] == pytest.approx([p.log_odds for p in alone], abs=1e-5)
    assert isinstance(detector.predict((path,)), list) and detector.predict([]) == []


def test_probabilities_are_the_softmax_of_the_stock_model(detector, picture):
    pixels = detector.processor(images=picture, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        p = detector.model(pixel_values=pixels).logits.softmax(-1)[0]
    prediction = detector.predict(picture)
    label2id = detector.model.config.label2id
    assert prediction.probabilities == pytest.approx(
        {name: p[label2id[name]].item() for name in label2id}, abs=1e-6
    )
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-12)
    assert prediction.probabilities["ai"] == pytest.approx(expit(prediction.log_odds), abs=1e-12)
    assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.get)
    with pytest.raises(AttributeError):
        prediction.label = "real"


def test_labels_are_found_by_name_and_not_by_position(tmp_path, picture):
    usual = Detector.from_pretrained(
        save_tiny("vit", tmp_path / "a", labels=("real", "ai"), seed=7)
    )
    swapped = Detector.from_pretrained(
        save_tiny("vit", tmp_path / "b", labels=("FAKE", "0_real"), seed=7)
    )
    assert swapped.predict(picture).log_odds == pytest.approx(
        -usual.predict(picture).log_odds, abs=1e-5
    )


@pytest.mark.parametrize("architecture", ["vit", "convnext"])
def test_batch_size_changes_nothing(architecture, tmp_path):
    detector = Detector.from_pretrained(save_tiny(architecture, tmp_path / architecture))
    pictures = [draw_picture((40 + 3 * n, 60 - 2 * n), seed=n) for n in range(11)]
    one = detector.log_odds(pictures, batch_size=1)
    assert one.dtype == np.float64 and len(set(one)) == 11
    for batch_size in (2, 5, 16):
        np.testing.assert_allclose(detector.log_odds(pictures, batch_size), one, atol=1e-5)
    np.testing.assert_allclose(detector.log_odds(pictures[::-1], 4), one[::-1], atol=1e-5)


def test_images_whose_tensors_differ_in_size(tmp_path):
    # A processor that keeps the image's own size.
    detector = Detector.from_pretrained(save_tiny("resnet", tmp_path / "resnet"))
    detector.processor.do_resize = detector.processor.do_center_crop = False
    pictures = [
        draw_picture((48, 64), seed=1),
        draw_picture((64, 48), seed=2),
        draw_picture((48, 64), seed=3),
    ]
    alone = [detector.predict(picture).log_odds for picture in pictures]
    assert [p.log_odds for p in detector.predict(pictures)] == pytest.approx(alone, abs=1e-5)


def test_an_upright_photo_and_one_with_a_turn_in_its_exif(detector, picture):
    turned = picture.transpose(Image.Transpose.ROTATE_90)  # 6: turn 90° clockwise to view it
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    assert detector.predict(buffer.getvalue()).log_odds == pytest.approx(
        detector.predict(picture).log_odds, abs=1e-6
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_is_accepted(detector, picture, mode):
    converted = (
        picture.convert("I").point(lambda v: v * 256).convert("I;16")
        if mode == "I;16"
        else picture.convert(mode)
    )
    assert np.isfinite(detector.predict(converted).log_odds)


# Errors


def test_text_named_jpg(detector, tmp_path, picture):
    (tmp_path / "notes.jpg").write_text("no image at all")
    with pytest.raises(ValueError, match="notes.jpg") as error:
        detector.predict([picture, tmp_path / "notes.jpg"])
    assert "\n" not in str(error.value)


def test_one_pixel(detector):
    with pytest.raises(ValueError, match="1×1|1x1|8") as error:
        detector.predict(Image.new("RGB", (1, 1)))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_an_empty_one(detector, tmp_path):
    with pytest.raises(OSError, match="nothing.png"):
        detector.predict(tmp_path / "nothing.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match="empty.png"):
        detector.predict(tmp_path / "empty.png")


def test_a_truncated_file(detector, picture, tmp_path):
    (tmp_path / "half.png").write_bytes(png(picture)[:400])
    with pytest.raises(ValueError, match="half.png"):
        detector.predict(tmp_path / "half.png")


# Verdicts


def test_without_thresholds_the_verdict_is_the_label(detector, picture):
    prediction = detector.predict(picture)
    assert (
        detector.thresholds is None
        and prediction.alpha is None
        and prediction.verdict == prediction.label
    )


def test_the_verdict_follows_the_stored_thresholds(detector, picture):
    log_odds = detector.predict(picture).log_odds
    for real, ai, verdict in (
        (log_odds - 1, log_odds - 0.5, "ai"),
        (log_odds + 0.5, log_odds + 1, "real"),
        (log_odds - 1, log_odds + 1, "inconclusive"),
        (None, None, "inconclusive"),
    ):
        prediction = with_thresholds(detector, real, ai).predict(picture)
        assert (prediction.verdict, prediction.alpha) == (verdict, 0.1)
        assert prediction.log_odds == log_odds and prediction.label == (
            "ai" if log_odds > 0 else "real"
        )


def test_reasons_of_an_inconclusive_verdict(detector, picture):
    log_odds = detector.predict(picture).log_odds
    between = with_thresholds(detector, log_odds - 1, log_odds + 1).predict(picture)
    assert (between.verdict, between.reason) == ("inconclusive", "between")
    # Crossed thresholds: the log-odds are unusual for both classes.
    crossed = with_thresholds(detector, log_odds + 1, log_odds - 1).predict(picture)
    assert (crossed.verdict, crossed.reason) == ("inconclusive", "between")
    given = with_thresholds(detector, log_odds - 1, log_odds - 0.5).predict(picture)
    assert (given.verdict, given.reason) == ("ai", None)
    assert detector.predict(picture).reason is None


def test_a_missing_threshold_is_named_as_the_reason(detector, picture):
    log_odds = detector.predict(picture).log_odds
    for real, ai in ((None, None), (log_odds - 1, None) if log_odds > 0 else (None, log_odds + 1)):
        prediction = with_thresholds(detector, real, ai).predict(picture)
        assert (prediction.verdict, prediction.reason) == ("inconclusive", "no_thresholds")
    # Only a verdict of "ai" is possible, and the log-odds do not reach its threshold.
    one_sided = with_thresholds(detector, None, 1.0)
    assert one_sided.reasons(np.array([-5.0, 0.5, 2.0])) == ["no_thresholds", "between", None]
    assert detector.reasons(np.array([-5.0, 5.0])) == [None, None]


def test_config_keys_of_earlier_versions_are_read():
    assert stored_facts(None) == {}
    assert stored_facts({"corpus": "a", "novelty": {"alpha": 0.05}}) == {
        "corpus": "a",
        "ood": {"alpha": 0.05},
    }
    assert stored_facts({"novelty": {"alpha": 0.05}, "ood": None}) == {"ood": None}


def test_statistics_under_their_old_key_withhold_a_verdict():
    bundled = Detector.from_pretrained(DEFAULT_CHECKPOINT, device="cpu")
    assert bundled.ood is not None and bundled.facts["ood"] == bundled.ood.to_dict()
    assert "novelty" not in bundled.model.config.realfake


# Priors


@pytest.mark.parametrize("prior", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_the_prior_moves_the_probabilities_by_bayes_rule(detector, picture, prior):
    even = detector.predict(picture)
    p = even.probabilities["ai"]
    moved = detector.predict(picture, prior_ai=prior)
    # Bayes' rule; with equal priors, p / (1 - p) is the ratio of the likelihoods.
    assert moved.probabilities["ai"] == pytest.approx(
        p * prior / (p * prior + (1 - p) * (1 - prior)), rel=1e-9
    )
    assert moved.probabilities["real"] == pytest.approx(1 - moved.probabilities["ai"], abs=1e-12)
    assert moved.label == max(moved.probabilities, key=moved.probabilities.get)
    assert (moved.log_odds, moved.verdict, moved.reason) == (
        even.log_odds,
        even.verdict,
        even.reason,
    )
    assert (moved.prior_ai, even.prior_ai) == (prior, 0.5)
    (listed,) = detector.predict([picture], prior_ai=prior)
    assert listed == moved and detector.explain(picture, prior_ai=prior).prediction == moved


def test_the_verdict_does_not_move_with_the_prior(detector, picture):
    log_odds = detector.predict(picture).log_odds
    for real, ai, verdict in (
        (log_odds - 2, log_odds - 1, "ai"),
        (log_odds + 1, log_odds + 2, "real"),
    ):
        strict = with_thresholds(detector, real, ai)
        found = [strict.predict(picture, prior_ai=prior) for prior in (1e-6, 0.5, 1 - 1e-6)]
        assert {prediction.verdict for prediction in found} == {verdict}
        assert [prediction.label for prediction in found][::2] == ["real", "ai"]


@pytest.mark.parametrize("prior", [0, 1, -0.1, 1.5, float("nan"), "0.5", None])
def test_an_invalid_prior_raises_before_the_image_is_opened(detector, prior):
    for call in (detector.predict, detector.explain):
        with pytest.raises(ValueError, match="prior_ai is .*between 0 and 1"):
            call("no such file.png", prior_ai=prior)


# Opening


def test_attributes_of_a_detector(tiny_vit, detector):
    assert detector.name == "vit" and detector.revision is None and detector.facts == {}
    assert detector.class_indices == {"real": [0], "ai": [1]}
    assert not detector.model.training and detector.model.dtype == torch.float32
    assert (
        Detector.from_pretrained(str(tiny_vit), dtype=torch.bfloat16).model.dtype == torch.bfloat16
    )


def test_more_than_two_classes_are_summed(tmp_path, picture):
    folder = save_tiny("vit", tmp_path / "vit", labels=("real", "generated", "photo", "diffusion"))
    detector = Detector.from_pretrained(folder)
    assert detector.class_indices == {"real": [0, 2], "ai": [1, 3]}
    pixels = detector.processor(images=picture, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        p = detector.model(pixel_values=pixels).logits.double().softmax(-1)[0]
    assert detector.predict(picture).probabilities["ai"] == pytest.approx(
        (p[1] + p[3]).item(), abs=1e-6
    )


# Explanations


@pytest.mark.parametrize("method", ["gradcam", "integrated_gradients"])
@pytest.mark.parametrize("architecture", ["vit", "convnext"])
def test_explain(architecture, method, tmp_path, picture):
    detector = Detector.from_pretrained(save_tiny(architecture, tmp_path / architecture))
    options = {"n_steps": 8, "max_steps": 8} if method == "integrated_gradients" else {}
    explanation = detector.explain(picture, method=method, **options)
    assert isinstance(explanation, Explanation)
    assert explanation.heatmap.shape == (40, 56) and explanation.heatmap.dtype == np.float32
    assert (explanation.method, explanation.target) == (method, "ai")
    assert explanation.prediction.log_odds == pytest.approx(
        detector.predict(picture).log_odds, abs=1e-6
    )
    unseen = np.isnan(explanation.heatmap)
    # ViT squashes the whole image to a square; ConvNeXt crops the middle 7/8 of the shorter side.
    assert unseen.any() == (architecture == "convnext")
    if architecture == "convnext":
        assert unseen[:, 0].all() and unseen[:, -1].all() and not unseen[10:30, 20:36].any()
    assert np.nanmax(np.abs(explanation.heatmap)) > 0

    against = detector.explain(picture, method=method, target="real", **options)
    scale = np.nanmax(np.abs(explanation.heatmap))
    np.testing.assert_allclose(against.heatmap, -explanation.heatmap, atol=1e-4 * scale)
    assert against.target == "real"

    drawn = explanation.overlay(opacity=0.6)
    assert isinstance(drawn, Image.Image) and drawn.width >= 56 and drawn.height >= 40


def test_explain_is_upright(detector, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    turned, upright = detector.explain(buffer.getvalue()), detector.explain(picture)
    assert turned.heatmap.shape == (40, 56) and turned.image.size == (56, 40)
    np.testing.assert_allclose(turned.heatmap, upright.heatmap, atol=1e-6)


def test_explain_rejects_unknown_targets_and_methods(detector, picture):
    with pytest.raises(ValueError, match="'real' or 'ai', not 'cat'"):
        detector.explain(picture, target="cat")
    with pytest.raises(ValueError, match="method"):
        detector.explain(picture, method="tea_leaves")


def test_explain_leaves_the_model_unchanged(detector, picture):
    before = {name: tensor.clone() for name, tensor in detector.model.state_dict().items()}
    detector.explain(picture, method="integrated_gradients", n_steps=4, max_steps=4)
    detector.explain(picture, method="gradcam")
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in detector.model.state_dict().items()
    )
    assert not detector.model.training
    assert all(parameter.grad is None for parameter in detector.model.parameters())
    assert not any(module._forward_hooks for module in detector.model.modules())


@pytest.mark.parametrize("method", ["gradcam", "integrated_gradients", "occlusion"])
def test_folded_batch_norms_give_the_same_maps(tmp_path, method, monkeypatch):
    detector = Detector.from_pretrained(save_tiny("resnet", tmp_path / "model"), device="cpu")
    picture = draw_picture(64, seed=3)
    pixels = detector.pixels(picture)
    assert detector.for_maps(pixels) is not detector.model
    options = {"n_steps": 8, "max_steps": 8} if method == "integrated_gradients" else {}
    folded = detector.explain(picture, method=method, evidence=True, **options)
    monkeypatch.setattr(detector, "for_maps", lambda pixels: detector.model)
    plain = detector.explain(picture, method=method, evidence=True, **options)
    largest = np.nanmax(np.abs(plain.heatmap))  # what was not seen is NaN
    np.testing.assert_allclose(folded.heatmap, plain.heatmap, atol=1e-3 * largest)
    assert folded.evidence.after == pytest.approx(plain.evidence.after, abs=1e-4)
    assert folded.prediction == plain.prediction


def test_maps_use_changed_weights(tmp_path):
    detector = Detector.from_pretrained(save_tiny("resnet", tmp_path / "model"), device="cpu")
    pixels = detector.pixels(draw_picture(64, seed=3))
    before = detector.for_maps(pixels)
    assert detector.for_maps(pixels) is before
    with torch.no_grad():
        next(detector.model.parameters()).mul_(2)
    after = detector.for_maps(pixels)
    assert after is not before
    with torch.no_grad():
        expected = detector.model(pixel_values=pixels).logits
        torch.testing.assert_close(
            after(pixel_values=pixels).logits, expected, atol=1e-4, rtol=1e-4
        )


def test_the_default_method_is_the_measured_one(tmp_path):
    folder = save_tiny("resnet", tmp_path / "model")
    assert Detector.from_pretrained(folder).explanation_method == "gradcam"
    for stored, expected in (
        ("occlusion", "occlusion"),
        ("magic", "gradcam"),
        (["occlusion"], "gradcam"),
    ):
        config = json.loads((folder / "config.json").read_text())
        config["realfake"] = {"explanation_method": stored}
        (folder / "config.json").write_text(json.dumps(config))
        detector = Detector.from_pretrained(folder, device="cpu")
        assert detector.explanation_method == expected
    store = {**detector.facts, "explanation_method": "occlusion"}
    detector.facts = store
    assert detector.explain(draw_picture(64, seed=1)).method == "occlusion"
