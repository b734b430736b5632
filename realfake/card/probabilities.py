"""What the card says of the probability and of the verdict: how they were set, and what they promise."""

from collections.abc import Mapping

from scipy.special import expit, logit

from ..evaluation.evaluation import VERDICTS
from ..labels import AI, NAMES, REAL
from ..statistics.conformal import with_prior
from .facts import CardFacts, split_note
from .markdown import code, md, table
from .numbers import number, percent, probability, score, share

CALIBRATED = {
    "ece": "ECE (classes balanced)",
    "nll": "NLL (nats, classes balanced)",
    "brier": "Brier score (classes balanced)",
}


def calibration(fitted: Mapping | None) -> str | None:
    """What was fitted, on what, and where it is."""
    if not fitted:
        return None
    n, method = fitted.get("n"), fitted.get("method")
    on = " on images that were held out from training"
    if n:
        on = f" on {n:,} images that were held out from training"
    if method == "identity":
        reason = f": {md(fitted['reason'])}" if fitted.get("reason") else ""
        return f"A calibration was tried{on} and left the network's own probabilities as they were{reason}."
    what, were = f"a temperature T = {fitted['temperature']:.4g}", "was"
    if method != "temperature":
        what += f" and a bias b = {fitted.get('bias') or 0.0:+.4g} (log-odds of `ai`)"
        were = "were"
    words = (
        f"The probabilities are calibrated: {what} {were} fitted{on}, by minimising the negative log-likelihood with both "
        "labels counted alike, and are part of the weights of the last layer: every consumer of this checkpoint gets "
        "calibrated probabilities, and nothing needs to be applied afterwards."
    )
    if fitted.get("reason"):
        words += f" Note: {md(fitted['reason'])}."
    return words


def prior_example() -> str:
    """What a probability amounts to where generated images are rare."""
    said, prior = 0.9, 0.1
    then = float(expit(with_prior(logit(said), prior)))
    return (
        f"Where generated images are rarer, it has to be lowered: where one image in {1 / prior:.0f} is generated, a "
        f"probability of {said:g} amounts to {then:.2g}. `predict(…, prior_ai={prior:g})` does that."
    )


def calibration_figures(facts: CardFacts) -> str | None:
    """Calibration error, NLL and Brier score before and after, and what chance alone would show."""
    after = facts.figures.get("summary", {})
    if (after.get("ece") or {}).get("value") is None:
        return None
    before = (facts.record.get("before_calibration") or {}).get("summary")
    header = [f"On {code(facts.split)}", *(["before calibration"] if before else []), "as published"]
    rows = [
        [label, *([score(before[name])] if before else []), score(after[name])]
        for name, label in CALIBRATED.items()
    ]
    floor = after.get("ece_noise_floor") or {}
    words = table(header, rows)
    if floor.get("value") is not None:
        words += (
            f"\n\nECE, the expected calibration error, is never zero on a finite sample: a perfectly calibrated model "
            f"with these probabilities would show {number(floor['value'])} on this many images, and up to "
            f"{number(floor['high'])} by chance (the 95 % quantile)."
        )
    bands = [band_sentence(facts, split) for split in dict.fromkeys((facts.split, "selection"))]
    if any(bands):
        words += (
            "\n\nThe calibration too was fitted on a finite number of images. A perfect model that was calibrated and "
            "measured like this one would show, in 95 % of simulated cases:\n\n"
            + "\n".join(filter(None, bands))
        )
    return words


def band_sentence(facts: CardFacts, split: str) -> str | None:
    """One split's ECE beside the band of a perfect model that was calibrated on as few images."""
    band = facts.evaluation.get(split, {}).get("figures", {}).get("calibration_band") or {}
    if band.get("value") is None:
        return None
    verdict = "within" if band["within"] else "**above it: calibration does not hold there**"
    return (
        f"- on {code(split)} ({split_note(split)}; n = {band['n']:,}, calibrated on {band['n_calibration']:,}): "
        f"{number(band['low'])} – {number(band['high'])}; this one shows {number(band['value'])}, {verdict}"
    )


def verdict_rule(thresholds: Mapping | None, novelty: Mapping | None = None) -> str:
    """When each verdict is given, and what was promised of it."""
    if not thresholds:
        return (
            "This checkpoint stores no thresholds: the verdict of `realfake` is then the more probable label, however "
            "close the two are."
        )
    real, ai, n = thresholds.get(REAL), thresholds.get(AI), thresholds.get("n") or {}
    # Thresholds that have crossed leave what lies between them undecided as well.
    above = None if ai is None else max(margin for margin in (real, ai) if margin is not None)
    below = None if real is None else min(margin for margin in (real, ai) if margin is not None)
    rules = [
        f"`ai` where the probability of `ai` is above {probability(above)}"
        if above is not None
        else "`ai` is never said",
        f"`real` where it is below {probability(below)}" if below is not None else "`real` is never said",
    ]
    words = (
        f"`realfake` says {rules[0]}, {rules[1]}, and `inconclusive` otherwise."
        if above is not None and below is not None
        else f"`realfake` has a verdict for some images only: {rules[0]}; {rules[1]}; all else is `inconclusive`."
    )
    words += (
        f" The thresholds were set on {n.get(REAL, 0):,} real and {n.get(AI, 0):,} generated images that were held out "
        f"from training, so that at most {percent(thresholds['alpha'])} of the images of each label get the wrong "
        "verdict **if new images are like those** (split conformal prediction). Of images from another source, or "
        "from a generator that was not among them, this promises nothing."
    )
    if above is None or below is None:
        words += " Where a verdict is never given, there were too few images to promise that rate."
    if novelty:
        words += (
            " An image whose features lie further from those of the calibration images than all but "
            f"{percent(novelty['alpha'])} of these do (as those of screenshots, charts, text or flat colours mostly are) is "
            "`inconclusive` too, whatever its probability: _unlike the images it was trained on_. About as many ordinary "
            "images lose their verdict to that."
        )
    return words


def verdict_figures(facts: CardFacts) -> dict:
    """The verdicts by true label, and a sentence on how many images get one."""
    rated = facts.figures.get("verdicts")
    if not rated:
        return {"verdict_table": None, "verdict_summary": None}
    rows = []
    for label in NAMES:
        counts = rated["counts"][label]
        n = sum(counts.values())
        shares = {name: counts[name] / n if n else None for name in VERDICTS}
        wrong = AI if label == REAL else REAL
        cells = [share(rated["wrong"][label]) if name == wrong else percent(shares[name]) for name in VERDICTS]
        rows.append([f"truly {code(label)}", f"{n:,}", *cells])
    header = [f"On {code(facts.split)}", "n", "called `real`", "`inconclusive`", "called `ai`"]
    summary = f"{share(rated['given'])} of the images get a verdict"
    if rated["accuracy"]["value"] is not None:
        summary += f", and {share(rated['accuracy'])} of those verdicts are right, with this mix of labels"
    return {"verdict_table": table(header, rows), "verdict_summary": summary + "."}


def operating_points(facts: CardFacts) -> str | None:
    """A moderator's thresholds at stated rates of photographs called ai, as a table with its explanation."""
    rows = []
    for point in facts.operating_points:
        if point["threshold"] is None:
            continue
        interval = ""
        if point["low"] is not None and point["high"] is not None:
            interval = f" ({probability(point['low'])} – {probability(point['high'])})"
        rows.append(
            [
                percent(point["fpr"]),
                f"{probability(point['threshold'])}{interval}",
                f"{point['n_real']:,}",
                f"{share(point['photographs'])}, n = {point['photographs']['n']:,}",
                f"{share(point['found'])}, n = {point['found']['n']:,}",
            ]
        )
    if not rows:
        return None
    header = [
        "Photographs called `ai`, at most",
        "call `ai` above this probability",
        "set on photographs",
        f"photographs called `ai` on {code(facts.split)}",
        f"generated images found on {code(facts.split)}",
    ]
    return (
        "Whoever looks through a queue of suspects wants few photographs in it rather than a verdict on each image. These "
        "thresholds were set on photographs held out from training; the last two columns say what they did on images that "
        "had no part in that.\n\n" + table(header, rows)
    )
