"""The bundled checkpoints: size, records, and the same numbers from every interface."""

import json

import numpy as np
import pytest
from helpers import nonphotos
from helpers.tiny import draw_picture
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from skimage import data as photographs
from sklearn.datasets import load_sample_images
from transformers import pipeline

from realfake import Detector
from realfake.corpus import rows
from realfake.corpus.load import load_corpus
from realfake.detector import BUNDLED
from realfake.evaluation.log import read_log
from realfake.evaluation.measure import measure
from realfake.evaluation.results import checkpoint_hash, read_evaluation, read_scores
from realfake.evaluation.scores import collect_scores
from realfake.formatting import share
from realfake.imaging.degradations import recompress
from realfake.statistics.summary import calibrated_ece_band
from realfake.statistics.verdicts import coverage_band
from realfake.training.runs import splits_of

NAMES = ("photos", "cifake")


@pytest.fixture(scope="module", params=NAMES)
def folder(request):
    return BUNDLED / request.param


@pytest.fixture(scope="module")
def photos() -> Detector:
    """The default detector, with the engine that the page and long lists use."""
    detector = Detector.from_pretrained()
    detector.accelerate()
    return detector


def flat(value, name=""):
    """Return nested figures as one mapping."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            key: leaf for one, inner in items for key, leaf in flat(inner, f"{name}/{one}").items()
        }
    return {name: value}


def test_is_small_and_computed_in_fp32(folder):
    parameters = 0
    for weights in folder.glob("model*.safetensors"):
        # Git hosts and mirrors accept files of this size everywhere.
        assert weights.stat().st_size < 10_000_000
        with safe_open(weights, "pt") as file:
            parameters += sum(
                np.prod(file.get_slice(name).get_shape(), dtype=int)
                for name in file.keys()  # noqa: SIM118 - a file of safetensors is no mapping
                if "running_" not in name and "num_batches" not in name
            )
    assert 0 < parameters <= 25_000_000
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    detector = Detector.from_pretrained(folder)
    assert {parameter.dtype for parameter in detector.model.parameters()} == {detector.model.dtype}
    assert str(detector.model.dtype) == "torch.float32"


def test_pipeline_and_detector_agree_on_images_of_many_sizes(folder):
    images = [
        draw_picture(200 + 13 * index, seed=index, residue=index % 2 == 1) for index in range(16)
    ]
    detector = Detector.from_pretrained(folder)
    classifier = pipeline(
        "image-classification", model=str(folder), image_processor=detector.processor
    )
    for image, mine in zip(images, detector.predict(images, views=1), strict=True):
        theirs = {entry["label"]: entry["score"] for entry in classifier(image)}
        assert theirs == pytest.approx(mine.probabilities, abs=1e-5)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_figures_are_of_these_weights_and_reproducible(folder, whole):
    """The bootstrap and the simulations of the large corpus are repeated with --slow."""
    detector = Detector.from_pretrained(folder)
    for split, record in read_evaluation(folder).items():
        assert record["checkpoint_sha256"] == checkpoint_hash(folder)
        scores = read_scores(folder / f"scores-{split}.parquet")
        stated, seed = dict(record["figures"]), record["figures"]["seed"]
        quick = len(scores["log_odds"]) > 2000 and not whole
        options = {"n_resamples": 0} if quick else {}
        again = measure(**scores, thresholds=detector.thresholds, seed=seed, **options)
        if quick:
            stated.pop("calibration_band", None)
            stated.pop("intervals")
        elif split != "calibration":
            fitted = read_scores(folder / "scores-calibration.parquet")
            pairs = [one[key] for one in (scores, fitted) for key in ("log_odds", "is_ai")]
            method = detector.facts["calibration"]["method"]
            again["calibration_band"] = calibrated_ece_band(*pairs, method=method, seed=seed)
        again, stated = flat(again), flat(stated)
        if quick:
            intervals = {name for name in stated if name.endswith(("/low", "/high"))}
            stated = {
                name: figure
                for name, figure in stated.items()
                if name not in intervals or again.get(name) is not None
            }
        assert stated.keys() <= again.keys()
        for name, figure in stated.items():
            # Optimisers, simulations and sums differ between machines; the cards show 1e-4.
            expected = pytest.approx(figure, abs=1e-4) if isinstance(figure, float) else figure
            assert again[name] == expected, name


def test_each_measurement_of_a_test_split_is_logged(folder):
    looks = [
        entry
        for entry in read_log(BUNDLED / "measurements.jsonl")
        if entry["split"] == "test" and entry["checkpoint_sha256"] == checkpoint_hash(folder)
    ]
    maps = [entry for entry in looks if entry["corpus"].endswith("(maps)")]
    if (folder / "explanations.json").is_file():
        # The published record is the last measurement, and each has another command.
        record = json.loads((folder / "explanations.json").read_text())["test"]
        assert len({entry["command"] for entry in maps}) == len(maps)
        assert (maps[-1]["date"], maps[-1]["command"]) == (record["date"], record["command"])
        assert maps[-1]["figures"]["supports"] == record["figures"]["default"]
    else:
        assert not maps
    files = [entry for entry in looks if entry["corpus"].endswith("(files)")]
    views = [entry for entry in looks if entry["corpus"].endswith("(views)")]
    assert len(views) <= 2
    assert len(files) == (folder / "formats.json").is_file()
    groups = [entry for entry in looks if entry["corpus"].endswith(("(retouched)", "(small)"))]
    looks = [entry for entry in looks if entry not in maps + files + views + groups]
    # Once as the images are, and at most once more under the grid of degradations.
    assert ["degradations" in entry for entry in looks] in ([False], [False, True])
    assert (
        looks[0]["figures"]["auroc"]
        == read_evaluation(folder)["test"]["figures"]["summary"]["auroc"]
    )


def test_card_has_metadata_command_and_licence(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license == "apache-2.0"
    assert {result.metric_type for result in card.data.eval_results} >= {"accuracy", "roc_auc"}
    facts = json.loads((folder / "training.json").read_text())
    assert facts["command"] in card.text
    assert facts["calibration"]["folded"]


def test_calibration_lowers_the_ece_on_the_test_split(folder):
    record = read_evaluation(folder)["test"]
    figures, before = record["figures"]["summary"], record["before_calibration"]["summary"]
    assert figures["ece"]["value"] < before["ece"]["value"]


def test_cifake_is_above_the_published_efficientnet():
    accuracy = read_evaluation(BUNDLED / "cifake")["test"]["figures"]["summary"]["accuracy"]
    assert accuracy["n"] == 20_000
    assert accuracy["low"] > 0.9410


def test_the_front_page_states_the_figures_of_the_cards(folder):
    summary = read_evaluation(folder)["test"]["figures"]["summary"]
    auroc, accuracy = summary["auroc"], summary["accuracy"]
    page = (BUNDLED.parent.parent / "README.md").read_text(encoding="utf-8")
    low, high = (f"{auroc[end]:.3f}" for end in ("low", "high"))
    assert f"{auroc['value']:.3f} ({low} – {high})" in page
    assert share(accuracy) in page


@pytest.mark.parametrize(
    "name", ["astronaut", "camera", "cat", "coffee", "rocket", "stereo_motorcycle"]
)
def test_photographs_are_not_called_ai(photos, name):
    picture = getattr(photographs, name)()
    picture = picture[0] if isinstance(picture, tuple) else picture  # the left eye's
    assert photos.predict(picture).verdict != "ai"


@pytest.mark.parametrize("name", ["astronaut", "cat"])
def test_thumbnails_enlargements_and_mirrored_copies_never_get_opposite_verdicts(photos, name):
    picture = Image.fromarray(getattr(photographs, name)())
    width, height = picture.size
    boxed = Image.new("RGB", (width + 200, height + 40))
    boxed.paste(picture, (100, 20))
    copies = [
        picture,
        picture.resize((474, 266)),
        picture.resize((1600, 900)),
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        boxed,
        picture.resize((96, 96 * height // width)),
    ]
    verdicts = {prediction.verdict for prediction in photos.predict(copies)}
    assert not {"real", "ai"} <= verdicts


def test_the_sample_photographs_of_scikit_learn_are_not_called_ai(photos):
    predictions = photos.predict(list(load_sample_images().images))
    assert len(predictions) == 2 and all(prediction.verdict != "ai" for prediction in predictions)


@pytest.fixture(scope="module")
def drawn(photos):
    """Images that are neither photographs nor generated, with the predictions of `photos`.

    The last ones are recompressed copies of the smaller images.
    """
    sizes = [(288, 288), (512, 384), (640, 480), (1280, 800)]
    kinds, images = zip(*nonphotos.draw_all(range(1), sizes), strict=True)
    small = [image for image in images if image.size in sizes[:2]]
    recompressed = [recompress(image, "JPEG", 60) for image in small]
    predictions = photos.predict([*images, *recompressed])
    return np.array(kinds), predictions[: len(images)], predictions[len(images) :]


def test_non_photographs_get_no_verdict(drawn):
    kinds, plain, recompressed = drawn
    for predictions in (plain, recompressed):
        withheld = np.array([prediction.verdict == "inconclusive" for prediction in predictions])
        assert withheld.mean() >= 0.9
    withheld = np.array([prediction.verdict == "inconclusive" for prediction in plain])
    for kind in nonphotos.KINDS:
        assert withheld[kinds == kind].mean() >= 0.75, kind
    assert np.mean([prediction.reason == "out_of_distribution" for prediction in plain]) >= 0.9


@pytest.mark.corpora
def test_few_photographs_are_out_of_distribution(photos, corpora):
    corpus = load_corpus(corpora / "scenes", max_train_samples=50, max_test_samples=50)
    part = splits_of(corpus, 42)["selection"].shuffle(seed=0).select(range(80))
    out_of_distribution = photos.ood.is_out_of_distribution(collect_scores(photos, part)[1])
    for mine in (rows.is_ai(part), ~rows.is_ai(part)):
        # 5 % are stated; chance acts on the threshold and on these images.
        assert (
            out_of_distribution[mine].mean()
            <= 1 - coverage_band(225, int(mine.sum()), photos.ood.alpha, 0.998)[0]
        )


def test_the_whole_image_is_examined_and_its_evidence_adds_up(photos):
    explanation = photos.explain(photographs.astronaut(), "gradcam")
    assert explanation.heatmap.shape == (512, 512)
    assert np.isfinite(explanation.heatmap).all()
    prediction = explanation.prediction
    assert len(explanation.tiles) == 9 and prediction.examined == 1
    shares = sum(tile.share for tile in explanation.tiles)
    assert shares == pytest.approx(prediction.log_odds, abs=1e-6)
