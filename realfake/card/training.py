"""What the card says of the training: the corpus, the run, and how to compute the figures again."""

import json
from collections.abc import Mapping

from ..evaluation.results import FILE_NAME
from ..labels import NAMES
from .facts import CardFacts
from .markdown import code, fence, link, md, table
from .numbers import duration, words


def training(facts: CardFacts) -> str | None:
    """The facts of the run as a table."""
    steps = f"{facts.steps:,}" if facts.steps is not None else None
    if steps and facts.best_step:
        steps += f" (published: step {facts.best_step:,})"
    start = (facts.base_model or "random weights") if facts.model_class or facts.base_model else None
    seconds = facts.train_runtime_seconds
    rows = [
        ("Starting point", start),
        ("Layers trained", facts.trainable),
        ("Preprocessing", facts.preprocessing),
        ("Class weights", facts.class_weights),
        ("Epochs", None if facts.epochs_trained is None else f"{facts.epochs_trained:g}"),
        ("Steps", steps),
        ("Seed", facts.seed if facts.seed is not None else facts.hyperparameters.get("seed")),
        ("Processes", facts.world_size),
        ("Hardware", facts.hardware),
        ("Training time", None if seconds is None else duration(seconds)),
        ("Date", facts.date),
    ]
    rows = [[name, md(value)] for name, value in rows if value is not None]
    return table(["Fact", "value"], rows, words=True) if rows else None


def hyperparameters(facts: CardFacts) -> str | None:
    if not facts.hyperparameters:
        return None
    rows = [[code(key), code(value)] for key, value in facts.hyperparameters.items()]
    return table(["name", "value"], rows, words=True)


def augmentation(described: str | Mapping | None) -> str | None:
    if not described:
        return None
    if isinstance(described, str):
        return md(described)
    return "\n".join(
        f"- {md(name)}: {md(words(value))}" for name, value in described.items() if value is not None
    )


def corpus(facts: CardFacts) -> dict:
    """What it was trained on: a paragraph, the sizes of the splits, and where the images come from."""
    report = facts.corpus_report
    name = facts.corpus or report.get("source")
    said = f"Trained on {md(name)}." if name else ""
    if facts.corpus_id:
        said = f"Trained on [{md(name or facts.corpus_id)}](https://huggingface.co/datasets/{facts.corpus_id})."
    if facts.corpus_revision:
        said += f" Revision {code(facts.corpus_revision)}."
    fingerprint = facts.record.get("corpus_fingerprint")
    if fingerprint:
        said += f" Fingerprint of the images of {code(facts.split)}: {code(fingerprint)}."
    mapped = ", ".join(
        f"{code(found)} as {code(label)}"
        for found, label in (report.get("label_map") or {}).items()
        if found != label
    )
    said += f" Its classes count as follows: {mapped}." if mapped else ""
    if report.get("dropped"):
        said += f" {len(report['dropped']):,} rows were dropped because they could not be used."
    for note in report.get("notes") or []:
        said += f" {md(note[:1].upper() + note[1:]).rstrip('.')}."
    parts = [
        [code(split), *(f"{counts.get(label, 0):,}" for label in NAMES)]
        for split, counts in facts.parts.items()
    ]
    origins = [
        [md(origin.get("source", "")), md(origin.get("origin", "")), md(origin.get("licence", "") or "none")]
        for origin in facts.corpus_origins
    ]
    return {
        "corpus": said.strip(),
        "parts": table(["Split", *NAMES], parts) if parts else None,
        "origins": table(["Source", "origin", "licence stated there"], origins, words=True)
        if origins
        else None,
    }


def reproduction(facts: CardFacts, source: str) -> str:
    """Where the figures are, what they were made with, and how to compute them again without an image.

    Args:
        source: What the checkpoint is opened by, see [`render.source`].
    """
    record = facts.record
    said = f"All figures are in [{code(FILE_NAME)}]({FILE_NAME}), with the command and the versions they were made with."
    if record.get("checkpoint_sha256"):
        said += f" They are those of the weights with SHA-256 {code(record['checkpoint_sha256'])}."
    file = facts.scores.get(facts.split)
    if file:
        rated = f', thresholds=Detector.from_pretrained("{source}").thresholds'
        lines = [
            *(["from realfake import Detector"] if facts.thresholds else []),
            "from realfake.evaluation.evaluation import measure, read_scores",
            "",
            f"measure(**read_scores({json.dumps(file)}){rated if facts.thresholds else ''}, seed={facts.figures.get('seed', 0)})",
        ]
        said += (
            f" The score of each image of {code(facts.split)} is in [{code(file)}]({link(file)}); no image is needed to "
            "compute the figures again:\n\n" + fence("\n".join(lines), "python")
        )
    if record.get("command"):
        said += "\n\nMeasured with\n\n" + fence(record["command"], "bash")
    if facts.degraded.get("command"):
        said += "\n\nThe degradations with\n\n" + fence(facts.degraded["command"], "bash")
    if facts.measurements and facts.split == "test":
        weights = (
            "these weights only"
            if facts.measurements == 1
            else f"{facts.measurements} sets of weights, these among them"
        )
        said += f"\n\nBy the log of measurements, the test split was measured with {weights}."
    return said
