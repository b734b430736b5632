"""From the findings about single images to figures with intervals, and the method that they support."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from realfake.card.method import SPLICES
from realfake.evaluation.explanations import CENTRE, Findings
from realfake.evaluation.log import plain
from realfake.evaluation.map_checks import SCORES
from realfake.evaluation.splices import KINDS
from realfake.statistics.bootstrap import mean_figure


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
            {
                key
                for line in lines
                for key, value in line.items()
                if _is_number(value) and key != "item"
            }
        )
        faithfulness[name] = {
            key: _figure([line.get(key) for line in lines], by_group, **options) for key in keys
        }
        gains = [_sum(line.get("deletion_gain"), line.get("insertion_gain")) for line in lines]
        faithfulness[name]["gain"] = _figure(gains, by_group, **options)
        if (
            "milliseconds" in faithfulness[name]
        ):  # the median: the first map pays for finding the layer
            times = [line["milliseconds"] for line in lines if line["milliseconds"] is not None]
            faithfulness[name]["milliseconds"] = {"value": float(np.median(times)), "n": len(times)}
    return {
        "faithfulness": faithfulness,
        "localisation": {
            kind: {
                name: _localised_figures(findings, name, kind, options) for name in (*names, CENTRE)
            }
            for kind in KINDS
        },
        "agreement": _agreed_figures(findings, options),
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
        and all(
            (figures.get(f"{way}_gain") or {}).get("low", -1.0) > 0
            for way in ("deletion", "insertion")
        )
    }
    return max(sure, key=sure.get) if sure else None


def _localised_figures(findings: Findings, name: str, kind: str, options: dict) -> dict:
    lines = [line for line in findings.of("splice", name) if line["kind"] == kind]
    centred = {line["item"]: line for line in findings.of("splice", CENTRE)}
    figures = (
        {"share": _figure([line["share"] for line in lines], None, **options)} if lines else {}
    )
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


def _agreed_figures(findings: Findings, options: dict) -> dict:
    lines = findings.of("agreement", "")
    pairs = sorted({pair for line in lines for pair in line["pairs"]})
    return {
        pair: {
            measure: _figure(
                [line["pairs"].get(pair, {}).get(measure) for line in lines], None, **options
            )
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


REPORT_NAME = "explanations.md"


def render(record: Mapping) -> str:
    """Write the page.

    Args:
        record: What `scripts/evaluate_explanations.py` stores as JSON.
    """
    settings, figures = record["settings"], record["figures"]
    lines = [
        f"# Are the maps to be believed? {record['model']} on {record['corpus']}, {record['split']}",
        "",
        conclusion(record),
        "",
        f"{record['n']} images, explained for the label that the detector finds more probable; {settings['steps']} steps, each map "
        f"against {settings['n_random']} random ones (the map itself, flipped and rolled around). In brackets 95 % bootstrap "
        "intervals; groups of images are drawn together.",
        "",
        "## Faithfulness",
        "",
        "Deletion: by how much the area under the curve is smaller than the random maps'. Insertion: by how much it is larger. ROAD: how "
        "much lower the probability is than under random maps, 10 and 30 % of the pixels imputed. All three over 0 where the map beats "
        "chance. 10 % step: share of maps that beat each of five random ones (17 % by chance). Infidelity: 0 perfect, 1 as an empty map. "
        "Sensitivity: largest relative change of the map under noise of 2 %. Shuffled weights: rank correlation with the map of a "
        "network with shuffled weights, signed and of the magnitudes; far from 0 it does not show what was learnt. ms: median time of a "
        f"map, of the first {settings.get('n_timed', record['n'])} images.",
        "",
        "| method | deletion area less chance | insertion area over chance | ROAD | 10 % step | infidelity | sensitivity | shuffled "
        "weights | ms |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, found in figures["faithfulness"].items():
        shuffled = " / ".join(
            _number(found.get(key)) for key in ("randomised", "randomised_magnitude")
        )
        cells = [
            *(
                _interval(found.get(key))
                for key in ("deletion_gain", "insertion_gain", "road_gain", "beats_random")
            ),
            *(_number(found.get(key)) for key in ("infidelity", "sensitivity")),
            shuffled,
            _number(found.get("milliseconds"), 0),
        ]
        lines.append(f"| {_name(name, figures)} | {' | '.join(cells)} |")
    gap = figures["faithfulness"].get("integrated_gradients", {}).get("completeness_gap")
    if gap and gap["value"] is not None:
        lines += [
            "",
            f"Integrated gradients: mean completeness gap {100 * gap['value']:.2g} % (n = {gap['n']}).",
        ]
    lines += _localised(figures["localisation"]) + _agreed(
        figures["agreement"], settings["n_checks"]
    )
    lines += ["", f"`{record['command']}`", ""]
    return "\n".join(lines)


def conclusion(record: Mapping) -> str:
    """Say in a sentence what the figures support."""
    name = record["figures"]["default"]
    if name is None:
        return (
            "**No method beats its random control with both deletion and insertion. These figures support no default: maps of this "
            "detector are to be shown as unproven.**"
        )
    gain = record["figures"]["faithfulness"][name]["gain"]
    return f"**These figures support `{name}`**: deletion and insertion together gain {_interval(gain)} over chance."


def _localised(kinds: Mapping) -> list[str]:
    lines = []
    for kind, methods in kinds.items():
        methods = {
            name: found for name, found in methods.items() if found.get("energy", {}).get("n")
        }
        if not methods:
            continue
        n, share = (
            methods[next(iter(methods))][key][what]
            for key, what in (("energy", "n"), ("share", "value"))
        )
        lines += [
            "",
            f"## Localisation: {SPLICES[kind]}",
            "",
            f"{n} splices; the region is {100 * share:.0f} % of the image. Over chance: less the score of random maps. Over the control: "
            "less the score on the same base with the same mask and a region of another image of the base's own class.",
            "",
            "| method | pointing game | over chance | over the control | energy inside | over chance | over the control | average "
            "precision | over chance | over the control |",
            "| :-- |" + " --: |" * 9,
        ]
        for name, found in methods.items():
            cells = [
                text
                for score in SCORES
                for text in (
                    _number(found[score]),
                    *(_interval(found[f"{score}_over_{other}"]) for other in ("chance", "control")),
                )
            ]
            lines.append(
                f"| {'centred Gaussian' if name == CENTRE else name} | {' | '.join(cells)} |"
            )
    return lines


def _agreed(pairs: Mapping, n: int) -> list[str]:
    if not pairs:
        return []
    lines = [
        "",
        "## Agreement between methods",
        "",
        f"On the first {n} images. Strongest tenth: intersection over union, 0.05 by chance.",
    ]
    lines += ["", "| methods | rank correlation | strongest tenth |", "| :-- | --: | --: |"]
    for pair, found in pairs.items():
        lines.append(
            f"| {pair} | {_interval(found['rank_correlation'])} | {_interval(found['overlap'])} |"
        )
    return lines


def _name(name: str, figures: Mapping) -> str:
    return f"**{name}**" if name == figures["default"] else name


def _number(figure: Mapping | None, decimals: int = 2) -> str:
    if not figure or figure["value"] is None:
        return "–"
    return f"{figure['value']:.{decimals}f}".replace("-", "−")


def _interval(figure: Mapping | None) -> str:
    if not figure or figure["value"] is None:
        return "–"
    texts = [
        f"{figure[key]:.3f}".replace("-", "−")
        for key in ("value", "low", "high")
        if figure.get(key) is not None
    ]
    return f"{texts[0]} ({texts[1]} to {texts[2]})" if len(texts) == 3 else texts[0]
