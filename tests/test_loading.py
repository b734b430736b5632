"""The detectors that the page opens: its own, from the environment, and those it compares."""

import json
import threading

import pytest
from helpers.tiny import draw_picture, save_tiny

from realfake.detector import Detector
from realfake.space import loading
from realfake.space.loading import Detectors, Loaded


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (None, None)),
        ({"REALFAKE_MODEL": " ", "REALFAKE_REVISION": "v1"}, (None, None)),
        ({"REALFAKE_MODEL": "user/name"}, ("user/name", None)),
        ({"REALFAKE_MODEL": "user/name@v2"}, ("user/name", "v2")),
        ({"REALFAKE_MODEL": "user/name", "REALFAKE_REVISION": "v3"}, ("user/name", "v3")),
        ({"REALFAKE_MODEL": "user/name@v2", "REALFAKE_REVISION": "v3"}, ("user/name", "v2")),
    ],
)
def test_the_environment_names_model_and_revision(environ, expected):
    assert loading.source(environ) == expected


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path):
    folder = tmp_path / "run@2"
    folder.mkdir()
    assert loading.source({"REALFAKE_MODEL": str(folder)}) == (str(folder), None)


def test_a_folder_is_opened_with_its_records(tmp_path):
    folder = save_tiny("vit", tmp_path / "vit")
    (folder / "evaluation.json").write_text(json.dumps({"test": {}}))
    (folder / "robustness.json").write_text("{broken")
    loaded = loading.load({"REALFAKE_MODEL": str(folder)})
    assert loaded.detector.name == "vit" and loaded.evaluation == {"test": {}}
    assert loaded.robustness is None and loaded.missing is None and loaded.source == str(folder)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    folder = save_tiny("convnext", tmp_path / "bundled")
    monkeypatch.setattr("realfake.detector.DEFAULT_CHECKPOINT", folder)
    monkeypatch.setattr(loading, "DEFAULT_CHECKPOINT", folder)


def broken_folder(path, how):
    if how == "no config":
        path.mkdir()
    elif how != "missing":
        save_tiny("vit", path, labels=("cat", "dog") if how == "labels" else ("real", "ai"))
    if how == "facts":
        config = json.loads((path / "config.json").read_text())
        facts = {"thresholds": ["nonsense"]}
        (path / "config.json").write_text(json.dumps({**config, "realfake": facts}))
    return str(path)


@pytest.mark.parametrize("how", ["missing", "no config", "labels", "facts"])
def test_a_detector_that_cannot_be_opened_stops_the_start(tmp_path, bundled, how):
    model = broken_folder(tmp_path / "model", how)
    with pytest.raises(ValueError, match="set REALFAKE_FALLBACK=bundled") as error:
        loading.load({"REALFAKE_MODEL": model})
    assert f"REALFAKE_MODEL={model}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["missing", "no config", "labels", "facts"])
def test_the_bundled_detector_replaces_it_only_if_the_operator_wants_that(
    tmp_path, bundled, how, caplog
):
    model = broken_folder(tmp_path / "model", how)
    loaded = loading.load({"REALFAKE_MODEL": model, "REALFAKE_FALLBACK": "bundled"})
    assert (loaded.detector.name, loaded.missing) == ("bundled", model)
    assert "could not be opened" in caplog.text


def test_an_unknown_hub_id_stops_the_start(hub, bundled):
    with pytest.raises(ValueError, match="REALFAKE_MODEL=user/typo") as error:
        loading.load({"REALFAKE_MODEL": "user/typo"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "environ", [{"REALFAKE_FALLBACK": "yes"}, {"REALFAKE_COMPARE": "user/a,../nowhere"}]
)
def test_a_wrong_value_names_its_variable(bundled, environ):
    (variable,) = environ
    with pytest.raises(ValueError, match=variable):
        loading.load(environ)


# Comparison


def test_the_operator_lists_what_is_compared(tmp_path, bundled):
    folder = save_tiny("vit", tmp_path / "mine")
    entries = f" user/a, user/b@rev ,{folder},, user/a"
    loaded = loading.load({"REALFAKE_COMPARE": entries})
    assert loaded.compare == ("user/a", "user/b@rev", str(folder))
    names = Detectors(loaded).names()
    assert names == ["bundled", *loading.bundled(), "user/a", "user/b@rev", "mine"]


@pytest.fixture
def own(tiny_convnext):
    return Detector.from_pretrained(tiny_convnext)


def test_nothing_else_is_opened_for_a_visitor(own, tmp_path, monkeypatch):
    save_tiny("vit", tmp_path / "user" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "_opened", lambda *_: pytest.fail("opened"))
    detectors = Detectors(Loaded(own, compare=("user/listed",)))
    for name in ("user/name", str(tmp_path / "user" / "name"), "../x", "", "user/listed@v2"):
        with pytest.raises(ValueError, match="not on the list"):
            detectors.get(name)


def test_a_listed_checkpoint_is_opened_on_first_use_and_kept_open(hub, own, tmp_path):
    hub.put("user/tiny", save_tiny("vit", tmp_path / "tiny"))
    detectors = Detectors(Loaded(own, compare=("user/tiny@main",)))
    assert not hub.requests
    detector = detectors.get("user/tiny@main")
    assert len(detector.revision) == 40 and detectors.get("user/tiny@main") is detector
    expected = Detector.from_pretrained(tmp_path / "tiny").predict(draw_picture(64, 1))
    assert detector.predict(draw_picture(64, 1)).log_odds == expected.log_odds


def test_a_checkpoint_without_safetensors_is_not_opened(hub, own, tmp_path):
    folder = save_tiny("vit", tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.put("user/pickled", folder)
    with pytest.raises(ValueError, match="could not be opened"):
        Detectors(Loaded(own, compare=("user/pickled",))).get("user/pickled")


def test_a_slow_download_delays_no_other(own, monkeypatch):
    begun, go_on, opened, results = threading.Event(), threading.Event(), [], []

    def open_slowly(name, checkpoint):
        opened.append(name)
        if name == "user/slow":
            begun.set()
            assert go_on.wait(60)
        return Detector.__new__(Detector)

    monkeypatch.setattr(loading, "_opened", open_slowly)
    detectors = Detectors(Loaded(own, compare=("user/slow", "user/quick")))

    def visit(name):
        thread = threading.Thread(target=lambda: results.append(detectors.get(name)), daemon=True)
        thread.start()
        return thread

    slow = [visit("user/slow"), visit("user/slow")]
    assert begun.wait(60)
    quick = visit("user/quick")
    quick.join(60)
    assert not quick.is_alive()
    go_on.set()
    for thread in slow:
        thread.join(60)
    assert results[1] is results[2] and opened.count("user/slow") == 1


def test_a_checkpoint_that_could_not_be_opened_is_tried_again(own, monkeypatch):
    answers = [ValueError("not now"), own]

    def open_second_time(*_):
        answer = answers.pop(0)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    monkeypatch.setattr(loading, "_opened", open_second_time)
    detectors = Detectors(Loaded(own, compare=("user/later",)))
    with pytest.raises(ValueError, match="not now"):
        detectors.get("user/later")
    assert detectors.get("user/later") is own
