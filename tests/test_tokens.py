"""Access tokens of the Hub are in no file that a run, a push, a series or a search writes."""

import pickle

import pytest
from helpers.tiny import draw_corpus
from helpers.training import command, last_line, train_hf

from realfake import io
from realfake.cli.main import main
from realfake.training import publishing
from realfake.training.arguments import RunArguments

# Too short to look like a token: only the option tells.
TOKEN = "hf_plant"


def assert_nowhere(folder, token=TOKEN) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files and not [path for path in files if token.encode() in path.read_bytes()]


@pytest.fixture
def corpus(tmp_path):
    """A corpus with two generators, outside the folder of the runs."""
    drawn = draw_corpus(tmp_path / "drawn", n=80, size=32)
    for name, label, n in (("leica", "real", 40), ("a", "ai", 20), ("b", "ai", 20)):
        target = tmp_path / "corpus" / name / label
        target.mkdir(parents=True)
        for path in sorted((drawn / label).iterdir())[:n]:
            path.rename(target / f"{name}-{path.name}")
    return tmp_path / "corpus"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--hub_token", TOKEN, "--bf16"], ["--hub_token", "…", "--bf16"]),
        ([f"--hub_token={TOKEN}"], ["--hub_token=…"]),
        (["--hub-token", TOKEN], ["--hub-token", "…"]),
        (["--hub_tok", TOKEN], ["--hub_tok", "…"]),
        (["--token", TOKEN], ["--token", "…"]),
        ([f"HF_TOKEN={TOKEN}"], ["HF_TOKEN=…"]),
        (["--model", "https://u:hf_abcdefghijkl@host"], ["--model", "https://u:hf_…@host"]),
        (
            ["train_hf.py", "--hub_model_id", "user/hf_x"],
            ["train_hf.py", "--hub_model_id", "user/hf_x"],
        ),
        (["--", "hf_runs"], ["--", "hf_runs"]),
    ],
)
def test_redaction(words, expected):
    assert io.redact(words) == expected


def test_an_abbreviation_is_refused_and_not_repeated(corpus, tmp_path, capsys):
    out = tmp_path / "runs" / "run"
    for words in (["--hub_tok", TOKEN], [f"--hub_tok={TOKEN}"]):
        assert train_hf([*command(corpus, out, "--model_type", "vit"), *words]) == 2
        line = last_line(capsys)
        assert "--hub_tok" in line and TOKEN not in line
    assert not out.exists()


def test_a_pickle_of_the_arguments_has_no_token(tmp_path):
    args = RunArguments(output_dir=str(tmp_path), hub_token=TOKEN)
    assert args.hub_token == TOKEN
    assert pickle.loads(pickle.dumps(args)).hub_token is None


@pytest.mark.parametrize("way", ["--hub_token X", "--hub_token=X", "--hub-token X", "HF_TOKEN"])
def test_a_run_and_its_push(way, hub, corpus, tiny_vit, tmp_path, monkeypatch):
    hub.tokens[TOKEN] = "user"
    out = tmp_path / "runs" / "run"
    words = command(corpus, out, "--num_train_epochs", "1", model=tiny_vit)
    words += ["--push_to_hub", "--hub_model_id", "user/run", "--report_to", "tensorboard"]
    if way == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        words += way.replace("X", TOKEN).split()
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs" / "board"))
    assert train_hf(words) == 0
    assert list(out.glob("checkpoint-*/training_args.bin"))
    assert_nowhere(tmp_path / "runs")
    pushed = hub.files("user/run")
    assert "README.md" in pushed and hub.repos["model", "user/run"].private
    assert not [path for path, content in pushed.items() if TOKEN.encode() in content]


@pytest.mark.parametrize("options, private", [({}, True), ({"hub_private_repo": False}, False)])
def test_a_push_is_private_unless_asked_otherwise(options, private, hub, tmp_path):
    hub.tokens[TOKEN] = "user"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "README.md").write_text("# A card")
    repo = f"user/{private}"
    args = RunArguments(output_dir=str(folder), hub_model_id=repo, hub_token=TOKEN, **options)
    assert publishing.push(args) == 0
    assert hub.repos["model", repo].private == private


def test_a_series(corpus, tiny_vit, tmp_path, capsys):
    out = tmp_path / "runs"
    words = command(corpus, out, "--num_train_epochs", "1", model=tiny_vit)
    words[words.index("--output_dir")] = "--output"
    words = ["leave-one-out", *words, "--values", "a", f"--hub_token={TOKEN}"]
    status = main(words)
    assert (out / "a" / "words.json").is_file()
    assert_nowhere(out)
    # Another token is not another run.
    assert main([word.replace(TOKEN, "hf_other") for word in words]) == status


def test_a_search(corpus, tiny_vit, tmp_path):
    pytest.importorskip("optuna")
    out = tmp_path / "runs"
    words = command(corpus, out, "--num_train_epochs", "1", model=tiny_vit)
    assert train_hf([*words, "--search", "1", "--hub_token", TOKEN]) == 0
    assert {"study.db", "search.json"} <= {path.name for path in out.iterdir()}
    assert_nowhere(out)
    assert train_hf([*words, "--search=1", "--hub_token", "hf_other"]) == 0
