"""Audit a corpus: what reveals the label apart from the pictures, and which pictures occur twice.

[`audit`] measures everything, `leaks` interprets the figures, and `report` writes them.
[`quick_audit`] decodes nothing and takes seconds; every training starts with it.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset
from tqdm.auto import tqdm

from realfake.audit.duplicates import Pair, count_pairs, dhash, find_pairs, thumbnail
from realfake.audit.leaks import (
    LEAK,
    Finding,
    describe,
    feature_matrix,
    leaking_facts,
    list_findings,
    probe_all,
    probe_alone,
    single_class_message,
)
from realfake.corpus.load import Corpus
from realfake.corpus.rows import column as column_of
from realfake.corpus.rows import is_ai as is_ai_of
from realfake.corpus.rows import own_groups
from realfake.corpus.splits import SPLITS, TRAIN, subsample
from realfake.evaluation.probes import assign_folds, cross_validate, trees
from realfake.imaging.decode import image_bytes, open_image
from realfake.imaging.file_facts import ContainerFacts, container_facts, radial_spectrum
from realfake.labels import AI, NAMES, REAL

SAMPLE = 5000
MAX_AUC = 0.6
_MOST_PAIRS = 1000
_ORIGIN_COLUMNS = ("source", "generator", "family", "subject")


@dataclass
class Audit:
    """The result of an audit.

    Args:
        findings: Leaks first.
        facts: `{split: [ContainerFacts]}`
    """

    findings: list[Finding]
    results: dict
    splits: DatasetDict
    pairs: list[Pair]
    facts: dict[str, list[ContainerFacts]]

    @property
    def leaks(self) -> list[Finding]:
        """The findings that are leaks."""
        return [finding for finding in self.findings if finding.severity == LEAK]

    def to_dict(self) -> dict:
        """Return the audit as plain values for JSON."""
        return {"findings": [asdict(finding) for finding in self.findings], **self.results}


def audit(
    corpus: Corpus,
    *,
    sample: int | None = SAMPLE,
    max_auc: float = MAX_AUC,
    seed: int = 42,
    matches: Mapping[str, Mapping[str, int]] | None = None,
) -> Audit:
    """Measure what reveals the label of a corpus.

    **Probes.** Gradient-boosted trees on the files' headers, one rate per value for each fact
    alone, and a logistic regression on the radial power spectrum. Each is measured within train
    and within test (5-fold cross-validated, no group in two folds), and fitted on train and
    measured on test. It is a leak if the lower end of the 95 % interval for the headers is above
    `max_auc`. The spectrum and the bytes per pixel are properties of the pictures as well, so
    they are warnings.

    **Duplicates.** Equal files and similar pictures, in all splits together. Across splits they
    are a leak.

    Args:
        sample: Largest number of images to examine per split, drawn with the shares of labels and
            generators kept; `None` for all.
        max_auc: An AUROC above this value is a finding; 0.5..1.
        matches: *optional*. The match of each image, of
            [`~realfake.audit.equalize.write_equalized`]. Images of a match have the same size, so
            they stay in one fold.

    Raises:
        ValueError: The corpus is streamed, or an option is out of range.
    """
    if any(isinstance(rows, IterableDataset) for rows in corpus.splits.values()):
        raise ValueError(
            "A streamed corpus cannot be audited; load it without streaming. --sample limits the "
            "number of images."
        )
    if not 0.5 <= max_auc < 1:
        raise ValueError(f"--max_auc must be at least 0.5 and below 1, not {max_auc}.")
    if sample is not None and sample < 2:
        raise ValueError(f"--sample must be at least 2, one image of each class, not {sample}.")
    splits = DatasetDict(
        {
            split: subsample(corpus.splits[split], sample, seed)
            for split in SPLITS
            if split in corpus.splits
        }
    )
    examined = {split: _examine(rows, split) for split, rows in splits.items()}
    facts = {split: values["facts"] for split, values in examined.items()}
    spectra = {split: values["spectrum"] for split, values in examined.items()}
    labels = {split: is_ai_of(rows) for split, rows in splits.items()}
    groups = {split: _groups(rows) for split, rows in splits.items()}
    matched = groups
    if matches:
        matched = {
            split: np.asarray([matches[split][image["path"]] for image in rows["image"]])
            for split, rows in splits.items()
        }
    probes, alone = probe_all(facts, spectra, labels, groups, matched, seed)
    pairs = find_pairs(
        [(split, row) for split in splits for row in range(len(splits[split]))],
        [AI if ai else REAL for split in splits for ai in labels[split]],
        [
            group
            for rows in splits.values()
            for group in column_of(rows, "group") or [None] * len(rows)
        ],
        [digest for values in examined.values() for digest in values["digest"]],
        np.concatenate([values["hash"] for values in examined.values()]),
        np.concatenate([values["thumbnail"] for values in examined.values()]),
    )
    results = {
        "settings": {"sample": sample, "max_auc": max_auc, "seed": seed},
        "corpus": corpus.report.to_dict(),
        "images": {
            split: {
                "rows": len(rows),
                "available": len(corpus.splits[split]),
                AI: int(labels[split].sum()),
                REAL: int((~labels[split]).sum()),
            }
            for split, rows in splits.items()
        },
        "probes": {
            name: {where: asdict(probe) for where, probe in places.items()}
            for name, places in probes.items()
        }
        | {
            "facts": {
                split: {name: asdict(probe) for name, probe in figures.items()}
                for split, figures in alone.items()
            }
        },
        "facts": {split: describe(facts[split], labels[split]) for split in splits},
        "duplicates": count_pairs(pairs, list(splits)),
        "pairs": [_pair_dict(pair, splits) for pair in pairs[:_MOST_PAIRS]],
        "origins": {
            name: _origins(splits, name)
            for name in _ORIGIN_COLUMNS
            if name in splits[TRAIN].column_names
        },
    }
    findings = list_findings(results, probes, alone, pairs)
    return Audit(findings, results, splits, pairs, facts)


def quick_audit(
    corpus: Corpus, n: int = 2000, max_auc: float = MAX_AUC, seed: int = 42
) -> list[str]:
    """Examine the headers of some training images, without decoding.

    Returns:
        One line per warning.
    """
    rows = corpus.splits[TRAIN]
    if isinstance(rows, IterableDataset):
        return []
    rows = subsample(rows, n, seed)
    is_ai, groups = is_ai_of(rows), _groups(rows)
    facts = [
        container_facts(image_bytes(image), image["path"] or "an image") for image in rows["image"]
    ]
    lines = []
    folds = assign_folds(is_ai, groups, seed)
    if folds is not None:
        features, categorical = feature_matrix(facts)
        probe = cross_validate(trees(categorical, seed), features, is_ai, folds, groups, seed)
        if probe.low > max_auc:
            alone = probe_alone(facts, is_ai, folds, groups, seed)
            lines.append(
                f"The files' headers reveal the label in train: AUC {probe} on {len(rows):,} "
                f"images, mostly through {leaking_facts(alone, max_auc)}. Run `realfake corpus "
                "audit`; its --equalize writes a copy without the leak."
            )
    if "source" in rows.column_names:
        message = single_class_message(_origins({TRAIN: rows}, "source"))
        if message:
            lines.append(message)
    return lines


def _groups(rows: Dataset) -> np.ndarray:
    return np.asarray(own_groups(column_of(rows, "group") or [None] * len(rows)))


def _examine(rows: Dataset, split: str) -> dict:
    """Return the header, digest, spectrum, hash and thumbnail of every image."""
    values: dict[str, list] = defaultdict(list)
    images = rows.select_columns("image")
    for row in tqdm(images, desc=f"Auditing {split}", unit=" images"):
        image = row["image"]
        name = image["path"] or "an image"
        data = image_bytes(image)
        values["facts"].append(container_facts(data, name))
        values["digest"].append(hashlib.sha256(data).digest())
        pixels = open_image({"bytes": data, "path": name})
        values["spectrum"].append(radial_spectrum(pixels))
        values["hash"].append(dhash(pixels))
        values["thumbnail"].append(thumbnail(pixels))
    return {
        name: value if name in ("facts", "digest") else np.asarray(value)
        for name, value in values.items()
    }


def _pair_dict(pair: Pair, splits: Mapping[str, Dataset]) -> dict:
    first, second = (
        {"split": split, "row": row, "path": splits[split][row]["image"]["path"], "label": label}
        for (split, row), label in zip((pair.first, pair.second), pair.labels, strict=True)
    )
    return {
        "first": first,
        "second": second,
        "same_file": pair.same_file,
        "correlation": round(pair.correlation, 4),
        "same_group": pair.same_group,
    }


def _origins(splits: Mapping[str, Dataset], column: str) -> list[dict]:
    """Count images by value of a column, split and label, the largest first."""
    counts = defaultdict(Counter)
    for split, rows in splits.items():
        if column in rows.column_names:
            for value, ai in zip(rows[column][:], is_ai_of(rows), strict=True):
                counts["unstated" if value is None else value][split, AI if ai else REAL] += 1
    return [
        {
            "name": name,
            **{split: {label: counter[split, label] for label in NAMES} for split in splits},
        }
        for name, counter in sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    ]
