"""The plots: that they are written, small, leave nothing behind, and show the right numbers."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

from realfake import plotting
from realfake.evaluation import plots
from realfake.evaluation.measure import measure
from realfake.statistics.verdicts import Thresholds

LOG = [
    {"loss": 0.7, "epoch": 0.5},
    {"eval_loss": 0.6, "eval_accuracy": 0.7, "eval_auroc": 0.8, "epoch": 1.0},
    {"loss": 0.5, "epoch": 1.5},
    {"eval_loss": 0.5, "eval_accuracy": 0.8, "eval_auroc": 0.9, "epoch": 2.0},
    {"train_runtime": 3.0, "train_loss": 0.6, "epoch": 2.0},
]
THRESHOLDS = Thresholds(alpha=0.1, real=-1.0, ai=1.0, n_real=40, n_ai=40)


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    is_ai = rng.random(400) < 0.5
    return rng.normal(np.where(is_ai, 1.0, -1.0), 1.5), is_ai


@pytest.fixture
def figures(monkeypatch):
    """The Matplotlib figures as they are saved, by file name."""
    saved = {}
    save = plots.save

    def keep(figure, path):
        saved[path.name if hasattr(path, "name") else str(path)] = figure
        return save(figure, path)

    monkeypatch.setattr(plots, "save", keep)
    return saved


def test_all_plots_of_a_split(tmp_path, scored):
    log_odds, is_ai = scored
    measured = measure(log_odds, is_ai, thresholds=THRESHOLDS, n_resamples=20)
    written = plots.write_plots(
        tmp_path, "test", log_odds, is_ai, measured, before=2 * log_odds + 1, log_history=LOG
    )
    assert [entry["file"] for entry in written] == [
        "plots/roc-test.png",
        "plots/reliability-test.png",
        "plots/scores-test.png",
        "plots/training.png",
    ]
    for entry in written:
        path = tmp_path / entry["file"]
        assert path.stat().st_size < 150_000 and entry["caption"]
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 200


def test_plots_of_one_label(tmp_path):
    measured = measure([0.5, 1.0], [True, True], n_resamples=0)
    written = plots.write_plots(
        tmp_path, "own", [0.5, 1.0], [True, True], measured, log_history=[{"epoch": 1.0}]
    )
    assert [entry["file"] for entry in written] == ["plots/scores-own.png"]


def test_same_input_same_bytes(tmp_path, scored):
    log_odds, is_ai = scored
    one = plots.reliability_diagram(tmp_path / "1.png", expit(log_odds), is_ai)
    two = plots.reliability_diagram(tmp_path / "2.png", expit(log_odds), is_ai)
    assert one.read_bytes() == two.read_bytes()


def test_the_table_of_aurocs_starts_with_the_worst_generator(tmp_path, figures):
    tiers = {
        name: {"by_generator": {g: {"auroc": {"value": v}, "n": 7} for g, v in row.items()}}
        for name, row in {
            "clean": {"a": 0.9, "b": 0.8, "c": None},
            "jpeg_40": {"a": 0.4, "b": 0.7, "c": None},
        }.items()
    }
    plots.auroc_table(tmp_path / "t.png", tiers)
    axes = figures["t.png"].axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.90", "0.40", "0.80", "0.70", "–", "–"]
    assert [text.get_text()[0] for text in axes.get_yticklabels()] == ["a", "b", "c"]
    assert plots.auroc_table(tmp_path / "none.png", {"clean": {}}) is None


def test_roc_agrees_with_scikit_learn(tmp_path, figures, scored):
    from sklearn.metrics import roc_curve

    log_odds, is_ai = scored
    log_odds = np.round(log_odds)  # ties
    plots.roc(tmp_path / "r.png", log_odds, is_ai, {"value": 0.81, "low": 0.7, "high": 0.9})
    axes = figures["r.png"].axes[0]
    drawn = next(line for line in axes.lines if "AUROC" in line.get_label())
    fpr, tpr, _ = roc_curve(is_ai, log_odds, drop_intermediate=False)
    floor = 0.5 / (~is_ai).sum()
    np.testing.assert_allclose(drawn.get_xdata(), np.maximum(fpr, floor))
    np.testing.assert_allclose(drawn.get_ydata(), tpr)
    assert drawn.get_label() == "AUROC 0.810 (95 %: 0.700 to 0.900)"
    assert axes.get_xscale() == "log"
    with pytest.raises(ValueError, match="both labels"):
        plots.roc(tmp_path / "r.png", [1.0], [True])


def test_band_of_a_perfect_model_lies_around_the_diagonal():
    rng = np.random.default_rng(1)
    p_ai = rng.random(3000)
    for prior in (0.5, 0.2):  # probabilities mean even odds whatever the mix of the sample
        x, low, high = plots._perfect_band(p_ai, prior, seed=0)
        assert len(x) > 80
        inside = (low <= x) & (x <= high)
        assert inside.mean() > 0.95
        assert (high - low).max() < 0.25


def test_reliability_counts_both_labels_alike(tmp_path, figures):
    # One bin's worth of equal probabilities: 90 real and 10 ai, which balanced is one half.
    is_ai = np.arange(100) >= 90
    plots.reliability_diagram(
        tmp_path / "d.png", np.full(100, 0.5), is_ai, before=np.full(100, 0.9)
    )
    upper = figures["d.png"].axes[0]
    after = next(line for line in upper.lines if line.get_label().startswith("after"))
    assert after.get_xydata() == pytest.approx(np.array([[0.5, 0.5]]))
    labels = [line.get_label() for line in upper.lines]
    assert "before calibration: ECE 0.400" in labels and "after calibration: ECE 0.000" in labels


def test_training_curves_of_partial_logs(tmp_path, figures):
    plots.training_curves(tmp_path / "t.png", LOG)
    assert len(figures["t.png"].axes) == 2
    plots.training_curves(tmp_path / "t.png", [{"loss": 1.0, "epoch": 1.0}])
    assert len(figures["t.png"].axes) == 1
    with pytest.raises(ValueError, match="no loss and no metric"):
        plots.training_curves(tmp_path / "t.png", [{"learning_rate": 1.0, "epoch": 1.0}])


@pytest.mark.parametrize(
    "thresholds",
    [None, THRESHOLDS, Thresholds(0.1, None, 1.0, 40, 3), Thresholds(0.1, 1.0, -1.0, 9, 9)],
)
def test_score_densities(tmp_path, scored, thresholds):
    assert plots.score_densities(tmp_path / "s.png", *scored, thresholds).stat().st_size < 150_000


def test_batch_sheet(tmp_path):
    images = [
        Image.new("RGB", size, colour)
        for size, colour in (((32, 32), "red"), ((500, 100), "lime"), ((64, 64), "blue"))
    ]
    path = plotting.batch_sheet(
        tmp_path / "b.png",
        images,
        ["real", "ai", "ai"],
        ["a", "long " * 50, "x" * 500],
        columns=2,
        tile=64,
    )
    with Image.open(path) as sheet:
        assert sheet.size == (10 + 2 * 74, 10 + 2 * 114)
        assert sheet.getpixel((10, 10)) == (255, 0, 0) and sheet.getpixel((73, 73)) == (
            255,
            0,
            0,
        )  # enlarged twice
        assert sheet.getpixel((84 + 32, 10 + 32)) == (0, 255, 0)  # reduced and centred
        assert sheet.getpixel((84 + 32, 10 + 5)) == (255, 255, 255)
        assert sheet.getpixel((42, 124 + 32)) == (0, 0, 255)
    with pytest.raises(ValueError, match="3 images, 1 labels"):
        plotting.batch_sheet(tmp_path / "b.png", images, ["real"])


def test_captions_fit_their_tile():
    from PIL import ImageFont

    font = ImageFont.load_default(13)
    for text in ("two words " * 30, "x" * 300, "word " + "y" * 300, "short", ""):
        short = plotting._shorten(text, font, 100)
        assert font.getlength(short) <= 100
    assert plotting._shorten("short", font, 100) == "short"


def test_pyplot_is_not_imported():
    program = (
        "import sys; from realfake.evaluation import plots; "
        "assert 'matplotlib' not in sys.modules; "
        "plots.score_densities(sys.argv[1], [1.0, -1.0], [True, False]); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    import os

    subprocess.run(
        [sys.executable, "-c", program, os.devnull],
        check=True,
        cwd=plots.Path(plots.__file__).parents[1],
    )
