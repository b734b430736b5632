"""Measure a checkpoint on a corpus under the degradations that images meet on the web.

    python scripts/evaluate_checkpoint.py runs/photos --dataset ./corpus --split test --output_dir runs/photos/robustness
    python scripts/evaluate_checkpoint.py user/detector --label_map LABEL_0=real,LABEL_1=ai --dataset user/corpus --split test \
        --output_dir out --degradations clean,jpeg_40,webp_50 --slice faces=ffhq,stylegan

Writes `evaluation.md` and `robustness.json`. Every image is decoded once and scored as it is, recompressed, resized, cropped,
blurred and so on; beside the checkpoint stand two controls that know nothing of what images show. Scores are kept in
`.margins` as they are computed: give the same command again, and a run that was interrupted continues.
"""

import argparse
import sys

PROGRAM = "evaluate_checkpoint.py"
PARTS = {"selection": "validation", "calibration": "validation"}
# Looked at where the split has such images: faces, which people care about most and generators do best.
FACES = "faces=faces-256,faces-300,tpdne,man"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        ValueError: An option's value makes no sense.
    """
    from realfake.arguments import EVALUABLE_SPLITS
    from realfake.corpus_options import add_checkpoint_options, add_corpus_options
    from realfake.degradations import GRID
    from realfake.robustness import check_degradations

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_checkpoint_options(parser)
    add_corpus_options(parser)
    parser.add_argument("--split", choices=EVALUABLE_SPLITS, default="test", help="What is measured.")
    parser.add_argument("--output_dir", required=True, help="Folder of the figures, and of the scores so far.")
    parser.add_argument(
        "--degradations", default=",".join(GRID), help="Which of the grid, separated by commas."
    )
    parser.add_argument("--max_samples", type=int, help="Measure this many images at most.")
    parser.add_argument("--batch_size", type=int, default=16, help="Images in one forward pass of a core.")
    parser.add_argument(
        "--slice",
        action="append",
        metavar="NAME=SOURCE,SOURCE",
        help=f"Look at the images of these sources by themselves; may be repeated. By default {FACES}, where there are any.",
    )
    parser.add_argument("--no_controls", action="store_true", help="Leave the two controls out.")
    parser.add_argument(
        "--max_control_samples", type=int, default=2000, help="Training images that the controls are fitted on."
    )
    parser.add_argument(
        "--n_resamples", type=int, default=1000, help="Bootstrap resamples; 0 for no intervals."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the bootstrap.")
    parser.add_argument(
        "--measurement_log",
        default="realfake/checkpoints/measurements.jsonl",
        help="File that every measurement of a test split is added to.",
    )
    options = parser.parse_args(arguments)
    options.degradations = check_degradations(options.degradations.split(","))
    for name, least in (("batch_size", 1), ("max_control_samples", 20), ("max_samples", 2), ("n_resamples", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be at least {least}, not {value}.")
    return options


def main() -> int:
    """Parse the command line and do what it says; a user's mistake ends in one line and exit status 2."""
    from realfake import corpus_options, runs

    try:
        options = parse_arguments()
        with runs.output_folder(options):
            return evaluate(options)
    except (ValueError, OSError) as error:
        return corpus_options.report_failure(PROGRAM, error)


def evaluate(options: argparse.Namespace) -> int:
    """Checkpoint and corpus → margins under each degradation → figures → report."""
    from datetime import UTC, datetime
    from pathlib import Path

    from realfake import (
        controls,
        corpus_options,
        records,
        robustness,
        robustness_plots,
        robustness_report,
        runs,
    )
    from realfake.degradations import GRID
    from realfake.release import column, is_ai

    detector = corpus_options.open_checkpoint(options)
    identity = corpus_options.checkpoint_identity(options.model, detector)
    dataset, train = _splits(options)
    truth, fingerprint = is_ai(dataset), runs.corpus_fingerprint(dataset)
    known = {f"{name}s": column(dataset, name) for name in ("group", "generator", "source")}
    slices = _slices(options, known["sources"])

    scorers = [robustness.detector_scorer(detector, identity, options.batch_size)]
    if train is not None:
        print(f"Fitting the controls on {len(train):,} training images.", flush=True)
        scorers.append(controls.spectrum_scorer(train, runs.corpus_fingerprint(train)))
    margins, scored = robustness.score_grid(
        dataset, options.degradations, scorers, options.output_dir, fingerprint, options.batch_size
    )
    if train is not None and robustness.CLEAN in options.degradations:
        margins[controls.CONTAINER] = controls.container_margins(train, dataset)

    print("Computing the figures.", flush=True)
    resampling = {"seed": options.seed, "n_resamples": options.n_resamples}
    figures = robustness.grid_figures(
        margins["model"],
        truth,
        thresholds=detector.thresholds,
        slices=slices,
        **known,
        **resampling,
    )
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": identity,
        "model": detector.name,
        "corpus": options.corpus_name,
        "corpus_fingerprint": fingerprint,
        "command": corpus_options.command_line(PROGRAM),
        "versions": runs.versions(),
        "headline": robustness.headline(figures),
        "described": {name: (GRID[name].__doc__ or name).split("\n")[0] for name in options.degradations},
        "slices": slices,
        "degradations": figures,
        "controls": {
            name: robustness.grid_figures(tiers, truth, groups=known["groups"], **resampling)
            for name, tiers in margins.items()
            if name != "model"
        },
        "controls_n": len(train) if train is not None else 0,
    }
    if options.split == "test":
        _log(options, record, next(iter(figures.values()))["n"], scored)
    plots = robustness_plots.write_plots(options.output_dir, options.split, margins["model"], truth, figures)
    robustness_report.write_record(options.output_dir, options.split, record)
    report = Path(options.output_dir) / robustness_report.REPORT_NAME
    records.write_atomically(report, robustness_report.render(record, options.split, plots))
    print(robustness_report.summary(record).replace("**", ""))
    print(f"Finished: {report}", flush=True)
    return 0


def _splits(options: argparse.Namespace):
    """The split to measure, and the training images of the controls or `None`."""
    from realfake import corpus_options, runs

    wanted = PARTS.get(options.split, options.split)
    limits = {wanted: options.max_samples}
    if not options.no_controls:
        # One split cannot be read twice: what is measured is then what the controls are fitted on.
        limits.setdefault("train", options.max_control_samples)
    corpus = corpus_options.read_corpus(options, limits)
    if options.split in PARTS:
        return runs.parts_of(corpus, options.split_seed)[options.split], _training(options, corpus)
    return corpus.splits[options.split], _training(options, corpus)


def _training(options: argparse.Namespace, corpus):
    if options.no_controls:
        return None
    if options.split == "train":
        print("The controls are left out: they are fitted on the images that are measured.", file=sys.stderr)
        return None
    return corpus.splits["train"]


def _slices(options: argparse.Namespace, sources) -> dict[str, list[str]]:
    from realfake.robustness import read_slices

    if options.slice:
        return read_slices(options.slice, sources)
    members = FACES.partition("=")[2].split(",")
    return read_slices([FACES], sources) if set(members) & set(sources or ()) else {}


def _log(options: argparse.Namespace, record: dict, n: dict, scored: int) -> None:
    """Add one line to the log of measurements, unless a finished run is only written down again."""
    from realfake.measurement_log import count, log_measurement

    known = {"checkpoint_hash": record["checkpoint_sha256"], "split": "test", "corpus": record["corpus"]}
    if not scored and count(options.measurement_log, **known):
        return
    first = record["degradations"].get("clean") or next(iter(record["degradations"].values()))
    clean = {name: first["summary"][name] for name in ("accuracy", "balanced_accuracy", "auroc", "ece")}
    log_measurement(
        options.measurement_log,
        n=n,
        date=record["date"],
        command=record["command"],
        figures={**clean, "headline": record["headline"]},
        **known,
    )


if __name__ == "__main__":
    sys.exit(main())
