"""The card's metadata: what the Hub and leaderboards read of the figures."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)

from realfake.card import method
from realfake.card import results as card_results
from realfake.card.facts import CardFacts, hub_id, public_name
from realfake.card.limits import in_short, limits, unsuitable_section
from realfake.card.method import maps_section
from realfake.card.results import (
    degradations_section,
    formats_section,
    headline_section,
    results_section,
)
from realfake.detector import stored_facts
from realfake.evaluation import measure, results
from realfake.evaluation.log import count_weights
from realfake.evaluation.plots import write_plots, write_robustness_plots
from realfake.evaluation.robustness_report import read_robustness
from realfake.formatting import code, fence, link, md, score, slug
from realfake.io import read_records, write_atomically
from realfake.labels import NAMES
from realfake.statistics.verdicts import OperatingPoint, Thresholds

# Name here, metric id of the Hub, name for people.
_INDEXED = (
    ("accuracy", "accuracy", "Accuracy"),
    ("auroc", "roc_auc", "AUROC"),
    ("f1_ai", "f1", "F1 of ai"),
    ("ece", "expected_calibration_error", "ECE, classes balanced"),
)


def card_data(facts: CardFacts) -> ModelCardData:
    """Make the metadata, with the figures as `model-index`."""
    summary = facts.figures.get("summary", {})
    corpus = facts.corpus_id or facts.record.get("corpus") or facts.corpus or "unnamed"
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Real or AI-generated",
            # The Hub refuses types that could not be a data set's id.
            dataset_type=facts.corpus_id or slug(corpus),
            dataset_name=str(facts.corpus or corpus),
            dataset_split=facts.split,
            dataset_revision=facts.corpus_revision,
            metric_type=kind,
            metric_name=label,
            metric_value=round(summary[name]["value"], 4),
        )
        for name, kind, label in _INDEXED
        if (summary.get(name) or {}).get("value") is not None
    ]
    return ModelCardData(
        license=facts.license,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["ai-generated-image-detection", "realfake", *facts.tags],
        base_model=facts.base_model_id,
        datasets=[facts.corpus_id] if facts.corpus_id else None,
        metrics=[result.metric_type for result in results] or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def eval_result_entries(facts: CardFacts) -> list[EvalResultEntry]:
    """Make the headline for leaderboards; empty where the corpus is not on the Hub, since a benchmark is named by its id."""
    accuracy = facts.figures.get("summary", {}).get("accuracy")
    if not facts.corpus_id or not accuracy or accuracy["value"] is None:
        return []
    auroc = facts.figures["summary"]["auroc"]
    notes = [
        f"accuracy on {facts.split}, n = {accuracy['n']}",
        f"95 % interval {score(accuracy, bare=True)}",
    ]
    if auroc["value"] is not None:
        notes.append(f"AUROC {score(auroc, bare=True)}")
    entry = EvalResultEntry(
        dataset_id=facts.corpus_id,
        task_id=facts.eval_task_id,
        value=round(accuracy["value"], 4),
        dataset_revision=facts.corpus_revision,
        date=facts.record.get("date"),
        notes="; ".join(notes),
    )
    return [entry]


TEMPLATE = Path(__file__).parent.parent / "templates" / "model_card.md"
EVAL_RESULTS = Path(".eval_results") / "realfake.yaml"


def write_card(folder: str | os.PathLike, facts: CardFacts) -> Path:
    """Write `README.md`, and `.eval_results/realfake.yaml` where the corpus is one of the Hub's.

    Args:
        folder: The checkpoint's folder.
        facts: What the card says.

    Returns:
        `Path`: The card.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "README.md"
    write_atomically(path, str(render(facts)))
    results_file = folder / EVAL_RESULTS
    entries = eval_result_entries(facts)
    if entries:
        results_file.parent.mkdir(exist_ok=True)
        text = yaml.safe_dump(
            eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True
        )
        write_atomically(results_file, text)
    else:
        # One from an earlier run would be of other weights.
        results_file.unlink(missing_ok=True)
    return path


def render(facts: CardFacts) -> ModelCard:
    """Make the card."""
    card = ModelCard.from_template(
        card_data(facts),
        template_path=str(TEMPLATE),
        facts=facts,
        view=_view(facts),
        md=md,
        code=code,
        fence=fence,
        link=link,
    )
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return card


def _view(facts: CardFacts) -> dict:
    measured = bool(facts.figures)
    return {
        "source": source(facts),
        "introduction": _introduction(facts),
        "headline": headline_section(facts) if measured else None,
        "in_short": in_short(facts),
        "pipeline_output": _pipeline_output(facts.class_names),
        "verdict_output": '"real", "ai" or "inconclusive"'
        if facts.thresholds
        else '"real" or "ai"',
        "preprocessing": _preprocessing(facts),
        "calibration": method.calibration(facts.calibration),
        "prior_example": method.prior_example(),
        "calibration_figures": method.calibration_figures(facts),
        "verdicts": method.verdict_rule(facts.thresholds, facts.ood),
        **method.verdict_figures(facts),
        "operating_points": method.operating_points(facts),
        "unsuitable": unsuitable_section(facts),
        **results_section(facts),
        **degradations_section(facts),
        **formats_section(facts),
        **maps_section(facts),
        "limits": limits(facts),
        "training": method.training(facts),
        "hyperparameters": method.hyperparameters(facts),
        "augmentation": method.augmentation(facts.augmentation),
        **method.corpus(facts),
        "reproduction": method.reproduction(facts, source(facts)) if measured else None,
        "versions": ", ".join(
            f"{md(name)} {md(number)}" for name, number in facts.versions.items()
        ),
        "licence": f"The weights: {md(facts.license)}. The images that they were trained on are not part of this repository.",
    }


def source(facts: CardFacts) -> str:
    """What the examples open: the Hub id, or words that stand for the folder."""
    return re.sub(r"[^\w./-]", "", facts.repo_id or "") or "path/to/this/folder"


def _introduction(facts: CardFacts) -> str:
    words = "Tells photographs and other real images from images made by a generator."
    if facts.model_class:
        size = f" with {facts.parameters / 1e6:.1f} million parameters" if facts.parameters else ""
        start = (
            f"fine-tuned from {md(facts.base_model)}"
            if facts.base_model
            else "trained from random weights"
        )
        words += f" A {code(facts.model_class)} for Transformers{size}, {start}."
    return words


def _pipeline_output(class_names: Sequence[str]) -> str:
    names = [re.sub(r"[\s`]+", " ", str(name)) for name in class_names]
    if sorted(names) == sorted(NAMES):
        return '[{"label": "ai", "score": p}, {"label": "real", "score": 1 - p}], the more probable one first'
    return f'[{{"label": …, "score": …}}, …], the most probable first; labels: {", ".join(names)}'


def _preprocessing(facts: CardFacts) -> str:
    size = (
        f"{facts.image_size} × {facts.image_size} pixels"
        if facts.image_size
        else "the network's input size"
    )
    if facts.preprocessing == "native":
        return (
            f"The image is not resized: the network sees the central {size} of it as they are, and black around a "
            "smaller image."
        )
    if facts.preprocessing == "processor":
        return (
            f"The image processor in this repository brings each image to {size} and normalises it. Where torchvision is "
            "installed, `pipeline` may do that with it and give slightly other scores; `realfake` always takes the PIL "
            "image processor, with which the figures below were made."
        )
    return "The image processor in this repository does the preprocessing."


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
    own = stored_facts(config.get("realfake"))
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
            "ood": own.get("ood"),
            "evaluation": measured,
            "robustness": read_robustness(folder),
            "explanations": read_records(folder / method.EXPLANATIONS_FILE),
            "formats": read_records(folder / card_results.FILE_NAME),
            "scores": {
                name: file
                for name in measured
                if (folder / (file := f"scores-{name}.parquet")).is_file()
            },
            "seed": facts["hyperparameters"].get("seed"),
        }
    )
    if card.split == "test":
        card.measurements = count_weights(measurement_log, "test", measured["test"]["corpus"])
    points = [OperatingPoint.from_dict(point) for point in own.get("operating_points") or ()]
    if points and card.split in card.scores:
        scores = results.read_scores(folder / card.scores[card.split])
        card.operating_points = measure.measure_operating_points(
            points, scores, card.figures.get("seed", 0)
        )
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
            before = (table["log_odds"] - card.calibration["bias"]) * card.calibration[
                "temperature"
            ]
        card.plots = write_plots(
            folder,
            card.split,
            table["log_odds"],
            table["is_ai"],
            card.figures,
            before=before,
            log_history=facts.get("log_history"),
        )
    if card.degraded:
        card.robustness_plots = write_robustness_plots(
            folder, card.split, card.degraded["degradations"]
        )
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
