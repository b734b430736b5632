"""Figures and report of the measured maps, and the choice of the default method."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from realfake.evaluation.log import plain
from realfake.formatting import MISSING, code, fence, md, number, score, share, table
from realfake.statistics.bootstrap import mean_figure

if TYPE_CHECKING:
    from realfake.evaluation.explanations import Findings

FILE_NAME = "explanations.json"
REPORT_NAME = "explanations.md"
SPLICES = {
    "ai_in_real": "a generated region in a photograph",
    "real_in_ai": "a region of a photograph in a generated image",
}
_LEGEND = """\
- deletion: how much smaller the area under the deletion curve is than with random maps
- insertion: how much larger the area under the insertion curve is than with random maps
- 10 % step: share of the maps that beat each of five random maps (17 % by chance)
- sensitivity: largest relative change of the map under noise of 2 %
- shuffled weights: rank correlation with the map of a network with shuffled weights, signed and of
  the magnitudes; far from 0, the map does not depend on what the network learned
- ms: median time of a map"""


def summarise(
    findings: "Findings",
    names: Sequence[str],
    groups: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Compute means with 95 % bootstrap intervals.

    Args:
        names: Names of the candidates.
        groups: *optional*. The group of each image; the bootstrap draws whole groups.

    Returns:
        `{"faithfulness": {name: {figure: {"value", "low", "high", "n"}}}, "localisation": {kind:
        {name: {figure: …}}}, "default": name}`. `energy_over_chance` and `energy_over_control` are
        differences to random maps and to the control image. `default` is the result of [`choose`].
    """

    def figure(values: Iterable, items: Sequence[int] = ()) -> dict:
        known = [(place, value) for place, value in enumerate(values) if _is_number(value)]
        whose = None if groups is None or not items else [groups[items[i]] for i, _ in known]
        resamples = n_resamples if len(known) > 1 else 0
        return plain(mean_figure([value for _, value in known], whose, resamples, seed))

    faithfulness = {}
    for name in names:
        lines = findings.of("faithfulness", name)
        items = [line["item"] for line in lines]
        keys = {key for line in lines for key, value in line.items() if _is_number(value)}
        figures = {
            key: figure([line.get(key) for line in lines], items) for key in sorted(keys - {"item"})
        }
        gains = [_sum(line.get("deletion_gain"), line.get("insertion_gain")) for line in lines]
        figures["gain"] = figure(gains, items)
        if "milliseconds" in figures:  # not the mean: the first map includes finding the layer
            times = [line["milliseconds"] for line in lines]
            figures["milliseconds"] = {"value": float(np.median(times)), "n": len(times)}
        faithfulness[name] = figures

    localisation: dict[str, dict] = {kind: {} for kind in SPLICES}
    for kind in SPLICES:
        for name in names:
            lines = [line for line in findings.of("splice", name) if line["kind"] == kind]
            energies = [line["energy"] for line in lines]
            localisation[kind][name] = {
                "share": figure(line["share"] for line in lines),
                "energy": figure(energies),
            }
            for other in ("chance", "control"):
                others = [line[f"{other}_energy"] for line in lines]
                localisation[kind][name][f"energy_over_{other}"] = figure(
                    _sum(energy, None if less is None else -less)
                    for energy, less in zip(energies, others, strict=True)
                )
    return {
        "faithfulness": faithfulness,
        "localisation": localisation,
        "default": choose(faithfulness),
    }


def choose(faithfulness: Mapping[str, Mapping]) -> str | None:
    """Return the candidate with the largest gain, the sum of deletion and insertion gain.

    It must have explained all images, and the intervals of both gains must lie above 0. `None` if
    there is no such candidate.
    """
    n = max((figures["gain"]["n"] for figures in faithfulness.values()), default=0)
    proven = {
        name: figures["gain"]["value"]
        for name, figures in faithfulness.items()
        if figures["gain"]["n"] == n
        and all(
            ((figures.get(f"{way}_gain") or {}).get("low") or -1.0) > 0
            for way in ("deletion", "insertion")
        )
    }
    return max(proven, key=lambda name: proven[name]) if proven else None


def render(record: Mapping) -> str:
    """Return the record of one split, as stored in `explanations.json`, as Markdown."""
    settings, figures = record["settings"], record["figures"]
    rows = []
    for name, values in figures["faithfulness"].items():
        shuffled = (number(_value(values, key)) for key in ("randomised", "randomised_magnitude"))
        milliseconds = _value(values, "milliseconds")
        rows.append(
            [
                f"**{code(name)}**" if name == figures["default"] else code(name),
                *(score(values.get(key)) for key in ("deletion_gain", "insertion_gain")),
                share(values.get("beats_random")),
                number(_value(values, "sensitivity")),
                " / ".join(shuffled),
                MISSING if milliseconds is None else f"{milliseconds:.0f}",
            ]
        )
    header = ["method", "deletion", "insertion", "10 % step", "sensitivity"]
    sections = [
        f"# Maps of {md(record['model'])} on {md(record['corpus'])}, {record['split']}",
        conclusion(record),
        f"{record['n']} images, each explained for its predicted label; {settings['steps']} steps, "
        f"{settings['n_random']} random maps for each map (the map itself, flipped and rolled). "
        "Parentheses hold 95 % bootstrap intervals over groups of images.",
        "## Faithfulness",
        _LEGEND,
        table([*header, "shuffled weights", "ms"], rows),
    ]
    for kind, methods in figures["localisation"].items():
        sections += _localisation(kind, methods)
    return "\n\n".join([*sections, fence(record["command"])]) + "\n"


def conclusion(record: Mapping) -> str:
    """Return the method that the figures support, as a sentence of Markdown."""
    name = record["figures"]["default"]
    if name is None:
        return (
            "**No method beats random maps in both deletion and insertion.** The maps of this "
            "detector are unproven."
        )
    gain = score(record["figures"]["faithfulness"][name]["gain"])
    return (
        f"**Best method: {code(name)}.** Deletion and insertion together gain {gain} over chance."
    )


def _localisation(kind: str, methods: Mapping[str, Mapping]) -> list[str]:
    measured = {
        name: values
        for name, values in methods.items()
        if (values.get("energy") or {}).get("n") and name != "centre"  # a control of old records
    }
    if not measured:
        return []
    first = next(iter(measured.values()))
    keys = ("energy", "energy_over_chance", "energy_over_control")
    rows = [
        [code(name), *(score(values[key]) for key in keys)] for name, values in measured.items()
    ]
    return [
        f"## Localisation: {SPLICES[kind]}",
        f"{first['energy']['n']} splices; the region is {100 * first['share']['value']:.0f} % of "
        "the image. Energy inside: share of the map's evidence in the region. Over chance: less "
        "that of random maps. Over the control: less that of the same base and mask with a region "
        "of another image of the base's class.",
        table(["method", "energy inside", "over chance", "over the control"], rows),
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None and _is_number(value)]
    return sum(known) if len(known) == len(values) else None


def _value(figures: Mapping, key: str) -> float | None:
    return (figures.get(key) or {}).get("value")
