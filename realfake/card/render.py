"""The model card: metadata for the Hub, text from the template, and the card of a finished run."""

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

from realfake import formatting
from realfake.card import claims, sections
from realfake.card.facts import CardFacts, hub_id, license_of, public_name, split_note
from realfake.detector import stored_facts
from realfake.evaluation import explanations, report, robustness, variants, views
from realfake.evaluation.log import count_weights
from realfake.evaluation.measure import measure_operating_points
from realfake.evaluation.plots import write_plots, write_robustness_plots
from realfake.evaluation.results import (
    add_calibration_bands,
    read_evaluation,
    read_scores,
    refresh_evaluation,
)
from realfake.formatting import code, md, score, slug
from realfake.io import read_records, write_atomically
from realfake.labels import NAMES
from realfake.statistics.verdicts import OperatingPoint, Thresholds

TEMPLATE = Path(__file__).parent.parent / "templates" / "model_card.md"
EVAL_RESULTS = Path(".eval_results") / "realfake.yaml"
# Facts of a finished training.
TRAINING = "training.json"
# Metric, its id on the Hub, its name for readers.
_INDEXED = (
    ("accuracy", "accuracy", "Accuracy"),
    ("auroc", "roc_auc", "AUROC"),
    ("f1_ai", "f1", "F1 of ai"),
    ("ece", "expected_calibration_error", "ECE, classes balanced"),
)
# Functions that the template calls.
_FUNCTIONS = {
    name: getattr(formatting, name)
    for name in ("md", "code", "fence", "link", "share", "score", "number", "percent")
}


def card_data(facts: CardFacts) -> ModelCardData:
    """Return the metadata, with the figures as `model-index`."""
    summary = facts.figures.get("summary", {})
    corpus = facts.corpus_id or facts.record.get("corpus") or facts.corpus or "unnamed"
    entries = [
        EvalResult(
            task_type="image-classification",
            task_name="Real or AI-generated",
            # The Hub refuses types that cannot be the id of a data set.
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
        metrics=[entry.metric_type for entry in entries] or None,
        model_name=facts.name if entries else None,
        eval_results=entries or None,
    )


def eval_result_entries(facts: CardFacts) -> list[EvalResultEntry]:
    """Return the headline for leaderboards; empty if the corpus has no id on the Hub."""
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


def write_card(folder: str | os.PathLike, facts: CardFacts) -> Path:
    """Write `README.md`, and `.eval_results/realfake.yaml` if the corpus is on the Hub."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "README.md"
    write_atomically(path, str(render(facts)))
    results_file = folder / EVAL_RESULTS
    entries = eval_result_entries(facts)
    if entries:
        results_file.parent.mkdir(exist_ok=True)
        records = eval_result_entries_to_yaml(entries)
        write_atomically(results_file, yaml.safe_dump(records, sort_keys=False, allow_unicode=True))
    else:
        # A file of an earlier run belongs to other weights.
        results_file.unlink(missing_ok=True)
    return path


def render(facts: CardFacts) -> ModelCard:
    """Return the card."""
    card = ModelCard.from_template(
        card_data(facts),
        template_path=str(TEMPLATE),
        facts=facts,
        figures=facts.figures,
        calibration=facts.calibration,
        view=_view(facts),
        split_note=split_note,
        **_FUNCTIONS,
    )
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return card


def _view(facts: CardFacts) -> dict:
    """Return the values of the template that are computed from the facts."""
    n = (facts.calibration or {}).get("n")
    measured = bool(facts.figures)
    return {
        "source": source(facts),
        "introduction": _introduction(facts),
        "judgement": claims.judgement(facts) if measured else None,
        "headline": claims.headline(facts) if measured else None,
        "in_short": claims.in_short(facts),
        "pipeline_output": _pipeline_output(facts.class_names),
        "processor": sections.describe_processor(facts.processor) if facts.processor else None,
        "fitted_on": f" on {f'{n:,} ' if n else ''}images that were held out from training",
        "calibration": sections.calibration_figures(facts),
        "verdict_rule": sections.verdict_rule(facts.thresholds),
        "verdict_table": sections.verdict_table(facts),
        "operating_points": sections.operating_points(facts),
        "unsuitable": claims.unsuitable_section(facts),
        "trained": bool(sections.trained_generators(facts)),
        **sections.results_section(facts),
        **_degradations(facts.degraded),
        **sections.formats_section(facts),
        "categories": sections.categories_section(facts),
        "by_views": sections.views_section(facts),
        "maps": sections.maps_section(facts),
        "limits": claims.limits(facts),
        "training": sections.training(facts),
        "hyperparameters": sections.hyperparameters(facts),
        "augmentation": sections.augmentation(facts.augmentation),
        "corpus": sections.corpus(facts),
    }


def _degradations(record: Mapping) -> dict[str, str | None]:
    if not record:
        return {}
    figures = record["degradations"]
    return {
        "degradations": report.summary(record),
        "degradations_note": report.note(record),
        "degradations_table": report.tiers_table(record),
        "controls_note": report.controls_note(record),
        "coverage": report.coverage_table(figures),
        "coverage_note": report.coverage_note(figures),
        "slices": report.slices_table(figures),
        "described": report.described(record),
    }


def source(facts: CardFacts) -> str:
    """Return the Hub id for the code examples, or a placeholder for the folder."""
    return re.sub(r"[^\w./-]", "", facts.repo_id or "") or "path/to/this/folder"


def _introduction(facts: CardFacts) -> str:
    text = "An image classifier that estimates whether an image is a photograph or AI-generated."
    if facts.model_class:
        size = f" with {facts.parameters / 1e6:.1f} million parameters" if facts.parameters else ""
        start = "trained from random weights"
        if facts.base_model:
            start = f"fine-tuned from {md(facts.base_model)}"
        text += f" It is a {code(facts.model_class)} for Transformers{size}, {start}."
    return text


def _pipeline_output(class_names: Sequence[str]) -> str:
    names = [re.sub(r"[\s`]+", " ", str(name)) for name in class_names]
    if sorted(names) == sorted(NAMES):
        return '[{"label": "ai", "score": p}, {"label": "real", "score": 1 - p}], highest first'
    return f'[{{"label": …, "score": …}}, …], highest first; labels: {", ".join(names)}'


def card_facts(folder: Path, facts: Mapping, measurement_log: str | Path) -> CardFacts:
    """Collect the facts of a card from the files of a checkpoint.

    Args:
        folder: The checkpoint's folder.
        facts: The content of `training.json`.
        measurement_log: Where measurements of test splits are logged.

    Raises:
        OSError: There is no `config.json`.
        ValueError: A file is not what this project writes.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = stored_facts(config.get("realfake"))
    measured = read_evaluation(folder)
    base = facts.get("base_model")
    classes = sorted(config["id2label"].items(), key=lambda entry: int(entry[0]))
    processor = folder / "preprocessor_config.json"
    card = CardFacts.from_dict(
        {
            **facts,
            "name": (facts.get("repo_id") or folder.resolve().name).rsplit("/", 1)[-1],
            "license": license_of(facts.get("license"), base),
            "class_names": [name for _, name in classes],
            "base_model": public_name(base),
            "base_model_id": facts.get("base_model_id") or hub_id(public_name(base)),
            "image_size": own.get("image_size"),
            "views": own.get("views"),
            "processor": json.loads(processor.read_text()) if processor.is_file() else {},
            "calibration": own.get("calibration"),
            "thresholds": own.get("thresholds"),
            "ood": own.get("ood"),
            "differing": own.get("differing"),
            "evaluation": measured,
            "robustness": read_records(folder / robustness.FILE_NAME),
            "categories": read_records(folder / variants.CATEGORIES_FILE),
            "by_views": read_records(folder / views.FILE_NAME),
            "explanations": read_records(folder / explanations.FILE_NAME),
            "explanation_method": own.get("explanation_method"),
            "formats": read_records(folder / variants.FORMATS_FILE),
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
        scores = read_scores(folder / card.scores[card.split])
        seed = card.figures.get("seed", 0)
        card.operating_points = measure_operating_points(points, scores, seed)
    return card


def write_card_of(folder: str | Path, facts: Mapping, measurement_log: str | Path) -> Path:
    """Draw the plots and write the card."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    add_calibration_bands(folder, (config.get("realfake") or {}).get("calibration"))
    card = card_facts(folder, facts, measurement_log)
    if card.split in card.scores:
        scores, before = read_scores(folder / card.scores[card.split]), None
        if fitted := card.calibration:
            before = (scores["log_odds"] - fitted["bias"]) * fitted["temperature"]
        card.plots = write_plots(
            folder,
            card.split,
            scores["log_odds"],
            scores["is_ai"],
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
    """Recompute the figures of a finished run from its scores, and rewrite its card.

    Raises:
        OSError: The folder holds no finished run.
        ValueError: A file is not what this project writes.
    """
    folder = Path(folder)
    path = folder / TRAINING
    if not path.is_file():
        raise OSError(
            f"{folder} has no {TRAINING}; only cards of checkpoints that were trained by this "
            "project can be rewritten."
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder} has a file that is not JSON ({error}).") from None
    stored = (config.get("realfake") or {}).get("thresholds")
    refresh_evaluation(folder, Thresholds.from_dict(stored) if stored else None)
    return write_card_of(folder, facts, measurement_log)
