"""The facts of a model card as plain values, and public names for models on a local disk."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from realfake.labels import NAMES

# What a reader must know about each split.
SPLITS = {
    "test": "held out: not used for training, for choosing the checkpoint, or for calibration",
    "held_out": "from generators or sources that were left out of training",
    "validation": "used to choose or calibrate the checkpoint, so its figures are optimistic",
    "selection": "used to choose the checkpoint, so its figures are optimistic",
    "calibration": "used to fit calibration and thresholds, so its figures are optimistic",
    "train": "training images, so its figures do not apply to new images",
}
# Splits whose error rates are not those of new images.
_FITTED = ("validation", "calibration", "train")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Licence of weights that were trained from random initialisation.
OWN_LICENSE = "apache-2.0"


@dataclass
class CardFacts:
    """All facts of a card, as JSON values. All but `name` are optional.

    Args:
        repo_id: Its id on the Hub; without it the examples name a folder.
        description, corpus_notes, limits: Markdown, inserted unchanged.
        license: Licence of the weights by the Hub's identifier, `None` if unknown.
        base_model: Public name of the starting point, see [`public_name`]; `None`: random weights.
        base_model_id, corpus_id: The same, and the corpus, as a Hub id, see [`hub_id`].
        preprocessing: `"native"` (a centre crop at native pixels) or `"processor"`.
        explanation_method: The stored method of maps; `None` for Grad-CAM.
        processor: The content of `preprocessor_config.json`.
        corpus_origins: `[{"source", "origin", "licence"}]`.
        parts: Sizes of the splits, `{split: {"real": n, "ai": n}}`.
        corpus_report, calibration, thresholds, ood, differing: Of the `to_dict` of their classes.
        operating_points: Of [`measure.measure_operating_points`].
        evaluation, robustness, categories, explanations, formats: The content of the JSON files of
            these names, `{split: record}`; `by_views` is that of `views.json`.
        measurements: Number of different weights measured on the test split of this corpus.
        augmentation: A sentence, or `Augmentation.describe()`.
        plots, robustness_plots: `[{"file", "caption"}]` of [`plots`], relative to the card.
        scores: `{split: file}` of the score of each image.
    """

    name: str
    repo_id: str | None = None
    description: str | None = None
    license: str | None = None
    tags: list[str] = field(default_factory=list)
    class_names: list[str] = field(default_factory=lambda: list(NAMES))
    model_class: str | None = None
    parameters: int | None = None
    base_model: str | None = None
    base_model_id: str | None = None
    trainable: str | None = None
    preprocessing: str | None = None
    image_size: int | None = None
    views: int | None = None
    processor: dict = field(default_factory=dict)
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
    differing: dict | None = None
    operating_points: list[dict] = field(default_factory=list)
    evaluation: dict = field(default_factory=dict)
    robustness: dict = field(default_factory=dict)
    categories: dict = field(default_factory=dict)
    by_views: dict = field(default_factory=dict)
    explanations: dict = field(default_factory=dict)
    explanation_method: str | None = None
    formats: dict = field(default_factory=dict)
    measurements: int | None = None
    command: str | None = None
    calibration_command: str | None = None
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
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "CardFacts":
        """Read what [`CardFacts.to_dict`] wrote; other keys are ignored."""
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    @property
    def split(self) -> str:
        """The split of the headline: test, or the least optimistic other one; `""` for none."""
        others = [name for name in self.evaluation if name not in SPLITS]
        for name in ("test", *others, *list(SPLITS)[1:]):
            if name in self.evaluation:
                return name
        return ""

    @property
    def record(self) -> dict:
        """The record of that split in `evaluation.json`; `{}` if nothing was measured."""
        return self.evaluation.get(self.split, {})

    @property
    def figures(self) -> dict:
        """The figures of that split, see [`measure.measure`]; `{}` if nothing was measured."""
        return self.record.get("figures", {})

    @property
    def rates_are_of_new_images(self) -> bool:
        """Whether that split was not used to fit weights, calibration or thresholds."""
        return self.split not in _FITTED

    @property
    def degraded(self) -> dict:
        """The record of that split in `robustness.json`; `{}` if other weights were measured."""
        return self.of_same_weights(self.robustness.get(self.split, {}))

    @property
    def by_category(self) -> dict:
        """The record of that split in `categories.json`; `{}` if other weights were measured."""
        return self.of_same_weights(self.categories.get(self.split, {}))

    def of_same_weights(self, record: Mapping) -> dict:
        """Return a record if its weights are those of the headline figures, else `{}`."""
        same = record.get("checkpoint_sha256") == self.record.get("checkpoint_sha256")
        return dict(record) if same else {}


def split_note(split: str) -> str:
    """Return what a reader must know about a split."""
    return SPLITS.get(split, "see “Corpus” below")


def hub_id(text: str | None) -> str | None:
    """Return a Hub id (`owner/name`) unchanged; `None` for a local path or another name."""
    text = text or ""
    return text if _HUB_ID.fullmatch(text) and not Path(text).exists() else None


def public_name(model: str | None) -> str | None:
    """Return the public name of a starting point, without its local path.

    For a folder: the Hub id in its configuration, the title of its card, or the folder's name.
    """
    if not model or hub_id(model):
        return model
    folder = Path(model)
    stored = hub_id(str(_read_json(folder / "config.json").get("_name_or_path") or ""))
    if stored:
        return stored
    _, body = _read_card(folder)
    heading = re.search(r"^#[ \t]+(.+?)[ \t]*$", body, re.M)
    return heading.group(1) if heading else folder.name or model


def license_of(stated: str | None, base_model: str | None, download: bool = False) -> str | None:
    """Return the licence of the weights by the Hub's identifier, `None` if it is unknown.

    Args:
        stated: What the user stated, *optional*. It takes precedence.
        base_model: Folder or Hub id of the starting point; `None`: random weights.
        download: Fetch the card of a base model on the Hub; by default, only read the cache.

    Returns:
        For random weights [`OWN_LICENSE`]; otherwise the licence in the card of the base model.
    """
    if stated or not base_model:
        return stated or OWN_LICENSE
    folder = Path(base_model)
    if hub_id(base_model):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HTTPError

        try:
            card = hf_hub_download(base_model, "README.md", local_files_only=not download)
        except (HTTPError, OSError, ValueError):
            return None
        folder = Path(card).parent
    license = _read_card(folder)[0].get("license")
    return license if isinstance(license, str) else None


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_card(folder: Path) -> tuple[dict, str]:
    """Return the metadata and the text of a folder's card; both empty if there is none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}, ""
    match = re.match(r"\A---\n(.*?)\n---\n", text, flags=re.S)
    if not match:
        return {}, text
    try:
        metadata = yaml.safe_load(match.group(1))
    except yaml.YAMLError:
        metadata = {}
    return metadata if isinstance(metadata, dict) else {}, text[match.end() :]
