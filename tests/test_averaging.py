"""Averaged weights: values by hand, measurements, saved files, and interrupted runs."""

import numpy as np
import pytest
import torch
from helpers.tiny import save_tiny
from helpers.training import arguments, rows, trainer_for
from safetensors.torch import load_file
from transformers import TrainerCallback

from realfake.training.optimization import UNAVERAGED_NAME, WeightAverage


@pytest.fixture(scope="module")
def sixteen():
    return rows(16)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """With batch normalisation."""
    return save_tiny("resnet", tmp_path_factory.mktemp("tiny") / "resnet")


def small_net() -> torch.nn.Module:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    net[1].register_buffer("again", net[1].running_mean, persistent=False)  # tied
    return net


def test_the_average_by_hand():
    net = small_net()
    torch.nn.init.constant_(net[0].weight, 1.0)
    average = WeightAverage(net, 0.5)
    expected = {"0.weight": 1.0, "1.running_mean": 0.0}
    for step in (1, 2, 3, 20):
        with torch.no_grad():
            net[0].weight.fill_(10.0 * step)
            net[1].running_mean.fill_(-step)
            net[1].num_batches_tracked.fill_(step)
        average.update(step)
        decay = {1: 2 / 11, 2: 3 / 12, 3: 4 / 13, 20: 0.5}[step]
        expected["0.weight"] = decay * expected["0.weight"] + (1 - decay) * 10 * step
        expected["1.running_mean"] = decay * expected["1.running_mean"] + (1 - decay) * -step
    with average.in_place():
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for name, value in expected.items():
        assert state[name].item() == pytest.approx(value, rel=1e-6), name
    assert state["1.num_batches_tracked"].item() == 20
    assert net[0].weight.item() == 200 and net[1].running_mean.item() == -20, "the weights are back"
    with pytest.raises(ZeroDivisionError), average.in_place():
        raise ZeroDivisionError
    assert net[0].weight.item() == 200
    average.adopt()
    assert net[0].weight.item() == pytest.approx(expected["0.weight"], rel=1e-6)


class Weights(TrainerCallback):
    """Writes down the weights that are trained, after every step."""

    def __init__(self, model):
        self.seen = [self.copy(model)]

    @staticmethod
    def copy(model):
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(self.copy(model))


def averaged(seen, decay) -> list[dict]:
    """The averages after each step, by the definition, in double precision."""
    average = {name: tensor.double() for name, tensor in seen[0].items()}
    history = []
    for step, weights in enumerate(seen[1:], start=1):
        d = min(decay, (1 + step) / (10 + step))
        average = {
            name: d * average[name] + (1 - d) * tensor.double()
            if tensor.is_floating_point()
            else tensor.double()
            for name, tensor in weights.items()
        }
        history.append(average)
    return history


def assert_close(state, expected):
    assert set(state) == set(expected)
    for name, tensor in state.items():
        torch.testing.assert_close(
            tensor.double(), expected[name].double(), atol=1e-5, rtol=1e-5, msg=name
        )


SAVING = {
    "save_strategy": "epoch",
    "eval_strategy": "epoch",
    "num_train_epochs": 3,
    "save_total_limit": None,
}


def test_the_average_is_what_is_measured_and_saved(resnet, sixteen, tmp_path):
    args = arguments(tmp_path, ema_decay=0.6, **SAVING)
    trainer = trainer_for(resnet, sixteen, args)
    weights = Weights(trainer.model)
    trainer.add_callback(weights)
    trainer.train()
    expected = averaged(weights.seen, 0.6)
    assert len(expected) == 6
    measured = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    model = trainer.plain_model()
    assert_close(model.state_dict(), expected[-1])
    for epoch, loss in enumerate(measured, start=1):
        folder = tmp_path / f"checkpoint-{2 * epoch}"
        stored = type(model).from_pretrained(folder)
        assert_close(stored.state_dict(), expected[2 * epoch - 1])
        raw = load_file(folder / UNAVERAGED_NAME)
        for name, tensor in weights.seen[2 * epoch].items():
            assert torch.equal(raw[name], tensor), name
        model.load_state_dict(stored.state_dict())
        assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, abs=1e-6)
    assert any(
        not torch.allclose(expected[-1][name].float(), tensor, atol=1e-4)
        for name, tensor in weights.seen[-1].items()
    ), "the average is something else than the weights"


def test_the_best_checkpoint_is_an_average_and_stays_one(resnet, sixteen, tmp_path):
    args = arguments(
        tmp_path, ema_decay=0.6, load_best_model_at_end=True, greater_is_better=True, **SAVING
    )
    trainer = trainer_for(resnet, sixteen, args)
    trainer.train()
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    stored = type(trainer.model).from_pretrained(trainer.state.best_model_checkpoint).state_dict()
    for name, tensor in trainer.plain_model().state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(losses), abs=1e-6)


def test_a_resumed_run_has_the_same_average(resnet, sixteen, tmp_path):
    whole = trainer_for(resnet, sixteen, arguments(tmp_path / "whole", ema_decay=0.6, **SAVING))
    whole.train()
    resumed = trainer_for(resnet, sixteen, arguments(tmp_path / "resumed", ema_decay=0.6, **SAVING))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, tensor in whole.plain_model().state_dict().items():
        assert torch.equal(tensor, resumed.plain_model().state_dict()[name]), name
    for name, tensor in load_file(tmp_path / "whole" / "checkpoint-6" / UNAVERAGED_NAME).items():
        assert torch.equal(
            tensor, load_file(tmp_path / "resumed" / "checkpoint-6" / UNAVERAGED_NAME)[name]
        ), name
    curves = [
        [
            row[key]
            for key in ("loss", "eval_loss")
            for row in trainer.state.log_history
            if key in row
        ]
        for trainer in (whole, resumed)
    ]
    np.testing.assert_array_equal(*curves)


@pytest.mark.parametrize("before, after", [(0.6, 0.0), (0.0, 0.6)])
def test_averaging_can_be_switched_on_and_off_between_interruptions(
    before, after, resnet, sixteen, tmp_path
):
    first = trainer_for(resnet, sixteen, arguments(tmp_path, ema_decay=before, **SAVING))
    weights = Weights(first.model)
    first.add_callback(weights)
    first.train()
    second = trainer_for(resnet, sixteen, arguments(tmp_path / "second", ema_decay=after, **SAVING))
    seen = Weights(second.model)
    second.add_callback(seen)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    # The training continues from the trained weights, not from their average.
    for name, tensor in weights.seen[-1].items():
        assert torch.equal(tensor, seen.seen[-1][name]), name


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decays_that_make_no_sense(decay, tmp_path):
    with pytest.raises(ValueError, match="--ema_decay must lie in"):
        arguments(tmp_path, ema_decay=decay)
