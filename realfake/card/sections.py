"""The sections of a card as values and tables: results, and how the detector was made.

Each function returns the values of one section; the sentences are in the template.
"""

from collections.abc import Mapping

from realfake.card.facts import CardFacts, split_note
from realfake.detector import DEFAULT_METHOD
from realfake.evaluation import variants
from realfake.evaluation.measure import OTHER, VERDICTS
from realfake.evaluation.splices import DESCRIPTIONS
from realfake.evaluation.views import views_table
from realfake.formatting import (
    code,
    duration,
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

# Rows of the table of metrics, with their number formats.
_METRICS = {
    "accuracy": ("Accuracy", share),
    "balanced_accuracy": ("Balanced accuracy", share),
    "recall_ai": ("Generated images with p(ai) > ½ (recall of `ai`)", share),
    "recall_real": ("Photographs with p(ai) ≤ ½ (recall of `real`)", share),
    "auroc": ("AUROC", score),
    "average_precision": ("Average precision", score),
    "tpr_at_fpr_1": ("Generated images found at 1 % false positives", share),
    "tpr_at_fpr_5": ("Generated images found at 5 % false positives", share),
    "nll": ("NLL (nats, classes balanced)", score),
    "brier": ("Brier score (classes balanced)", score),
    "ece": ("ECE (classes balanced)", score),
}
_VERDICT_COLUMNS = [f"verdict {code(verdict)}" for verdict in VERDICTS]
_CHOSEN_ON = "validation"


# Results on unchanged images


def results_section(facts: CardFacts) -> dict[str, str | None]:
    """Return the tables; `None` for what was not measured."""
    figures = facts.figures
    if not figures:
        return dict.fromkeys(("results", "generators", "sources", "other_splits"))
    summary = figures["summary"]
    rows = [
        [label, write(summary[name]), f"{summary[name]['n']:,}"]
        for name, (label, write) in _METRICS.items()
        if (summary.get(name) or {}).get("value") is not None
    ]
    return {
        "results": table(["Metric", "value (95 % interval)", "n"], rows),
        "generators": _generators(facts) if figures.get("by_generator") else None,
        "sources": _sources(figures) if figures.get("by_source") else None,
        "other_splits": _other_splits(facts),
    }


def trained_generators(facts: CardFacts) -> Mapping[str, int]:
    """Return the number of training images of each generator; empty if unknown."""
    return facts.corpus_report.get("splits", {}).get("train", {}).get("generators") or {}


def _generators(facts: CardFacts) -> str:
    entries, trained = facts.figures["by_generator"], trained_generators(facts)
    rated = bool(facts.figures.get("verdicts"))
    rows = [
        [
            md(name),
            f"{entry['n']:,}",
            *([f"{trained[name]:,}" if trained.get(name) else "none"] if trained else []),
            score(entry["auroc"]),
            share(entry["detected"]),
            *(_verdict_cells(entry, REAL) if rated else []),
        ]
        for name, entry in sorted(
            entries.items(), key=lambda item: (item[1]["auroc"]["value"] or 0.0, item[0])
        )
    ]
    header = ["Generator", "n", *(["in training"] if trained else []), "AUROC", "p(ai) > ½"]
    return table(header + (_VERDICT_COLUMNS if rated else []), rows)


def _sources(figures: Mapping) -> str:
    entries, rated = figures["by_source"], bool(figures.get("verdicts"))
    rows = [
        [
            md(name),
            f"{entry['n']:,}",
            share(entry["false_positives"]),
            *(_verdict_cells(entry, AI) if rated else []),
        ]
        for name, entry in sorted(
            entries.items(), key=lambda item: (-(item[1]["false_positives"]["value"] or 0), item[0])
        )
    ]
    return table(["Source", "n", "p(ai) > ½", *(_VERDICT_COLUMNS if rated else [])], rows)


def _verdict_cells(entry: Mapping, wrong: str) -> list[str]:
    """Return the share of each verdict, the wrong one with its interval."""
    return [
        share(entry["wrong"])
        if name == wrong and entry.get("wrong")
        else percent(entry["verdicts"][name])
        for name in VERDICTS
    ]


def _other_splits(facts: CardFacts) -> str | None:
    rows = []
    for name, record in facts.evaluation.items():
        if name != facts.split:
            summary, n = record["figures"]["summary"], sum(record["figures"]["n"].values())
            cells = (share(summary["accuracy"]), score(summary["auroc"]), score(summary["ece"]))
            rows.append([f"{code(name)}: {split_note(name)}", f"{n:,}", *cells])
    return table(["Split", "n", "accuracy", "AUROC", "ECE"], rows) if rows else None


def formats_section(facts: CardFacts) -> dict[str, object]:
    """Return the record of the file formats and its table; `None` if not of these weights."""
    record = facts.of_same_weights(facts.formats.get(facts.split) or {})
    if not record.get("formats"):
        return {"formats_record": None, "formats": None}
    return {"formats_record": record, "formats": variants.formats_table(record)}


def views_section(facts: CardFacts) -> dict | None:
    """Return the table of the numbers of views, and the figures of parts that differ, if any."""
    record = facts.of_same_weights(facts.by_views.get(facts.split) or {})
    if not record.get("views"):
        return None
    return {"table": views_table(record), "parts": record.get("parts")}


def categories_section(facts: CardFacts) -> dict[str, dict[str, str | None]]:
    """Return the table and the descriptions of each measured category."""
    record = facts.by_category
    return {
        name: {
            "table": variants.category_table(record, name),
            "described": variants.described(record, name),
        }
        for name in record.get("categories") or {}
    }


# How it was made


def describe_processor(processor: Mapping) -> str | None:
    """Return what an image processor does with the pixels; `None` if its sizes are unknown.

    Args:
        processor: The content of `preprocessor_config.json`.
    """
    size, crop = _sides(processor.get("size")), _sides(processor.get("crop_size"))
    resizes = processor.get("do_resize", True)
    crops = bool(processor.get("do_center_crop")) and crop is not None
    if (
        "ConvNext" in str(processor.get("image_processor_type"))
        and resizes
        and len(size or ()) == 1
    ):
        # transformers' ConvNext processor crops below 384 pixels, and stretches otherwise.
        side = size[0]
        crops, crop = side < 384, (side, side)
        size = (int(side / (processor.get("crop_pct") or 224 / 256)),) if crops else (side, side)
    steps = []
    if resizes and size and len(size) == 1:
        steps.append(f"resizes the shorter side to {size[0]} pixels")
    elif resizes and size:
        steps.append(f"stretches the image to {size[0]} × {size[1]} pixels")
    elif resizes:
        return None
    if crops:
        # A single side means a square.
        steps.append(f"keeps the central {crop[0]} × {crop[-1]} pixels")
    return ", ".join(steps) or "does not change the size"


def _sides(size: object) -> tuple[int, ...] | None:
    """Return (width, height), the shorter side alone, or `None`."""
    if isinstance(size, int):
        return (size,)
    if not isinstance(size, Mapping):
        return None
    if {"height", "width"} <= size.keys():
        return size["width"], size["height"]
    return (size["shortest_edge"],) if set(size) == {"shortest_edge"} else None


def calibration_figures(facts: CardFacts) -> dict | None:
    """Return calibration errors before and after, what chance explains, and the bands."""
    after = facts.figures.get("summary", {})
    if (after.get("ece") or {}).get("value") is None:
        return None
    before = (facts.record.get("before_calibration") or {}).get("summary")
    names = {"ece": "ECE", "nll": "NLL (nats)", "brier": "Brier score"}
    rows = [
        [f"{label}, classes balanced", *([score(before[key])] if before else []), score(after[key])]
        for key, label in names.items()
    ]
    header = [f"On {code(facts.split)}", *(["before calibration"] if before else [])]
    bands = {}
    for split in dict.fromkeys((facts.split, "selection")):
        figures = facts.evaluation.get(split, {}).get("figures", {})
        band = figures.get("calibration_band") or {}
        if band.get("value") is not None:
            bands[split] = band
    return {
        "table": table([*header, "as published"], rows),
        "floor": after.get("ece_noise_floor") or {},
        "bands": bands,
    }


def verdict_rule(thresholds: Mapping | None) -> dict | None:
    """Return the probabilities beyond which a verdict is given; `None` without thresholds."""
    if not thresholds:
        return None
    real, ai, n = thresholds.get(REAL), thresholds.get(AI), thresholds.get("n") or {}
    # The range between crossed thresholds is inconclusive as well.
    known = [value for value in (real, ai) if value is not None]
    return {
        "above": None if ai is None else probability(max(known)),
        "below": None if real is None else probability(min(known)),
        "n_real": n.get(REAL, 0),
        "n_ai": n.get(AI, 0),
        "alpha": percent(thresholds["alpha"]),
        "by_views": {
            views: verdict_rule(own) for views, own in (thresholds.get("by_views") or {}).items()
        },
    }


def verdict_table(facts: CardFacts) -> str | None:
    """Return the verdicts by true label."""
    rated = facts.figures.get("verdicts")
    if not rated:
        return None
    rows = []
    for label in NAMES:
        counts = rated["counts"][label]
        n = sum(counts.values())
        cells = [
            share(rated["wrong"][label])
            if verdict == OTHER[label]
            else percent(counts[verdict] / n if n else None)
            for verdict in VERDICTS
        ]
        rows.append([f"truly {code(label)}", f"{n:,}", *cells])
    return table([f"On {code(facts.split)}", "n", *(f"verdict {code(v)}" for v in VERDICTS)], rows)


def operating_points(facts: CardFacts) -> str | None:
    """Return the thresholds for stated false-positive rates as a table."""
    rows = []
    for point in facts.operating_points:
        if point["threshold"] is None:
            continue
        threshold = probability(point["threshold"])
        if point["low"] is not None and point["high"] is not None:
            threshold += f" ({probability(point['low'])} – {probability(point['high'])})"
        rows.append(
            [
                percent(point["fpr"]),
                threshold,
                f"{point['n_real']:,}",
                f"{share(point['photographs'])}, n = {point['photographs']['n']:,}",
                f"{share(point['found'])}, n = {point['found']['n']:,}",
            ]
        )
    header = [
        "False-positive rate, at most",
        "threshold of p(ai)",
        "n (fitted)",
        f"photographs above it on {code(facts.split)}",
        f"generated images above it on {code(facts.split)}",
    ]
    return table(header, rows) if rows else None


def maps_section(facts: CardFacts) -> dict | None:
    """Return the values of the section on maps; `None` if none was measured with these weights."""
    records = {
        split: record
        for split, record in facts.explanations.items()
        if facts.of_same_weights(record)
    }
    split = "test" if "test" in records else _CHOSEN_ON
    if split not in records:
        return None
    record, chosen = records[split], records.get(_CHOSEN_ON, records.get("test"))
    # The default of Grad-CAM names its layer as well.
    default = (chosen["figures"]["default"] or "").partition("@")[0] or None
    figures = record["figures"]["faithfulness"].get(default or "")
    used = facts.explanation_method or DEFAULT_METHOD
    times = [
        ((record["figures"]["faithfulness"].get(name) or {}).get("milliseconds") or {}).get("value")
        for name in (default or "", used)
    ]
    proven = figures and all(figures[f"{way}_gain"]["low"] > 0 for way in ("deletion", "insertion"))
    return {
        "split": split,
        "n": record["n"],
        "default": default,
        "used": used,
        "faster": times[0] / times[1] if all(times) and times[0] > times[1] else None,
        "chosen_on": _CHOSEN_ON if _CHOSEN_ON in records else None,
        "n_chosen_on": chosen["n"],
        "unproven": split != _CHOSEN_ON and default is not None and not proven,
        "n_random": record["settings"]["n_random"],
        "table": _faithfulness(record["figures"]["faithfulness"]),
        "splices": _localisation(record["figures"], default),
    }


def _faithfulness(methods: Mapping[str, Mapping]) -> str:
    rows = []
    for name, figures in methods.items():
        values = [(figures.get(key) or {}).get("value") for key in ("sensitivity", "randomised")]
        rows.append(
            [
                code(name),
                str(figures["deletion_gain"]["n"]),
                *(score(figures.get(f"{way}_gain")) for way in ("deletion", "insertion")),
                share(figures.get("beats_random")),
                *map(number, values),
                f"{(figures.get('milliseconds') or {}).get('value') or 0:.0f}",
            ]
        )
    header = ["Method", "n", "deletion", "insertion", "top tenth", "sensitivity"]
    return table([*header, "randomised weights", "ms"], rows)


def _localisation(figures: Mapping, default: str | None) -> str | None:
    rows = []
    for kind, description in DESCRIPTIONS.items():
        values = (figures["localisation"].get(kind) or {}).get(default) or {}
        if (values.get("energy") or {}).get("n"):
            gains = (values[f"energy_over_{other}"] for other in ("chance", "control"))
            energy = values["energy"]
            cells = [share(values["share"]), score(energy), *map(score, gains)]
            rows.append([description, str(energy["n"]), *cells])
    header = ["Splices", "n", "size of the region", "energy inside", "over chance"]
    return table([*header, "over the control"], rows) if rows else None


def training(facts: CardFacts) -> str | None:
    """Return the facts of the run as a table."""
    steps = f"{facts.steps:,}" if facts.steps is not None else None
    if steps and facts.best_step:
        steps += f" (published: step {facts.best_step:,})"
    known = facts.model_class or facts.base_model
    seconds = facts.train_runtime_seconds
    rows = [
        ("Starting point", (facts.base_model or "random weights") if known else None),
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
    known_rows = [[name, md(value)] for name, value in rows if value is not None]
    return table(["Fact", "value"], known_rows, words=True) if known_rows else None


def hyperparameters(facts: CardFacts) -> str | None:
    """Return the hyperparameters as a table."""
    rows = [[code(key), code(value)] for key, value in facts.hyperparameters.items()]
    return table(["name", "value"], rows, words=True) if rows else None


def augmentation(described: str | Mapping | None) -> str | None:
    """Return the augmentation as a table: each step, the share of the images, and its ranges."""
    if not described or isinstance(described, str):
        return md(described) if described else None
    rows = []
    for name, value in described.items():
        if value is None or (isinstance(value, Mapping) and value.get("p") == 0):
            continue
        share_of, settings = "", value
        if isinstance(value, Mapping):
            settings = {key.removeprefix("p "): _setting(key, x) for key, x in value.items()}
            share_of = settings.pop("p", "")
            settings = "; ".join(f"{key}: {text}" for key, text in settings.items())
        rows.append([md(name.replace("_", " ")), share_of, md(words(settings))])
    return table(["Step", "share of images", "settings"], rows, words=True)


def _setting(name: str, value: object) -> str:
    """Return a setting as text; the names of probabilities start with `p`."""
    probability = name == "p" or name.startswith("p ")
    return percent(float(str(value))) if probability else words(value)


def corpus(facts: CardFacts) -> dict:
    """Return the values of the section on the corpus, with the sizes and origins as tables."""
    report = facts.corpus_report
    labels = (report.get("label_map") or {}).items()
    origins = [
        [md(origin.get(key) or default) for key, default in _ORIGIN.items()]
        for origin in facts.corpus_origins
    ]
    sizes = [
        [code(split), *(f"{counts.get(label, 0):,}" for label in NAMES)]
        for split, counts in facts.parts.items()
    ]
    return {
        "name": facts.corpus or report.get("source") or facts.corpus_id,
        "fingerprint": facts.record.get("corpus_fingerprint"),
        "label_map": ", ".join(f"{code(a)} as {code(b)}" for a, b in labels if a != b),
        "dropped": len(report.get("dropped") or ()),
        "notes": [
            md(note[:1].upper() + note[1:]).rstrip(".") for note in report.get("notes") or ()
        ],
        "sizes": table(["Split", *NAMES], sizes) if sizes else None,
        "origins": table(["Source", "origin", "licence stated there"], origins, words=True)
        if origins
        else None,
    }


_ORIGIN = {"source": "", "origin": "", "licence": "none"}
