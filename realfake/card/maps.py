"""What the card says of the evidence maps: which method is the default, and whether its maps beat chance.

From `explanations.json`, which `scripts/evaluate_explanations.py` writes beside the weights.
"""

from collections.abc import Mapping

from .facts import CardFacts
from .markdown import code, table
from .numbers import number, score, share

FILE_NAME = "explanations.json"
_CHOSEN_ON = "validation"
SPLICES = {
    "ai_in_real": "a generated region in a photograph",
    "real_in_ai": "a region of a photograph in a generated image",
}


def maps_section(facts: CardFacts) -> dict[str, str | None]:
    """The section's parts; `None` where nothing was measured with these weights."""
    found = {
        split: record
        for split, record in facts.explanations.items()
        if record.get("checkpoint_sha256") == facts.record.get("checkpoint_sha256")
    }
    split = "test" if "test" in found else _CHOSEN_ON
    if split not in found:
        return {"maps_note": None, "maps": None, "maps_localised": None}
    record = found[split]
    return {
        "maps_note": _note(found, split),
        "maps": _table(record["figures"]["faithfulness"]),
        "maps_localised": _localised(record["figures"], _default(found)),
    }


def _default(found: Mapping[str, Mapping]) -> str | None:
    """The method that was chosen; with Grad-CAM, whichever of its layers."""
    chosen = found.get(_CHOSEN_ON, found.get("test"))
    return (chosen["figures"]["default"] or "").partition("@")[0] or None


def _note(found: Mapping[str, Mapping], split: str) -> str:
    record, default = found[split], _default(found)
    settings = record["settings"]
    chosen = f", on {found[_CHOSEN_ON]['n']} {_CHOSEN_ON} images" if _CHOSEN_ON in found else ""
    if default is None:
        words = f"No method beat its random control with both deletion and insertion{chosen}: **take maps of this detector as unproven.**"
    else:
        words = f"The default method is {code(default)}, the one that gained most over chance{chosen}."
        figures = record["figures"]["faithfulness"].get(default)
        sure = figures and all(figures[f"{way}_gain"]["low"] > 0 for way in ("deletion", "insertion"))
        if split != _CHOSEN_ON and not sure:
            words += f" **On {split} it does not beat chance with both: take its maps as unproven there.**"
    return (
        f"{words} Below, {record['n']} {split} images, explained for the label that is the more probable one. Deletion: by how "
        f"much the area under the probability's curve is smaller than with {settings['n_random']} random maps when pixels are taken "
        "away, the map's strongest first; insertion: by how much it is larger when they are given. Both over 0 where the map beats "
        "chance. Tenth: share of images in which taking the map's strongest tenth away costs more than each of five random tenths "
        "(17 % by chance). Shuffled weights: rank correlation with the map of a network with destroyed weights, far from 0 where "
        "the map does not depend on what was learnt."
    )


def _table(faithfulness: Mapping[str, Mapping]) -> str:
    header = ["Method", "n", "deletion", "insertion", "tenth", "sensitivity", "shuffled weights", "ms"]
    rows = []
    for name, figures in faithfulness.items():
        rows.append(
            [
                code(name),
                str(figures["deletion_gain"]["n"]),
                *(score(figures.get(f"{way}_gain")) for way in ("deletion", "insertion")),
                share(figures.get("beats_random")),
                *(number((figures.get(key) or {}).get("value")) for key in ("sensitivity", "randomised")),
                f"{(figures.get('milliseconds') or {}).get('value') or 0:.0f}",
            ]
        )
    return table(header, rows)


def _localised(figures: Mapping, default: str | None) -> str | None:
    rows = []
    for kind, words in SPLICES.items():
        found = (figures["localisation"].get(kind) or {}).get(default) or {}
        if not (found.get("energy") or {}).get("n"):
            continue
        rows.append(
            [
                words,
                str(found["energy"]["n"]),
                share(found["share"]),
                score(found["energy"]),
                *(score(found[f"energy_over_{other}"]) for other in ("chance", "control")),
            ]
        )
    if not rows:
        return None
    header = ["Splices", "n", "size of the region", "energy inside", "over chance", "over the control"]
    return table(header, rows) + (
        "\n\nEnergy inside: share of the default map's evidence that lies in the region. Over the control: less that share where the "
        "region comes from another image of the base's own class, so that it is not the seam that is found. Over 0 where the map "
        "finds the region."
    )
