"""All that a model card says, as plain values, and the names by which people know what a run names by a path."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from realfake.labels import NAMES

# What a reader has to know of the splits by the names that this project gives them.
SPLITS = {
    "test": "held out: not used for training, for choosing the checkpoint, or for calibration",
    "held_out": "made by generators, or from sources, that were left out of training on purpose",
    "validation": "used to choose the checkpoint or to calibrate it, so these figures flatter",
    "selection": "used to choose the checkpoint, so these figures flatter",
    "calibration": "used to fit calibration and thresholds, so these figures flatter",
    "train": "the images it was trained on, so these figures say nothing of new ones",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass
class CardFacts:
    """All that a card says, as plain values that survive JSON.

    Args:
        name: What the model is called.
        repo_id: *optional*. Where it will be on the Hub; without it the snippets name the folder.
        description: *optional*. A paragraph of Markdown, put in as it is.
        license: Licence of the weights, by the Hub's identifier, *defaults to* `"apache-2.0"`.
        tags: *optional*. Further tags.
        class_names: The classes as `config.id2label` names them.
        model_class: *optional*. Class of the network.
        parameters: *optional*. Number of its parameters.
        base_model: *optional*. What it was fine-tuned from, in words, see [`public_name`]; `None`: random weights.
        base_model_id: *optional*. The same as a Hub id, for the metadata; see [`hub_id`].
        trainable: *optional*. Which layers were trained.
        preprocessing: *optional*. `"native"` (a centre crop at native pixels) or `"processor"`.
        image_size: *optional*. Side of the network's input in pixels.
        corpus: *optional*. The corpus, in words or as a path.
        corpus_id: *optional*. The same as a Hub id, for the metadata; see [`hub_id`].
        corpus_revision: *optional*. Its commit on the Hub.
        corpus_notes: *optional*. Markdown on its origins and weaknesses, put in as it is.
        corpus_origins: `[{"source", "origin", "licence"}]`.
        corpus_report: *optional*. `CorpusReport.to_dict()`: splits, dropped rows, notes.
        parts: `{split: {"real": n, "ai": n}}`.
        calibration: *optional*. `Calibration.to_dict()`: `method`, `temperature`, `bias`, `n`, `reason`.
        thresholds: *optional*. `Thresholds.to_dict()`: `alpha`, `real`, `ai`, `n`.
        ood: *optional*. What `config.json` says of the novelty statistics.
        operating_points: What [`evaluation.measure_operating_points`] returned for the split.
        evaluation: The content of `evaluation.json`, `{split: record}`.
        robustness: The content of `robustness.json`, `{split: record}`.
        measurements: *optional*. With how many different weights the test split of this corpus was measured.
        command: *optional*. The exact command line of the training.
        date: *optional*. ISO 8601.
        seed, world_size, epochs_trained, steps, best_step, train_runtime_seconds, hardware, class_weights: *optional*.
            What the names say; `world_size` is the number of processes.
        hyperparameters: `{name: value}`.
        augmentation: *optional*. A sentence, or `Augmentation.describe()`.
        versions: `{package: version}`.
        explanations: `{split: record}`, what `scripts/evaluate_explanations.py` wrote.
        formats: `{split: record}`, what `scripts/evaluate_formats.py` wrote.
        plots: `[{"file", "caption"}]`, files relative to the card: what [`plots.write_plots`] returns.
        robustness_plots: The same, of [`robustness_plots.write_card_plots`].
        scores: `{split: file}` with the score of each image.
        limits: Sentences of Markdown; those that the figures show by themselves are added.
        eval_task_id: Task of the benchmark `corpus_id`, *defaults to* `"default"`.
    """

    name: str
    repo_id: str | None = None
    description: str | None = None
    license: str = "apache-2.0"
    tags: list[str] = field(default_factory=list)
    class_names: list[str] = field(default_factory=lambda: list(NAMES))
    model_class: str | None = None
    parameters: int | None = None
    base_model: str | None = None
    base_model_id: str | None = None
    trainable: str | None = None
    preprocessing: str | None = None
    image_size: int | None = None
    corpus: str | None = None
    corpus_id: str | None = None
    corpus_revision: str | None = None
    corpus_notes: str | None = None
    corpus_origins: list[dict] = field(default_factory=list)
    corpus_report: dict = field(default_factory=dict)
    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    calibration: dict | None = None
    thresholds: dict | None = None
    ood: dict | None = None
    operating_points: list[dict] = field(default_factory=list)
    evaluation: dict = field(default_factory=dict)
    robustness: dict = field(default_factory=dict)
    explanations: dict = field(default_factory=dict)
    formats: dict = field(default_factory=dict)
    measurements: int | None = None
    command: str | None = None
    date: str | None = None
    seed: int | None = None
    world_size: int | None = None
    epochs_trained: float | None = None
    steps: int | None = None
    best_step: int | None = None
    train_runtime_seconds: float | None = None
    hardware: str | None = None
    class_weights: str | None = None
    hyperparameters: dict = field(default_factory=dict)
    augmentation: str | dict | None = None
    versions: dict[str, str] = field(default_factory=dict)
    plots: list[dict[str, str]] = field(default_factory=list)
    robustness_plots: list[dict[str, str]] = field(default_factory=list)
    scores: dict[str, str] = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    eval_task_id: str = "default"

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "CardFacts":
        """Read what [`CardFacts.to_dict`] wrote; keys that a card has no use for are ignored."""
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    @property
    def split(self) -> str | None:
        """The split whose figures stand for the model: test, or the least flattering other one that was measured."""
        others = [name for name in self.evaluation if name not in SPLITS]
        for name in ("test", *others, *list(SPLITS)[1:]):
            if name in self.evaluation:
                return name
        return None

    @property
    def record(self) -> dict:
        """What `evaluation.json` holds of that split; `{}` where nothing was measured."""
        return self.evaluation.get(self.split, {})

    @property
    def figures(self) -> dict:
        """The figures of that split, see [`evaluation.measure`]; `{}` where nothing was measured."""
        return self.record.get("figures", {})

    @property
    def degraded(self) -> dict:
        """What `robustness.json` holds of that split with the same weights; `{}` where it was not measured."""
        found = self.robustness.get(self.split, {})
        same = found.get("checkpoint_sha256") == self.record.get("checkpoint_sha256")
        return found if same else {}


def split_note(split: str) -> str:
    """What a reader has to know of a split."""
    return SPLITS.get(split, "see the corpus below for how it came about")


def hub_id(text: str | None) -> str | None:
    """Return a name if it can only be a Hub id (`owner/name`), not something on this disk; else `None`."""
    text = text or ""
    return text if _HUB_ID.fullmatch(text) and not Path(text).exists() else None


def public_name(model: str | None) -> str | None:
    """Return what a starting point is called in public, rather than where it lay on somebody's disk.

    For a folder: the name that its own configuration or card gives it, or else the folder's name.
    """
    if not model or hub_id(model):
        return model
    folder = Path(model)
    return _named_by_config(folder) or _named_by_card(folder) or folder.name or model


def _named_by_config(folder: Path) -> str | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return hub_id(str(config.get("_name_or_path") or "")) if isinstance(config, dict) else None


def _named_by_card(folder: Path) -> str | None:
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    # The first heading behind the metadata, which may hold comments of its own.
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    heading = re.search(r"^#[ \t]+(.+?)[ \t]*$", body, re.M)
    return heading.group(1) if heading else None
