"""The figures of a robustness run: each degradation, generator and slice, and the worst cases that stand for all.

Takes the margins that [`robustness.score_grid`] computed; the figures go to `robustness.json`, from which the card and the
plots are made.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from realfake.evaluation.log import plain
from realfake.evaluation.measure import measure
from realfake.labels import NAMES
from realfake.statistics.bootstrap import bootstrap_interval
from realfake.statistics.metrics import balanced_accuracy
from realfake.statistics.verdicts import Thresholds

CLEAN = "clean"
# Below this many images a generator is listed, but not named as the worst one.
ENOUGH = 10
# Looked at by themselves where a split has such sources: faces, which people care about most and generators do best, and
# sources whose photographs and generated images show the same subjects, so that content cannot decide.
SLICES = {
    "faces": ["faces-256", "faces-300", "tpdne", "man"],
    "truman-pairs (matched subjects)": ["truman-pairs"],
    "fjell (matched subjects)": ["fjell"],
}


def grid_figures(
    log_odds: Mapping[str, np.ndarray],
    is_ai,
    *,
    thresholds: Thresholds | None = None,
    out_of_distribution: Mapping[str, Sequence[bool]] | None = None,
    groups: Sequence | None = None,
    generators: Sequence | None = None,
    sources: Sequence | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict[str, dict]:
    """Compute the figures of each degradation.

    Args:
        log_odds: `{degradation: float64 margins of shape (n,)}`.
        out_of_distribution: *optional*. For each degradation, as in [`evaluation.measure`].
        slices: *optional*. `{name: sources}`: images of these sources are also looked at by themselves.
        is_ai, thresholds, groups, generators, sources, seed, n_resamples: As in [`evaluation.measure`].

    Returns:
        `{degradation: figures}`: what [`evaluation.measure`] returns, with `false_positives` (share of real images with
        a margin above 0), `by_generator[name]["balanced_accuracy"]` (against all real images), and `by_slice`.
    """
    is_ai = np.asarray(is_ai, dtype=bool)
    options = {"seed": seed, "n_resamples": n_resamples}
    independent = None
    if groups is not None:
        independent = np.array(
            [str(group) if group else f"\0{row}" for row, group in enumerate(groups)]
        )
    found = {}
    for name, values in log_odds.items():
        unlike = (
            None
            if out_of_distribution is None
            else np.asarray(out_of_distribution[name], dtype=bool)
        )
        figures = measure(
            values,
            is_ai,
            thresholds=thresholds,
            out_of_distribution=unlike,
            groups=groups,
            generators=generators,
            sources=sources,
            **options,
        )
        figures["false_positives"] = _complement(figures["summary"]["recall_real"])
        for generator, entry in figures.get("by_generator", {}).items():
            against = ~is_ai | (np.asarray(generators, dtype=object) == generator)
            entry["balanced_accuracy"] = _balanced(values, is_ai, independent, against, options)
        if slices:
            figures["by_slice"] = {
                part: _slice(
                    values, is_ai, thresholds, unlike, groups, _in(sources, members), options
                )
                for part, members in slices.items()
            }
        found[name] = plain(figures)
    return found


def headline(figures: Mapping[str, Mapping]) -> dict:
    """Select what stands for all: the worst degradation and the worst generator, not the average.

    Args:
        figures: What [`grid_figures`] returned.

    Returns:
        `dict`: `worst_degradation` `{"degradation", "balanced_accuracy"}`; `worst_generator` `{"generator",
        "degradation", "n", "balanced_accuracy", "auroc", "detected"}`, of those with ten images or more where there are
        such; `clean`, the balanced accuracy there; `mean`, that over the degradations, which says least. Their intervals
        are those of one cell each: they do not know that it was chosen as the lowest.
    """
    tiers = {
        name: figures[name]["summary"]["balanced_accuracy"]
        for name in figures
        if figures[name]["summary"]["balanced_accuracy"]["value"] is not None
    }
    if not tiers:
        return {"worst_degradation": None, "worst_generator": None, "clean": None, "mean": None}
    worst = min(tiers, key=lambda name: tiers[name]["value"])
    cells = [
        {"generator": generator, "degradation": name, **entry}
        for name in figures
        for generator, entry in (figures[name].get("by_generator") or {}).items()
        if entry["balanced_accuracy"]["value"] is not None
    ]
    cells = [cell for cell in cells if cell["n"] >= ENOUGH] or cells
    lowest = min(cells, key=lambda cell: cell["balanced_accuracy"]["value"]) if cells else None
    kept = ("generator", "degradation", "n", "balanced_accuracy", "auroc", "detected")
    return {
        "worst_degradation": {"degradation": worst, "balanced_accuracy": tiers[worst]},
        "worst_generator": lowest and {key: lowest[key] for key in kept},
        "clean": tiers.get(CLEAN),
        "mean": float(np.mean([entry["value"] for entry in tiers.values()])),
    }


def read_slices(texts: Sequence[str], sources: Sequence | None) -> dict[str, list[str]]:
    """Read `"faces=ffhq,stylegan"` as `{"faces": ["ffhq", "stylegan"]}`.

    Raises:
        ValueError: It is not of that form, or the split has no image of these sources.
    """
    known = sorted({str(source) for source in sources or () if source})
    slices = {}
    for text in texts:
        name, equals, members = text.partition("=")
        members = [member.strip() for member in members.split(",") if member.strip()]
        if not equals or not name.strip() or not members:
            raise ValueError(f"--slice: {text!r} is not of the form NAME=SOURCE,SOURCE.")
        if not set(members) & set(known):
            raise ValueError(
                f"--slice {name}: the split has no image of {', '.join(members)}; its sources are "
                f"{', '.join(known[:20]) or 'not stated'}."
            )
        slices[name.strip()] = members
    return slices


def known_slices(sources: Sequence | None) -> dict[str, list[str]]:
    """Those of [`SLICES`] that a split has images of."""
    known = set(sources or ())
    return {name: members for name, members in SLICES.items() if known & set(members)}


def _in(sources, members) -> np.ndarray:
    return np.isin(np.asarray(sources, dtype=object).astype(str), members)


def _slice(log_odds, is_ai, thresholds, out_of_distribution, groups, where, options) -> dict:
    if not where.any():
        return {"n": dict.fromkeys(NAMES, 0)}
    picked = None if groups is None else [group for group, mine in zip(groups, where) if mine]
    unlike = None if out_of_distribution is None else out_of_distribution[where]
    figures = measure(
        log_odds[where],
        is_ai[where],
        thresholds=thresholds,
        out_of_distribution=unlike,
        groups=picked,
        **options,
    )
    summary = figures["summary"]
    found = {
        "n": figures["n"],
        "auroc": summary["auroc"],
        "balanced_accuracy": summary["balanced_accuracy"],
        "detected": summary["recall_ai"],
        "false_positives": _complement(summary["recall_real"]),
    }
    if "verdicts" in figures:
        found["verdicts"] = {
            key: figures["verdicts"][key] for key in ("given", "accuracy", "wrong", "promised")
        }
    return found


def _balanced(log_odds, is_ai, groups, where, options) -> dict:
    value = balanced_accuracy(log_odds[where], is_ai[where])
    low = high = None
    if options["n_resamples"] and not np.isnan(value):
        low, high = bootstrap_interval(
            balanced_accuracy,
            log_odds[where],
            is_ai[where],
            weighted=True,
            groups=None if groups is None else groups[where],
            **options,
        )
    return {"value": value, "low": low, "high": high, "n": int(where.sum())}


def _complement(figure: Mapping) -> dict:
    """The figure of 1 - x."""
    turned = {"value": figure["value"], "low": figure["high"], "high": figure["low"]}
    return {**{key: None if x is None else 1 - x for key, x in turned.items()}, "n": figure["n"]}
