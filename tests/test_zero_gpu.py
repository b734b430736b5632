"""ZeroGPU: arguments and results cross a process boundary; elsewhere nothing changes."""

import pickle
import sys
import types

import pytest
from helpers.tiny import draw_picture

from realfake.detector import Detector
from realfake.space.loading import GPU_METHODS, Detectors, Loaded, use_zero_gpu


class WorkerError(Exception):
    """`spaces` passes on only the name of an exception's class."""


def spaces(zero_gpu: bool, calls: list) -> dict[str, types.ModuleType]:
    """A stand-in for `spaces`: it pickles arguments and results, as the forked worker does."""
    inside = []

    def gpu(duration):
        def decorate(task):

            def call(*args, **options):
                if inside:
                    return task(*args, **options)
                args, options = pickle.loads(pickle.dumps((args, options)))
                calls.append((task.__name__, duration))
                inside.append(True)
                try:
                    return pickle.loads(pickle.dumps(task(*args, **options)))
                except Exception as error:
                    raise WorkerError(type(error).__name__) from None
                finally:
                    inside.pop()

            return call

        return decorate

    package, config = types.ModuleType("spaces"), types.ModuleType("spaces.config")
    package.GPU, config.Config = gpu, types.SimpleNamespace(zero_gpu=zero_gpu)
    return {"spaces": package, "spaces.config": config}


@pytest.fixture
def detector(tiny_convnext):
    return Detector.from_pretrained(tiny_convnext)


def test_every_answer_comes_from_the_worker_and_is_the_same(detector, tiny_convnext, monkeypatch):
    calls = []
    for name, module in spaces(True, calls).items():
        monkeypatch.setitem(sys.modules, name, module)
    assert use_zero_gpu(detector, seconds=20) is detector
    plain, picture = Detector.from_pretrained(tiny_convnext), draw_picture(64)
    assert detector.predict(picture) == plain.predict(picture)
    assert (
        detector.forward(detector.pixels(picture)) == plain.forward(plain.pixels(picture))
    ).all()
    assert detector.explain(picture).heatmap.shape == (64, 64)
    assert detector.stability(picture).verdict == plain.stability(picture).verdict
    assert calls == [(name, 20) for name in ("predict", "forward", "explain", "stability")]


def test_errors_of_images_keep_their_message(detector, monkeypatch):
    for name, module in spaces(True, []).items():
        monkeypatch.setitem(sys.modules, name, module)
    use_zero_gpu(detector)
    with pytest.raises(ValueError, match="text file"):
        detector.predict(b"hello")
    with pytest.raises(OSError, match="does not exist"):
        detector.explain("/nowhere/photo.jpg")
    monkeypatch.setattr(detector.model, "forward", None)
    with pytest.raises(WorkerError):
        detector.predict(draw_picture(32))


@pytest.mark.parametrize("installed", [True, False])
def test_elsewhere_nothing_changes(detector, monkeypatch, installed):
    calls = []
    for name, module in spaces(False, calls).items():
        monkeypatch.setitem(sys.modules, name, module if installed else None)
    use_zero_gpu(detector)
    assert not set(GPU_METHODS) & set(vars(detector))
    detector.predict(draw_picture(32))
    assert calls == []


def test_compared_detectors_run_on_the_gpu_too(tiny_convnext, monkeypatch):
    calls, model = [], str(tiny_convnext)
    for name, module in spaces(True, calls).items():
        monkeypatch.setitem(sys.modules, name, module)
    own = Detector.from_pretrained(model)
    own.name = "page"
    detectors = Detectors(Loaded(own, compare=(model,)))
    assert detectors.get("convnext").predict(draw_picture(32)).label in ("real", "ai")
    assert len(calls) == 1
