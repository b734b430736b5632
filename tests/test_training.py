"""The parts of the trainer, and a few steps: what should change changes, the rest stays."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny import draw_picture, save_tiny
from helpers.training import arguments, rows, trainer_for
from PIL import Image
from scipy.special import log_softmax
from transformers import EvalPrediction, TrainerControl, TrainerState

from realfake.evaluation.trainer_metrics import check_metric, metrics_of
from realfake.models.classifiers import load_processor
from realfake.models.folding import select_trainable
from realfake.training.arguments import DataArguments, ModelArguments, RunArguments
from realfake.training.augment import Augmentation
from realfake.training.data import (
    Collator,
    EpochCallback,
    PlainImages,
    StreamedImages,
    TrainingImages,
    training_processor,
)
from realfake.training.model import fix_batch_norm_momentum, prepare_classifier
from realfake.training.optimization import ElapsedCallback, class_weights
from realfake.training.runs import checkpoint_to_resume, last_complete_checkpoint
from realfake.training.trainer import build_trainer, count_labels

LABEL2ID = {"real": 0, "ai": 1}


@pytest.fixture(scope="module")
def sixteen():
    return rows(16)


# --- images


def test_an_image_depends_on_seed_epoch_and_index_alone(sixteen):
    def images(seed=0, epoch=0):
        made = TrainingImages(sixteen, Augmentation(1.0), LABEL2ID, seed)
        made.epoch = epoch
        return made

    def pixels(made, index):
        return np.asarray(made[index]["image"]).tobytes()

    first = [pixels(images(), index) for index in range(8)]
    assert [pixels(images(), index) for index in reversed(range(8))] == first[::-1], (
        "in any order, in any process"
    )
    for other in (images(epoch=1), images(seed=1)):
        assert sum(pixels(other, index) != first[index] for index in range(8)) >= 6
    same = [
        np.asarray(PlainImages(sixteen, LABEL2ID)[index]["image"]).tobytes() for index in range(8)
    ]
    assert sum(a != b for a, b in zip(first, same, strict=True)) >= 6


def test_labels_are_numbered_as_the_model_numbers_them(sixteen):
    names = [["real", "ai"][label] for label in sixteen["label"]]
    for label2id in (LABEL2ID, {"ai": 0, "real": 1}):
        plain = PlainImages(sixteen, label2id)
        trained = TrainingImages(sixteen, Augmentation(0.0), label2id, 0)
        streamed = StreamedImages(sixteen.to_iterable_dataset(), Augmentation(0.0), label2id, 0)
        expected = [label2id[name] for name in names]
        assert [plain[index]["label"] for index in range(16)] == expected
        assert [trained[index]["label"] for index in range(16)] == expected
        assert [row["label"] for row in streamed] == expected


def test_streamed_images_are_augmented_again_on_every_pass(sixteen):
    streamed = StreamedImages(sixteen.to_iterable_dataset(), Augmentation(1.0), LABEL2ID, 0)
    first = [np.asarray(row["image"]).tobytes() for row in streamed]
    assert [np.asarray(row["image"]).tobytes() for row in streamed] == first
    streamed.epoch = 1
    assert (
        sum(
            np.asarray(row["image"]).tobytes() != old
            for row, old in zip(streamed, first, strict=True)
        )
        >= 12
    )


@pytest.mark.parametrize(
    "epochs_of_state, resumed_at, expected",
    [
        ([0, 1.0, 2.0], 0, [0, 1, 2]),
        ([1.5, 2.0], 1.5, [1, 2]),  # in mid-epoch
        ([2.0, 3.0], 2.0, [2, 3]),
        ([0, 0.1, 1.1], 0, [0, 1, 2]),  # a stream: the epoch is a share of max_steps
        ([None], None, [0]),
    ],
)
def test_epoch_callback(epochs_of_state, resumed_at, expected, sixteen):
    images = TrainingImages(sixteen, Augmentation(1.0), LABEL2ID, 0)
    callback = EpochCallback(images)
    callback.on_train_begin(None, TrainerState(epoch=resumed_at), TrainerControl())
    seen = []
    for epoch in epochs_of_state:
        callback.on_epoch_begin(None, TrainerState(epoch=epoch), TrainerControl())
        seen.append(images.epoch)
    assert seen == expected


def test_a_stream_shorter_than_the_run_is_augmented_again(sixteen, tiny_vit, tmp_path):
    trainer = trainer_for(
        tiny_vit,
        sixteen,
        arguments(tmp_path, max_steps=5, per_device_train_batch_size=8),
        data={"augmentation": 1.0},
    )
    stream = StreamedImages(sixteen.to_iterable_dataset(), Augmentation(1.0), LABEL2ID, 0)
    epochs = []
    original = StreamedImages.__iter__

    class Watched(StreamedImages):
        def __iter__(self):
            epochs.append(self.epoch)
            return original(self)

    stream.__class__ = Watched
    trainer.train_dataset = stream
    next(
        cb for cb in trainer.callback_handler.callbacks if isinstance(cb, EpochCallback)
    ).images = stream
    trainer.train()
    assert trainer.state.global_step == 5
    assert epochs == [0, 1, 2]  # two steps a pass


def test_training_processor_leaves_the_crop_to_the_augmentation(tmp_path):
    processor = load_processor(save_tiny("mobilenet_v2", tmp_path / "m"))
    picture = draw_picture(24)
    assert Collator(processor)([{"image": picture, "label": 1}])["pixel_values"].shape[-2:] == (
        32,
        32,
    )
    batch = Collator(training_processor(processor, 24))([{"image": picture, "label": 1}])
    assert batch["pixel_values"].shape == (1, 3, 24, 24) and batch["labels"].tolist() == [1]
    levels = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 255
    mean, std = (
        np.asarray(v, dtype=np.float32)[:, None, None]
        for v in (processor.image_mean, processor.image_std)
    )
    np.testing.assert_allclose(batch["pixel_values"][0].numpy(), (levels - mean) / std, atol=1e-5)
    assert processor.do_resize and processor.do_center_crop, (
        "the processor that is saved stays as it was"
    )
    assert training_processor(processor, None).to_dict() == processor.to_dict()


# --- loss and metrics


def test_class_weights_by_hand():
    dataset = rows(8, ai_every=4)  # 2 ai, 6 real
    assert class_weights("none", dataset, LABEL2ID) is None
    assert class_weights("balanced", dataset, LABEL2ID).tolist() == pytest.approx(
        [8 / (2 * 6), 8 / (2 * 2)]
    )
    swapped = class_weights("balanced", dataset, {"ai": 0, "real": 1})
    assert swapped.tolist() == pytest.approx([8 / (2 * 2), 8 / (2 * 6)])
    assert count_labels(dataset) == {"real": 6, "ai": 2}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_by_hand(weighted, smoothing, tiny_vit, tmp_path):
    dataset = rows(8, ai_every=4)
    trainer = trainer_for(
        tiny_vit,
        dataset,
        arguments(tmp_path, label_smoothing_factor=smoothing),
        data={"class_weights": "balanced" if weighted else "none"},
    )
    batch = trainer.data_collator([trainer.eval_dataset[index] for index in range(8)])
    with torch.no_grad():
        logits = trainer.model.eval()(pixel_values=batch["pixel_values"]).logits.double().numpy()
    labels = batch["labels"].numpy()
    log_p = log_softmax(logits, axis=1)
    weights = np.array([2 / 3, 2.0]) if weighted else np.ones(2)
    plain = -(weights[labels] * log_p[np.arange(8), labels]).sum() / weights[labels].sum()
    # torch's label smoothing: the shared part is weighted by class and divided by the weights.
    shared = -(weights * log_p).sum() / 2 / weights[labels].sum()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    assert loss == pytest.approx((1 - smoothing) * plain + smoothing * shared, abs=1e-5)
    trainer.model.eval()
    measured = trainer.compute_loss(trainer.model, dict(batch)).item()
    assert measured == pytest.approx(plain, abs=1e-5), "what is measured is not smoothed"


@pytest.mark.parametrize("batch_size", [3, 7, 16])
def test_the_measured_loss_does_not_depend_on_the_batch_size(
    batch_size, tiny_vit, sixteen, tmp_path
):
    args = arguments(tmp_path, per_device_eval_batch_size=batch_size)
    trainer = trainer_for(tiny_vit, sixteen, args)
    batch = trainer.eval_collator([trainer.eval_dataset[index] for index in range(16)])
    with torch.no_grad():
        logits = trainer.model.eval()(pixel_values=batch["pixel_values"]).logits.double().numpy()
    expected = -log_softmax(logits, axis=1)[np.arange(16), batch["labels"].numpy()].mean()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)


def test_metrics_of_a_prediction():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 3.0]], dtype=np.float32)
    labels = np.array([0, 1, 1, 1])
    values = metrics_of(LABEL2ID)(EvalPrediction(predictions=logits, label_ids=labels))
    assert (
        values["accuracy"] == 0.75
        and values["recall_ai"] == pytest.approx(2 / 3)
        and values["auroc"] == 1
    )
    swapped = metrics_of({"ai": 0, "real": 1})(
        EvalPrediction(predictions=logits[:, ::-1], label_ids=1 - labels)
    )
    assert swapped == pytest.approx(values)


@pytest.mark.parametrize("name", ["loss", "eval_loss", "auroc", "eval_accuracy", None])
def test_metrics_to_choose_by(name, tiny_vit, sixteen, tmp_path):
    check_metric(name)  # raises where there is no such metric
    measured = trainer_for(tiny_vit, sixteen, arguments(tmp_path)).evaluate()
    assert name is None or f"eval_{name.removeprefix('eval_')}" in measured


def test_a_metric_that_there_is_not(tiny_vit, sixteen, tmp_path):
    with pytest.raises(
        ValueError, match="--metric_for_best_model must be one of loss, accuracy,.*not 'acuracy'"
    ):
        trainer_for(tiny_vit, sixteen, arguments(tmp_path, metric_for_best_model="acuracy"))


# --- what moves

# Not part of the forward pass of a classifier, so without a gradient.
UNUSED = ("dinov2.embeddings.mask_token", "vision_model.head.")


@pytest.mark.parametrize(
    "architecture, trainable",
    [
        ("vit", "all"),
        ("vit", "last:1"),
        ("vit", "head"),
        ("dinov2", "all"),
        ("siglip", "all"),
        ("swin", "all"),
        ("convnextv2", "all"),
        ("resnet", "all"),
        ("resnet", "last:1"),
        ("resnet", "head"),
        ("mobilenet_v2", "last:2"),
        ("efficientnet", "head"),
    ],
)
def test_training_moves_what_it_should_and_nothing_else(architecture, trainable, sixteen, tmp_path):
    folder = save_tiny(architecture, tmp_path / "start")
    trainer = trainer_for(
        folder,
        sixteen,
        arguments(tmp_path / "run", num_train_epochs=2, weight_decay=0.0),
        trainable=trainable,
    )
    model = trainer.model
    chosen = set(select_trainable(model, trainable))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.train()
    moved = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    parameters = {name for name, _ in model.named_parameters()}
    still = {name for name in chosen - moved if not name.startswith(UNUSED)}
    assert still == set(), "should have moved"
    assert (moved & parameters) - chosen == set(), "should not have moved"
    # Running statistics move with the layer they belong to.
    for name in set(before) - parameters:
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            layer = name.rpartition(".")[0]
            assert (name in moved) == (f"{layer}.weight" in chosen), name


def test_batch_norm_momentum_is_torchs(tmp_path):
    _, first = (None, torch.nn.BatchNorm2d(3, momentum=0.997))
    model = torch.nn.Sequential(
        first, torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3, momentum=None)
    )
    fix_batch_norm_momentum(model)
    assert [module.momentum for module in model] == [0.01, 0.1, None]


def test_the_best_checkpoint_is_read_back(tiny_vit, sixteen, tmp_path):
    # transformers saves some architectures under older names, which `Trainer` alone does not read.
    # "Best" is the highest loss here, because the model has the last weights in any case.
    args = arguments(
        tmp_path,
        num_train_epochs=3,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        greater_is_better=True,
        learning_rate=1e-3,
    )
    trainer = trainer_for(tiny_vit, sixteen, args, data={"augmentation": 0.0})
    trainer.train()
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert np.argmax(losses) < 2
    best = trainer.state.best_model_checkpoint
    assert best.endswith(f"checkpoint-{2 * (1 + int(np.argmax(losses)))}")
    stored = type(trainer.model).from_pretrained(best)
    for name, tensor in stored.state_dict().items():
        assert torch.equal(tensor, trainer.plain_model().state_dict()[name]), name
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(losses), abs=1e-6)


def test_native_crops_for_training_and_the_centre_for_measuring(sixteen, tmp_path):
    folder = save_tiny("convnext", tmp_path / "start")
    trainer = trainer_for(
        folder,
        sixteen,
        arguments(tmp_path / "run"),
        preprocessing="native",
        data={"train_crop_size": 24, "augmentation": 0.0},
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["pixel_values"].shape == (8, 3, 24, 24)
    measured = next(iter(trainer.get_eval_dataloader()))["pixel_values"]
    assert measured.shape[1:] == (3, 32, 32)
    picture = trainer.eval_dataset[0]["image"]
    levels = np.asarray(picture.crop((4, 4, 36, 36)), dtype=np.float32).transpose(2, 0, 1) / 255
    processor = trainer.eval_collator.processor
    mean, std = (
        np.asarray(v, dtype=np.float32)[:, None, None]
        for v in (processor.image_mean, processor.image_std)
    )
    np.testing.assert_allclose(measured[0].numpy(), (levels - mean) / std, atol=1e-5)
    assert trainer.data_collator is not trainer.eval_collator


def test_a_training_crop_that_the_model_cannot_take(sixteen, tiny_vit, tmp_path):
    with pytest.raises(ValueError, match="cannot take images of 24x24 pixels .*--train_crop_size"):
        trainer_for(
            tiny_vit,
            sixteen,
            arguments(tmp_path),
            preprocessing="native",
            data={"train_crop_size": 24},
        )


# --- interruptions


def test_elapsed_seconds_add_up(monkeypatch):
    clock = iter([100.0, 107.0, 110.0, 500.0, 505.0])
    monkeypatch.setattr("realfake.training.optimization.time.monotonic", lambda: next(clock))
    first = ElapsedCallback()
    batch = {"train_batch_size": 8, "gradient_accumulation_steps": 1, "world_size": 1}
    args = SimpleNamespace(max_minutes=0, **batch)
    first.on_train_begin(args, None, None)
    state = first.state()  # at 107: a checkpoint is saved
    assert state["args"]["seconds"] == 7
    first.on_train_end(None, None, None)
    assert first.seconds == 10 and first.state()["args"]["seconds"] == 10
    resumed = ElapsedCallback.from_state(state)
    resumed.on_train_begin(args, None, None)
    resumed.on_train_end(None, None, None)
    assert resumed.seconds == 12


def test_the_last_complete_checkpoint(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    for step, state in (
        (90, {"global_step": 90}),
        (1000, {"global_step": 1000}),
        (1100, None),
        (1200, "{"),
        (1300, {}),
    ):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            text = state if isinstance(state, str) else json.dumps(state)
            (folder / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-9999").touch()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1000")


def interrupted(tiny_vit, sixteen, folder, resume=None, **options):
    """Train three steps of 8 images, in an epoch of two steps, and return the images in order."""
    saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 3}
    args = arguments(folder, max_steps=3, **saving, **options)
    trainer = trainer_for(tiny_vit, sixteen, args, data={"augmentation": 0.0})
    seen = Seen(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return [draw for batch in seen.batches for draw in batch]


def test_a_run_continues_with_another_batch_size_if_its_steps_have_as_many_images(
    sixteen, tiny_vit, tmp_path
):
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    whole = interrupted(tiny_vit, sixteen, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "again" / "checkpoint-1")
    checkpoint = checkpoint_to_resume(arguments(tmp_path / "again", **halves))
    assert checkpoint == str(tmp_path / "again" / "checkpoint-1")
    with pytest.raises(ValueError, match="--per_device_train_batch_size"):
        checkpoint_to_resume(arguments(tmp_path / "again", **halves), streaming=True)
    # The loader reads one batch ahead.
    resumed = interrupted(tiny_vit, sixteen, tmp_path / "again", checkpoint, **halves)
    assert resumed[:16] == whole[8:24]


@pytest.mark.parametrize(
    "options", [{"per_device_train_batch_size": 4}, {"gradient_accumulation_steps": 2}]
)
def test_a_run_does_not_continue_with_steps_of_other_images(options, sixteen, tiny_vit, tmp_path):
    interrupted(tiny_vit, sixteen, tmp_path)
    for resume in (None, str(tmp_path / "checkpoint-2")):
        args = arguments(tmp_path, resume_from_checkpoint=resume, **options)
        with pytest.raises(ValueError, match=f"--{next(iter(options))}"):
            checkpoint_to_resume(args)


def test_a_run_does_not_continue_with_another_number_of_processes(
    sixteen, tiny_vit, tmp_path, monkeypatch
):
    interrupted(tiny_vit, sixteen, tmp_path)
    monkeypatch.setattr(RunArguments, "world_size", 2)
    with pytest.raises(ValueError, match="number of processes"):
        checkpoint_to_resume(arguments(tmp_path))


# --- options


@pytest.mark.parametrize(
    "options, message",
    [
        ({"evaluate_only": "tests"}, "--evaluate_only must be one of train, validation"),
        ({"alpha": 0.5}, "--alpha"),
        ({"fp16": True, "use_cpu": True}, "--fp16 needs a GPU"),
        ({"remove_unused_columns": True}, "--remove_unused_columns"),
        ({"corpus_notes": "nowhere.md"}, "there is no file nowhere.md"),
        ({"early_stopping_patience": 2}, "needs --load_best_model_at_end True"),
        ({"early_stopping_patience": 0, "load_best_model_at_end": True}, "at least 1"),
        (
            {"dataloader_persistent_workers": True, "dataloader_num_workers": 1},
            "--dataloader_persistent_workers",
        ),
        ({"report_to": "wandb"}, "--report_to wandb needs a package: pip install wandb"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps"}, "save and eval strategy"),
    ],
)
def test_options_that_make_no_sense(options, message, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "realfake.training.arguments.get_available_reporting_integrations", lambda: ["tensorboard"]
    )
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"augmentation": 1.5}, "--augmentation must lie in"),
        ({"max_train_samples": 1}, "--max_train_samples must be at least 2"),
        ({"cutmix": -0.1}, "--cutmix must lie in"),
        ({"cutmix": 11.0}, "--cutmix must lie in"),
        ({"label_map": "nature"}, "--label_map"),
        ({"label_map": "nature=photo"}, "--label_map"),
    ],
)
def test_data_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(dataset="drawn", **options)


def test_the_trainer_never_pushes_by_itself(tmp_path):
    args = arguments(tmp_path, push_to_hub=True)
    assert args.publish and not args.push_to_hub
    assert not arguments(tmp_path).publish


def test_images_stay_pil_until_the_collator(sixteen):
    assert isinstance(PlainImages(sixteen, LABEL2ID)[0]["image"], Image.Image)


# --- streams


class Seen:
    """Writes down what is drawn from a stream."""

    def __init__(self, trainer):
        collator = trainer.data_collator
        self.batches = []
        trainer.data_collator = lambda rows: (
            self.batches.append([row["draw"][1:] for row in rows]),
            collator(rows),
        )[1]


def trainer_for_stream(folder, stream, selection, args):
    prepared = prepare_classifier(ModelArguments(model_name_or_path=str(folder)))
    return build_trainer(
        *prepared,
        stream,
        selection,
        "processor",
        DataArguments(dataset="drawn", augmentation=1.0),
        args,
    )


@pytest.fixture(scope="module")
def whole_stream(sixteen, tiny_vit, tmp_path_factory):
    """Seven steps over a stream of 16 rows in batches of 6: three steps a pass."""
    folder = tmp_path_factory.mktemp("streamed")
    return folder, *run_stream(tiny_vit, sixteen, folder)


def run_stream(model, dataset, folder, resume=None, **more):
    args = arguments(
        folder,
        **{
            "max_steps": 7,
            "per_device_train_batch_size": 6,
            "save_strategy": "steps",
            "save_steps": 1,
            "save_total_limit": 7,
            **more,
        },
    )
    stream = dataset.to_iterable_dataset().shuffle(seed=3, buffer_size=5)
    trainer = trainer_for_stream(model, stream, dataset, args)
    seen = Seen(trainer)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer.plain_model().state_dict(), seen.batches


def test_passes_of_a_stream(whole_stream):
    _, _, batches = whole_stream
    assert [{epoch for epoch, _ in batch} for batch in batches][:7] == [{0}] * 3 + [{1}] * 3 + [{2}]
    assert [len(batch) for batch in batches][:6] == [6, 6, 4] * 2


@pytest.mark.parametrize("step", [1, 3, 4, 6])  # in mid-pass, and just as a pass ended
def test_a_resumed_stream_goes_on_where_it_was(step, whole_stream, sixteen, tiny_vit, tmp_path):
    folder, state, batches = whole_stream
    position = json.loads((folder / f"checkpoint-{step}" / "stream.json").read_text())
    assert position == {"pass": (step - 1) // 3, "batches": (step - 1) % 3 + 1}
    resumed, rest = run_stream(tiny_vit, sixteen, tmp_path, resume=folder / f"checkpoint-{step}")
    assert rest[: 7 - step] == batches[step:7]
    for name, tensor in state.items():
        assert torch.equal(resumed[name], tensor), name


def test_a_stream_that_is_resumed_twice(whole_stream, sixteen, tiny_vit, tmp_path):
    folder, state, _ = whole_stream
    run_stream(tiny_vit, sixteen, tmp_path, resume=folder / "checkpoint-3")  # at the end of a pass
    again, _ = run_stream(tiny_vit, sixteen, tmp_path / "again", resume=tmp_path / "checkpoint-5")
    for name, tensor in state.items():
        assert torch.equal(again[name], tensor), name


def test_a_stream_under_gradient_accumulation(sixteen, tiny_vit, tmp_path):
    more = {
        "gradient_accumulation_steps": 2,
        "max_steps": 5,
        "per_device_train_batch_size": 4,
    }  # 2 steps a pass
    whole, batches = run_stream(tiny_vit, sixteen, tmp_path / "whole", **more)
    resumed, rest = run_stream(
        tiny_vit, sixteen, tmp_path / "resumed", resume=tmp_path / "whole" / "checkpoint-3", **more
    )
    assert rest[:4] == batches[6:10]
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_workers_take_turns(sixteen, monkeypatch):
    stream = StreamedImages(
        sixteen.to_iterable_dataset(), Augmentation(0.0), LABEL2ID, 0, batch_rows=4
    )
    stream.start = 5
    assert stream._rows_before() == 20
    before = []
    for worker in range(2):
        info = SimpleNamespace(num_workers=2, id=worker)
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda info=info: info)
        before.append(stream._rows_before())
    assert before == [12, 8], "batches 0, 2 and 4 of the first, 1 and 3 of the second"


def test_a_checkpoint_that_does_not_say_where_its_stream_was(
    whole_stream, sixteen, tiny_vit, tmp_path
):
    folder = shutil.copytree(whole_stream[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    (folder / "stream.json").unlink()
    with pytest.raises(ValueError, match="has no stream.json"):
        run_stream(tiny_vit, sixteen, tmp_path / "run", resume=folder)
