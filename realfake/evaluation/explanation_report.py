"""What `realfake.evaluation.explanation_evaluation` found, as a page of Markdown that a person reads."""

from collections.abc import Mapping

from ..card.maps import SPLICES
from .explanation_findings import CENTRE
from .localisation import SCORES

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
        shuffled = " / ".join(_number(found.get(key)) for key in ("randomised", "randomised_magnitude"))
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
    lines += _localised(figures["localisation"]) + _agreed(figures["agreement"], settings["n_checks"])
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
        methods = {name: found for name, found in methods.items() if found.get("energy", {}).get("n")}
        if not methods:
            continue
        n, share = (
            methods[next(iter(methods))][key][what] for key, what in (("energy", "n"), ("share", "value"))
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
            lines.append(f"| {'centred Gaussian' if name == CENTRE else name} | {' | '.join(cells)} |")
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
        lines.append(f"| {pair} | {_interval(found['rank_correlation'])} | {_interval(found['overlap'])} |")
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
