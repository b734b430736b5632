"""From the findings about single images to figures with intervals, and the method that they support."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..statistics.bootstrap import mean_figure
from .explanation_findings import CENTRE, Findings
from .localisation import SCORES
from .measurement_log import plain
from .splice import KINDS


def summarise(
    findings: Findings,
    names: Sequence[str],
    groups: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Make figures of findings: means with 95 % bootstrap intervals.

    Args:
        names: Of the candidates.
        groups: *optional*. The group of each image of the data set, so that images which belong together are drawn together.

    Returns:
        `{"faithfulness": {name: {figure: {"value", "low", "high", "n"}}}, "localisation": {kind: {name: …}}, "agreement": {pair: …},
        "default": the name with the largest gains among those that beat chance, or `None`}`. Figures of localisation: each score;
        over chance and over the centred map; over the control (`…_over_…`).
    """
    options = {"n_resamples": n_resamples, "seed": seed}
    faithfulness = {}
    for name in names:
        lines = findings.of("faithfulness", name)
        by_group = None if groups is None else [groups[line["item"]] for line in lines]
        keys = sorted(
            {key for line in lines for key, value in line.items() if _is_number(value) and key != "item"}
        )
        faithfulness[name] = {
            key: _figure([line.get(key) for line in lines], by_group, **options) for key in keys
        }
        gains = [_sum(line.get("deletion_gain"), line.get("insertion_gain")) for line in lines]
        faithfulness[name]["gain"] = _figure(gains, by_group, **options)
        if "milliseconds" in faithfulness[name]:  # the median: the first map pays for finding the layer
            times = [line["milliseconds"] for line in lines if line["milliseconds"] is not None]
            faithfulness[name]["milliseconds"] = {"value": float(np.median(times)), "n": len(times)}
    return {
        "faithfulness": faithfulness,
        "localisation": {
            kind: {name: _localised(findings, name, kind, options) for name in (*names, CENTRE)}
            for kind in KINDS
        },
        "agreement": _agreed(findings, options),
        "default": choose(faithfulness),
    }


def choose(faithfulness: Mapping[str, Mapping]) -> str | None:
    """The candidate with the largest gain over chance, deletion and insertion together, among those that explained all images and
    whose deletion and insertion are both over 0 with their whole intervals; `None` where there is none."""
    everything = max((figures["gain"]["n"] for figures in faithfulness.values()), default=0)
    sure = {
        name: figures["gain"]["value"]
        for name, figures in faithfulness.items()
        if figures["gain"]["n"] == everything
        and all((figures.get(f"{way}_gain") or {}).get("low", -1.0) > 0 for way in ("deletion", "insertion"))
    }
    return max(sure, key=sure.get) if sure else None


def _localised(findings: Findings, name: str, kind: str, options: dict) -> dict:
    lines = [line for line in findings.of("splice", name) if line["kind"] == kind]
    centred = {line["item"]: line for line in findings.of("splice", CENTRE)}
    figures = {"share": _figure([line["share"] for line in lines], None, **options)} if lines else {}
    for score in SCORES:
        values = [line[score] for line in lines]
        others = {
            "chance": [line[f"chance_{score}"] for line in lines],
            "control": [line[f"control_{score}"] for line in lines],
            "centre": [centred.get(line["item"], {}).get(score) for line in lines],
        }
        figures[score] = _figure(values, None, **options)
        for other, against in others.items():
            # Paired: the same splice under the same mask.
            figures[f"{score}_over_{other}"] = _figure(
                [
                    _sum(ours, None if theirs is None else -theirs)
                    for ours, theirs in zip(values, against, strict=True)
                ],
                None,
                **options,
            )
    return figures


def _agreed(findings: Findings, options: dict) -> dict:
    lines = findings.of("agreement", "")
    pairs = sorted({pair for line in lines for pair in line["pairs"]})
    return {
        pair: {
            measure: _figure([line["pairs"].get(pair, {}).get(measure) for line in lines], None, **options)
            for measure in ("rank_correlation", "overlap")
        }
        for pair in pairs
    }


def _is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _sum(*values) -> float | None:
    return sum(values) if all(_is_number(value) for value in values) else None


def _figure(values: Sequence, groups: Sequence | None, n_resamples: int, seed: int) -> dict:
    """Mean and 95 % interval over images of which the figure is known."""
    kept = [position for position, value in enumerate(values) if _is_number(value)]
    whose = None if groups is None else [groups[position] for position in kept]
    n_resamples = n_resamples if len(kept) > 1 else 0
    return plain(mean_figure([values[position] for position in kept], whose, n_resamples, seed))
