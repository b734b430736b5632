"""The OOD reference: distances and p-values by hand, every architecture, files, the Hub."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from helpers import nonphotos
from helpers.tiny import ARCHITECTURES, draw_corpus, draw_picture, save_tiny
from safetensors.numpy import load_file, save_file

from realfake.cli.main import main
from realfake.detector import Detector
from realfake.evaluation import scores as scoring
from realfake.evaluation.scores import collect_logits
from realfake.models import ood
from realfake.models.ood import OodReference, choose, fit, forward_with_features
from realfake.statistics.calibration import Calibration
from realfake.training import release


def block(mean, scale, components, variances, rest):
    return ood._Block(
        *(np.array(x, dtype=np.float64) for x in (mean, scale, components, variances)), rest
    )


def rows(n, seed=0, group_size=1):
    images = [
        {"bytes": png(draw_picture((44, 36), seed=seed + index)), "path": None}
        for index in range(n)
    ]
    columns = {"image": images, "label": [index % 2 for index in range(n)]}
    columns["group"] = [f"g{index // group_size}" for index in range(n)]
    features = {
        "image": Image(decode=False),
        "label": ClassLabel(names=["real", "ai"]),
        "group": Value("string"),
    }
    return Dataset.from_dict(columns, features=Features(features))


def png(image):
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# --- statistics


def test_distance_by_hand():
    # Standardised: (3 - 1) / 2 = 1 along the component (1, 0, 0) of variance 4, and 0, 2 along
    # the others, of variance 0.5.
    known = block([1, 0, 0], [2, 1, 1], [[1, 0, 0]], [4], 0.5)
    assert known.distance(np.array([[3.0, 0.0, 2.0]])) == pytest.approx((1 / 4 + 4 / 0.5) / 3)
    assert known.distance(np.array([[1.0, 0.0, 0.0]])) == 0
    # A component at 45 degrees: (1, 1) lies along it with length sqrt 2, (1, -1) across it.
    tilted = block([0, 0], [1, 1], [[0.5**0.5, 0.5**0.5]], [10], 0.1)
    np.testing.assert_allclose(
        tilted.distance(np.array([[1.0, 1.0], [1.0, -1.0]])), [2 / 10 / 2, 2 / 0.1 / 2]
    )


def test_a_fitted_block_is_the_mahalanobis_distance_where_the_rank_suffices():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 6)) @ (np.eye(6) + 0.4) * np.arange(1, 7) + rng.normal(size=6)
    fitted = ood._Block.fit(features)
    # Rank 5 and the rest: six eigenvalues in all, so nothing is left out.
    new = rng.normal(size=(20, 6)) * 3
    scale = features.std(0)
    precision = np.linalg.inv(np.cov((features / scale).T, bias=False))
    expected = [z @ precision @ z / 6 for z in (new - features.mean(0)) / scale]
    np.testing.assert_allclose(fitted.distance(new), expected, rtol=1e-9)
    assert fitted.distance(features).mean() == pytest.approx(1, abs=0.01)


def test_a_block_of_many_features_keeps_a_few_directions():
    features = np.random.default_rng(0).normal(size=(60, 300))
    fitted = ood._Block.fit(features)
    assert fitted.components.shape == (32, 300)
    np.testing.assert_allclose(fitted.components @ fitted.components.T, np.eye(32), atol=1e-9)
    # All the variance there is: 300 standardised features, n / (n - 1) each.
    assert fitted.variances.sum() + 268 * fitted.rest == pytest.approx(300 * 60 / 59)


def test_a_feature_that_never_moves_does_not_weigh_more_than_all_others():
    features = np.random.default_rng(0).normal(size=(100, 4))
    features[:, 3] = 7.0
    fitted = ood._Block.fit(features)
    assert np.isfinite(fitted.distance(features)).all()
    moved = features[:1].copy()
    moved[0, 3] += 0.002
    assert fitted.distance(moved) < 10 * fitted.distance(features).max()


def test_p_values_by_hand():
    known = block([0.0], [1.0], [[1.0]], [1.0], 1.0)
    several = OodReference(
        0.25, {"only": known}, {"real": np.array([1.0, 4.0, 9.0]), "ai": np.array([4.0])}
    )
    found = several.p_value({"only": np.array([[0.0], [1.0], [2.0], [2.5], [3.5], [np.nan]])})
    # Scores 0, 1, 4, 6.25, 12.25: 3, 3, 2, 1, 0 of three real images are at least as unusual,
    # and 1, 1, 1, 0, 0 of one ai image.
    real, ai = np.array([4, 4, 3, 2, 1, 1]) / 4, np.array([2, 2, 2, 1, 1, 1]) / 2
    np.testing.assert_allclose(found, np.maximum(real, ai))
    alone = OodReference(0.25, {"only": known}, {"real": several.scores["real"]})
    np.testing.assert_allclose(alone.p_value({"only": np.array([[2.5], [3.5]])}), [0.5, 0.25])
    assert alone.is_out_of_distribution([0.5, 0.25]).tolist() == [False, True]
    with pytest.raises(ValueError, match="another network.*--only_ood"):
        alone.p_value({"only": np.zeros((1, 2))})
    with pytest.raises(ValueError, match="another network"):
        alone.p_value({"other": np.zeros((1, 1))})


def cloud(n, d=20, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(n, d)) + shift, "b": rng.normal(size=(n, 5)) ** 3 + shift}


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_false_alarms_keep_to_the_rate_in_each_class(alpha):
    rates = []
    for seed in range(30):
        is_ai = np.arange(300) % 3 == 0
        features = cloud(300, seed=seed)
        features["a"][is_ai] += 0.5  # the classes differ, and one is rarer
        known = fit(features, is_ai, alpha, seed=seed)
        new = cloud(300, seed=1000 + seed)
        new["a"][is_ai] += 0.5
        out_of_distribution = known.is_out_of_distribution(known.p_value(new))
        rates.append([out_of_distribution[~is_ai].mean(), out_of_distribution[is_ai].mean()])
    # The larger of two p-values is used, so each class stays at or below the rate.
    assert (np.mean(rates, axis=0) < alpha + 0.012).all() and np.mean(
        rates, axis=0
    ).max() > 0.5 * alpha


def test_what_lies_elsewhere_is_novel_and_classes_that_differ_are_not():
    is_ai = np.arange(400) % 2 == 0
    features = cloud(400)
    features["a"][is_ai] += 4.0
    known = fit(features, is_ai)
    assert known.scores.keys() == {"real", "ai"} and known.alpha == 0.05
    elsewhere = cloud(200, seed=1)
    elsewhere["a"] += np.where(np.arange(20) % 2, 4.0, -4.0)  # as far, in another direction
    assert known.is_out_of_distribution(known.p_value(elsewhere)).all()
    new = cloud(200, seed=2)
    new["a"] += 4.0
    assert known.is_out_of_distribution(known.p_value(new)).mean() < 0.12


def test_groups_are_scored_once_and_stay_in_a_fold():
    is_ai = np.zeros(240, bool)
    features = cloud(60)
    # Every image four times over: without groups its copies would make each look usual.
    copies = {name: np.repeat(block, 4, axis=0) for name, block in features.items()}
    known = fit(copies, is_ai, groups=np.repeat(np.arange(60), 4))
    alone = fit(copies, is_ai)
    assert len(known.scores["real"]) == 60 and len(alone.scores["real"]) == 240
    assert np.median(known.scores["real"]) > np.median(alone.scores["real"])
    new = cloud(300, seed=5)
    assert (
        known.is_out_of_distribution(known.p_value(new)).mean()
        < alone.is_out_of_distribution(alone.p_value(new)).mean()
    )


def test_too_few_images_promise_nothing():
    assert fit(cloud(19), np.zeros(19, bool)) is None
    assert fit(cloud(40), np.zeros(40, bool), alpha=0.01) is None  # 99 are needed for 1 %
    assert fit(cloud(40), np.zeros(40, bool), groups=np.arange(40) // 4) is None
    mixed = fit(cloud(60), np.arange(60) < 5)
    assert mixed.scores.keys() == {"real"} and mixed.to_dict()["n"] == {"real": 55, "ai": 0}


def test_bad_input():
    for alpha in (0, 1, 5):
        with pytest.raises(ValueError, match="alpha is"):
            fit(cloud(40), np.zeros(40, bool), alpha)
    with pytest.raises(ValueError, match="40 rows for 39 images"):
        fit(cloud(40), np.zeros(39, bool))
    broken = cloud(40)
    broken["b"][3, 1] = np.nan
    with pytest.raises(ValueError, match="b are not finite"):
        fit(broken, np.zeros(40, bool))


def test_choose():
    assert choose(7).tolist() == list(range(7))
    some = choose(2500)
    assert len(some) == 1000 and (np.diff(some) > 0).all() and (some == choose(2500)).all()
    groups = [f"g{index // 2}" for index in range(2500)]
    assert len(choose(2500, groups)) == 1000 and max(choose(2500, groups)) < 2500


# --- the file


def test_a_file_keeps_what_was_fitted(tmp_path):
    known = fit(cloud(200, d=1280), np.arange(200) % 2 == 0, alpha=0.1)
    path = known.save(tmp_path)
    assert path.name == "novelty.safetensors" and path.stat().st_size < 120_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["novelty.safetensors"]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    again = OodReference.load(path)
    assert (
        again.alpha == 0.1
        and again.to_dict() == known.to_dict()
        and list(again.blocks) == ["a", "b"]
    )
    new = cloud(50, d=1280, seed=1, shift=0.3)
    np.testing.assert_allclose(again.score(new), known.score(new), rtol=2e-3)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "novelty.safetensors"
    path.write_bytes(b"no safetensors")
    with pytest.raises(OSError, match="is broken"):
        OodReference.load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(OSError, match="--only_ood"):
        OodReference.load(path)
    fit(cloud(60), np.zeros(60, bool)).save(tmp_path)
    tensors = load_file(path)
    del tensors["a.mean"]
    save_file(tensors, path, {"format": "realfake-novelty-1", "alpha": "0.05", "blocks": "a,b"})
    with pytest.raises(OSError, match="is broken"):
        OodReference.load(path)


# --- features


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_of_every_architecture(architecture, tmp_path):
    detector = Detector.from_pretrained(save_tiny(architecture, tmp_path / architecture))
    pixels = torch.cat([detector.pixels(draw_picture((50, 40), seed=seed)) for seed in range(3)])
    with torch.inference_mode():
        logits, features = forward_with_features(detector.model, pixels)
        hidden = detector.model(pixel_values=pixels, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(logits, detector.forward(pixels), atol=1e-6)
    assert list(features) == ["penultimate", "quarter", "half"]
    for name, index in (("quarter", len(hidden) // 4), ("half", len(hidden) // 2)):
        state = hidden[index]
        positions = (2, 3) if state.ndim == 4 else (1,)
        channels = state.shape[1] if state.ndim == 4 else state.shape[2]
        assert features[name].shape == (3, 2 * channels)
        np.testing.assert_allclose(features[name][:, :channels], state.mean(positions), atol=1e-5)
        np.testing.assert_allclose(
            features[name][:, channels:], state.std(positions, correction=0), atol=1e-5
        )
    np.testing.assert_allclose(features["penultimate"].norm(dim=1), 1, atol=1e-5)
    assert all(torch.isfinite(block).all() for block in features.values())
    assert not any(module._forward_pre_hooks for module in detector.model.modules())
    # Of one image what they are in a batch.
    with torch.inference_mode():
        _, alone = forward_with_features(detector.model, pixels[1:2])
    for name, block in alone.items():
        np.testing.assert_allclose(block[0], features[name][1], atol=1e-5)


def test_the_penultimate_block_is_what_the_last_layer_reads(tiny_vit):
    detector = Detector.from_pretrained(tiny_vit)
    head = detector.model.classifier
    pixels = detector.pixels(draw_picture(40))
    with torch.inference_mode():
        logits, features = forward_with_features(detector.model, pixels)
        length = (logits - head.bias) / (features["penultimate"] @ head.weight.T)
    np.testing.assert_allclose(length[0, 0], length[0, 1], rtol=1e-4)


def test_threads_do_not_mix_their_features(tiny_vit):
    detector = Detector.from_pretrained(tiny_vit)
    pixels = [detector.pixels(draw_picture(40, seed=seed)) for seed in range(24)]

    def compute(one):
        with torch.inference_mode():
            return forward_with_features(detector.model, one)[1]["penultimate"]

    expected = [compute(one) for one in pixels]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(compute, pixels * 3))
    for one, other in zip(expected * 3, found, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-6)


# --- the detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint with thresholds and OOD statistics of drawn scenes."""
    folder = save_tiny("convnext", tmp_path_factory.mktemp("ood") / "model")
    detector, images = Detector.from_pretrained(folder), rows(120)
    identity = Calibration("identity", 1.0, 0.0, 1.0, 1.0, 120)
    logits = collect_logits(detector, images)
    release.release(detector, identity, images, logits, folder, {}, alpha=0.2)
    return folder


def test_what_a_release_stores(folder):
    facts = json.loads((folder / "config.json").read_text())["realfake"]
    assert facts["ood"] == {
        "alpha": 0.05,
        "n": {"real": 60, "ai": 60},
        "blocks": ["penultimate", "quarter", "half"],
    }
    assert (folder / "novelty.safetensors").stat().st_size < 500_000
    detector = Detector.from_pretrained(folder)
    assert detector.ood.to_dict() == facts["ood"]


def test_the_verdict_on_what_is_novel_is_withheld(folder):
    detector = Detector.from_pretrained(folder)
    usual = [draw_picture((44, 36), seed=seed) for seed in range(5000, 5040)]
    noise = [nonphotos.draw("noise", (44, 36), seed) for seed in range(10)]
    known, strange = detector.predict(usual), detector.predict(noise)
    assert np.mean([p.reason == "out_of_distribution" for p in known]) < 0.2
    assert all(
        (p.verdict, p.reason) == ("inconclusive", "out_of_distribution") and p.ood <= 0.05
        for p in strange
    )
    for prediction in known:
        assert (prediction.reason == "out_of_distribution") == (
            prediction.ood <= 0.05
        ) and 0 < prediction.ood <= 1
    # It withholds the verdict, and changes neither margin nor probabilities.
    without = Detector(detector.model, detector.processor)
    for image, prediction in zip(noise, strange, strict=True):
        plain = without.predict(image)
        assert plain.ood is None and plain.reason != "out_of_distribution"
        assert plain.log_odds == pytest.approx(prediction.log_odds, abs=1e-5)
        assert plain.probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
    assert detector.explain(noise[0]).prediction.reason == "out_of_distribution"


def test_scores_and_verdicts_are_those_of_predict(folder):
    detector = Detector.from_pretrained(folder)
    images = [
        draw_picture((44, 36), seed=1),
        nonphotos.draw("flat", (60, 60)),
        draw_picture((30, 70), seed=2),
    ]
    log_odds, shares, n_views, _ = detector.scores(images, batch_size=2)
    assert n_views.tolist() == [1, 1, 1]
    predictions = detector.predict(images)
    assert log_odds.dtype == shares.dtype == np.float64
    assert log_odds.tolist() == pytest.approx([p.log_odds for p in predictions], abs=1e-5)
    assert shares.tolist() == pytest.approx([p.ood for p in predictions], abs=1e-9)
    assert detector.verdicts(log_odds, shares).tolist() == [p.verdict for p in predictions]
    np.testing.assert_allclose(detector.log_odds(images), log_odds, atol=1e-5)
    none = detector.scores([])
    assert none[0].shape == none[1].shape == (0,) and detector.predict([]) == []
    assert Detector(detector.model, detector.processor).scores(images)[1] is None
    collected = scoring.collect_scores(detector, rows(10), batch_size=4)
    expected = detector.scores(rows(10)["image"])
    np.testing.assert_allclose(collected[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(collected[1], expected[1], atol=1e-9)


def test_one_forward_pass(folder, monkeypatch):
    detector = Detector.from_pretrained(folder)
    passes = []
    detector.model.register_forward_pre_hook(lambda *_: passes.append(1))
    detector.predict([draw_picture(40, seed=seed) for seed in range(5)])
    assert len(passes) == 1


def test_a_checkpoint_that_lost_its_statistics_is_refused(folder, tmp_path):
    """Without them it would answer what its card says that it does not."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "novelty.safetensors").unlink()
    with pytest.raises(
        OSError, match="lacks novelty.safetensors.*download or save it again"
    ) as caught:
        Detector.from_pretrained(copy)
    assert "\n" not in str(caught.value)
    release.store_facts(copy, {"ood": None})
    detector = Detector.from_pretrained(copy)
    assert detector.ood is None and detector.predict(draw_picture(40)).ood is None
    release.store_facts(copy, {"ood": {"alpha": 0.05}})
    (copy / "novelty.safetensors").write_bytes(b"broken")
    with pytest.raises(OSError, match="novelty.safetensors is broken"):
        Detector.from_pretrained(copy)


def test_new_weights_lose_the_statistics_of_the_old_ones(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    detector = Detector.from_pretrained(copy)
    release.save_checkpoint(detector.model, detector.processor, copy)
    assert (
        not (copy / "novelty.safetensors").exists() and Detector.from_pretrained(copy).ood is None
    )
    fitted = release.fit_ood(Detector.from_pretrained(copy), copy, rows(100), alpha=0.1)
    assert fitted.alpha == 0.1 and Detector.from_pretrained(copy).ood.alpha == 0.1
    assert release.fit_ood(Detector.from_pretrained(copy), copy, rows(10)) is None
    assert not (copy / "novelty.safetensors").exists()
    assert json.loads((copy / "config.json").read_text())["realfake"]["ood"] is None


def test_from_the_hub(folder, hub):
    from huggingface_hub import HfApi

    HfApi().create_repo("user/novel")
    HfApi().upload_folder(repo_id="user/novel", folder_path=folder)
    detector = Detector.from_pretrained("user/novel")
    picture = nonphotos.draw("noise", (44, 36), 1)
    here = Detector.from_pretrained(folder).predict(picture)
    assert detector.predict(picture).ood == here.ood and here.reason == "out_of_distribution"


# --- realfake calibrate --only_ood


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for split, n in {"train": 12, "validation": 160, "test": 12}.items():
        draw_corpus(folder / split, n=n, size=40, seed=len(split))
    return folder


def run(*words):
    return main(["calibrate", *words, "--only_ood"])


def test_the_script_fits_an_existing_checkpoint(corpus, tiny_vit, tmp_path, capsys):
    copy = shutil.copytree(tiny_vit, tmp_path / "copy")
    before = (copy / "model.safetensors").read_bytes()
    assert run(copy, "--dataset", corpus, "--false_alarms", "0.1") == 0
    said = capsys.readouterr().out
    assert "Fitted on 40 real and 40 ai images." in said
    assert (
        "among 40 other images (real): 0." in said
        and "among 40 other images (ai): 0." in said
        and "Finished" in said
    )
    detector = Detector.from_pretrained(copy)
    assert detector.ood.alpha == 0.1 and (copy / "model.safetensors").read_bytes() == before
    assert detector.predict(nonphotos.draw("noise", (60, 60))).reason == "out_of_distribution"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--false_alarms", "0"), "--false_alarms must lie between 0 and 0.5"),
        (("--batch_size", "0"), "--batch_size must be at least 1"),
        (("--max_validation_samples", "30"), "too few for --false_alarms 0.05"),
    ],
)
def test_the_script_says_what_is_wrong_in_one_line(
    words, message, corpus, tiny_vit, tmp_path, capsys
):
    copy = shutil.copytree(tiny_vit, tmp_path / "copy")
    assert run(copy, "--dataset", corpus, *words) == 2
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("realfake: error")
    ]
    assert message in line and not (copy / "novelty.safetensors").exists()


def test_the_script_needs_a_folder(corpus, capsys):
    assert run("user/model", "--dataset", corpus) == 2
    assert "user/model is not a folder" in capsys.readouterr().err


# --- what the pictures are


@pytest.mark.parametrize("kind", nonphotos.KINDS)
def test_drawn_non_photographs_have_the_size_and_change_with_the_seed(kind):
    for size in ((288, 288), (300, 200)):
        one, same, other = (nonphotos.draw(kind, size, seed) for seed in (1, 1, 2))
        assert one.size == size and one.mode == "RGB"
        assert np.array_equal(one, same) and not np.array_equal(one, other)
