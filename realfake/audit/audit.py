"""Does the label leak? What a corpus gives away besides what is in the pictures, and which pictures it holds twice.

Stands behind the corpus loader and before training. [`audit`] measures everything and lists findings, `report` writes
them down; [`quick_audit`] takes seconds and decodes nothing, for the start of a training run.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset
from tqdm.auto import tqdm

from realfake.audit import probes
from realfake.audit.duplicates import dhash, same_files, similar_pictures, thumbnail
from realfake.audit.findings import leaking, list_findings, single_class
from realfake.audit.probes import describe, facts_alone, matrix, probe_all, trees_for
from realfake.audit.result import Audit, Pair
from realfake.corpus.load import Corpus
from realfake.corpus.splits import SPLITS, TRAIN, subset
from realfake.imaging.decode import image_bytes, open_image
from realfake.imaging.file_facts import container_facts, radial_spectrum
from realfake.labels import AI, NAMES, REAL

SAMPLE = 5000
MAX_AUC = 0.6
_MOST_PAIRS = 1000
_ORIGIN_COLUMNS = ("source", "generator", "family", "subject")


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
        matches: *optional*. Of [`~realfake.audit.equalize.write_equalized`]: images that were given the same size on purpose, one of
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
        {
            split: _draw(corpus.splits[split], sample, seed)
            for split in SPLITS
            if split in corpus.splits
        }
    )
    looked = {split: _look(rows, split, progress) for split, rows in splits.items()}
    result = Audit([], {}, splits)
    result.facts = {split: seen["facts"] for split, seen in looked.items()}
    result.pixels = {
        split: {name: seen[name] for name in ("spectrum", "colour")}
        for split, seen in looked.items()
    }
    result.labels = {split: is_ai_of(rows) for split, rows in splits.items()}
    groups = {split: _groups(rows) for split, rows in splits.items()}

    matched = {
        split: np.asarray([matches[split][path] for path in _paths(rows)])
        if matches
        else groups[split]
        for split, rows in splits.items()
    }
    measured = probe_all(result, groups, matched, seed)
    result.pairs = _pairs(splits, looked)
    counts = _count_pairs(result.pairs, splits)
    origins = {
        name: _origins(splits, name)
        for name in _ORIGIN_COLUMNS
        if name in splits[TRAIN].column_names
    }
    result.results = {
        "settings": {"sample": sample, "max_auc": max_auc, "seed": seed},
        "corpus": corpus.report.to_dict(),
        "images": {
            split: {
                "rows": len(rows),
                "available": len(corpus.splits[split]),
                AI: int(result.labels[split].sum()),
                REAL: int((~result.labels[split]).sum()),
            }
            for split, rows in splits.items()
        },
        "probes": {
            name: {
                where: {key: value.to_dict() for key, value in figures.items()}
                if name == "facts"
                else figures.to_dict()
                for where, figures in places.items()
            }
            for name, places in measured.items()
        },
        "facts": {
            split: describe(facts, result.labels[split]) for split, facts in result.facts.items()
        },
        "duplicates": counts,
        "pairs": [_pair_dict(pair, splits) for pair in result.pairs[:_MOST_PAIRS]],
        "origins": origins,
    }
    result.findings = list_findings(corpus, result, measured, counts, origins, max_auc)
    return result


def quick_audit(
    corpus: Corpus, n: int = 2000, max_auc: float = MAX_AUC, seed: int = 42
) -> list[str]:
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
        features, categorical = matrix(facts)
        probe = probes.cross_validate(
            trees_for(categorical, seed), features, is_ai, folds, groups, seed
        )
        if probe.low > max_auc:
            alone = facts_alone(facts, is_ai, folds, groups, seed)
            lines.append(
                f"The files' headers give the label away in train: AUC {probe} on {len(rows):,} images, most of all "
                f"{leaking(alone, max_auc)}. Run scripts/audit_corpus.py; its --equalize writes a copy without that."
            )
    if "source" in rows.column_names:
        line = single_class(_origins({TRAIN: rows}, "source"))
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
    return np.asarray(
        [f"\0{index}" if name is None else f"g{name}" for index, name in enumerate(names)]
    )


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
        name: values if name in ("facts", "digest") else np.asarray(values)
        for name, values in seen.items()
    }


# Duplicates


def _pairs(splits: Mapping[str, Dataset], looked: Mapping[str, dict]) -> list[Pair]:
    where = [(split, row) for split in splits for row in range(len(splits[split]))]
    digests = [digest for split in splits for digest in looked[split]["digest"]]
    labels = [AI if ai else REAL for rows in splits.values() for ai in is_ai_of(rows)]
    groups = [
        group
        for rows in splits.values()
        for group in (rows["group"][:] if "group" in rows.column_names else [None] * len(rows))
    ]

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
        found,
        key=lambda p: (
            not p.across_splits,
            not p.across_labels,
            not p.same_file,
            -p.correlation,
            p.first,
            p.second,
        ),
    )


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
                split: len(
                    {
                        end
                        for pair in mine
                        if pair.across_splits
                        for end in (pair.first, pair.second)
                        if end[0] == split
                    }
                )
                for split in splits
            },
        }
    return counts


def _pair_dict(pair: Pair, splits: Mapping[str, Dataset]) -> dict:
    ends = []
    for (split, row), label in zip((pair.first, pair.second), pair.labels):
        ends.append(
            {
                "split": split,
                "row": row,
                "path": splits[split][row]["image"]["path"],
                "label": label,
            }
        )
    return {
        "first": ends[0],
        "second": ends[1],
        "same_file": pair.same_file,
        "correlation": round(pair.correlation, 4),
        "same_group": pair.same_group,
    }


# Origins


def _origins(splits: Mapping[str, Dataset], column: str) -> list[dict]:
    """Images by value of a column, split and label, the largest first."""
    counts = defaultdict(Counter)
    for split, rows in splits.items():
        if column in rows.column_names:
            for value, ai in zip(rows[column][:], is_ai_of(rows)):
                counts["unstated" if value is None else value][split, AI if ai else REAL] += 1
    return [
        {
            "name": name,
            **{split: {label: counter[split, label] for label in NAMES} for split in splits},
        }
        for name, counter in sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    ]
