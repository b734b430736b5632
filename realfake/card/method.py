"""What the card says of the training: the corpus, the run, and how to compute the figures again."""

import json
from collections.abc import Mapping

from scipy.special import expit, logit

from realfake.card.facts import CardFacts, split_note
from realfake.evaluation.measure import VERDICTS
from realfake.evaluation.results import FILE_NAME
from realfake.formatting import (
    code,
    duration,
    fence,
    link,
    md,
    number,
    percent,
    probability,
    score,
    share,
    table,
    words,
)
from realfake.labels import AI, NAMES, REAL
from realfake.statistics.verdicts import with_prior


def training(facts: CardFacts) -> str | None:
    """The facts of the run as a table."""
    steps = f"{facts.steps:,}" if facts.steps is not None else None
    if steps and facts.best_step:
        steps += f" (published: step {facts.best_step:,})"
    start = (
        (facts.base_model or "random weights") if facts.model_class or facts.base_model else None
    )
    seconds = facts.train_runtime_seconds
    rows = [
        ("Starting point", start),
        ("Layers trained", facts.trainable),
        ("Preprocessing", facts.preprocessing),
        ("Class weights", facts.class_weights),
        ("Epochs", None if facts.epochs_trained is None else f"{facts.epochs_trained:g}"),
        ("Steps", steps),
        ("Seed", facts.seed if facts.seed is not None else facts.hyperparameters.get("seed")),
        ("Processes", facts.world_size),
        ("Hardware", facts.hardware),
        ("Training time", None if seconds is None else duration(seconds)),
        ("Date", facts.date),
    ]
    rows = [[name, md(value)] for name, value in rows if value is not None]
    return table(["Fact", "value"], rows, words=True) if rows else None


def hyperparameters(facts: CardFacts) -> str | None:
    if not facts.hyperparameters:
        return None
    rows = [[code(key), code(value)] for key, value in facts.hyperparameters.items()]
    return table(["name", "value"], rows, words=True)


def augmentation(described: str | Mapping | None) -> str | None:
    if not described:
        return None
    if isinstance(described, str):
        return md(described)
    return "\n".join(
        f"- {md(name)}: {md(words(value))}"
        for name, value in described.items()
        if value is not None
    )


def corpus(facts: CardFacts) -> dict:
    """What it was trained on: a paragraph, the sizes of the splits, and where the images come from."""
    report = facts.corpus_report
    name = facts.corpus or report.get("source")
    said = f"Trained on {md(name)}." if name else ""
    if facts.corpus_id:
        said = f"Trained on [{md(name or facts.corpus_id)}](https://huggingface.co/datasets/{facts.corpus_id})."
    if facts.corpus_revision:
        said += f" Revision {code(facts.corpus_revision)}."
    fingerprint = facts.record.get("corpus_fingerprint")
    if fingerprint:
        said += f" Fingerprint of the images of {code(facts.split)}: {code(fingerprint)}."
    mapped = ", ".join(
        f"{code(found)} as {code(label)}"
        for found, label in (report.get("label_map") or {}).items()
        if found != label
    )
    said += f" Its classes count as follows: {mapped}." if mapped else ""
    if report.get("dropped"):
        said += f" {len(report['dropped']):,} rows were dropped because they could not be used."
    for note in report.get("notes") or []:
        said += f" {md(note[:1].upper() + note[1:]).rstrip('.')}."
    parts = [
        [code(split), *(f"{counts.get(label, 0):,}" for label in NAMES)]
        for split, counts in facts.parts.items()
    ]
    origins = [
        [
            md(origin.get("source", "")),
            md(origin.get("origin", "")),
            md(origin.get("licence", "") or "none"),
        ]
        for origin in facts.corpus_origins
    ]
    return {
        "corpus": said.strip(),
        "parts": table(["Split", *NAMES], parts) if parts else None,
        "origins": table(["Source", "origin", "licence stated there"], origins, words=True)
        if origins
        else None,
    }


def reproduction(facts: CardFacts, source: str) -> str:
    """Where the figures are, what they were made with, and how to compute them again without an image.

    Args:
        source: What the checkpoint is opened by, see [`render.source`].
    """
    record = facts.record
    said = f"All figures are in [{code(FILE_NAME)}]({FILE_NAME}), with the command and the versions they were made with."
    if record.get("checkpoint_sha256"):
        said += f" They are those of the weights with SHA-256 {code(record['checkpoint_sha256'])}."
    file = facts.scores.get(facts.split)
    if file:
        rated = f', thresholds=Detector.from_pretrained("{source}").thresholds'
        lines = [
            *(["from realfake import Detector"] if facts.thresholds else []),
            "from realfake.evaluation.measure import measure, read_scores",
            "",
            f"measure(**read_scores({json.dumps(file)}){rated if facts.thresholds else ''}, seed={facts.figures.get('seed', 0)})",
        ]
        said += (
            f" The score of each image of {code(facts.split)} is in [{code(file)}]({link(file)}); no image is needed to "
            "compute the figures again:\n\n" + fence("\n".join(lines), "python")
        )
    if record.get("command"):
        said += "\n\nMeasured with\n\n" + fence(record["command"], "bash")
    if facts.degraded.get("command"):
        said += "\n\nThe degradations with\n\n" + fence(facts.degraded["command"], "bash")
    if facts.measurements and facts.split == "test":
        weights = (
            "these weights only"
            if facts.measurements == 1
            else f"{facts.measurements} sets of weights, these among them"
        )
        said += f"\n\nBy the log of measurements, the test split was measured with {weights}."
    return said


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
    header = [
        f"On {code(facts.split)}",
        *(["before calibration"] if before else []),
        "as published",
    ]
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


def verdict_rule(thresholds: Mapping | None, ood: Mapping | None = None) -> str:
    """When each verdict is given, and what was promised of it."""
    if not thresholds:
        return (
            "This checkpoint stores no thresholds: the verdict of `realfake` is then the more probable label, however "
            "close the two are."
        )
    real, ai, n = thresholds.get(REAL), thresholds.get(AI), thresholds.get("n") or {}
    # Thresholds that have crossed leave what lies between them undecided as well.
    above = None if ai is None else max(log_odds for log_odds in (real, ai) if log_odds is not None)
    below = (
        None if real is None else min(log_odds for log_odds in (real, ai) if log_odds is not None)
    )
    rules = [
        f"`ai` where the probability of `ai` is above {probability(above)}"
        if above is not None
        else "`ai` is never said",
        f"`real` where it is below {probability(below)}"
        if below is not None
        else "`real` is never said",
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
    if ood:
        words += (
            " An image whose features lie further from those of the calibration images than all but "
            f"{percent(ood['alpha'])} of these do (as those of screenshots, charts, text or flat colours mostly are) is "
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
        cells = [
            share(rated["wrong"][label]) if name == wrong else percent(shares[name])
            for name in VERDICTS
        ]
        rows.append([f"truly {code(label)}", f"{n:,}", *cells])
    header = [f"On {code(facts.split)}", "n", "called `real`", "`inconclusive`", "called `ai`"]
    summary = f"{share(rated['given'])} of the images get a verdict"
    if rated["accuracy"]["value"] is not None:
        summary += (
            f", and {share(rated['accuracy'])} of those verdicts are right, with this mix of labels"
        )
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


EXPLANATIONS_FILE = "explanations.json"
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
        words = (
            f"The default method is {code(default)}, the one that gained most over chance{chosen}."
        )
        figures = record["figures"]["faithfulness"].get(default)
        sure = figures and all(
            figures[f"{way}_gain"]["low"] > 0 for way in ("deletion", "insertion")
        )
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
    header = [
        "Method",
        "n",
        "deletion",
        "insertion",
        "tenth",
        "sensitivity",
        "shuffled weights",
        "ms",
    ]
    rows = []
    for name, figures in faithfulness.items():
        rows.append(
            [
                code(name),
                str(figures["deletion_gain"]["n"]),
                *(score(figures.get(f"{way}_gain")) for way in ("deletion", "insertion")),
                share(figures.get("beats_random")),
                *(
                    number((figures.get(key) or {}).get("value"))
                    for key in ("sensitivity", "randomised")
                ),
                f"{(figures.get('milliseconds') or {}).get('value') or 0:.0f}",
            ]
        )
    return table(header, rows)


def _localised(figures: Mapping, default: str | None) -> str | None:
    rows = []
    for kind, described in SPLICES.items():
        found = (figures["localisation"].get(kind) or {}).get(default) or {}
        if not (found.get("energy") or {}).get("n"):
            continue
        rows.append(
            [
                described,
                str(found["energy"]["n"]),
                share(found["share"]),
                score(found["energy"]),
                *(score(found[f"energy_over_{other}"]) for other in ("chance", "control")),
            ]
        )
    if not rows:
        return None
    header = [
        "Splices",
        "n",
        "size of the region",
        "energy inside",
        "over chance",
        "over the control",
    ]
    return table(header, rows) + (
        "\n\nEnergy inside: share of the default map's evidence that lies in the region. Over the control: less that share where the "
        "region comes from another image of the base's own class, so that it is not the seam that is found. Over 0 where the map "
        "finds the region."
    )
