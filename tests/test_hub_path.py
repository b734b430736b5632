"""The Hub with the stock clients: train and push, open with transformers, serve in the Space.

`train_hf.py` trains and pushes two tiny checkpoints, one on a folder and one on a Hub dataset. The
tests examine what arrived. A third run streams its corpus and is refused;
further pushes fail in several ways.
"""

import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import types
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from helpers.loopback_hub import TOKEN, LoopbackHub, point_clients_at
from helpers.serving import serving_here
from helpers.tiny import draw_corpus, draw_picture, save_tiny
from helpers.training import train_hf
from huggingface_hub import HfApi, ModelCard, parse_eval_result_entries
from transformers import AutoModelForImageClassification, pipeline

from realfake.corpus.load import load_corpus
from realfake.detector import Detector
from realfake.labels import AI, NAMES
from realfake.space import loading
from realfake.statistics.metrics import log_odds_from_logits
from realfake.training import publishing
from realfake.training.arguments import RunArguments

ROOT = Path(__file__).parent.parent
SPLITS = {"train": 96, "validation": 64, "test": 24}
# All that a finished run leaves on the Hub, but for the plots and what depends on the corpus.
FILES = {
    "README.md",
    "config.json",
    "evaluation.json",
    "model.safetensors",
    "preprocessor_config.json",
    "scores-calibration.parquet",
    "scores-selection.parquet",
    "scores-test.parquet",
    "training.json",
}
EVAL_RESULTS = ".eval_results/realfake.yaml"
SETTINGS = (
    "--per_device_train_batch_size=16",
    "--augmentation=0",
    "--learning_rate=3e-3",
    "--bf16=False",
    "--disable_tqdm=True",
    "--measure_degradations=0",
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """One Hub for all tests of this file, which the clients of this process use too."""
    with (
        LoopbackHub(home=tmp_path_factory.mktemp("hf_home")) as hub,
        pytest.MonkeyPatch.context() as patch,
    ):
        point_clients_at(hub, patch)
        # datasets waits 5 seconds wherever a stream ends, for threads that are idle here.
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
        yield hub
    assert not hub.errors, "\n".join(hub.errors)


@pytest.fixture(autouse=True)
def no_faults_left(hub):
    yield
    hub.refuse_pushes(None)
    hub.faults.clear()


def environment(hub, **more) -> dict[str, str]:
    return {**os.environ, **hub.environment, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory) -> Path:
    """Folders of splits with class folders."""
    folder = tmp_path_factory.mktemp("corpus") / "drawn"
    for seed, (split, n) in enumerate(SPLITS.items()):
        draw_corpus(folder / split, n=n, seed=seed)
    return folder


@pytest.fixture(scope="module")
def hub_corpus(hub, corpus_folder) -> str:
    """The same as a dataset of the Hub, its classes in the other order and with a generator."""
    features = Features(
        {"image": Image(), "label": ClassLabel(names=["ai", "real"]), "generator": Value("string")}
    )
    splits = DatasetDict()
    for split in SPLITS:
        paths = sorted((corpus_folder / split).rglob("*.jpg"))
        labels = [path.parent.name for path in paths]
        splits[split] = Dataset.from_dict(
            {
                "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
                "label": labels,
                "generator": ["checker" if label == AI else None for label in labels],
            },
            features=features,
        )
    splits.push_to_hub("user/corpus")
    return "user/corpus"


@dataclass
class Pushed:
    """A finished run and where it went."""

    repo: str
    folder: Path
    printed: str
    errors: str
    corpus: str

    @property
    def facts(self) -> dict:
        return json.loads((self.folder / "training.json").read_text())

    @property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text())


@pytest.fixture(scope="module", params=["vit", "convnext"])
def pushed(request, hub, corpus_folder, hub_corpus, tmp_path_factory) -> Pushed:
    """`train_hf.py --push_to_hub`: the ViT on a folder, the ConvNeXt on a Hub dataset."""
    name = request.param
    corpus = str(corpus_folder) if name == "vit" else hub_corpus
    work = tmp_path_factory.mktemp(name)
    repo = f"user/{name}-detector"
    tiny = save_tiny(name, work / "tiny")
    words = ["--dataset", corpus, "--model_name_or_path", tiny, "--output_dir", work / "run"]
    words += ["--measurement_log", work / "measurements.jsonl", "--num_train_epochs", 6]
    words += ["--preprocessing", "native", "--license", "apache-2.0"]
    words += ["--push_to_hub", "--hub_model_id", repo, *SETTINGS]
    printed, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(errors):
        assert train_hf([str(word) for word in words]) == 0, errors.getvalue()
    return Pushed(repo, work / "run", printed.getvalue(), errors.getvalue(), corpus)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[str]:
    """Photographs of several shapes, some with the residue that marks the class `ai`."""
    folder = tmp_path_factory.mktemp("pictures")
    sizes = [(48, 48), (80, 50), (50, 90), (33, 47), (200, 160), (32, 32)]
    for seed, size in enumerate(sizes):
        draw_picture(size, seed=100 + seed, residue=bool(seed % 2)).save(folder / f"{seed}.png")
    return [str(path) for path in sorted(folder.iterdir())]


def uploaded(hub, repo: str, revision: str = "main") -> dict[str, bytes]:
    """What is on the Hub, without what the Hub itself put there."""
    return {
        path: content
        for path, content in hub.files(repo, revision=revision).items()
        if path != ".gitattributes"
    }


# The push


def test_a_run_arrives_whole_in_one_commit(hub, pushed):
    files = uploaded(hub, pushed.repo)
    plots = {path for path in files if re.fullmatch(r"plots/[\w-]+\.png", path)}
    assert len(plots) >= 3
    served = {"handler.py", "requirements.txt"}  # for Inference Endpoints
    assert set(files) - plots - served == FILES | (
        {EVAL_RESULTS} if pushed.corpus == "user/corpus" else set()
    )
    assert {
        name
        for name in files
        if name in FILES and (pushed.folder / name).read_bytes() != files[name]
    } == set()
    assert [commit.title for commit in hub.history(pushed.repo)][1:] == ["initial commit"]
    # They were there to be left out.
    assert (
        list(pushed.folder.glob("checkpoint-*/optimizer.pt")) and (pushed.folder / ".lock").exists()
    )
    assert f"Pushed to {hub.url}/{pushed.repo}" in pushed.printed
    assert "Traceback" not in pushed.errors
    text = b"".join(
        content for path, content in files.items() if not path.endswith((".png", ".safetensors"))
    )
    assert TOKEN.encode() not in text


def test_the_card_is_read_by_the_hub_and_its_links_resolve(hub, pushed):
    card = ModelCard.load(pushed.repo)
    info = HfApi().model_info(pushed.repo)
    for data in (card.data, info.card_data):
        assert (data.pipeline_tag, data.library_name, data.license) == (
            "image-classification",
            "transformers",
            "apache-2.0",
        )
        assert {"realfake", "ai-generated-image-detection"} <= set(data.tags)
        assert data.model_name == pushed.repo.split("/")[1]
        measured = json.loads((pushed.folder / "evaluation.json").read_text())["test"]["figures"][
            "summary"
        ]
        found = {result.metric_type: result for result in data.eval_results}
        assert set(found) >= {"accuracy", "roc_auc", "f1", "expected_calibration_error"}
        assert found["accuracy"].metric_value == round(measured["accuracy"]["value"], 4)
        assert found["roc_auc"].metric_value == round(measured["auroc"]["value"], 4)
        assert found["accuracy"].dataset_split == "test"
    assert (info.pipeline_tag, info.library_name) == ("image-classification", "transformers")
    assert f'pipeline("image-classification", model="{pushed.repo}")' in card.content
    linked = set(re.findall(r"\]\((?!https?:|#)([^)]+)\)", card.content))
    assert linked and linked <= set(hub.files(pushed.repo))
    assert {path for path in linked if path.endswith(".png")} == {
        path for path in hub.files(pushed.repo) if path.endswith(".png")
    }


def test_figures_on_a_hub_corpus_go_to_its_leaderboard(hub, pushed):
    card = ModelCard.load(pushed.repo)
    if pushed.corpus != "user/corpus":
        assert EVAL_RESULTS not in hub.files(pushed.repo) and card.data.datasets is None
        return
    entries = parse_eval_result_entries(yaml.safe_load(hub.files(pushed.repo)[EVAL_RESULTS]))
    assert [entry.dataset_id for entry in entries] == ["user/corpus"]
    accuracy = json.loads((pushed.folder / "evaluation.json").read_text())["test"]["figures"][
        "summary"
    ]
    assert entries[0].value == round(accuracy["accuracy"]["value"], 4)
    assert card.data.datasets == ["user/corpus"]
    assert {result.dataset_type for result in card.data.eval_results} == {"user/corpus"}


# The pull


def test_the_stock_pipeline_gives_the_detectors_calibrated_probabilities(hub, pushed, pictures):
    classifier = pipeline("image-classification", model=pushed.repo)
    assert hub.requests_to(f"^/{pushed.repo}/resolve/.*/model.safetensors$", "GET"), (
        "it was not downloaded"
    )
    detector = Detector.from_pretrained(pushed.repo)
    assert detector.revision == hub.history(pushed.repo)[0].oid
    scores = [{entry["label"]: entry["score"] for entry in found} for found in classifier(pictures)]
    predictions = detector.predict(pictures)
    for score, prediction in zip(scores, predictions, strict=True):
        assert set(score) == set(NAMES)
        for name in NAMES:
            assert score[name] == pytest.approx(prediction.probabilities[name], abs=1e-5)
    assert len({round(prediction.log_odds, 4) for prediction in predictions}) == len(pictures)

    # The pushed log-odds are those of the best checkpoint, divided by T and shifted by b.
    facts = pushed.config["realfake"]["calibration"]
    assert abs(facts["temperature"] - 1) > 0.02 and facts["folded"] is True
    step = pushed.facts["best_step"]
    model = AutoModelForImageClassification.from_pretrained(
        pushed.folder / f"checkpoint-{step}"
    ).eval()
    raw = log_odds_from_logits(
        Detector(model, detector.processor).logits(pictures), detector.class_indices
    )
    calibrated = np.asarray([prediction.log_odds for prediction in predictions])
    expected = raw / facts["temperature"] + facts["bias"]
    # The pushed weights were rounded to fp16, and nothing else lies between the two.
    np.testing.assert_allclose(calibrated, expected, atol=4e-3 * np.abs(expected).max())
    assert np.abs(calibrated - raw).max() > 10 * np.abs(calibrated - expected).max()


@contextmanager
def space(folder: Path, model: str, **more: str):
    """Serve the page with its own cache, and yield a client."""
    from gradio_client import Client

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        with serving_here(folder, REALFAKE_MODEL=model, **more) as url:
            yield Client(url, verbose=False, download_files=str(folder))


def test_the_space_gives_the_same_probabilities(hub, pushed, pictures, tmp_path, caplog):
    from gradio_client import handle_file

    repo = named = pushed.repo
    if "convnext" in repo:
        # Named by its revision, while the main branch of a copy has moved on to something unusable.
        repo = "user/moved-on"
        hub.put(repo, uploaded(hub, pushed.repo))
    revision = hub.history(repo)[0].oid
    detector = Detector.from_pretrained(repo, revision=revision)
    if repo != named:
        named = f"{repo}@{revision}"
        hub.put(repo, {"config.json": "{}"}, title="Break it")
    with space(tmp_path, named) as client:
        answers = [client.predict(handle_file(path), api_name="/predict") for path in pictures[:3]]
    for path, answer in zip(pictures, answers):
        expected = detector.predict(path)
        for name in NAMES:
            assert answer["probabilities"][name] == pytest.approx(
                expected.probabilities[name], abs=1e-5
            )
        assert (answer["verdict"], answer["label"]) == (expected.verdict, expected.label)
        assert (answer["model"], answer["revision"]) == (repo, revision)
    assert "could not be opened" not in caplog.text
    assert hub.requests_to(f"^/{repo}/resolve/.*/evaluation.json$", "GET")


def test_a_space_without_its_model_answers_with_the_bundled_one(
    hub, tiny_vit, pictures, tmp_path, monkeypatch, caplog
):
    from gradio_client import handle_file

    bundled = bundle(tiny_vit, tmp_path, monkeypatch)
    with space(tmp_path, "user/unknown", REALFAKE_FALLBACK="bundled") as client:
        answer = client.predict(handle_file(pictures[0]), api_name="/predict")
        page = json.dumps(client.config)
    expected = Detector.from_pretrained(bundled).predict(pictures[0])
    assert answer["probabilities"][AI] == pytest.approx(expected.probabilities[AI], abs=1e-5)
    assert answer["model"] == "bundled"
    assert "user/unknown could not be loaded" in page
    assert "user/unknown could not be opened" in caplog.text


def bundle(checkpoint: Path, folder: Path, monkeypatch) -> Path:
    """Make a copy of a checkpoint the bundled one."""
    bundled = shutil.copytree(checkpoint, folder / "bundled")
    monkeypatch.setattr("realfake.detector.DEFAULT_CHECKPOINT", bundled)
    monkeypatch.setattr(loading, "DEFAULT_CHECKPOINT", bundled)
    return bundled


@pytest.mark.parametrize("trouble", ["unknown", "revision", "down", "evaluation"])
def test_which_detector_the_space_opens_in_trouble(hub, tiny_vit, tmp_path, monkeypatch, trouble):
    bundle(tiny_vit, tmp_path, monkeypatch)
    hub.put(
        "user/served",
        {path.name: path.read_bytes() for path in tiny_vit.iterdir()} | {"evaluation.json": "{}"},
    )
    named = {"unknown": "user/unknown", "revision": "user/served@absent"}.get(
        trouble, "user/served"
    )
    if trouble == "evaluation":
        hub.fail_next("/user/served/resolve/.*/evaluation.json", "drop", times=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        if trouble == "down":
            with LoopbackHub() as gone:
                pass
            point_clients_at(gone, patch)
        _without_waiting(patch)
        loaded = loading.load({"REALFAKE_MODEL": named, "REALFAKE_FALLBACK": "bundled"})
    if trouble == "evaluation":
        # Its figures could not be had; the detector could.
        assert (loaded.detector.name, loaded.missing, loaded.evaluation) == (
            "user/served",
            None,
            None,
        )
    else:
        assert loaded.detector.name == "bundled"
        assert loaded.missing == named.split("@")[0]


# A corpus on the Hub


def test_a_corpus_is_loaded_by_its_id_split_names_and_revision(hub, hub_corpus, corpus_folder):
    corpus = load_corpus(hub_corpus)
    assert {split: len(rows) for split, rows in corpus.splits.items()} == SPLITS
    local = load_corpus(corpus_folder)
    for split in SPLITS:
        mine = sorted((row["image"]["bytes"], row["label"]) for row in corpus.splits[split])
        theirs = sorted(
            (Path(row["image"]["path"]).read_bytes(), row["label"]) for row in local.splits[split]
        )
        assert mine == theirs
    assert set(corpus.splits["test"]["generator"]) == {"checker", "none"}

    parts = DatasetDict(
        fit=corpus.splits["train"].select(range(0, 64, 2)),
        dev=corpus.splits["validation"].select(range(0, 48, 2)),
        exam=corpus.splits["test"],
    )
    parts = parts.cast_column("image", Image())
    parts.push_to_hub("user/renamed")
    HfApi().create_tag("user/renamed", tag="v1", repo_type="dataset")
    parts["exam"] = parts["exam"].select(range(6, 18))
    parts.push_to_hub("user/renamed")
    named = {"train_split": "fit", "validation_split": "dev", "test_split": "exam"}
    for revision, rows in (("v1", 24), (None, 12)):
        splits = load_corpus("user/renamed", revision=revision, **named).splits
        assert {split: len(part) for split, part in splits.items()} == {
            "train": 32,
            "validation": 24,
            "test": rows,
        }


def test_a_repository_of_image_files_is_loaded_and_streamed(hub, tmp_path):
    for seed, split in enumerate(SPLITS):
        draw_corpus(tmp_path / "files" / split, n=8, seed=seed)
    hub.put("user/files", tmp_path / "files", repo_type="dataset")
    whole = load_corpus("user/files").splits
    streamed = load_corpus("user/files", streaming=True).splits
    assert {split: len(rows) for split, rows in whole.items()} == dict.fromkeys(SPLITS, 8)
    assert isinstance(streamed["train"], datasets.IterableDataset)
    for split in SPLITS:
        mine = {row["image"]["bytes"]: row["label"] for row in streamed[split]}
        folder = tmp_path / "files" / split
        theirs = {
            path.read_bytes(): NAMES.index(path.parent.name) for path in folder.rglob("*.jpg")
        }
        assert mine == theirs


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        (
            "user/absent",
            {},
            ["neither a local file or folder user/absent nor a Hub dataset", "hf auth login"],
        ),
        (
            "user/secret",
            {"token": "hf_other"},
            ["user/secret", "if it is private", "hf auth login"],
        ),
        (
            "user/gated",
            {"token": "hf_other"},
            ["user/gated is gated", "accept its conditions", "hf auth login"],
        ),
        (
            "user/investigated",
            {},
            ["neither a local file or folder user/investigated nor a Hub dataset"],
        ),
        ("user/corpus", {"revision": "absent"}, ["no revision 'absent'"]),
        ("user/corpus", {"config_name": "absent"}, ["--dataset_config"]),
        ("user/empty", {}, ["user/empty holds no data files"]),
    ],
)
def test_a_dataset_that_cannot_be_had_ends_in_one_line(
    hub, hub_corpus, dataset, options, words, streaming
):
    hub.tokens["hf_other"] = "other"
    for name in ("secret", "gated"):
        hub.put(
            f"user/{name}", {"train/real/a.jpg": b"", "train/ai/b.jpg": b""}, repo_type="dataset"
        )
    hub.repos["dataset", "user/secret"].private = True
    hub.repos["dataset", "user/gated"].gated = "auto"
    hub.put("user/empty", {"README.md": "# Nothing"}, repo_type="dataset")
    with pytest.raises((OSError, ValueError)) as raised:
        load_corpus(dataset, streaming=streaming, **options)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message


# A run on a streamed corpus, and pushes that fail


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_hf", ROOT / "train_hf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(script, monkeypatch, capsys, tmp_path):
    """Give a command to `train_hf.py` in this process; returns its status and what it printed."""

    def train(*arguments):
        log = ["--measurement_log", str(tmp_path / "measurements.jsonl")]
        monkeypatch.setattr(sys, "argv", ["train_hf.py", *map(str, arguments), *log, *SETTINGS])
        status = script.main()
        return status, capsys.readouterr()

    return train


def error_line(printed: str) -> str:
    (line,) = [line for line in printed.splitlines() if line.startswith("realfake: error:")]
    assert "Traceback" not in printed
    return line


def run_printed_command(hub, line: str, cwd: Path) -> subprocess.CompletedProcess:
    """Give the command at the end of an error line to a shell's `hf`."""
    words = shlex.split(line.partition("push it again with: ")[2])
    assert words[:2] == ["hf", "upload"], line
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hf")), *words[1:]],
        env=environment(hub),
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_streamed_hub_corpus_trains_and_a_refused_push_can_be_repeated(
    hub, hub_corpus, tiny_vit, train, tmp_path
):
    hub.refuse_pushes(403)
    folder = tmp_path / "streamed"
    status, printed = train(
        "--dataset",
        hub_corpus,
        "--corpus_name",
        "Drawn pictures",
        "--streaming",
        "--max_steps",
        6,
        "--model_name_or_path",
        tiny_vit,
        "--output_dir",
        folder,
        "--push_to_hub",
        "--hub_model_id",
        "user/streamed",
    )
    assert status == 2
    line = error_line(printed.err)
    assert "user/streamed" in line and "403" in line and str(folder) in line
    assert json.loads((folder / "training.json").read_text())["steps"] == 6
    figures = json.loads((folder / "evaluation.json").read_text())
    assert figures["test"]["figures"]["n"] == {"real": 12, "ai": 12}
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results and "Drawn pictures" in card.content
    assert {path.name for path in folder.iterdir()} >= FILES and list(folder.glob("plots/*.png"))
    assert set(hub.files("user/streamed")) == {".gitattributes"}

    # A finished run is not trained again in order to push it.
    status, printed = train(
        "--dataset",
        hub_corpus,
        "--model_name_or_path",
        tiny_vit,
        "--output_dir",
        folder,
        "--streaming",
        "--max_steps",
        6,
    )
    assert status == 2 and "finished run" in error_line(printed.err)

    hub.refuse_pushes(None)
    run_printed_command(hub, line, tmp_path)
    files = uploaded(hub, "user/streamed")
    endpoint = {"handler.py", "requirements.txt"}
    assert {path for path in files if not path.startswith("plots/")} == FILES | {
        EVAL_RESULTS
    } | endpoint
    assert len(hub.history("user/streamed")) == 2
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[EVAL_RESULTS]))
    assert entry.dataset_id == "user/corpus"
    log_odds = Detector.from_pretrained("user/streamed").log_odds([draw_picture(48, seed=5)])
    assert np.isfinite(log_odds).all()


@pytest.mark.parametrize(("token", "known"), [("", "hf auth login"), ("hf_wrong", "hf auth login")])
def test_without_a_token_nothing_is_trained(
    hub, corpus_folder, tiny_vit, train, tmp_path, monkeypatch, token, known
):
    monkeypatch.setenv("HF_TOKEN", token)
    status, printed = train(
        "--dataset",
        corpus_folder,
        "--model_name_or_path",
        tiny_vit,
        "--output_dir",
        tmp_path / "run",
        "--push_to_hub",
        "--hub_model_id",
        "user/never",
    )
    assert status == 2
    line = error_line(printed.err)
    assert known in line and "hf_wrong" not in line
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock"}


def test_a_missing_corpus_ends_the_run_in_one_line(hub, tiny_vit, train, tmp_path):
    status, printed = train(
        "--dataset",
        "user/absent",
        "--model_name_or_path",
        tiny_vit,
        "--output_dir",
        tmp_path / "run",
    )
    assert status == 2 and "user/absent" in error_line(printed.err)


def _without_waiting(patch) -> None:
    """The client waits longer and longer between its attempts; here it need not."""
    from huggingface_hub.utils import _http

    impatient = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    patch.setattr(_http, "time", impatient)


@pytest.mark.parametrize(
    "trouble",
    ["dropped commit", "lost while sending", "500", "403", "expired token", "no token", "no hub"],
)
@pytest.mark.parametrize("pushed", ["convnext"], indirect=True)
def test_a_failed_push_leaves_the_folder_whole_and_names_the_command(
    hub, pushed, tmp_path, capsys, trouble
):
    folder = tmp_path / "a folder"  # the command has to quote it
    shutil.copytree(pushed.folder, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    repo = f"user/{tmp_path.name}"
    args = RunArguments(output_dir=str(folder), hub_model_id=repo)
    with pytest.MonkeyPatch.context() as patch:
        _without_waiting(patch)
        if trouble == "dropped commit":
            hub.fail_next(rf"/{repo}/commit/", "drop", times=100)
        elif trouble == "500":
            hub.fail_next(rf"/{repo}/commit/", 500, times=100)
        elif trouble == "403":
            hub.refuse_pushes(403)
        elif trouble == "lost while sending":
            hub.fail_next("^/lfs/", "drop", times=100, method="PUT")
            hub.objects.clear()
        elif trouble == "expired token":
            args.hub_token = "hf_expired"
        elif trouble == "no token":
            patch.setenv("HF_TOKEN", "")
        else:
            with LoopbackHub() as gone:
                pass
            point_clients_at(gone, patch)
        status = publishing.push(args)
    assert status == 2
    line = error_line(capsys.readouterr().err)
    assert f"The push to {repo} failed" in line and "hf_expired" not in line and len(line) < 1400
    assert ".git" not in line, "the client's own patterns are no business of the reader's"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert ("model", repo) not in hub.repos or len(hub.history(repo)) == 1

    hub.refuse_pushes(None)
    hub.faults.clear()
    run_printed_command(hub, line, tmp_path)
    reference = hub.history(pushed.repo)[-2].files
    assert {path: blob.content for path, blob in hub.history(repo)[0].files.items()} == {
        path: blob.content for path, blob in reference.items()
    }
    assert publishing.push(args) == 0 or trouble == "expired token"


def test_a_second_push_replaces_the_figures_of_the_first(hub, pushed, tmp_path):
    """Other weights with other measurements: old figures must not stay on the Hub."""
    folder = shutil.copytree(pushed.folder, tmp_path / "run")
    repo = f"user/{tmp_path.name}"
    hub.put(
        repo,
        {
            EVAL_RESULTS: "old",
            "plots/old.png": b"old",
            "scores-old.parquet": b"old",
            "notes.md": "somebody's own",
        },
    )
    assert publishing.push(RunArguments(output_dir=str(folder), hub_model_id=repo)) == 0
    files = uploaded(hub, repo)
    assert files.pop("notes.md") == b"somebody's own"
    assert set(files) == set(hub.history(pushed.repo)[-2].files) - {".gitattributes"}
    assert files.get(EVAL_RESULTS) != b"old"
    assert [commit.title for commit in hub.history(repo)][1:] == ["Upload", "initial commit"]


@pytest.mark.parametrize("pushed", ["convnext"], indirect=True)
def test_a_push_to_a_branch_and_to_a_name_without_owner(hub, pushed, tmp_path, capsys):
    args = RunArguments(
        output_dir=str(pushed.folder), hub_model_id=tmp_path.name, hub_revision="trial-v2"
    )
    publishing.check_login(args)
    assert args.hub_model_id == f"user/{tmp_path.name}"
    hub.refuse_pushes(403)
    assert publishing.push(args) == 2
    line = error_line(capsys.readouterr().err)
    hub.refuse_pushes(None)
    assert publishing.push(args) == 0
    first = hub.history(args.hub_model_id, revision="trial-v2")
    assert set(uploaded(hub, args.hub_model_id, "trial-v2")) >= FILES
    assert set(hub.files(args.hub_model_id)) == {".gitattributes"}
    run_printed_command(hub, line, tmp_path)
    assert hub.history(args.hub_model_id, revision="trial-v2")[0].files == first[0].files
    assert set(hub.files(args.hub_model_id)) == {".gitattributes"}
