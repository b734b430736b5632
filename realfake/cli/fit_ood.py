"""Let a checkpoint know what the images look like that it was calibrated on, so that it can say "unlike anything I know".

    python scripts/fit_novelty.py runs/vit --dataset ./corpus
    python scripts/fit_novelty.py runs/vit --dataset ./corpus --false_alarms 0.01

`train_hf.py` and `scripts/calibrate.py` do this for what they save; this is for a folder that was made before, or for another
rate. The calibration half of the corpus' validation split is described and `ood.safetensors` written beside the weights,
which stay as they are; the other half shows how many false alarms there are.
"""

import argparse
from pathlib import Path

from realfake.cli import options as cli_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from realfake.models.ood import ALPHA

    cli_options.add_model(parser)
    cli_options.add_corpus(parser)
    cli_options.add_limits(parser, "validation")
    parser.add_argument(
        "--false_alarms",
        type=cli_options.between(0, 0.5),
        default=ALPHA,
        help="share of the images of each class that are flagged",
    )
    cli_options.add_batch_size(parser)


def run(options: argparse.Namespace) -> int:
    """Fit, in a folder that no other process writes to."""
    from realfake import io

    if not Path(options.model).is_dir():
        raise ValueError(
            f"{options.model} is not a folder; download the checkpoint, or calibrate a copy."
        )
    with io.output_folder(options.model):
        return fit(options)


def fit(options: argparse.Namespace) -> int:
    """Checkpoint + corpus → statistics beside the weights → false alarms on the other half."""
    from realfake.corpus import rows
    from realfake.detector import Detector
    from realfake.evaluation import collecting
    from realfake.labels import AI, REAL
    from realfake.statistics.verdicts import binomial_interval
    from realfake.training import release, runs

    detector = cli_options.open_model(options)
    corpus = cli_options.read_corpus(options, {"validation": options.max_validation_samples})
    parts = runs.parts_of(corpus, options.split_seed)
    fitted = release.fit_ood(
        detector, options.model, parts["calibration"], options.false_alarms, options.batch_size
    )
    if fitted is None:
        raise ValueError(
            f"{len(parts['calibration'])} calibration images are too few to promise {options.false_alarms:g} false "
            "alarms; nothing was stored."
        )
    stored = Detector.from_pretrained(options.model, label_map=detector_labels(detector))
    rest = parts["selection"]
    _, shares = collecting.collect_scores(stored, rest, options.batch_size, progress="false alarms")
    out_of_distribution, truth = stored.ood.is_out_of_distribution(shares), rows.is_ai(rest)
    print(
        f"Fitted on {fitted.to_dict()['n'][REAL]:,} real and {fitted.to_dict()['n'][AI]:,} ai images."
    )
    for label, mine in ((REAL, ~truth), (AI, truth)):
        count, n = int(out_of_distribution[mine].sum()), int(mine.sum())
        low, high = binomial_interval(count, n)
        share = count / n if n else float("nan")
        print(
            f"Taken for novel among {n:,} others ({label}): {share:.3f} ({low:.3f} to {high:.3f})"
        )
    print(f"Finished: {Path(options.model) / 'novelty.safetensors'}", flush=True)
    return 0


def detector_labels(detector) -> dict[str, str]:
    """What each class of an opened detector means, by name."""
    names = detector.model.config.id2label
    return {
        names[index]: label
        for label, indices in detector.class_indices.items()
        for index in indices
    }
