"""Fine-tune, calibrate and document an image classifier that detects AI-generated images.

    # show the corpus, the model and one batch, then stop
    realfake train --dataset ./corpus --model_name_or_path google/vit-base-patch16-224 --dry_run

    # train and upload
    realfake train --dataset ./corpus --model_name_or_path google/vit-base-patch16-224 \\
        --output_dir runs/vit --num_train_epochs 5 --push_to_hub --hub_model_id user/my-detector

    # measure a finished checkpoint
    realfake train --dataset ./corpus --model_name_or_path runs/vit --output_dir runs/vit \\
        --evaluate_only test

All options of transformers' `TrainingArguments` work, too. The same command continues an
interrupted run. train_hf.py is the same command for `accelerate launch`; its first lines show runs
on several GPUs and machines.
"""

import inspect
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realfake.training.arguments import Arguments


def parse(argv: Sequence[str]) -> "Arguments":
    """Parse the options of a training.

    Raises:
        ValueError: An option is unknown, or its value is invalid.
    """
    from realfake.cli.options import HelpFormatter
    from realfake.training import arguments

    description, _, epilog = inspect.cleandoc(__doc__ or "").partition("\n\n")
    return arguments.parse(
        argv,
        usage="realfake train --dataset SOURCE (--model_name_or_path MODEL | --model_type TYPE) "
        "[option ...]",
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
    )


def run(arguments: "Arguments") -> int:
    """Run a training, in a folder that no other command writes to."""
    from realfake import io

    with io.output_folder(arguments.run.output_dir):
        return train(arguments)


def train(arguments: "Arguments") -> int:
    """Load, train, calibrate, measure, document and, with `--push_to_hub`, upload.

    Returns:
        The exit status.
    """
    from transformers import set_seed

    from realfake.detector import Detector
    from realfake.models.views import view_size
    from realfake.training import lora, measuring, publishing, release, runs
    from realfake.training.model import prepare_classifier
    from realfake.training.trainer import build_trainer

    model_args, data, args = arguments.model, arguments.data, arguments.run
    resumes = not (args.evaluate_only or args.dry_run)
    checkpoint = runs.checkpoint_to_resume(args, data.streaming) if resumes else None

    # Corpus
    corpus = runs.load(data)
    splits = runs.splits_of(corpus, data.split_seed)
    if args.evaluate_only:
        detector = Detector.from_pretrained(
            model_args.model_name_or_path, revision=model_args.model_revision
        )
        runs.measure_split(detector, splits, args.evaluate_only, arguments)
        return 0

    # Model and trainer
    set_seed(args.seed)  # a new head has random weights
    model, processor = prepare_classifier(model_args)
    trainer = build_trainer(
        model, processor, splits["train"], splits["selection"], model_args.preprocessing, data, args
    )
    if args.views > 1 and view_size(processor) is None:
        raise ValueError("--views needs --preprocessing native, or a checkpoint of native crops.")
    if args.dry_run:
        runs.show_dry_run(trainer, splits)
        return 0
    if args.search:
        from realfake.training import search

        search.search(trainer, model_args, args.search)
        return 0

    # Training
    if args.publish and trainer.is_world_process_zero():
        publishing.check_login(args)
    if args.probe_images and not checkpoint:
        trainer.start_head()
    trainer.train(resume_from_checkpoint=checkpoint)
    trained = trainer.plain_model()
    if model_args.lora_rank:
        if trainer.is_world_process_zero():
            lora.save_adapters(trained, args.output_dir, model_args.model_name_or_path)
        lora.merge_adapters(trained)
    best = Detector(trained, processor)
    if args.views > 1:
        best.views = args.views

    # Calibration
    calibration_split, batch_size = splits["calibration"], args.per_device_eval_batch_size
    logits = measuring.compute_logits(best, calibration_split, batch_size, "calibration")
    fitted = release.fit_calibration(best, logits, calibration_split)
    facts = publishing.config_facts(arguments, splits)
    released = release.release(
        best, fitted, calibration_split, logits, args.output_dir, facts, args.alpha, batch_size
    )
    facts = publishing.training_facts(trainer, corpus, splits, released.calibration, arguments)

    # Measurement
    for split in ("selection", "calibration", "held_out", *["test"] * args.measure_test):
        runs.measure_split(released.detector, splits, split, arguments, released.calibration)
    if not trainer.is_world_process_zero():
        return 0
    if args.measure_test:
        runs.measure_degradations(released.detector, splits, arguments)

    # Card and Hub
    publishing.finish(args.output_dir, facts, args.measurement_log)
    return publishing.push(args) if args.publish else 0


if __name__ == "__main__":
    from realfake.cli.main import dispatch, end

    end(dispatch(["train", *sys.argv[1:]]))
