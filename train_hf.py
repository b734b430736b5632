"""Fine-tune an image classifier to tell photographs from AI-generated images.

    python train_hf.py --dataset user/corpus --model_name_or_path google/vit-base-patch16-224 --output_dir runs/vit

    # two GPUs, pushed to the Hub
    accelerate launch --num_processes 2 train_hf.py --dataset ./corpus --model_name_or_path facebook/convnextv2-tiny-22k-224 \
        --output_dir runs/convnext --push_to_hub --hub_model_id user/my-detector

    # two CPU processes (--cpu silently starts one)
    accelerate launch --multi_gpu --num_processes 2 train_hf.py --use_cpu --ddp_backend gloo --dataset ./corpus …

    # two machines (the file says how), on Slurm, on Hugging Face's machines
    accelerate launch --config_file scripts/multi_node.yaml --machine_rank 0 --main_process_ip 10.0.0.1 train_hf.py --dataset …
    sbatch --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 --requeue --wrap 'srun bash -c "accelerate launch --config_file \\
        scripts/multi_node.yaml --machine_rank \\$SLURM_NODEID --main_process_ip $(scontrol show hostnames | head -n 1) train_hf.py …"'
    hf jobs run --flavor a10g-small --timeout 12h --secrets HF_TOKEN python:3.11 bash -c "
        git clone https://github.com/user/realfake && cd realfake && pip install -q -r requirements.txt &&
        accelerate launch train_hf.py --dataset user/corpus … --push_to_hub --hub_model_id user/my-detector"

    # look before you train; measure a finished checkpoint
    python train_hf.py --dataset ./corpus --model_name_or_path … --dry_run
    python train_hf.py --dataset ./corpus --model_name_or_path runs/vit --evaluate_only test --output_dir runs/vit

    # a second stage, on what the first one got wrong
    python train_hf.py --dataset ./corpus --model_name_or_path runs/vit --evaluate_only train --output_dir runs/vit
    python train_hf.py --dataset ./corpus --model_name_or_path runs/vit --hard_examples runs/vit --learning_rate 3e-5 --output_dir runs/vit-2

    # look for good options first, in twenty short trainings
    python train_hf.py --dataset ./corpus --model_name_or_path … --search 20 --num_train_epochs 2 --output_dir runs/search

A run that was interrupted continues when the same command is given again. `--help` lists every option.
"""

import sys


def main() -> int:
    """Parse the command line and do what it says; a user's mistake ends in one line and exit status 2."""
    from realfake import io
    from realfake.training import runs

    try:
        arguments = runs.parse(sys.argv[1:])
        with io.output_folder(arguments.run.output_dir):
            return train(arguments)
    except (ValueError, OSError) as error:
        return io.report_failure("train_hf.py", error)


def train(arguments) -> int:
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


if __name__ == "__main__":
    from realfake import distributed

    distributed.end(main())
