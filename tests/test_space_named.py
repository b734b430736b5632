"""Checkpoints that visitors name: what would take too much is refused in one sentence, and nothing of them stays on the disk."""

import gc
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from helpers.tiny import ARCHITECTURES, draw_picture, save_tiny
from safetensors.torch import save_file
from test_space_tabs import opened  # noqa: F401
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
)

from realfake.detector import Detector
from realfake.space import compare as compare_module
from realfake.space import footprint, named
from realfake.space.footprint import Refusal, check_footprint
from realfake.space.named import open_named
from realfake.space.text import ENGLISH, words

LIMIT = 2**30


@pytest.fixture
def folder(tiny_vit, tmp_path) -> Path:
    """A copy of the tiny ViT that a test may change."""
    return shutil.copytree(tiny_vit, tmp_path / "vit")


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, max_bytes: int = LIMIT) -> str:
    with pytest.raises(Refusal) as error:
        check_footprint(folder, sorted(folder.glob("*.safetensors")), max_bytes)
    return error.value.key


# What it would take


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_honest_checkpoint_passes(architecture, tmp_path):
    folder = save_tiny(architecture, tmp_path)
    assert (
        check_footprint(folder, [folder / "model.safetensors"], LIMIT) is None
    )  # it raises where it refuses


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (
            {"hidden_size": 8192, "intermediate_size": 32768, "num_hidden_layers": 24},
            "compare.misfit",
        ),
        ({"num_hidden_layers": 100_000}, "compare.too_much"),
        ({"num_hidden_layers": 10**15}, "compare.too_much"),
        ({"num_labels": 10**15, "id2label": None, "label2id": None}, "compare.too_much"),
        ({"unknown": [0, float("nan"), 1]}, "compare.too_much"),
        ({"depths": [900_000] * 2}, "compare.too_much"),
        ({"image_size": 100_000}, "compare.large_input"),
        ({"image_size": [32, 100_000]}, "compare.large_input"),
        ({"transformers_weights": "other.safetensors"}, "compare.misfit"),
        ({"quantization_config": {"quant_method": "fp8"}}, "compare.misfit"),
    ],
)
def test_a_configuration_that_asks_for_more_than_its_weights_is_refused(
    folder, changes, key, monkeypatch
):
    monkeypatch.setattr(footprint, "MAX_PARTS", 1000)
    change(folder / "config.json", **changes)
    assert refused(folder) == key


def test_figures_for_people_may_be_large(folder):
    change(folder / "config.json", realfake={"calibration": {"n": 10**9}})
    assert check_footprint(folder, [folder / "model.safetensors"], LIMIT) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"height": 100_000, "width": 100_000}},
        {
            "size": {"shortest_edge": 100_000},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
        },
        {"do_resize": False},
        {"size": {"shortest_edge": 32}},
    ],
)
def test_an_image_processor_must_keep_the_input_small(folder, changes):
    change(folder / "preprocessor_config.json", **changes)
    assert refused(folder) == "compare.large_input"


def test_a_crop_that_keeps_next_to_nothing_of_a_huge_image_is_refused(tmp_path):
    folder = save_tiny("convnext", tmp_path)
    change(folder / "preprocessor_config.json", crop_pct=1e-5)
    assert refused(folder) == "compare.large_input"


def test_few_weights_may_not_make_large_results(folder, tiny_convnext, tmp_path, monkeypatch):
    config = ConvNextConfig(patch_size=1, hidden_sizes=[64, 64], depths=[1, 1], num_stages=2)
    wide = shutil.copytree(tiny_convnext, tmp_path / "wide")
    ConvNextForImageClassification(config).save_pretrained(wide)
    check_footprint(wide, [wide / "model.safetensors"], LIMIT)
    change(wide / "preprocessor_config.json", size={"shortest_edge": 1024})
    assert refused(wide) == "compare.too_much"
    monkeypatch.setattr(footprint, "MAX_OPERATIONS", 1000)
    assert refused(folder) == "compare.too_much"


def test_building_is_given_up_after_a_while(folder, monkeypatch):
    monkeypatch.setattr(footprint, "MAX_SECONDS", -1)
    assert refused(folder) == "compare.too_much"
    # The next network is built as if nothing had been.
    assert AutoModelForImageClassification.from_pretrained(folder).dtype == torch.float32


def test_weights_are_counted_as_they_are_in_memory(folder):
    assert refused(folder, max_bytes=1000) == "compare.too_large"
    (folder / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    assert refused(folder) == "compare.too_much"


# From the Hub


def left_on_the_disk(hub) -> list[str]:
    return [
        path.name
        for root in (hub.home, Path(os.environ["GRADIO_TEMP_DIR"]))
        for path in root.rglob("*.*")
    ]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))


def asked_for(hub) -> set[str]:
    return {request.path.rpartition("/")[2] for request in hub.requests_to("/resolve/")}


def test_nothing_of_a_named_checkpoint_stays_on_the_disk_and_it_answers_all_the_same(
    hub, folder, temporary, tmp_path
):
    AutoModelForImageClassification.from_pretrained(folder).save_pretrained(
        folder, max_shard_size="40KB"
    )
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"x")
    (folder / "tokenizer.json").write_text("{}")
    hub.put("user/tiny", folder)
    detector = open_named("user/tiny", ENGLISH)
    assert left_on_the_disk(hub) == []
    assert not asked_for(hub) & {"training_args.bin", "tokenizer.json"}
    picture = draw_picture(64, 1)
    assert (
        detector.predict(picture).log_odds
        == Detector.from_pretrained(folder).predict(picture).log_odds
    )
    assert detector.name == "user/tiny" and len(detector.revision) == 40


def test_nothing_stays_of_one_that_is_refused_and_it_is_never_opened(
    hub, folder, temporary, monkeypatch
):
    monkeypatch.setattr(named.Detector, "from_pretrained", lambda *a, **k: pytest.fail("opened"))
    save_file({"classifier.bias": torch.zeros(2)}, folder / "model.safetensors")
    change(folder / "config.json", hidden_size=8192, intermediate_size=32768, num_hidden_layers=24)
    hub.put("user/tiny", folder)
    with pytest.raises(ValueError, match="The weights of user/tiny do not fit its configuration"):
        open_named("user/tiny", ENGLISH)
    change(folder / "preprocessor_config.json", size={"height": 100_000, "width": 100_000})
    hub.put("user/tiny", folder)
    with pytest.raises(ValueError, match="user/tiny tar bilder på mer enn 1\u00a0024 piksler"):
        open_named("user/tiny", words("nb"))
    assert left_on_the_disk(hub) == []


def test_large_settings_are_refused_before_anything_is_downloaded(hub, folder):
    for name in ("config.json", "preprocessor_config.json", "model.safetensors.index.json"):
        hub.put(f"user/{name[:5]}", folder)
        hub.put(f"user/{name[:5]}", {name: b" " * (named.MAX_SETTINGS + 1) + b"{}"})
        with pytest.raises(
            ValueError, match=f"{name} of user/{name[:5]} is larger than the limit of 2 MiB"
        ):
            open_named(f"user/{name[:5]}", ENGLISH)
    assert asked_for(hub) == set()


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "not_there.safetensors"])
def test_an_index_names_safetensors_of_the_same_checkpoint_only(hub, folder, shard):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "other.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"classifier.bias": shard}})
    )
    hub.put("user/tiny", folder)
    with pytest.raises(ValueError, match="no safetensors"):
        open_named("user/tiny", ENGLISH)
    assert asked_for(hub) == {"model.safetensors.index.json"}


def test_weights_that_arrive_altered_are_not_opened(hub, folder, caplog):
    hub.put("user/tiny", folder)
    hub.fail_next("model.safetensors", "alter")
    with pytest.raises(ValueError, match="could not be opened"):
        open_named("user/tiny", ENGLISH)
    assert "model.safetensors arrived with another content" in caplog.text
    assert open_named("user/tiny", ENGLISH).name == "user/tiny"


# Several visitors


def test_a_slow_download_keeps_nobody_else_waiting(opened, monkeypatch):  # noqa: F811
    begun, go_on, asked = threading.Event(), threading.Event(), []

    def open_slowly(name, words):
        asked.append(name)
        if name == "user/slow":
            begun.set()
            assert go_on.wait(20)
        return object()

    monkeypatch.setattr(compare_module, "open_named", open_slowly)
    monkeypatch.setattr(opened, "_from_hub", type(opened._from_hub)())
    found = []
    visitors = [
        threading.Thread(target=lambda: found.append(opened.get("user/slow", ENGLISH)), daemon=True)
        for _ in range(2)
    ]
    for visitor in visitors:
        visitor.start()
    assert begun.wait(20)
    other = threading.Thread(
        target=lambda: [opened.get(name, ENGLISH) for name in ("user/quick", "cifake")], daemon=True
    )
    other.start()
    other.join(20)
    assert not other.is_alive()
    go_on.set()
    for visitor in visitors:
        visitor.join(20)
    assert found[0] is found[1] and asked.count("user/slow") == 1


def test_one_that_could_not_be_opened_is_tried_again(opened, monkeypatch):  # noqa: F811
    answers = [ValueError("not now"), object()]

    def open_second_time(name, words):
        answer = answers.pop(0)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    monkeypatch.setattr(compare_module, "open_named", open_second_time)
    monkeypatch.setattr(opened, "_from_hub", type(opened._from_hub)())
    with pytest.raises(ValueError, match="not now"):
        opened.get("user/later", ENGLISH)
    assert opened.get("user/later", ENGLISH) is opened.get("user/later", ENGLISH)
    gc.collect()  # the error's traceback holds the lock
    assert len(opened._opening) == 0
