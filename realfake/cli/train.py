"""Fine-tune an image classifier to tell photographs from AI-generated images.

The options are the fields of `realfake.training.arguments` and of transformers' `TrainingArguments`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realfake.training.runs import Arguments


def parse(arguments: Sequence[str]) -> "Arguments":
    """Parse the options of a training.

    Raises:
        ValueError: An option is unknown, or its value makes no sense.
    """
    from realfake.training import runs

    return runs.parse(arguments)


def run(arguments: "Arguments") -> int:
    """Train, calibrate, measure, document and, if `--push_to_hub` is given, upload."""
    from realfake import io

    with io.output_folder(arguments.run.output_dir):
        return train(arguments)


def train(arguments: "Arguments") -> int:
    """Corpus → trainer → calibrated checkpoint → figures → card → Hub."""
    from transformers import set_seed

    from realfake import io
    from realfake.detector import Detector
    from realfake.evaluation import robustness_run
    from realfake.training import hard_examples, publishing, release, runs, search
    from realfake.training.model import prepare_classifier
    from realfake.training.trainer import build_trainer

    model_args, data_args, args = arguments.model, arguments.data, arguments.run
    checkpoint = None if args.evaluate_only or args.dry_run else runs.checkpoint_to_resume(args)
    corpus = runs.load(data_args, args)
    parts = runs.parts_of(corpus, data_args.split_seed)

    if args.evaluate_only:
        detector = Detector.from_pretrained(
            model_args.model_name_or_path, revision=model_args.model_revision
        )
        runs.measure_split(detector, parts, args.evaluate_only, data_args, args)
        return 0

    hard = None
    if data_args.hard_examples:
        hard = hard_examples.prepare(model_args, data_args, args, parts)

    set_seed(args.seed)  # a new head starts from random weights
    model, processor = prepare_classifier(model_args)
    trainer = build_trainer(
        model,
        processor,
        parts["train"],
        parts["selection"],
        model_args.preprocessing,
        data_args,
        args,
    )
    if args.dry_run:
        runs.show_dry_run(trainer, corpus, parts)
        return 0

    if args.search:
        search.search(trainer, model_args, args.search)
        return 0

    if args.publish and trainer.is_world_process_zero():
        publishing.check_login(args)
    trainer.train(resume_from_checkpoint=checkpoint)
    best = Detector(trainer.plain_model(), processor)
    calibration = release.calibrate_and_fold(
        best, parts["calibration"], args.per_device_eval_batch_size
    )
    facts = publishing.training_facts(trainer, corpus, parts, calibration, arguments)
    detector = release.save_and_reopen(
        best,
        args.output_dir,
        parts["calibration"],
        publishing.config_facts(facts, best),
        args.alpha,
    )
    measured = ("selection", "calibration", "held_out", *(["test"] if args.measure_test else []))
    for split in measured:
        runs.measure_split(detector, parts, split, data_args, args, calibration)
    if hard is not None:
        hard_examples.conclude(detector, hard, facts, parts["validation"], args)
    if not trainer.is_world_process_zero():
        return 0
    if args.measure_test:
        robustness_run.at_the_end_of_a_run(
            detector,
            args.output_dir,
            parts,
            args.measure_degradations,
            corpus=data_args.corpus_name,
            command=io.command_line(),
            measurement_log=args.measurement_log,
            seed=args.seed,
        )
    publishing.finish(args.output_dir, facts, args.measurement_log)
    return publishing.push(args) if args.publish else 0
