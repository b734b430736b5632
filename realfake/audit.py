"""Does the label leak? What a corpus gives away besides what is in the pictures, and which pictures it holds twice.

Stands behind the corpus loader and before training. [`audit`] measures everything and lists findings, `audit_report` writes
them down; [`quick_audit`] takes seconds and decodes nothing, for the start of a training run.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset
from tqdm.auto import tqdm

from . import probes
from .container import NUMBERS, ContainerFacts, container_facts, image_bytes
from .corpus import Corpus
from .duplicates import dhash, same_files, similar_pictures, thumbnail
from .images import open_image
from .labels import AI, NAMES, REAL
from .probes import Probe
from .spectrum import radial_spectrum
from .splits import SPLITS, TEST, TRAIN, subset

logger = logging.getLogger(__name__)

SAMPLE = 5000
MAX_AUC = 0.6
LEAK, WARNING, NOTE = "leak", "warning", "note"
# Facts of the header that a probe may use. The size in bytes is judged apart: where all files have one encoder it follows
# from the pixels, so that it is no fault of the corpus's making.
HEADER = ("format", "mode", "width", "height", "aspect_ratio", "megapixels", "jpeg_quality", "jpeg_tables", "subsampling",
          "progressive", "exif", "icc", "xmp", "text")  # fmt: skip
ALONE = (*HEADER, "bytes_per_pixel")
PROBES = {
    "container": "facts in the files' headers",
    "file_size": "bytes per pixel",
    "spectrum": "the radial power spectrum",
}
_FLAGS = ("progressive", "exif", "icc", "xmp", "text")
_MOST_PAIRS = 1000
_ORIGIN_COLUMNS = ("source", "generator", "family", "subject")


@dataclass(frozen=True)
class Finding:
    """One thing a person should know.

    Args:
        severity: `"leak"` (do not measure on this corpus before it is mended), `"warning"` or `"note"`.
        code: For machines: `"container"`, `"duplicates"`, ...
        message: What was found, one line.
        advice: What to do about it, one line; may be empty.
    """

    severity: str
    code: str
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Pair:
    """Two images that are the same file or look alike; each is `(split, row)` of [`Audit.splits`]."""

    first: tuple[str, int]
    second: tuple[str, int]
    same_file: bool
    correlation: float
    labels: tuple[str, str]
    same_group: bool

    @property
    def across_splits(self) -> bool:
        return self.first[0] != self.second[0]

    @property
    def across_labels(self) -> bool:
        return self.labels[0] != self.labels[1]


@dataclass
class Audit:
    """What an audit found.

    Args:
        findings: Leaks first.
        results: Everything measured, plain values for JSON.
        splits: The images that were looked at.
        pairs: Duplicates, the worst first.
        facts: `{split: [ContainerFacts]}`.
        pixels: `{split: {"spectrum": (n, 24), "colour": (n, 3)}}`.
        labels: `{split: (n,) bool, ai}`.
    """

    findings: list[Finding]
    results: dict
    splits: DatasetDict
    pairs: list[Pair] = field(default_factory=list)
    facts: dict[str, list[ContainerFacts]] = field(default_factory=dict)
    pixels: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def leaks(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == LEAK]

    def to_dict(self) -> dict:
        """The audit as plain values for JSON."""
        return {"findings": [asdict(finding) for finding in self.findings], **self.results}


def audit(
    corpus: Corpus,
    *,
    sample: int | None = SAMPLE,
    max_auc: float = MAX_AUC,
    seed: int = 42,
    progress: bool = True,
    matches: Mapping[str, Mapping[str, int]] | None = None,
) -> Audit:
    """Measure what gives the label away in a corpus.

    **Probes.** Gradient-boosted trees on the files' headers, one rate per value for each fact alone, a logistic regression
    on the radial power spectrum. Each within train and within test (5-fold cross-validated, no group in two folds), and
    learnt on train and judged on test. It is a leak where the lower end of the 95 % interval on the headers is above
    `max_auc`. The spectrum and the number of bytes a pixel takes are properties of the pictures as well: they warn.

    **Duplicates.** Equal files and similar pictures, in all splits at once. Across splits they are a leak.

    Args:
        corpus: Of [`load_corpus`], not streamed.
        sample: Images looked at in each split, at most; drawn with the shares of labels and generators kept.
        max_auc: Areas under the ROC curve above this are findings; 0.5..1.
        seed: Of the sample, the folds and the bootstrap.
        progress: Show bars.
        matches: *optional*. Of [`~realfake.equalize.write_equalized`]: images that were given the same size on purpose, one of
            each label. Cross-validation must not part them, else each says that the other is of the other label.

    Raises:
        ValueError: The corpus is streamed, or an option is out of range.
    """
    if any(isinstance(rows, IterableDataset) for rows in corpus.splits.values()):
        raise ValueError(
            "A streamed corpus cannot be audited; load it without streaming, with --sample for a part."
        )
    if not 0.5 <= max_auc < 1:
        raise ValueError(f"--max_auc must be at least 0.5 and below 1, not {max_auc}.")
    if sample is not None and sample < 2:
        raise ValueError(f"--sample must be at least 2, one image of each class, not {sample}.")
    splits = DatasetDict(
        {split: _draw(corpus.splits[split], sample, seed) for split in SPLITS if split in corpus.splits}
    )
    looked = {split: _look(rows, split, progress) for split, rows in splits.items()}
    result = Audit([], {}, splits)
    result.facts = {split: seen["facts"] for split, seen in looked.items()}
    result.pixels = {
        split: {name: seen[name] for name in ("spectrum", "colour")} for split, seen in looked.items()
    }
    result.labels = {split: is_ai_of(rows) for split, rows in splits.items()}
    groups = {split: _groups(rows) for split, rows in splits.items()}

    matched = {
        split: np.asarray([matches[split][path] for path in _paths(rows)]) if matches else groups[split]
        for split, rows in splits.items()
    }
    measured = _probe_all(result, groups, matched, seed)
    result.pairs = _pairs(splits, looked)
    counts = _count_pairs(result.pairs, splits)
    origins = {name: _origins(splits, name) for name in _ORIGIN_COLUMNS if name in splits[TRAIN].column_names}
    result.results = {
        "settings": {"sample": sample, "max_auc": max_auc, "seed": seed},
        "corpus": corpus.report.to_dict(),
        "images": {
            split: {"rows": len(rows), "available": len(corpus.splits[split]), AI: int(result.labels[split].sum()), REAL: int((~result.labels[split]).sum())}
            for split, rows in splits.items()
        },
        "probes": {
            name: {
                where: {key: value.to_dict() for key, value in figures.items()} if name == "facts" else figures.to_dict()
                for where, figures in places.items()
            }
            for name, places in measured.items()
        },
        "facts": {split: _describe(facts, result.labels[split]) for split, facts in result.facts.items()},
        "duplicates": counts,
        "pairs": [_pair_dict(pair, splits) for pair in result.pairs[:_MOST_PAIRS]],
        "origins": origins,
    }  # fmt: skip
    result.findings = _findings(corpus, result, measured, counts, origins, max_auc)
    return result


def quick_audit(corpus: Corpus, n: int = 2000, max_auc: float = MAX_AUC, seed: int = 42) -> list[str]:
    """Look at the headers of a part of the training images, without decoding: one line for each thing to warn of.

    Args:
        corpus: Of [`load_corpus`]. Of a streamed one only test is at hand, and nothing is said.
        n: Training images to look at, at most.
        max_auc: As of [`audit`].

    Returns:
        `list[str]`: Empty where nothing was found.
    """
    rows = corpus.splits[TRAIN]
    if isinstance(rows, IterableDataset):
        return []
    rows = _draw(rows, n, seed)
    is_ai, facts = is_ai_of(rows), []
    for image in rows["image"]:
        facts.append(container_facts(image_bytes(image), image["path"] or "an image"))
    groups = _groups(rows)
    folds = probes.assign_folds(is_ai, groups, seed)
    lines = []
    if folds is not None:
        features, categorical = _matrix(facts)
        probe = probes.cross_validate(_trees(categorical, seed), features, is_ai, folds, groups, seed)
        if probe.low > max_auc:
            alone = _facts_alone(facts, is_ai, folds, groups, seed)
            lines.append(
                f"The files' headers give the label away in train: AUC {probe} on {len(rows):,} images, most of all "
                f"{_leaking(alone, max_auc)}. Run scripts/audit_corpus.py; its --equalize writes a copy without that."
            )
    if "source" in rows.column_names:
        line = _single_class(_origins({TRAIN: rows}, "source"))
        if line:
            lines.append(line)
    return lines


def is_ai_of(rows: Dataset) -> np.ndarray:
    """The labels of a split, (n,) bool, by name."""
    return np.asarray(rows["label"][:]) == rows.features["label"].str2int(AI)


def _draw(rows: Dataset, sample: int | None, seed: int) -> Dataset:
    if sample is None or len(rows) <= sample:
        return rows
    strata = rows["generator"][:] if "generator" in rows.column_names else None
    return rows.select(subset(rows["label"][:], sample, seed, strata))


def _paths(rows: Dataset) -> list[str]:
    return [image["path"] for image in rows["image"]]


def _groups(rows: Dataset) -> np.ndarray:
    """A group for each image, (n,); an image without one is alone."""
    names = rows["group"][:] if "group" in rows.column_names else [None] * len(rows)
    return np.asarray([f"\0{index}" if name is None else f"g{name}" for index, name in enumerate(names)])


def _look(rows: Dataset, split: str, progress: bool) -> dict:
    """Read every file once: its header, its digest, and what is wanted of its pixels."""
    seen = defaultdict(list)
    for row in tqdm(
        rows.select_columns("image"), desc=f"Auditing {split}", unit=" images", disable=not progress
    ):
        image = row["image"]
        name = image["path"] or "an image"
        data = image_bytes(image)
        seen["facts"].append(container_facts(data, name))
        seen["digest"].append(hashlib.sha256(data).digest())
        pixels = open_image({"bytes": data, "path": name})
        seen["spectrum"].append(radial_spectrum(pixels))
        seen["hash"].append(dhash(pixels))
        seen["thumbnail"].append(thumbnail(pixels))
        seen["colour"].append(
            np.asarray(pixels.reduce(max(1, min(pixels.size) // 32)), np.float32).mean(axis=(0, 1))
        )
    return {
        name: values if name in ("facts", "digest") else np.asarray(values) for name, values in seen.items()
    }


# Probes


def _matrix(facts: list[ContainerFacts], names=HEADER) -> tuple[np.ndarray, list[bool]]:
    """The facts as numbers, (n, k) float64 with NaN where there is none, and which columns are categories."""
    columns, categorical = [], []
    for name in names:
        values = [getattr(fact, name) for fact in facts]
        categorical.append(name not in NUMBERS and name not in _FLAGS)
        columns.append(probes.categories(values) if categorical[-1] else np.asarray(values, dtype=np.float64))
    return np.stack(columns, axis=1).astype(np.float64), categorical


def _trees(categorical, seed):
    return lambda features, is_ai: probes.trees(features, categorical, is_ai, seed)


def _facts_alone(facts, is_ai, folds, groups, seed) -> dict[str, Probe]:
    features, _ = _matrix(facts, ALONE)
    return {
        name: probes.cross_validate(probes.rates, features[:, column], is_ai, folds, groups, seed)
        for column, name in enumerate(ALONE)
    }


def _probe_all(
    result: Audit, groups: Mapping[str, np.ndarray], matched: Mapping[str, np.ndarray], seed: int
) -> dict[str, dict]:
    """`{probe: {"train": Probe, "test": Probe, "train to test": Probe}}`, and under "facts" each fact alone."""
    places = [split for split in (TRAIN, TEST) if split in result.splits]
    all_facts = [fact for split in places for fact in result.facts[split]]
    bounds = np.cumsum([0, *(len(result.facts[split]) for split in places)])
    headers, categorical = _matrix(all_facts)
    sizes = np.asarray([fact.bytes_per_pixel for fact in all_facts])
    spectra = np.concatenate([result.pixels[split]["spectrum"] for split in places])
    fits = {
        "container": (_trees(categorical, seed), headers),
        "file_size": (probes.rates, sizes),
        "spectrum": (probes.line, spectra),
    }
    measured = {name: {} for name in (*fits, "facts")}
    parts = {split: slice(bounds[index], bounds[index + 1]) for index, split in enumerate(places)}
    for split in places:
        is_ai = result.labels[split]
        by_group = probes.assign_folds(is_ai, groups[split], seed)
        by_match = probes.assign_folds(is_ai, matched[split], seed)
        if by_group is None or by_match is None:
            continue
        for name, (fit, features) in fits.items():
            folds, mine = (by_match, matched[split]) if name == "container" else (by_group, groups[split])
            measured[name][split] = probes.cross_validate(fit, features[parts[split]], is_ai, folds, mine, seed)
        measured["facts"][split] = _facts_alone(result.facts[split], is_ai, by_match, matched[split], seed)
    enough = all(
        min(is_ai.sum(), (~is_ai).sum()) >= probes.MIN_ROWS for is_ai in (result.labels[s] for s in places)
    )
    if len(places) == 2 and enough:
        for name, (fit, features) in fits.items():
            train, test = ((features[parts[split]], result.labels[split]) for split in places)
            how = f"learnt on train ({len(train[1]):,} images)"
            measured[name]["train to test"] = probes.transfer(fit, train, test, groups[TEST], how, seed)
    return measured


def _describe(facts: list[ContainerFacts], is_ai: np.ndarray) -> dict[str, dict[str, str]]:
    """For each fact and label, what is typical, as text."""
    described = {}
    for name in ALONE:
        described[name] = {}
        for label in NAMES:
            mine = is_ai if label == AI else ~is_ai
            values = [getattr(fact, name) for fact, chosen in zip(facts, mine) if chosen]
            described[name][label] = _typical(values, name)
    return described


def _typical(values: list, name: str) -> str:
    if name in NUMBERS:
        known = np.asarray([value for value in values if value is not None], dtype=np.float64)
        if not len(known):
            return "none"
        low, middle, high = np.quantile(known, [0.05, 0.5, 0.95], method="nearest")
        return f"{middle:.3g} ({low:.3g} to {high:.3g})" if low != high else f"{middle:.3g}"
    if name in _FLAGS:
        return f"{100 * np.mean(values):.0f} %" if values else "none"
    common = Counter(map(str, values)).most_common()
    shown = ", ".join(f"{value} {100 * count / len(values):.0f} %" for value, count in common[:3])
    return shown + (f", {len(common) - 3} more" if len(common) > 3 else "")


# Duplicates


def _pairs(splits: Mapping[str, Dataset], looked: Mapping[str, dict]) -> list[Pair]:
    where = [(split, row) for split in splits for row in range(len(splits[split]))]
    digests = [digest for split in splits for digest in looked[split]["digest"]]
    labels = [AI if ai else REAL for rows in splits.values() for ai in is_ai_of(rows)]
    groups = [
        group for rows in splits.values()
        for group in (rows["group"][:] if "group" in rows.column_names else [None] * len(rows))
    ]  # fmt: skip

    def pair(i: int, j: int, same: bool, correlation: float) -> Pair:
        together = groups[i] is not None and groups[i] == groups[j]
        return Pair(where[i], where[j], same, float(correlation), (labels[i], labels[j]), together)

    found = [pair(i, j, True, 1.0) for i, j in same_files(digests)]
    hashes = np.concatenate([looked[split]["hash"] for split in splits])
    thumbnails = np.concatenate([looked[split]["thumbnail"] for split in splits])
    for (i, j), correlation in zip(*similar_pictures(hashes, thumbnails)):
        if digests[i] != digests[j]:
            found.append(pair(int(i), int(j), False, correlation))
    return sorted(
        found, key=lambda p: (not p.across_splits, not p.across_labels, not p.same_file, -p.correlation, p.first, p.second)
    )  # fmt: skip


def _count_pairs(pairs: list[Pair], splits: Mapping[str, Dataset]) -> dict:
    """Numbers of pairs by kind, and how many images of each split another split holds too."""
    counts = {}
    for kind, same in (("same_file", True), ("similar", False)):
        mine = [pair for pair in pairs if pair.same_file == same]
        counts[kind] = {
            "pairs": len(mine),
            "across_splits": sum(pair.across_splits for pair in mine),
            "across_labels": sum(pair.across_labels for pair in mine),
            "images_seen_elsewhere": {
                split: len({end for pair in mine if pair.across_splits for end in (pair.first, pair.second) if end[0] == split})
                for split in splits
            },
        }  # fmt: skip
    return counts


def _pair_dict(pair: Pair, splits: Mapping[str, Dataset]) -> dict:
    ends = []
    for (split, row), label in zip((pair.first, pair.second), pair.labels):
        ends.append({"split": split, "row": row, "path": splits[split][row]["image"]["path"], "label": label})
    return {
        "first": ends[0], "second": ends[1], "same_file": pair.same_file, "correlation": round(pair.correlation, 4),
        "same_group": pair.same_group,
    }  # fmt: skip


# Origins


def _origins(splits: Mapping[str, Dataset], column: str) -> list[dict]:
    """Images by value of a column, split and label, the largest first."""
    counts = defaultdict(Counter)
    for split, rows in splits.items():
        if column in rows.column_names:
            for value, ai in zip(rows[column][:], is_ai_of(rows)):
                counts["unstated" if value is None else value][split, AI if ai else REAL] += 1
    return [
        {"name": name, **{split: {label: counter[split, label] for label in NAMES} for split in splits}}
        for name, counter in sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    ]


def _single_class(sources: list[dict]) -> str | None:
    """Say it, where most training images are of sources that hold one label only."""
    total = single = 0
    for source in sources:
        counts = source[TRAIN]
        total += sum(counts.values())
        if not all(counts.values()) and source["name"] != "unstated":
            single += sum(counts.values())
    if len(sources) < 2 or not total or single < total / 2:
        return None
    return (
        f"{100 * single / total:.0f} % of the training images come from sources that hold one label only, so whatever is "
        "peculiar to a source (subject, camera, site) is a hint at the label."
    )


# Findings


def _leaking(alone: Mapping[str, Probe], max_auc: float) -> str:
    ranked = sorted(alone.items(), key=lambda item: -item[1].auc)
    named = [(name, probe) for name, probe in ranked if name in HEADER]
    over = [(name, probe) for name, probe in named if probe.low > max_auc] or named[:3]
    return ", ".join(f"{name} {probe.auc:.2f}" for name, probe in over[:6])


_PLACES = {
    TRAIN: "within train",
    TEST: "within test",
    "train to test": "on test, learnt on train",
}
_ADVICE = {
    "container": "Encode all images alike and bring both labels to the same sizes (--equalize OUT), or collect the labels "
    "through the same pipeline.",
    "file_size": "Where all files have the same encoder this is how much detail the pictures have, or a compression before "
    "the last one. Train with recompression and compare the detector with this figure.",
    "spectrum": "This is what a linear look at the detail gives, generators' traces and resizing alike: the floor that a "
    "detector has to beat on these images.",
}  # fmt: skip
_KINDS = {"container": LEAK, "file_size": WARNING, "spectrum": WARNING}


def _findings(corpus, result, measured, counts, origins, max_auc) -> list[Finding]:
    found = []
    for name, what in PROBES.items():
        figures = measured[name]
        over = {where: probe for where, probe in figures.items() if probe.low > max_auc}
        if over:
            listed = "; ".join(f"{probe} {_PLACES[where]}" for where, probe in over.items())
            message = f"The label can be told from {what}: AUC {listed}."
            if name == "container":
                place = next((where for where in over if where in measured["facts"]), None)
                if place is not None:
                    message += f" Alone, {_PLACES[place]}: {_leaking(measured['facts'][place], max_auc)}."
            found.append(Finding(_KINDS[name], name, message, _ADVICE[name]))
        elif name == "container" and any(probe.high > max_auc for probe in figures.values()):
            where, probe = max(figures.items(), key=lambda item: item[1].high)
            message = (
                f"A leak above AUC {max_auc:g} through {what} cannot be ruled out: {probe} {_PLACES[where]}."
            )
            found.append(
                Finding(NOTE, name, message, "Look at more images with --sample, or at a larger corpus.")
            )
    for split, alone in measured["facts"].items():
        described = result.results["facts"][split]
        slight = [name for name in HEADER if 0.505 < alone[name].low <= max_auc]
        if slight:
            listed = "; ".join(
                f"{name} {alone[name]}: real {described[name][REAL]}, ai {described[name][AI]}"
                for name in slight
            )
            found.append(Finding(NOTE, "slight", f"Facts that say a little within {split}: {listed}."))
    below = [
        split
        for split in (TRAIN, TEST)
        if split in measured["container"] and measured["container"][split].high < 0.4
    ]
    if below:
        message = f"The area of the headers is far below one half within {' and '.join(below)}: sizes are balanced between the labels."
        advice = "No leak: held-out images then have the sizes that the other label has more of among the rest. So it is in a copy written by --equalize."
        found.append(Finding(NOTE, "balanced_sizes", message, advice))
    for split in (TRAIN, TEST):
        if split in result.splits and split not in measured["container"]:
            message = f"{split} has too few images (or groups) of a label to measure a leak in it."
            found.append(Finding(NOTE, "too_few", message))
    found += _duplicate_findings(result.pairs, counts)
    found += _row_findings(corpus)
    for split, number in result.results["images"].items():
        share = min(number[AI], number[REAL]) / number["rows"]
        if share < 0.2:
            message = f"{split} is unbalanced: {number[REAL]:,} real, {number[AI]:,} ai."
            found.append(
                Finding(
                    WARNING, "balance", message, "Read accuracy with care; balanced figures are not affected."
                )
            )
    if "source" in origins and (message := _single_class(origins["source"])):
        found.append(
            Finding(WARNING, "single_class_sources", message, "Hold out whole sources for the test split.")
        )
    found += _generator_findings(origins.get("generator"), result.splits)
    order = (LEAK, WARNING, NOTE)
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _duplicate_findings(pairs: list[Pair], counts: dict) -> list[Finding]:
    found = []
    for kind, words in (("same_file", "the same file"), ("similar", "pictures that look alike")):
        elsewhere = {split: number for split, number in counts[kind]["images_seen_elsewhere"].items() if number}
        across = counts[kind]["across_splits"]
        if across:
            listed = ", ".join(f"{number:,} of {split}" for split, number in elsewhere.items())
            message = f"Splits share images: {_number(across, 'pair')} of {words} in two splits ({listed})."
            advice = (
                "Give the copies a common group (a column 'group'), or remove them from train and validation."
            )
            found.append(Finding(LEAK, f"duplicates_{kind}", message, advice))
        mixed = [pair for pair in pairs if pair.across_labels and pair.same_file == (kind == "same_file")]
        if mixed:
            kept = sum(pair.same_group for pair in mixed)
            message = f"{_number(len(mixed), 'pair')} of {words} with different labels" + (
                f", {kept:,} of them in one group (an original and its regeneration, say)." if kept else "."
            )
            severity = NOTE if kept == len(mixed) else WARNING
            found.append(Finding(severity, f"labels_{kind}", message, "" if severity == NOTE else "One of the two labels may be wrong."))  # fmt: skip
        inside = counts[kind]["pairs"] - across
        if inside:
            message = f"{_number(inside, 'pair')} of {words} within one split."
            found.append(
                Finding(NOTE, f"repeated_{kind}", message, "Copies count twice in training and in measuring.")
            )
    return found


def _row_findings(corpus: Corpus) -> list[Finding]:
    """What the loader dropped."""
    groups = [row for row in corpus.report.dropped if row["reason"].startswith("its group ")]
    others = Counter(row["reason"] == "it has no label" for row in corpus.report.dropped if row not in groups)
    found = []
    if groups:
        message = f"Groups straddle splits: the loader leaves out {_number(len(groups), 'row')} whose group another split has too."
        found.append(
            Finding(WARNING, "groups", message, "Who reads the files with another loader gets these rows.")
        )
    if others[False]:
        message = f"Left out by the loader, because it cannot decode them: {_number(others[False], 'image')}."
        found.append(Finding(WARNING, "unreadable", message, "Replace them, or remove them from the corpus."))
    if others[True]:
        found.append(
            Finding(
                NOTE,
                "unlabelled",
                f"Left out by the loader, because they have no label: {_number(others[True], 'row')}.",
            )
        )
    return found


def _generator_findings(generators: list[dict] | None, splits: Mapping[str, Dataset]) -> list[Finding]:
    if TEST not in splits:
        return []
    if generators is None:
        message = "The corpus has no column 'generator', so results on generators that training never saw cannot be told apart."
        return [Finding(NOTE, "generators", message)]
    total = sum(row[TEST][AI] for row in generators)
    unseen = sum(row[TEST][AI] for row in generators if not row[TRAIN][AI])
    message = f"{unseen:,} of {total:,} ai images of test are of generators that train does not have."
    advice = "" if unseen else "Results on this test split say nothing about new generators."
    return [Finding(NOTE, "generators", message, advice)]
