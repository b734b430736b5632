"""Figures and report of the measured maps, and the choice of the default method."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from realfake.evaluation.log import plain
from realfake.evaluation.map_checks import CENTRE, SCORES
from realfake.evaluation.splices import KINDS
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
- ROAD: how much lower the probability is than with random maps, with 10 and 30 % of the pixels
  imputed
- 10 % step: share of the maps that beat each of five random maps (17 % by chance)
- infidelity: 0 for a perfect map, 1 for an empty map
- sensitivity: largest relative change of the map under noise of 2 %
- shuffled weights: rank correlation with the map of a network with shuffled weights, signed and of
  the magnitudes; far from 0, the map does not depend on what the network learned
- ms: median time of a map, over the first {n_timed} images"""


def summarise(
    findings: "Findings",
    names: Sequence[str],
    groups: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Compute means with 95 % bootstrap intervals.

    Args:
        findings: The results.
        names: Names of the candidates.
        groups: *optional*. The group of each image; the bootstrap draws whole groups.
        n_resamples: Bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        `{"faithfulness": {name: {figure: {"value", "low", "high", "n"}}}, "localisation": {kind:
        {name: {figure: …}}}, "default": name}`. For localisation, `<score>_over_<other>` is the
        difference to random maps (`chance`), the `control` image or the map of the `centre`.
        `default` is the result of [`choose`].
    """

    def figure(values: Iterable, items: Sequence[int] | None = None) -> dict:
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
            times = [line["milliseconds"] for line in lines if line["milliseconds"] is not None]
            figures["milliseconds"] = {"value": float(np.median(times)), "n": len(times)}
        faithfulness[name] = figures

    localisation = {kind: {} for kind in KINDS}
    centred = {line["item"]: line for line in findings.of("splice", CENTRE)}
    for kind, figures in localisation.items():
        for name in (*names, CENTRE):
            lines = [line for line in findings.of("splice", name) if line["kind"] == kind]
            figures[name] = {"share": figure(line["share"] for line in lines)} if lines else {}
            for key in SCORES:
                figures[name][key] = figure(line[key] for line in lines)
                others = {
                    "chance": [line[f"chance_{key}"] for line in lines],
                    "control": [line[f"control_{key}"] for line in lines],
                    "centre": [centred.get(line["item"], {}).get(key) for line in lines],
                }
                for other, values in others.items():
                    figures[name][f"{key}_over_{other}"] = figure(
                        _sum(line[key], None if value is None else -value)
                        for line, value in zip(lines, values, strict=True)
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
            (figures.get(f"{way}_gain") or {}).get("low", -1.0) > 0
            for way in ("deletion", "insertion")
        )
    }
    return max(proven, key=proven.get) if proven else None


def render(record: Mapping) -> str:
    """Return the report of one split as Markdown.

    Args:
        record: As stored in `explanations.json`.
    """
    settings, figures = record["settings"], record["figures"]
    gains = ("deletion_gain", "insertion_gain", "road_gain")
    rows = []
    for name, values in figures["faithfulness"].items():
        shuffled = (number(_value(values, key)) for key in ("randomised", "randomised_magnitude"))
        milliseconds = _value(values, "milliseconds")
        rows.append(
            [
                f"**{code(name)}**" if name == figures["default"] else code(name),
                *(score(values.get(key)) for key in gains),
                share(values.get("beats_random")),
                *(number(_value(values, key)) for key in ("infidelity", "sensitivity")),
                " / ".join(shuffled),
                MISSING if milliseconds is None else f"{milliseconds:.0f}",
            ]
        )
    header = ["method", "deletion", "insertion", "ROAD", "10 % step", "infidelity", "sensitivity"]
    sections = [
        f"# Maps of {md(record['model'])} on {md(record['corpus'])}, {record['split']}",
        conclusion(record),
        f"{record['n']} images, each explained for its predicted label; {settings['steps']} steps, "
        f"{settings['n_random']} random maps for each map (the map itself, flipped and rolled). "
        "Parentheses hold 95 % bootstrap intervals over groups of images.",
        "## Faithfulness",
        _LEGEND.format(n_timed=settings.get("n_timed", record["n"])),
        table([*header, "shuffled weights", "ms"], rows),
    ]
    gap = figures["faithfulness"].get("integrated_gradients", {}).get("completeness_gap")
    if gap and gap["value"] is not None:
        percent = f"{100 * gap['value']:.2g} %"
        sections.append(f"Integrated gradients: mean completeness gap {percent} (n = {gap['n']}).")
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
        name: values for name, values in methods.items() if (values.get("energy") or {}).get("n")
    }
    if not measured:
        return []
    first = next(iter(measured.values()))
    rows = []
    for name, values in measured.items():
        row = ["centred Gaussian" if name == CENTRE else code(name)]
        for key in SCORES:
            row.append(number(_value(values, key)))
            row += [score(values[f"{key}_over_{other}"]) for other in ("chance", "control")]
        rows.append(row)
    differences = ["over chance", "over the control"]
    header = ["method", "pointing game", *differences, "energy inside", *differences]
    return [
        f"## Localisation: {SPLICES[kind]}",
        f"{first['energy']['n']} splices; the region is {100 * first['share']['value']:.0f} % of "
        "the image. Over chance: less the score of random maps. Over the control: less the score "
        "on the same base and mask with a region of another image of the base's class.",
        table([*header, "average precision", *differences], rows),
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _sum(*values: float | None) -> float | None:
    return sum(values) if all(_is_number(value) for value in values) else None


def _value(figures: Mapping, key: str) -> float | None:
    return (figures.get(key) or {}).get("value")
