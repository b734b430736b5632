"""Writes the card from the files that lie beside a checkpoint's weights, so that it can be written again at any time.

Everything that a card says is in `config.json`, `training.json`, `evaluation.json`, `robustness.json` and the scores.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from ..evaluation import evaluation, results
from ..evaluation.measurement_log import count_weights
from ..evaluation.plots import write_plots
from ..evaluation.robustness_plots import write_card_plots
from ..evaluation.robustness_report import read_robustness
from ..records import read_records
from ..statistics.conformal import OperatingPoint, Thresholds
from . import formats, maps
from .facts import CardFacts, hub_id, public_name
from .render import write_card

# What a finished run knows of itself; see [`run_facts.training_facts`].
TRAINING = "training.json"


def card_facts(folder: Path, facts: Mapping, measurement_log: str | Path) -> CardFacts:
    """Collect what the files say; plots are not drawn.

    Args:
        folder: The checkpoint's folder.
        facts: What [`run_facts.training_facts`] collected.
        measurement_log: Where measurements of test splits are noted.

    Raises:
        OSError: There is no `config.json`.
        ValueError: A file is not what this project writes.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = config.get("realfake") or {}
    measured = results.read_evaluation(folder)
    base = facts.get("base_model")
    named = sorted(config["id2label"].items(), key=lambda entry: int(entry[0]))
    card = CardFacts.from_dict(
        {
            **facts,
            "name": (facts.get("repo_id") or folder.resolve().name).rsplit("/", 1)[-1],
            "class_names": [name for _, name in named],
            "base_model": public_name(base),
            "base_model_id": facts.get("base_model_id") or hub_id(public_name(base)),
            "image_size": own.get("image_size"),
            "calibration": own.get("calibration"),
            "thresholds": own.get("thresholds"),
            "novelty": own.get("novelty"),
            "evaluation": measured,
            "robustness": read_robustness(folder),
            "explanations": read_records(folder / maps.FILE_NAME),
            "formats": read_records(folder / formats.FILE_NAME),
            "scores": {
                name: file for name in measured if (folder / (file := f"scores-{name}.parquet")).is_file()
            },
            "seed": facts["hyperparameters"].get("seed"),
        }
    )
    if card.split == "test":
        card.measurements = count_weights(measurement_log, "test", measured["test"]["corpus"])
    points = [OperatingPoint.from_dict(point) for point in own.get("operating_points") or ()]
    if points and card.split in card.scores:
        scores = results.read_scores(folder / card.scores[card.split])
        card.operating_points = evaluation.measure_operating_points(points, scores, card.figures.get("seed", 0))
    return card


def write_card_of(folder: str | Path, facts: Mapping, measurement_log: str | Path) -> Path:
    """Draw the plots and write the card.

    Args:
        folder, facts, measurement_log: As of [`card_facts`].

    Returns:
        The card.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    results.add_calibration_bands(folder, (config.get("realfake") or {}).get("calibration"))
    card = card_facts(folder, facts, measurement_log)
    if card.split in card.scores:
        table = results.read_scores(folder / card.scores[card.split])
        before = None
        if card.calibration:
            before = (table["margin"] - card.calibration["bias"]) * card.calibration["temperature"]
        card.plots = write_plots(
            folder, card.split, table["margin"], table["is_ai"], card.figures, before=before,
            log_history=facts.get("log_history"),
        )  # fmt: skip
    if card.degraded:
        card.robustness_plots = write_card_plots(folder, card.split, card.degraded["degradations"])
    return write_card(folder, card)


def rewrite_card(folder: str | Path, measurement_log: str | Path) -> Path:
    """Compute the figures of a finished run again from its scores, and write its card anew.

    Raises:
        OSError: The folder holds no finished run.
        ValueError: A file is not what this project writes.
    """
    folder = Path(folder)
    path = folder / TRAINING
    if not path.is_file():
        raise OSError(
            f"{folder} holds no {TRAINING}: only the card of a checkpoint that was trained here can be written again."
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder} holds a file that is not JSON ({error}).") from None
    stored = (config.get("realfake") or {}).get("thresholds")
    results.refresh_evaluation(folder, Thresholds.from_dict(stored) if stored else None)
    return write_card_of(folder, facts, measurement_log)
