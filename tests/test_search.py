"""The hyperparameter search: draws reach the training, history is kept, it continues."""

import json

import optuna
import pytest
from helpers.tiny import draw_corpus, save_tiny
from helpers.training import last_line, main

from realfake.training.arguments import ModelArguments, RunArguments
from realfake.training.model import prepare_classifier
from realfake.training.search import search_space
from realfake.training.trainer import DetectorTrainer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("searched") / "corpus", n=72, size=32)


@pytest.fixture
def measured(monkeypatch):
    """What was in force at every measurement."""
    seen = []
    original = DetectorTrainer.evaluation_loop

    def watched(self, *args, **kwargs):
        seen.append(
            {
                "learning_rate": self.optimizer.param_groups[0]["initial_lr"],
                "weight_decay": max(group["weight_decay"] for group in self.optimizer.param_groups),
                "per_device_train_batch_size": self.get_train_dataloader().total_batch_size,
                "augmentation": self.train_dataset.augmentation.strength,
                "dropout": self.model.config.hidden_dropout_prob,
                "p": {m.p for m in self.model.modules() if type(m).__name__ == "Dropout"},
            }
        )
        return original(self, *args, **kwargs)

    monkeypatch.setattr(DetectorTrainer, "evaluation_loop", watched)
    return seen


def test_a_search_that_is_continued(corpus, tiny_vit, measured, tmp_path, capsys):
    folder = tmp_path / "search"
    words = ["--num_train_epochs", "1", "--metric_for_best_model", "auroc"]
    assert main(corpus, folder, *words, "--search", "2", model=tiny_vit) == 0
    first = json.loads((folder / "search.json").read_text())
    assert [trial["state"] for trial in first["trials"]] == ["complete"] * 2
    for trial, force in zip(first["trials"], measured, strict=True):
        expected = dict(trial["params"])
        for name, value in expected.items():
            assert force[name] == pytest.approx(value), name
        assert expected["dropout"] in force["p"]
        assert 3e-4 <= expected["learning_rate"] <= 3e-2 and expected[
            "per_device_train_batch_size"
        ] in (8, 16, 32)
        assert 0 <= trial["value"] <= 1 and list(trial["curve"].values()) == [trial["value"]]
    assert measured[0]["learning_rate"] != measured[1]["learning_rate"]
    assert not (folder / "model.safetensors").exists() and not list(folder.glob("checkpoint-*"))

    storage = f"sqlite:///{folder / 'study.db'}"
    study = optuna.load_study(study_name="search", storage=storage)
    study.ask()  # a trial that the process did not live to finish
    capsys.readouterr()
    assert main(corpus, folder, *words, "--search", "3", model=tiny_vit) == 0
    said = capsys.readouterr().out
    assert "Continuing the search: 2 of 3 trials are done." in said
    found = json.loads((folder / "search.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == [
        "complete",
        "complete",
        "fail",
        "complete",
    ]
    assert found["trials"][:2] == first["trials"] and len(measured) == 3
    values = {
        trial["number"]: trial["value"] for trial in found["trials"] if trial["state"] == "complete"
    }
    assert found["best"] == max(values, key=values.get) and found["direction"] == "maximize"
    best = found["trials"][found["best"]]["params"]
    assert f"--learning_rate {best['learning_rate']:.4g}" in found["command"]
    assert "--search" not in found["command"] and found["command"].count("--learning_rate") == 1
    assert found["command"] in said

    assert main(corpus, folder, *words, "--search", "3", model=tiny_vit) == 0
    assert len(measured) == 3, "nothing is left to do"
    assert (
        main(corpus, folder, *words, "--search", "4", "--weight_decay", "0.2", model=tiny_vit) == 2
    )
    assert "holds a search with other options" in last_line(capsys)


@pytest.mark.parametrize(
    "architecture, dropout", [("vit", True), ("convnextv2", False), ("mobilenet_v2", True)]
)
def test_dropout_is_drawn_where_there_is_one(architecture, dropout, tmp_path):
    args = RunArguments(output_dir=str(tmp_path), learning_rate=1e-4, per_device_train_batch_size=1)
    model_args = ModelArguments(model_name_or_path=str(save_tiny(architecture, tmp_path / "m")))
    model, _ = prepare_classifier(model_args)
    before = model.config.to_dict()
    suggest = search_space(args, model)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        drawn = suggest(trial)
        assert ("dropout" in drawn) == dropout and drawn == suggest(trial), (
            "the same trial, the same options"
        )
        assert 1e-5 <= drawn["learning_rate"] <= 1e-3 and drawn["per_device_train_batch_size"] in (
            1,
            2,
        )
        assert 1e-3 <= drawn["weight_decay"] <= 0.3 and 0 <= drawn["augmentation"] <= 1
    assert model.config.to_dict() == before


@pytest.mark.parametrize(
    "words, message",
    [
        (["--search", "-1"], "--search must be at least 0"),
        (
            ["--search", "2", "--early_stopping_patience", "1"],
            "leave out --early_stopping_patience",
        ),
        (["--search", "2", "--dry_run"], "--dry_run"),
    ],
)
def test_mistakes(words, message, corpus, tiny_vit, tmp_path, capsys):
    assert main(corpus, tmp_path / "s", *words, model=tiny_vit) == 2
    assert message in last_line(capsys)
