"""The reports of a measurement in Markdown: robustness and maps.

The model card shows the same tables. `evaluation.md` is [`robustness_page`], and `explanations.md`
is [`explanations_page`].
"""

from collections.abc import Mapping, Sequence

from realfake.evaluation.measure import too_many_wrong
from realfake.evaluation.probes import CONTROLS
from realfake.evaluation.robustness import CLEAN, FILE_NAME, headline
from realfake.evaluation.splices import DESCRIPTIONS
from realfake.formatting import MISSING, code, fence, md, number, percent, score, share, table
from realfake.imaging.degradations import GRID
from realfake.labels import AI, REAL
from realfake.statistics.verdicts import INCONCLUSIVE

ROBUSTNESS_NAME = "evaluation.md"
EXPLANATIONS_NAME = "explanations.md"
_LEGEND = """\
- deletion: how much smaller the area under the deletion curve is than with random maps
- insertion: how much larger the area under the insertion curve is than with random maps
- 10 % step: share of the maps that beat each of five random maps (17 % by chance)
- sensitivity: largest relative change of the map under noise of 2 %
- shuffled weights: rank correlation with the map of a network with shuffled weights, signed and of
  the magnitudes; far from 0, the map does not depend on what the network learned
- ms: median time of a map"""


# Robustness


def summary(record: Mapping) -> str:
    """Return the headline: the worst degradation and the worst generator."""
    worst = headline(record["degradations"])
    tier, cell, clean = worst["worst_degradation"], worst["worst_generator"], worst["clean"]
    if tier is None:
        return "All images have the same label, so there is no balanced accuracy."
    count = len(record["degradations"])
    lowest, name = share(tier["balanced_accuracy"]), tier["degradation"]
    if count == 1:
        text = f"**Balanced accuracy {lowest} {_under(name)}.**"
    elif name == CLEAN:
        others = f"any of the {count - 1} degradations" if count > 2 else "the other degradation"
        text = f"**Balanced accuracy {lowest} {_under(name)}**, and no lower under {others}."
    else:
        text = f"**Balanced accuracy {lowest} under the worst degradation, {code(name)}**"
        text += f" ({share(clean)} on the unchanged images)." if clean else "."
    if cell:
        text += (
            f" **The weakest generator is {md(cell['generator'])}, {_under(cell['degradation'])}: "
            f"balanced accuracy {share(cell['balanced_accuracy'])}**, AUROC "
            f"{score(cell['auroc'])}, {share(cell['detected'])} of {cell['n']:,} images have "
            "p(ai) > ½."
        )
    if count > 1:
        text += (
            f" The mean balanced accuracy of the {count} conditions is {percent(worst['mean'])}."
        )
    return text


def _under(degradation: str) -> str:
    return "on the unchanged images" if degradation == CLEAN else f"under {code(degradation)}"


def note(record: Mapping) -> str:
    """Return which images were measured, and how to read [`tiers_table`]."""
    n = next(iter(record["degradations"].values()))["n"]
    text = f"{n[REAL]:,} real and {n[AI]:,} generated images"
    if record.get("of") and record["of"] > sum(n.values()):
        text += (
            f", a sample of the {record['of']:,} of the split with the same shares of labels and "
            "generators"
        )
    return (
        f"{text}. Each image was measured under every degradation. “Verdict given” is the share of "
        "images with the verdict `real` or `ai`; “right” is the share of these verdicts that are "
        "correct. Parentheses hold 95 % intervals. The interval of a worst case does not allow for "
        "its selection as the worst."
    )


def tiers_table(record: Mapping) -> str:
    """Return the table of the model and its controls under each degradation."""
    scored = {"model": record["degradations"], **record["controls"]}
    rows = [
        ["model" if by == "model" else f"*{code(by)}*", code(name), *_tier(entry)]
        for by, tiers in scored.items()
        for name, entry in tiers.items()
    ]
    header = ["Scored by", "degradation", "n", "balanced accuracy", "AUROC"]
    header += ["photographs with p(ai) > ½", "photographs with verdict `ai`"]
    return table([*header, "verdict given", "right"], rows)


def _tier(entry: Mapping) -> list[str]:
    metrics, rated = entry["summary"], entry.get("verdicts")
    cells = [
        f"{sum(entry['n'].values()):,}",
        share(metrics["balanced_accuracy"]),
        score(metrics["auroc"]),
        share(entry["false_positives"]),
    ]
    if not rated:
        return [*cells, MISSING, MISSING, MISSING]
    right = share(rated["accuracy"])
    if right != MISSING:
        right += f", n = {rated['accuracy']['n']:,}"
    return [*cells, share(rated["wrong"][REAL]), share(rated["verdict_rate"]), right]


def controls_note(record: Mapping) -> str | None:
    """Return what the controls are and how to read them; `None` without controls."""
    if not record["controls"]:
        return None
    names = "; ".join(
        f"{code(name)} is a {CONTROLS.get(name, md(name))}" for name in record["controls"]
    )
    return (
        f"Controls: {names}. Each was fitted on {record['controls_n']:,} unchanged training "
        "images. They are not calibrated and give no verdicts. If a control is close to the model, "
        "something other than the content reveals the labels."
    )


def described(record: Mapping) -> str:
    """Return a list that describes each degradation."""
    texts = {**record["described"], **{name: GRID[name].description for name in GRID}}
    return "\n".join(f"- {code(name)}: {md(texts[name])}" for name in record["degradations"])


def coverage_table(figures: Mapping[str, Mapping]) -> str | None:
    """Return the share of wrong verdicts by class, generator and source under each degradation."""
    first = next(iter(figures.values()))
    if not first.get("verdicts"):
        return None
    rows = []
    for label, wrong in ((REAL, AI), (AI, REAL)):
        cells = []
        for entry in figures.values():
            rated = entry["verdicts"]
            counts = rated["counts"][label]
            total = sum(counts.values())
            withheld = counts[INCONCLUSIVE] / total if total else None
            one = {key: rated[key][label] for key in ("wrong", "max_wrong")}
            cells.append(_coverage_cell(one, withheld))
        name = f"**all {code(label)}**, verdict {code(wrong)}"
        rows.append([name, f"{first['n'][label]:,}", *cells])
    for key, name_of in (
        ("by_generator", "{}, verdict `real`"),
        ("by_source", "photographs of {}, verdict `ai`"),
    ):
        for name in sorted(first.get(key) or {}):
            entries = [entry[key][name] for entry in figures.values()]
            if all(entry.get("wrong") for entry in entries):
                cells = [_coverage_cell(one, one["verdicts"][INCONCLUSIVE]) for one in entries]
                rows.append([name_of.format(md(name)), f"{entries[0]['n']:,}", *cells])
    return table(["Wrong verdicts (and `inconclusive`)", "n", *map(code, figures)], rows)


def _coverage_cell(entry: Mapping, withheld: float | None) -> str:
    if entry["wrong"]["value"] is None:
        return MISSING
    text = percent(entry["wrong"]["value"])
    text = f"**{text}** ✗" if too_many_wrong(entry) else text
    return f"{text} ({percent(withheld)})"


def coverage_note(figures: Mapping[str, Mapping]) -> str | None:
    """Return how to read [`coverage_table`]."""
    rated = next(iter(figures.values())).get("verdicts")
    if not rated:
        return None
    return (
        f"The thresholds allow at most {percent(rated['thresholds']['alpha'])} wrong verdicts "
        "among the images of each class, if the images are like the calibration images. **✗** "
        "marks more wrong verdicts than this rate and chance together explain at this n. "
        "Parentheses hold the share of `inconclusive`. All intervals are in "
        f"[{code(FILE_NAME)}]({FILE_NAME})."
    )


def slices_table(figures: Mapping[str, Mapping], worst_only: bool = True) -> str | None:
    """Return the figures of each slice.

    Args:
        worst_only: Show the first degradation and the one with the lowest AUROC; else all.
    """
    rows = []
    for name in next(iter(figures.values())).get("by_slice") or {}:
        tiers = {
            tier: entry["by_slice"][name]
            for tier, entry in figures.items()
            if any(entry["by_slice"][name]["n"].values())
        }
        shown = list(tiers)
        if tiers and worst_only:
            # A slice of one class has no AUROC.
            ranked = [tier for tier in tiers if tiers[tier]["auroc"]["value"] is not None]
            worst = min(ranked, key=lambda tier: tiers[tier]["auroc"]["value"], default=shown[0])
            shown = list(dict.fromkeys((shown[0], worst)))
        for tier in shown:
            cell, rated = tiers[tier], tiers[tier].get("verdicts")
            shares = [rated["wrong"][REAL], rated["wrong"][AI]] if rated else []
            shares += [rated["verdict_rate"]] if rated else []
            rows.append(
                [
                    md(name),
                    code(tier),
                    f"{cell['n'][REAL]:,} / {cell['n'][AI]:,}",
                    score(cell["auroc"]),
                    share(cell["balanced_accuracy"]),
                    *(map(share, shares) if rated else [MISSING] * 3),
                ]
            )
    header = ["Slice", "degradation", "n real / ai", "AUROC", "balanced accuracy"]
    header += ["photographs with verdict `ai`", "generated with verdict `real`", "verdict given"]
    return table(header, rows) if rows else None


def robustness_page(
    record: Mapping,
    split: str,
    plots: Sequence[Mapping[str, str]] = (),
    categories: Sequence[str] = (),
) -> str:
    """Return a record of [`robustness.measure_robustness`] as Markdown.

    Args:
        categories: Of [`variants.category_table`].
    """
    figures = record["degradations"]
    first = next(iter(figures.values()))
    sections = [
        f"# {md(record['model'])} on {md(record['corpus'])}, split {code(split)}",
        summary(record),
        note(record),
        "## By degradation",
        tiers_table(record),
        controls_note(record),
        described(record),
    ]
    if first.get("verdicts"):
        sections += ["## Wrong verdicts", coverage_note(figures), coverage_table(figures)]
    sections += _generators(figures)
    slices = slices_table(figures, worst_only=False)
    sections += ["## Slices", slices] if slices else []
    sections += ["## Retouched photographs and small images", *categories] if categories else []
    sections += [
        f"![{md(plot['caption'])}]({plot['file']})\n\n{md(plot['caption'])}." for plot in plots
    ]
    versions = [f"{md(name)} {md(version)}" for name, version in record["versions"].items()]
    sections += [
        "## How to reproduce it",
        f"Intervals: {md(first['intervals'])}.",
        fence(record["command"], "bash"),
        f"{md(record['date'][:10])}; weights {code(record['checkpoint_sha256'])}; images "
        f"{code(record['corpus_fingerprint'])}; {', '.join(versions)}. All figures are in "
        f"[{code(FILE_NAME)}]({FILE_NAME}).",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _generators(figures: Mapping) -> list[str]:
    first = next(iter(figures.values()))
    rows = []
    for name in sorted(first.get("by_generator") or {}):
        entries = [entry["by_generator"][name] for entry in figures.values()]
        known = [e["auroc"]["value"] for e in entries if e["auroc"]["value"] is not None]
        cells = [
            f"{number(entry['auroc']['value'])}, {percent(entry['detected']['value'])}"
            for entry in entries
        ]
        lowest = number(min(known)) if known else MISSING
        rows.append([md(name), f"{entries[0]['n']:,}", *cells, lowest])
    if not rows:
        return []
    return [
        "## By generator",
        f"AUROC against all {first['n'][REAL]:,} real images, and the share with p(ai) > ½.",
        table(["Generator", "n", *map(code, figures), "lowest AUROC"], rows),
    ]


# Maps


def explanations_page(record: Mapping) -> str:
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
        best_method(record),
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


def best_method(record: Mapping) -> str:
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
        f"## Localisation: {DESCRIPTIONS[kind]}",
        f"{first['energy']['n']} splices; the region is {100 * first['share']['value']:.0f} % of "
        "the image. Energy inside: share of the map's evidence in the region. Over chance: less "
        "that of random maps. Over the control: less that of the same base and mask with a region "
        "of another image of the base's class.",
        table(["method", "energy inside", "over chance", "over the control"], rows),
    ]


def _value(figures: Mapping, key: str) -> float | None:
    return (figures.get(key) or {}).get("value")
