"""Writes the model card of a checkpoint: `README.md` with its metadata, for people who have never heard of the project.

Stands at the end of a run. What was measured comes from `evaluation.json`, what was done from the run itself; the
prose is in `templates/model_card.md`. A section whose facts are missing is left out, and weak results are named.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from scipy.special import expit, logit

from .conformal import with_prior
from .evaluation import FILE_NAME, VERDICTS
from .labels import AI, NAMES, REAL

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
EVAL_RESULTS = Path(".eval_results") / "realfake.yaml"

# What a reader has to know of the splits by the names that this project gives them.
_SPLITS = {
    "test": "held out: not used for training, for choosing the checkpoint, or for calibration",
    "validation": "used to choose the checkpoint or to calibrate it, so these figures flatter",
    "selection": "used to choose the checkpoint, so these figures flatter",
    "calibration": "used to fit calibration and thresholds, so these figures flatter",
    "train": "the images it was trained on, so these figures say nothing of new ones",
}
# Labels of the headline table, with the number format of each metric.
_METRICS = {
    "accuracy": ("Accuracy", "share"),
    "balanced_accuracy": ("Balanced accuracy", "share"),
    "recall_ai": ("Generated images found (recall of `ai`)", "share"),
    "recall_real": ("Real images recognised (recall of `real`)", "share"),
    "auroc": ("AUROC", "score"),
    "average_precision": ("Average precision", "score"),
    "tpr_at_fpr_1": ("Generated images found at 1 % false positives", "share"),
    "tpr_at_fpr_5": ("Generated images found at 5 % false positives", "share"),
    "nll": ("NLL (nats, classes balanced)", "score"),
    "brier": ("Brier score (classes balanced)", "score"),
    "ece": ("ECE (classes balanced)", "score"),
}
# In the metadata: name here, metric id of the Hub, name for people.
_INDEXED = (
    ("accuracy", "accuracy", "Accuracy"),
    ("auroc", "roc_auc", "AUROC"),
    ("f1_ai", "f1", "F1 of ai"),
    ("ece", "expected_calibration_error", "ECE, classes balanced"),
)
# A generator below this AUROC, or found less often than this, is named among the limits.
_WEAK_AUROC = 0.75
_WEAK_DETECTION = 0.5
_WEAK_FALSE_POSITIVES = 0.25
_SMALL_TEST = 5000
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
        base_model: *optional*. What it was fine-tuned from, in words or as a path; `None`: random weights.
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
        evaluation: The content of `evaluation.json`, `{split: record}`.
        measurements: *optional*. How often the test split of this corpus was measured, with whatever weights.
        command: *optional*. The exact command line of the training.
        date: *optional*. ISO 8601.
        seed, world_size, epochs_trained, steps, best_step, train_runtime_seconds, hardware, class_weights: *optional*.
            What the names say; `world_size` is the number of processes.
        hyperparameters: `{name: value}`.
        augmentation: *optional*. A sentence, or `Augmentation.describe()`.
        versions: `{package: version}`.
        plots: `[{"file", "caption"}]`, files relative to the card: what [`plots.write_plots`] returns.
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
    evaluation: dict = field(default_factory=dict)
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
        others = [name for name in self.evaluation if name not in _SPLITS]
        for name in ("test", *others, *list(_SPLITS)[1:]):
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


def hub_id(text: str | None) -> str | None:
    """Return a name if it can only be a Hub id (`owner/name`), not something on this disk; else `None`."""
    text = text or ""
    return text if _HUB_ID.fullmatch(text) and not Path(text).exists() else None


def write_card(folder: str | os.PathLike, facts: CardFacts) -> Path:
    """Write `README.md`, and `.eval_results/realfake.yaml` where the corpus is one of the Hub's.

    Leaderboards read the latter; it names a benchmark by its Hub id, so there is none for a corpus of one's own.

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
    render(facts).save(path)
    results = folder / EVAL_RESULTS
    entries = eval_result_entries(facts)
    if entries:
        import yaml
        from huggingface_hub import eval_result_entries_to_yaml

        results.parent.mkdir(exist_ok=True)
        results.write_text(
            yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )
    else:
        # One from an earlier run would be of other weights.
        results.unlink(missing_ok=True)
    return path


def render(facts: CardFacts):
    """Make the card as a `huggingface_hub.ModelCard`."""
    from huggingface_hub import ModelCard

    card = ModelCard.from_template(
        card_data(facts),
        template_path=str(TEMPLATE),
        facts=facts,
        view=_view(facts),
        md=md,
        fence=fence,
        link=_link,
    )
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return card


def card_data(facts: CardFacts):
    """Make the metadata as `huggingface_hub.ModelCardData`, with the figures as `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    summary = facts.figures.get("summary", {})
    corpus = facts.corpus_id or facts.record.get("corpus") or facts.corpus or "unnamed"
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Real or AI-generated",
            # The Hub refuses types that could not be a data set's id.
            dataset_type=facts.corpus_id or _slug(corpus),
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


def eval_result_entries(facts: CardFacts) -> list:
    """Make the headline as a list of `huggingface_hub.EvalResultEntry`, empty where the corpus is not on the Hub."""
    from huggingface_hub import EvalResultEntry

    accuracy = facts.figures.get("summary", {}).get("accuracy")
    if not facts.corpus_id or not accuracy or accuracy["value"] is None:
        return []
    auroc = facts.figures["summary"]["auroc"]
    notes = [f"accuracy on {facts.split}, n = {accuracy['n']}", f"95 % interval {_score(accuracy, bare=True)}"]
    if auroc["value"] is not None:
        notes.append(f"AUROC {_score(auroc, bare=True)}")
    entry = EvalResultEntry(
        dataset_id=facts.corpus_id,
        task_id=facts.eval_task_id,
        value=round(accuracy["value"], 4),
        dataset_revision=facts.corpus_revision,
        date=facts.record.get("date"),
        notes="; ".join(notes),
    )
    return [entry]


# Markdown


def md(text) -> str:
    """Escape text for Markdown, tables included: names of generators and corpora are other people's words."""
    text = " ".join(str(text).split())
    text = re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        text = text.replace(mark, entity)
    return text


def code(text) -> str:
    """Text as inline code, for tables too."""
    text = " ".join(str(text).split()) or " "
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{ticks}{pad}{text}{pad}{ticks}".replace("|", "\\|")


def fence(text: str, language: str = "") -> str:
    """Text as a block of code, whatever it holds."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.strip()}\n{ticks}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: bool = False) -> str:
    """Make a table of cells that are Markdown already; after the first column come numbers, or with `words` text."""
    others = " :-- |" if words else " --: |"
    lines = ["| " + " | ".join(header) + " |", "|" + " :-- |" + others * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _link(path: str) -> str:
    return quote(path)


def _slug(text: str) -> str:
    return (
        re.sub(r"[^\w.-]+", "-", str(text).rstrip("/").rsplit("/", 1)[-1], flags=re.ASCII).strip("-.")
        or "corpus"
    )


# Numbers


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    if 0 < value < 0.0005:
        return "< 0.1 %"
    # What is not all must not read as all.
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if 0.995 < value < 1 or 0 < value < 0.005 else f"{value:.3f}"


def _share(figure: Mapping | None, bare: bool = False) -> str:
    """A proportion with its interval: `88.3 % (86.5 – 89.9)`."""
    return _with_interval(figure, _percent, bare)


def _score(figure: Mapping | None, bare: bool = False) -> str:
    """A number with its interval: `0.931 (0.917 – 0.944)`."""
    return _with_interval(figure, _number, bare)


def _with_interval(figure, write, bare) -> str:
    if not figure or figure.get("value") is None:
        return "–"
    if figure.get("low") is None:
        return write(figure["value"])
    low, high = (write(figure[end]).removesuffix(" %") for end in ("low", "high"))
    sign = " %" if write is _percent and bare else ""
    return f"{low} – {high}{sign}" if bare else f"{write(figure['value'])} ({low} – {high})"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _words(value) -> str:
    """A nested description as a line of words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        numbers = len(value) == 2 and all(isinstance(item, int | float) for item in value)
        return (" to " if numbers else ", ").join(_words(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


# What the template shows


def _view(facts: CardFacts) -> dict:
    figures = facts.figures
    return {
        "source": _source(facts),
        "introduction": _introduction(facts),
        "headline": _headline(facts) if figures else None,
        "pipeline_output": _pipeline_output(facts.class_names),
        "verdict_output": '"real", "ai" or "inconclusive"' if facts.thresholds else '"real" or "ai"',
        "preprocessing": _preprocessing(facts),
        "calibration": _calibration(facts.calibration),
        "prior_example": _prior_example(),
        "calibration_figures": _calibration_figures(facts),
        "verdicts": _verdict_rule(facts.thresholds),
        **_verdict_figures(facts),
        **_results(facts),
        "limits": limits(facts),
        "training": _training(facts),
        "hyperparameters": table(
            ["name", "value"],
            [[code(key), code(value)] for key, value in facts.hyperparameters.items()],
            words=True,
        )
        if facts.hyperparameters
        else None,
        "augmentation": _augmentation(facts.augmentation),
        **_corpus(facts),
        "reproduction": _reproduction(facts) if figures else None,
        "versions": ", ".join(f"{md(name)} {md(number)}" for name, number in facts.versions.items()),
        "licence": f"The weights: {md(facts.license)}. The images that they were trained on are not part of this repository.",
    }


def _source(facts: CardFacts) -> str:
    return re.sub(r"[^\w./-]", "", facts.repo_id or "") or "path/to/this/folder"


def _introduction(facts: CardFacts) -> str:
    words = "Tells photographs and other real images from images made by a generator."
    if facts.model_class:
        size = f" with {facts.parameters / 1e6:.1f} million parameters" if facts.parameters else ""
        words += f" A {code(facts.model_class)} for Transformers{size}"
        words += (
            f", fine-tuned from {md(facts.base_model)}."
            if facts.base_model
            else ", trained from random weights."
        )
    return words


def _pipeline_output(class_names: Sequence[str]) -> str:
    names = [re.sub(r"[\s`]+", " ", str(name)) for name in class_names]
    if sorted(names) == sorted(NAMES):
        return '[{"label": "ai", "score": p}, {"label": "real", "score": 1 - p}], the more probable one first'
    return f'[{{"label": …, "score": …}}, …], the most probable first; labels: {", ".join(names)}'


def _preprocessing(facts: CardFacts) -> str:
    size = f"{facts.image_size} × {facts.image_size} pixels" if facts.image_size else "the network's input size"
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


def _headline(facts: CardFacts) -> str:
    figures, summary = facts.figures, facts.figures["summary"]
    n = figures["n"]
    words = (
        f"**On {n[REAL]:,} real and {n[AI]:,} generated images** of the split {code(facts.split)} "
        f"({_split_note(facts.split)}) its accuracy is {_share(summary['accuracy'])}"
    )
    words += f" and its AUROC {_score(summary['auroc'])}." if summary["auroc"]["value"] is not None else "."
    worst = figures.get("worst_generator")
    if worst and len(figures["by_generator"]) > 1:
        entry = figures["by_generator"][worst]
        words += (
            f" It is weakest on **{md(worst)}**: AUROC {_score(entry['auroc'])}, "
            f"{_percent(entry['detected']['value'])} of {entry['n']:,} images found."
        )
    return words + " Numbers in brackets are 95 % intervals."


def _split_note(split: str) -> str:
    return _SPLITS.get(split, "see the corpus below for how it came about")


def _calibration(calibration: Mapping | None) -> str | None:
    if not calibration:
        return None
    n, method = calibration.get("n"), calibration.get("method")
    on = (
        f" on {n:,} images that were held out from training"
        if n
        else " on images that were held out from training"
    )
    if method == "identity":
        reason = f": {md(calibration['reason'])}" if calibration.get("reason") else ""
        return f"A calibration was tried{on} and left the network's own probabilities as they were{reason}."
    bias = calibration.get("bias") or 0.0
    fitted = f"a temperature T = {calibration['temperature']:.4g}"
    if method != "temperature":
        fitted += f" and a bias b = {bias:+.4g} (log-odds of `ai`)"
    words = (
        f"The probabilities are calibrated: {fitted} were fitted{on}"
        if method != "temperature"
        else f"The probabilities are calibrated: {fitted} was fitted{on}"
    )
    words += ", by minimising the negative log-likelihood with both labels counted alike"
    words += (
        ", and are part of the weights of the last layer: every consumer of this checkpoint gets calibrated "
        "probabilities, and nothing needs to be applied afterwards."
    )
    if calibration.get("reason"):
        words += f" Note: {md(calibration['reason'])}."
    return words


def _prior_example() -> str:
    said, prior = 0.9, 0.1
    then = float(expit(with_prior(logit(said), prior)))
    return (
        f"Where generated images are rarer, it has to be lowered: where one image in {1 / prior:.0f} is generated, a "
        f"probability of {said:g} amounts to {then:.2g}."
    )


def _calibration_figures(facts: CardFacts) -> str | None:
    after = facts.figures.get("summary", {})
    if (after.get("ece") or {}).get("value") is None:
        return None
    before = (facts.record.get("before_calibration") or {}).get("summary")
    header = [f"On {code(facts.split)}", *(["before calibration"] if before else []), "as published"]
    rows = []
    for name in ("ece", "nll", "brier"):
        rows.append([_METRICS[name][0], *([_score(before[name])] if before else []), _score(after[name])])
    floor = after.get("ece_noise_floor") or {}
    words = table(header, rows)
    if floor.get("value") is not None:
        words += (
            f"\n\nECE, the expected calibration error, is never zero on a finite sample: a perfectly calibrated model "
            f"with these probabilities would show {_number(floor['value'])} on this many images, and up to "
            f"{_number(floor['high'])} by chance (the 95 % quantile)."
        )
    return words


def _verdict_rule(thresholds: Mapping | None) -> str:
    if not thresholds:
        return (
            "This checkpoint stores no thresholds: the verdict of `realfake` is then the more probable label, however "
            "close the two are."
        )
    real, ai, n = thresholds.get(REAL), thresholds.get(AI), thresholds.get("n") or {}
    # Thresholds that have crossed leave what lies between them undecided as well.
    above = None if ai is None else max(margin for margin in (real, ai) if margin is not None)
    below = None if real is None else min(margin for margin in (real, ai) if margin is not None)
    rules = [
        f"`ai` where the probability of `ai` is above {_probability(above)}"
        if above is not None
        else "`ai` is never said",
        f"`real` where it is below {_probability(below)}" if below is not None else "`real` is never said",
    ]
    words = (
        f"`realfake` says {rules[0]}, {rules[1]}, and `inconclusive` otherwise."
        if above is not None and below is not None
        else f"`realfake` has a verdict for some images only: {rules[0]}; {rules[1]}; all else is `inconclusive`."
    )
    words += (
        f" The thresholds were set on {n.get(REAL, 0):,} real and {n.get(AI, 0):,} generated images that were held out "
        f"from training, so that at most {_percent(thresholds['alpha'])} of the images of each label get the wrong "
        "verdict **if new images are like those** (split conformal prediction). Of images from another source, or "
        "from a generator that was not among them, this promises nothing."
    )
    if above is None or below is None:
        words += " Where a verdict is never given, there were too few images to promise that rate."
    return words


def _probability(margin: float) -> str:
    p = float(expit(margin))
    return f"{p:.3f}" if 0.01 < p < 0.99 else f"{p:.4g}"


def _verdict_figures(facts: CardFacts) -> dict:
    rated = facts.figures.get("verdicts")
    if not rated:
        return {"verdict_table": None, "verdict_summary": None}
    rows = []
    for label in NAMES:
        counts = rated["counts"][label]
        n = sum(counts.values())
        shares = {name: counts[name] / n if n else None for name in VERDICTS}
        wrong = AI if label == REAL else REAL
        cells = [
            _share(rated["wrong"][label]) if name == wrong else _percent(shares[name]) for name in VERDICTS
        ]
        rows.append([f"truly {code(label)}", f"{n:,}", *cells])
    header = [f"On {code(facts.split)}", "n", "called `real`", "`inconclusive`", "called `ai`"]
    summary = f"{_share(rated['given'])} of the images get a verdict"
    if rated["accuracy"]["value"] is not None:
        summary += f", and {_share(rated['accuracy'])} of those verdicts are right, with this mix of labels"
    return {"verdict_table": table(header, rows), "verdict_summary": summary + "."}


def _results(facts: CardFacts) -> dict:
    view = dict.fromkeys(
        ("results", "results_note", "generators", "generators_note", "sources", "other_splits")
    )
    figures = facts.figures
    if not figures:
        return view
    summary, rated = figures["summary"], bool(figures.get("verdicts"))
    write = {"share": _share, "score": _score}
    rows = [
        [label, write[kind](summary[name]), f"{summary[name]['n']:,}"]
        for name, (label, kind) in _METRICS.items()
        if (summary.get(name) or {}).get("value") is not None
    ]
    view["results"] = table(["Metric", "value (95 % interval)", "n"], rows)
    record = facts.record
    view["results_note"] = (
        f"Split {code(facts.split)} of {md(facts.corpus or record.get('corpus') or 'the corpus')}, "
        f"{_split_note(facts.split)}"
        + (f"; measured on {md(record['date'][:10])}" if record.get("date") else "")
        + f". Intervals: {md(figures['intervals'])}. An image counts as called `ai` where its probability of `ai` is above "
        "one half, unless verdicts are mentioned."
    )
    shares = ["called `real`", "`inconclusive`", "called `ai`"] if rated else []
    entries = figures.get("by_generator")
    if entries:
        trained = facts.corpus_report.get("splits", {}).get("train", {}).get("generators") or {}
        ordered = sorted(entries, key=lambda name: (entries[name]["auroc"]["value"] or 0.0, name))
        view["generators"] = table(
            ["Generator", "n", *(["in training"] if trained else []), "AUROC", "found (p > ½)", *shares],
            [
                [
                    md(name),
                    f"{entries[name]['n']:,}",
                    *([f"{trained[name]:,}" if trained.get(name) else "none"] if trained else []),
                    _score(entries[name]["auroc"]),
                    _share(entries[name]["detected"]),
                    *(_percent(entries[name]["verdicts"][verdict]) for verdict in VERDICTS if rated),
                ]
                for name in ordered
            ],
        )
        view["generators_note"] = (
            f"Each against all {figures['n'][REAL]:,} real images, the weakest first."
            + (" “In training” is the number of its images in the training split." if trained else "")
            + (" The last three columns are verdicts." if rated else "")
        )
    entries = figures.get("by_source")
    if entries:
        ordered = sorted(entries, key=lambda name: (-(entries[name]["false_positives"]["value"] or 0.0), name))
        view["sources"] = table(
            ["Source", "n", "false positives", *shares],
            [
                [
                    md(name),
                    f"{entries[name]['n']:,}",
                    _share(entries[name]["false_positives"]),
                    *(_percent(entries[name]["verdicts"][verdict]) for verdict in VERDICTS if rated),
                ]
                for name in ordered
            ],
        )
    rest = [name for name in facts.evaluation if name != facts.split]
    if rest:
        rows = []
        for name in rest:
            other = facts.evaluation[name]["figures"]
            n = sum(other["n"].values())
            cells = (
                _share(other["summary"]["accuracy"]),
                _score(other["summary"]["auroc"]),
                _score(other["summary"]["ece"]),
            )
            rows.append([f"{code(name)}: {_split_note(name)}", f"{n:,}", *cells])
        view["other_splits"] = table(["Split", "n", "accuracy", "AUROC", "ECE"], rows)
    return view


def limits(facts: CardFacts) -> list[str]:
    """The limits that a card states: the author's, and those that the figures and facts show by themselves.

    Returns:
        `list[str]`: Sentences of Markdown.
    """
    found = [" ".join(text.split()) for text in facts.limits]
    figures = facts.figures
    if not figures:
        found.append("Nothing was measured: treat every answer as a guess.")
    elif facts.split != "test":
        found.append(
            f"No test split was measured. The figures are those of {code(facts.split)}, {_split_note(facts.split)}."
        )
    if figures:
        found += _weak_results(figures)
        n = sum(figures["n"].values())
        if n < _SMALL_TEST:
            found.append(f"It was measured on {n:,} images only; the intervals say how little that settles.")
        if not figures.get("by_generator"):
            found.append(
                "How it does on single generators was not measured; an average can hide that it fails on one."
            )
        if facts.measurements and facts.measurements > 1 and facts.split == "test":
            found.append(
                f"The test split of this corpus was measured {facts.measurements} times so far, with these or other "
                "weights; where an earlier result led to a change, the figures are a little too good."
            )
    if facts.preprocessing == "native":
        size = f"{facts.image_size} × {facts.image_size} pixels" if facts.image_size else "part"
        found.append(
            f"It sees the central {size} of an image at native size: what was generated elsewhere goes unnoticed."
        )
    if not facts.calibration:
        found.append("Its probabilities are not calibrated.")
    found.append(
        "Generators that did not exist when it was trained, edited photographs, screenshots, drawings, and images that were "
        "resized or recompressed often may get wrong answers; no figure above is a promise for them."
    )
    return found


def _weak_results(figures: Mapping) -> list[str]:
    found = []
    generators = figures.get("by_generator") or {}
    wrong_way, blind, weak = [], [], []
    for name, entry in generators.items():
        auroc = entry["auroc"]
        if auroc["value"] is None:
            continue
        words = f"{md(name)} (AUROC {_score(auroc)}, n = {entry['n']:,})"
        if auroc["high"] is not None and auroc["high"] < 0.5:
            wrong_way.append(words)
        # An interval that holds one half: the scores may as well be random.
        elif auroc["value"] <= 0.5 or (auroc["low"] is not None and auroc["low"] <= 0.5):
            blind.append(words)
        elif auroc["value"] < _WEAK_AUROC:
            weak.append(words)
    if wrong_way:
        found.append(f"**Worse than chance** on {'; '.join(wrong_way)}: real images score higher than these.")
    if blind:
        found.append(f"**Not shown to be better than chance** on {'; '.join(blind)}.")
    if weak:
        found.append(f"Weak on {'; '.join(weak)}.")
    missed = [
        f"{md(name)} ({_percent(entry['detected']['value'])} found, n = {entry['n']:,})"
        for name, entry in generators.items()
        if entry["detected"]["value"] < _WEAK_DETECTION
    ]
    if missed:
        found.append(f"It calls most images of these generators real: {'; '.join(missed)}.")
    suspected = [
        f"{md(name)} ({_share(entry['false_positives'])}, n = {entry['n']:,})"
        for name, entry in (figures.get("by_source") or {}).items()
        if entry["false_positives"]["value"] > _WEAK_FALSE_POSITIVES
    ]
    if suspected:
        found.append(f"It often takes real images of these sources for generated ones: {'; '.join(suspected)}.")
    rated = figures.get("verdicts")
    for label, said in ((REAL, AI), (AI, REAL)) if rated else ():
        wrong, promised = rated["wrong"][label]["value"], rated["promised"][label]
        if wrong is not None and promised is not None and wrong > promised:
            found.append(
                f"The promised rate of wrong verdicts did not hold: {_share(rated['wrong'][label])} of the images that are "
                f"{code(label)} were called {code(said)}, where {_percent(rated['thresholds']['alpha'])} was aimed at and up to "
                f"{_percent(promised)} would be chance. These images are not like those that the thresholds were set on."
            )
    summary = figures["summary"]
    ece, floor = summary.get("ece") or {}, summary.get("ece_noise_floor") or {}
    if ece.get("value") is not None and floor.get("high") is not None and ece["value"] > floor["high"]:
        found.append(
            f"On these images its probabilities are off by more than chance explains: ECE {_score(ece)}, where a perfectly "
            f"calibrated model would show at most {_number(floor['high'])}."
        )
    return found


def _training(facts: CardFacts) -> str | None:
    steps = f"{facts.steps:,}" if facts.steps is not None else None
    if steps and facts.best_step:
        steps += f" (published: step {facts.best_step:,})"
    rows = [
        (
            "Starting point",
            (facts.base_model or "random weights") if facts.model_class or facts.base_model else None,
        ),
        ("Layers trained", facts.trainable),
        ("Preprocessing", facts.preprocessing),
        ("Class weights", facts.class_weights),
        ("Epochs", None if facts.epochs_trained is None else f"{facts.epochs_trained:g}"),
        ("Steps", steps),
        ("Seed", facts.seed if facts.seed is not None else facts.hyperparameters.get("seed")),
        ("Processes", facts.world_size),
        ("Hardware", facts.hardware),
        (
            "Training time",
            None if facts.train_runtime_seconds is None else _duration(facts.train_runtime_seconds),
        ),
        ("Date", facts.date),
    ]
    rows = [[name, md(value)] for name, value in rows if value is not None]
    return table(["Fact", "value"], rows, words=True) if rows else None


def _augmentation(augmentation: str | Mapping | None) -> str | None:
    if not augmentation:
        return None
    if isinstance(augmentation, str):
        return md(augmentation)
    return "\n".join(
        f"- {md(name)}: {md(_words(value))}" for name, value in augmentation.items() if value is not None
    )


def _corpus(facts: CardFacts) -> dict:
    report = facts.corpus_report
    name = facts.corpus or report.get("source")
    words = f"Trained on {md(name)}." if name else ""
    if facts.corpus_id:
        words = (
            f"Trained on [{md(name or facts.corpus_id)}](https://huggingface.co/datasets/{facts.corpus_id})."
        )
    if facts.corpus_revision:
        words += f" Revision {code(facts.corpus_revision)}."
    fingerprint = facts.record.get("corpus_fingerprint")
    if fingerprint:
        words += f" Fingerprint of the images of {code(facts.split)}: {code(fingerprint)}."
    if report.get("label_map"):
        mapped = ", ".join(
            f"{code(found)} as {code(label)}" for found, label in report["label_map"].items() if found != label
        )
        words += f" Its classes count as follows: {mapped}." if mapped else ""
    if report.get("dropped"):
        words += f" {len(report['dropped']):,} rows were dropped because they could not be used."
    for note in report.get("notes") or []:
        words += f" {md(note[:1].upper() + note[1:]).rstrip('.')}."
    parts = table(
        ["Split", REAL, AI],
        [
            [code(split), *(f"{counts.get(label, 0):,}" for label in NAMES)]
            for split, counts in facts.parts.items()
        ],
    )
    origins = table(
        ["Source", "origin", "licence stated there"],
        [
            [
                md(origin.get("source", "")),
                md(origin.get("origin", "")),
                md(origin.get("licence", "") or "none"),
            ]
            for origin in facts.corpus_origins
        ],
        words=True,
    )
    return {
        "corpus": words.strip(),
        "parts": parts if facts.parts else None,
        "origins": origins if facts.corpus_origins else None,
    }


def _reproduction(facts: CardFacts) -> str:
    record = facts.record
    words = f"All figures are in [{code(FILE_NAME)}]({FILE_NAME}), with the command and the versions they were made with."
    if record.get("checkpoint_sha256"):
        words += f" They are those of the weights with SHA-256 {code(record['checkpoint_sha256'])}."
    file = facts.scores.get(facts.split)
    if file:
        rated = f', thresholds=Detector.from_pretrained("{_source(facts)}").thresholds'
        lines = [
            *(["from realfake import Detector"] if facts.thresholds else []),
            "from realfake.evaluation import measure, read_scores",
            "",
            f"measure(**read_scores({json.dumps(file)}){rated if facts.thresholds else ''}, seed={facts.figures.get('seed', 0)})",
        ]
        words += (
            f" The score of each image of {code(facts.split)} is in [{code(file)}]({_link(file)}); no image is needed to "
            "compute the figures again:\n\n" + fence("\n".join(lines), "python")
        )
    if record.get("command"):
        words += "\n\nMeasured with\n\n" + fence(record["command"], "bash")
    if facts.measurements and facts.split == "test":
        times = "once" if facts.measurements == 1 else f"{facts.measurements} times"
        words += f"\n\nThe log of measurements has the test split measured {times}."
    return words
