"""The stock clients against the loopback Hub: what other tests rely on when they push and pull.

Nothing of realfake is tested here. A failure means that the hub differs from what the installed
versions of huggingface_hub, transformers and datasets expect.
"""

import json
import os
import socket
import subprocess
import sys
import warnings
from base64 import b64encode
from pathlib import Path

import datasets
import httpx
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from helpers.loopback_hub import LoopbackHub, check_card
from helpers.tiny import ARCHITECTURES, draw_corpus, draw_picture, save_tiny
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    create_repo,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

CARD = """---
license: apache-2.0
pipeline_tag: image-classification
tags: [synthetic-image-detection]
model-index:
- name: tiny
  results:
  - task: {type: image-classification}
    dataset: {type: drawn, name: drawn}
    metrics: [{type: accuracy, value: 0.5}]
---
# Tiny
"""


def read(path) -> bytes:
    return Path(path).read_bytes()


def quiet_pipeline(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipeline(*arguments, **options)


def test_model_round_trip(hub, tiny_vit):
    model = AutoModelForImageClassification.from_pretrained(tiny_vit)
    processor = AutoImageProcessor.from_pretrained(tiny_vit)
    model.push_to_hub("user/tiny-vit")
    processor.push_to_hub("user/tiny-vit")
    ModelCard(CARD).push_to_hub("user/tiny-vit")

    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(
        hub.files("user/tiny-vit")
    )
    assert (
        hub.files("user/tiny-vit")["model.safetensors"]
        == (tiny_vit / "model.safetensors").read_bytes()
    )
    assert hub.requests_to("^/lfs/", "PUT"), "weights travel as LFS"
    assert [commit.title for commit in hub.history("user/tiny-vit")][-1] == "initial commit"

    again = AutoModelForImageClassification.from_pretrained("user/tiny-vit")
    picture = draw_picture(48)
    pixels = AutoImageProcessor.from_pretrained("user/tiny-vit")(picture, return_tensors="pt")
    with torch.no_grad():
        logits = again.eval()(**pixels).logits
        assert torch.equal(logits, model.eval()(**pixels).logits)
    # Without a task, which it takes from the Hub's model info.
    scores = quiet_pipeline(model="user/tiny-vit")(picture)
    expected = dict(zip(("real", "ai"), logits.softmax(-1)[0].tolist()))
    assert {item["label"]: item["score"] for item in scores} == pytest.approx(expected, abs=1e-6)

    info = HfApi().model_info("user/tiny-vit", files_metadata=True)
    assert (info.pipeline_tag, info.library_name) == ("image-classification", "transformers")
    assert info.sha == hub.history("user/tiny-vit")[0].oid
    assert info.card_data.license == "apache-2.0"
    assert info.card_data.eval_results[0].metric_value == 0.5
    weights = next(sibling for sibling in info.siblings if sibling.rfilename == "model.safetensors")
    assert weights.size == (tiny_vit / "model.safetensors").stat().st_size
    assert ModelCard.load("user/tiny-vit").data.tags == ["synthetic-image-detection"]


def test_another_process_needs_the_environment_alone(hub, tiny_vit):
    hub.put("user/tiny-vit", tiny_vit)
    code = (
        "from huggingface_hub import hf_hub_download;"
        "print(hf_hub_download('user/tiny-vit', 'model.safetensors'))"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, **hub.environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.is_relative_to(hub.home)
    assert path.read_bytes() == (tiny_vit / "model.safetensors").read_bytes()


def test_folders_files_and_history(hub, tmp_path):
    api = HfApi()
    folder = tmp_path / "upload"
    (folder / "inner" / "deep").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "inner" / "notes.txt").write_text("one")
    (folder / "inner" / "deep" / "more.txt").write_text("")
    (folder / "weights.bin").write_bytes(b"\0" * 1000)
    api.create_repo("user/folder")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("user/folder")
    assert api.create_repo("user/folder", exist_ok=True).repo_id == "user/folder"
    first = api.upload_folder(repo_id="user/folder", folder_path=folder, commit_message="First")
    assert first.commit_url == f"{hub.url}/user/folder/commit/{first.oid}"

    names = {".gitattributes", "README.md", "inner/notes.txt", "inner/deep/more.txt", "weights.bin"}
    assert set(api.list_repo_files("user/folder")) == names
    entries = {entry.path: entry for entry in api.list_repo_tree("user/folder", recursive=True)}
    assert set(entries) == names | {"inner", "inner/deep"}
    assert entries["weights.bin"].lfs.size == 1000
    assert entries["inner/notes.txt"].lfs is None
    assert {entry.path for entry in api.list_repo_tree("user/folder", "inner")} == {
        "inner/deep",
        "inner/notes.txt",
    }
    assert [info.path for info in api.get_paths_info("user/folder", ["inner", "absent"])] == [
        "inner"
    ]

    # An unchanged folder makes no commit: the client compares git's hashes, this one from `git
    # hash-object`.
    assert api.upload_folder(repo_id="user/folder", folder_path=folder).oid == first.oid
    assert entries["inner/notes.txt"].blob_id == "43dd47ea691c90a5fa7827892c70241913351963"

    api.create_tag("user/folder", tag="v1")
    api.create_branch("user/folder", branch="trial")
    copy = CommitOperationCopy(src_path_in_repo="weights.bin", path_in_repo="copy.bin")
    api.create_commit("user/folder", [copy], commit_message="Copy", revision="trial")
    assert "copy.bin" in api.list_repo_files("user/folder", revision="trial")
    second = api.delete_file("inner/notes.txt", "user/folder")
    assert "inner/notes.txt" not in hub.files("user/folder")
    assert "inner/notes.txt" in api.list_repo_files("user/folder", revision="v1")
    api.delete_folder("inner", "user/folder")
    assert set(hub.files("user/folder")) == {".gitattributes", "README.md", "weights.bin"}
    assert hub.history("user/folder")[1].oid == second.oid

    add = CommitOperationAdd("note.txt", b"from an old parent")
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("user/folder", [add], commit_message="Late", parent_commit=first.oid)

    local = snapshot_download("user/folder", revision="v1")
    assert read(os.path.join(local, "inner", "notes.txt")) == b"one"


def test_range_requests(hub):
    hub.put("user/ranged", {"digits.txt": "0123456789"})
    url = f"{hub.url}/user/ranged/resolve/main/digits.txt"
    for asked, status, text in [
        ("bytes=2-4", 206, "234"),
        ("bytes=7-", 206, "789"),
        ("bytes=-2", 206, "89"),
        ("bytes=5-99", 206, "56789"),
        ("bytes=10-", 416, ""),
    ]:
        response = httpx.get(url, headers={"Range": asked})
        assert (response.status_code, response.text) == (status, text)
    assert httpx.get(url, headers={"Range": "bytes=2-4"}).headers["content-range"] == "bytes 2-4/10"
    head = httpx.head(url)
    assert head.headers["content-length"] == "10"
    assert head.headers["x-repo-commit"] == hub.history("user/ranged")[0].oid


def test_errors_have_the_types_clients_raise(hub):
    hub.put("user/open", {"a.txt": "a"})
    hub.put("user/secret", {"a.txt": "a"})
    hub.repos["model", "user/secret"].private = True
    hub.put("user/gated", {"a.txt": "a"})
    hub.repos["model", "user/gated"].gated = "auto"
    hub.tokens["hf_other"] = "other"

    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("user/open", "absent.txt")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("user/open", "a.txt", revision="absent")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("user/absent", "a.txt")
    assert read(hf_hub_download("user/secret", "a.txt")) == b"a"
    for token in (False, "hf_other"):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).model_info("user/secret")
        with pytest.raises(GatedRepoError):
            hf_hub_download("user/gated", "a.txt", token=token)
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token="hf_other").upload_file(
            path_or_fileobj=b"", path_in_repo="b.txt", repo_id="user/open"
        )
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi().whoami(token="hf_wrong")
    assert HfApi().whoami()["name"] == "user"
    # transformers turns them into OSError with advice.
    with pytest.raises(OSError, match="user/absent"):
        AutoModelForImageClassification.from_pretrained("user/absent")


def test_cards_are_checked_as_the_hub_does(hub):
    api = HfApi()
    api.create_repo("user/card")

    def push(text):
        api.upload_file(
            path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id="user/card"
        )

    push(CARD)
    with pytest.raises(ValueError, match="Invalid"):
        push("---\nlicense: [unclosed\n---\n")
    with pytest.raises(ValueError, match="tags"):
        push("---\ntags: one\n---\n")
    assert check_card("---\nsdk: gradio\ncolorFrom: orange\n---\n", "space")[0]
    assert check_card("---\nsdk: gradio\ncolorFrom: indigo\n---\n", "space") == ([], [])
    assert check_card(CARD.replace("value: 0.5", "name: x"), "model")[0]


@pytest.fixture
def drawn(tmp_path):
    """Six pictures in memory with their label."""
    folder = draw_corpus(tmp_path / "drawn", n=6)
    paths = sorted(folder.rglob("*.jpg"))
    labels = [path.parent.name for path in paths]
    features = Features({"image": Image(), "label": ClassLabel(names=["ai", "real"])})
    return Dataset.from_dict(
        {"image": [str(path) for path in paths], "label": labels}, features=features
    )


def test_dataset_round_trip(hub, drawn):
    datasets.DatasetDict(train=drawn, test=drawn.select([0, 5])).push_to_hub("user/drawn")
    assert any(path.endswith(".parquet") for path in hub.files("user/drawn", "dataset"))

    loaded = load_dataset("user/drawn")
    assert {name: len(split) for name, split in loaded.items()} == {"train": 6, "test": 2}
    assert loaded["train"].features["label"].names == ["ai", "real"]
    for mine, theirs in zip(drawn, loaded["train"]):
        assert mine["label"] == theirs["label"]
        assert np.array_equal(np.asarray(mine["image"]), np.asarray(theirs["image"]))

    streamed = load_dataset("user/drawn", split="train", streaming=True)
    assert [row["label"] for row in streamed] == drawn["label"]
    assert next(iter(streamed))["image"].size == (48, 48)
    assert HfApi().dataset_info("user/drawn").card_data.configs
    assert hub.requests_to("/datasets/user/drawn/resolve", "GET")


def test_image_folder_on_the_hub(hub, tmp_path):
    hub.put("user/folders", draw_corpus(tmp_path / "corpus", n=6), repo_type="dataset")
    loaded = load_dataset("user/folders", split="train")
    assert loaded.features["label"].names == ["ai", "real"]
    assert len(loaded) == 6
    rows = list(load_dataset("user/folders", split="train", streaming=True))
    assert sorted(row["label"] for row in rows) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(datasets.exceptions.DatasetNotFoundError):
        load_dataset("user/absent")


def test_space(hub):
    api = HfApi()
    url = api.create_repo(
        "user/demo",
        repo_type="space",
        space_sdk="gradio",
        space_variables=[{"key": "A", "value": "1"}],
    )
    assert url.repo_type == "space"
    api.add_space_variable("user/demo", "MODEL", "user/tiny-vit", description="what to load")
    api.add_space_secret("user/demo", "KEY", "hush")
    api.delete_space_variable("user/demo", "A")
    card = b"---\nsdk: gradio\napp_file: app.py\n---\n"
    for path, content in {"README.md": card, "app.py": b"print()"}.items():
        api.upload_file(
            path_or_fileobj=content, path_in_repo=path, repo_id="user/demo", repo_type="space"
        )
    assert (
        api.request_space_hardware("user/demo", "t4-small", sleep_time=600).requested_hardware
        == "t4-small"
    )
    assert {key: item.value for key, item in api.get_space_variables("user/demo").items()} == {
        "MODEL": "user/tiny-vit"
    }
    assert hub.repos["space", "user/demo"].secrets["KEY"]["value"] == "hush"
    runtime = api.get_space_runtime("user/demo")
    assert (runtime.stage, runtime.hardware, runtime.sleep_time) == ("RUNNING", "t4-small", 600)
    info = api.space_info("user/demo")
    assert (info.sdk, info.card_data.app_file) == ("gradio", "app.py")


def test_injected_statuses(hub):
    hub.put("user/open", {"a.txt": "a"})
    hub.fail_next("/api/models/user/open", 500)
    with pytest.raises(HfHubHTTPError, match="500"):
        HfApi().model_info("user/open")
    assert HfApi().model_info("user/open").id == "user/open"
    hub.fail_next("/resolve/", 503, method="HEAD")
    assert read(hf_hub_download("user/open", "a.txt")) == b"a"  # retried automatically
    assert [request.status for request in hub.requests_to("/resolve/", "HEAD")] == [503, 200]
    hub.put("user/open", {"a.txt": "b"})
    hub.fail_next("/resolve/", 500, method="GET")
    with pytest.raises(HfHubHTTPError, match="500"):
        hf_hub_download("user/open", "a.txt")
    assert read(hf_hub_download("user/open", "a.txt")) == b"b"
    with pytest.raises(ValueError, match="unknown action"):
        hub.fail_next("/", "explode")


def test_dropped_connection(hub):
    hub.put("user/open", {"a.txt": "a"})
    hub.fail_next("/api/models/user/open", "drop")
    with pytest.raises(Exception, match="(?i)disconnected|closed|reset"):
        HfApi().model_info("user/open")
    assert hub.requests[-1].status == "drop"
    assert HfApi().model_info("user/open").id == "user/open"


def test_truncated_download_is_not_accepted(hub):
    hub.put("user/open", {"a.txt": "0123456789", "weights.bin": b"\1" * 5000})
    for name in ("a.txt", "weights.bin"):
        hub.fail_next(f"/resolve/.*/{name}", "truncate")
        with pytest.raises(OSError, match="Consistency check failed"):
            hf_hub_download("user/open", name)
    assert read(hf_hub_download("user/open", "a.txt")) == b"0123456789"


def test_download_cut_in_the_middle_is_repeated(hub):
    hub.put("user/open", {"weights.bin": bytes(range(256)) * 20})
    hub.fail_next("/resolve/", "cut")
    assert read(hf_hub_download("user/open", "weights.bin")) == bytes(range(256)) * 20
    assert len(hub.requests_to("/resolve/", "GET")) == 2


def test_refused_pushes(hub, tiny_vit):
    model = AutoModelForImageClassification.from_pretrained(tiny_vit)
    for status in (403, 500):
        hub.refuse_pushes(status)
        with pytest.raises(HfHubHTTPError, match=str(status)):
            model.push_to_hub("user/refused")
        assert set(hub.files("user/refused")) == {".gitattributes"}
    hub.refuse_pushes(None)
    model.push_to_hub("user/refused")
    assert "model.safetensors" in hub.files("user/refused")


def test_content_is_checked_on_the_way_in(hub):
    create_repo("user/open")
    assert httpx.put(f"{hub.url}/lfs/{'0' * 64}", content=b"something else").status_code == 400
    with pytest.raises(HfHubHTTPError, match="404"):
        HfApi().create_commit(
            "user/open", [CommitOperationDelete("absent.txt")], commit_message="Delete nothing"
        )
    # A client that skips the check before the commit is stopped at the commit.
    value = {
        "path": "README.md",
        "encoding": "base64",
        "content": b64encode(b"---\ntags: one\n---\n").decode(),
    }
    response = httpx.post(
        f"{hub.url}/api/models/user/open/commit/main",
        content=json.dumps({"key": "file", "value": value}),
        headers={"Authorization": "Bearer hf_anything"},
    )
    assert (response.status_code, "tags" in response.text) == (400, True)


def test_session_is_offline_without_the_fixture(tiny_vit):
    with pytest.raises(OSError):
        AutoModelForImageClassification.from_pretrained("user/tiny-vit")
    with pytest.raises(RuntimeError, match="192.0.2.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=5)
    with pytest.raises(RuntimeError, match="huggingface.co"):
        socket.create_connection(("huggingface.co", 443), timeout=5)
    with pytest.raises(socket.gaierror):
        socket.create_connection(("host.invalid", 80), timeout=5)


def test_two_hubs_and_an_end():
    with LoopbackHub() as first, LoopbackHub() as second:
        first.put("user/one", {"a.txt": "a"})
        assert httpx.get(f"{first.url}/user/one/resolve/main/a.txt").text == "a"
        assert httpx.get(f"{second.url}/user/one/resolve/main/a.txt").status_code == 401
        home = first.home
        client = httpx.Client()
        client.get(f"{first.url}/api/models")
    with pytest.raises(httpx.TransportError):
        client.get(f"{first.url}/api/models")
    assert not home.exists()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiny_checkpoints(architecture, tmp_path):
    state = torch.random.get_rng_state()
    folder = save_tiny(architecture, tmp_path / "a", labels=("ai", "real"))
    assert torch.equal(torch.random.get_rng_state(), state)
    save_tiny(architecture, tmp_path / "b", labels=("ai", "real"))
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert len(weights) < 1_000_000

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    assert model.config.id2label == {0: "ai", 1: "real"}
    assert model.dtype == torch.float32
    pictures = [draw_picture((60, 48), seed=seed) for seed in range(4)]
    pixels = processor(pictures, return_tensors="pt")
    assert pixels.pixel_values.shape == (4, 3, 32, 32)
    with torch.no_grad():
        logits = model(**pixels).logits
    log_odds = logits[:, 0] - logits[:, 1]
    assert logits.shape == (4, 2)
    assert log_odds.std() > 0.01, "the scores do not depend on the image"


def test_drawn_corpus_can_be_learnt(tmp_path):
    folder = draw_corpus(tmp_path, n=20)
    energy = {}
    for label in ("real", "ai"):
        files = sorted((folder / label).glob("*.jpg"))
        assert len(files) == 10
        pixels = [
            np.asarray(datasets.Image().decode_example({"path": str(f), "bytes": None}))
            for f in files
        ]
        grey = [p.astype(float).mean(-1) for p in pixels]
        # The checker repeats every 4 px in both directions: one bin of the spectrum.
        energy[label] = [abs(np.fft.fft2(g - g.mean())[12, 12]) / g.size for g in grey]
    assert min(energy["ai"]) > 2 * max(energy["real"])
