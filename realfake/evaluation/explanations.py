"""Measure the maps of a checkpoint, image by image and method by method.

Each result is a line in a file, so that an interrupted run continues where it stopped.
`realfake.evaluation.explanation_report` computes figures and writes a report from them.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from realfake.attribution.faithfulness import curves_of, evidence_of, road
from realfake.attribution.methods import LogOdds
from realfake.attribution.perturbation import Box
from realfake.corpus.rows import column, corpus_fingerprint
from realfake.detector import Detector
from realfake.evaluation import explanation_report as report
from realfake.evaluation.explainers import (
    Candidate,
    Explainer,
    candidates,
    fast_log_odds,
    model_input,
)
from realfake.evaluation.log import log_once, plain
from realfake.evaluation.map_checks import (
    CENTRE,
    centred_map,
    localisation,
    localisation_of_chance,
    max_sensitivity,
    normalised_infidelity,
    randomised,
    rank_correlation,
    removal_effects,
)
from realfake.evaluation.splices import splices
from realfake.imaging.decode import open_image
from realfake.io import versions, write_atomically, write_record
from realfake.labels import AI, REAL
from realfake.models.geometry import seen_region

FOLDER = ".explanations"
# Methods that need a hundred forward passes or more for a map.
SLOW = ("integrated_gradients", "occlusion", "kernel_shap")


class Findings:
    """Results in a file, one line for each section, image and method.

    Args:
        path: The file. Torn lines are ignored.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.lines = Path(path), {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            for text in self.path.read_text(encoding="utf-8").split("\n"):
                try:
                    line = json.loads(text)
                    self.lines[line["section"], line["item"], line["name"]] = line
                except (ValueError, KeyError, TypeError):
                    continue

    def missing(self, section: str, item: int, names: Iterable[str]) -> list[str]:
        """Return the names without a line."""
        return [name for name in names if (section, item, name) not in self.lines]

    def add(self, section: str, item: int, name: str, **values: object) -> None:
        """Append a line to the file."""
        line = plain({"section": section, "item": item, "name": name, **values})
        with open(self.path, "ab") as file:
            file.write(("\n" + json.dumps(line, allow_nan=False)).encode())
        self.lines[section, item, name] = line

    def of(self, section: str, name: str) -> list[dict]:
        """Return the lines of a section and a name, in the order of the images."""
        lines = [line for key, line in self.lines.items() if key[::2] == (section, name)]
        return sorted(lines, key=lambda line: line["item"])


@dataclass(frozen=True)
class Settings:
    """The extent of the measurement.

    Attributes:
        steps: Steps of the deletion and insertion curves.
        n_random: Random maps that each map is compared with.
        n_checks: Number of images (the first ones) for the slow checks: ROAD, sensitivity and
            shuffled weights.
        n_slow: Number of images (the first ones) that the methods in [`SLOW`] explain. If this is
            fewer than all, the splices are measured without these methods.
        n_timed: Number of images (the first ones) whose maps are timed.
        seed: Seed of all random choices.
    """

    steps: int = 8
    n_random: int = 3
    n_checks: int = 32
    n_slow: int = 200
    n_timed: int = 20
    seed: int = 0

    def methods(self, item: int, candidates: "Sequence[Candidate]") -> "list[Candidate]":
        """Return the candidates that explain an image."""
        return [each for each in candidates if item < self.n_slow or each.method not in SLOW]


def measure_explanations(
    detector: Detector,
    identity: str,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    split: str,
    corpus: str,
    command: str,
    measurement_log: str | os.PathLike,
    methods: Sequence[str],
    layers: int = 0,
    n_splices: int = 50,
    settings: Settings = Settings(),
    n_resamples: int = 1000,
) -> dict:
    """Measure maps of a split, compute the figures, and write the record and the report.

    Args:
        identity: What identifies the weights, such as their hash.
        dataset: Rows with an undecoded `image` and `label`.
        folder: Of `explanations.json`, `explanations.md` and the results so far.
        split, corpus, command, measurement_log, n_resamples: As in
            [`robustness.measure_robustness`].
        methods, layers: As in [`candidates`].
        n_splices: Spliced images of each kind; 0 measures no localisation.
        settings: The extent of the measurement.

    Returns:
        The record.

    Raises:
        ValueError: An image is unusable.
        OSError: A file cannot be read or written.
    """
    # Shuffled, because the slow checks take the first images, which may all be of one class.
    dataset = dataset.shuffle(seed=settings.seed)
    fingerprint, n = corpus_fingerprint(dataset), len(dataset)
    compared = candidates(detector, methods, layers, detector.pixels(dataset[0]["image"]))
    layer = detector.facts.get("gradcam_layer")
    # Results of other weights, images or settings have another file.
    key = json.dumps([identity, layer, fingerprint, asdict(settings)], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    findings = Findings(Path(folder) / FOLDER / f"{name}.jsonl")
    total = sum(len(settings.methods(item, compared)) for item in range(n))
    total += n_splices * 2 * (len(settings.methods(n - 1, compared)) + 1)
    with tqdm(total=total, desc="maps", mininterval=0.5 if sys.stderr.isatty() else 15.0) as bar:
        arguments = detector, dataset, compared, findings, settings
        measure_faithfulness(*arguments, progress=bar.update)
        if n_splices:
            measure_localisation(*arguments, n_splices, progress=bar.update)
    print("Computing the figures.", flush=True)
    names, groups = [each.name for each in compared], column(dataset, "group")
    figures = report.summarise(findings, names, groups, n_resamples, settings.seed)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": identity,
        "model": detector.name,
        "gradcam_layer": layer,
        "corpus": corpus,
        "corpus_fingerprint": fingerprint,
        "split": split,
        "n": n,
        "settings": asdict(settings),
        "command": command,
        "versions": versions(),
        "figures": figures,
    }
    if split == "test":
        faithfulness = figures["faithfulness"].items()
        log_once(
            measurement_log,
            checkpoint_hash=identity,
            corpus=f"{corpus} (maps)",  # it does not count as a measurement of accuracy
            split=split,
            n=n,
            date=record["date"],
            command=command,
            figures={
                "gain_over_chance": {name: one["gain"]["value"] for name, one in faithfulness},
                "supports": figures["default"],
            },
        )
    records = write_record(Path(folder) / report.FILE_NAME, split, record)
    page = "\n".join(report.render(each) for each in records.values())
    write_atomically(Path(folder) / report.REPORT_NAME, page)
    return record


def measure_faithfulness(
    detector: Detector,
    dataset: Dataset,
    compared: Sequence[Candidate],
    findings: Findings,
    settings: Settings,
    progress: Callable[[int], object] = lambda n: None,
) -> None:
    """Explain each image's predicted label by each method, and test the maps.

    Args:
        detector: The detector.
        dataset: Rows with an undecoded `image`.
        compared: The candidates.
        findings: Where results are added; those of an earlier run are kept.
        settings: The extent of the measurement.
        progress: Called with numbers of finished maps.
    """
    shuffled, fast = randomised(detector.model, settings.seed), None
    for item in range(len(dataset)):
        explaining = settings.methods(item, compared)
        missing = findings.missing("faithfulness", item, [each.name for each in explaining])
        progress(len(explaining) - len(missing))
        if not missing:
            continue
        pixels, box = model_input(detector, open_image(dataset[item]["image"]))
        model = detector.for_maps(pixels)
        with torch.no_grad():
            ai_log_odds = float(LogOdds(model, detector.class_indices, AI)(pixels))
        target = AI if ai_log_odds > 0 else REAL
        fast = fast or fast_log_odds(detector, pixels)
        explainer = Explainer(detector, target, fast(target))
        effects = removal_effects(explainer.log_odds, pixels, seed=settings.seed)
        for each in explaining:
            if each.name not in missing:
                continue
            # Timed maps are made as users make them, the others by the faster engine.
            timed = item < settings.n_timed
            start = time.perf_counter()
            heat, details = explainer(each, model, pixels, use_engine=not timed)
            values = {
                "milliseconds": 1000 * (time.perf_counter() - start) if timed else None,
                "completeness_gap": details.get("completeness_gap"),
                "infidelity": normalised_infidelity(heat, *effects),
                **_compared_with_random(explainer, pixels, heat, box, settings),
            }
            if item < settings.n_checks:
                seed = settings.seed
                values["road_gain"] = road(explainer.log_odds, pixels, heat, seed=seed, box=box)
                values["sensitivity"] = max_sensitivity(
                    partial(explainer.heatmap, each, model), pixels, n_samples=2, seed=seed
                )
                other, _ = explainer(each, shuffled, pixels, use_engine=False)
                values["randomised"] = rank_correlation(heat, other)
                # Some methods draw edges, whose magnitudes do not depend on the weights.
                values["randomised_magnitude"] = rank_correlation(np.abs(heat), np.abs(other))
            findings.add("faithfulness", item, each.name, target=target, **values)
            progress(1)


def measure_localisation(
    detector: Detector,
    dataset: Dataset,
    compared: Sequence[Candidate],
    findings: Findings,
    settings: Settings,
    n: int,
    progress: Callable[[int], object] = lambda n: None,
) -> None:
    """Explain `n` splices of each kind and their controls by each method, for the donor's label.

    Args:
        detector: The detector.
        dataset: Rows as for [`~realfake.evaluation.splices.splices`].
        n: Number of splices of each kind.
        compared, findings, settings, progress: As in [`measure_faithfulness`].
    """
    by_name = {each.name: each for each in settings.methods(len(dataset) - 1, compared)}
    fast = None
    for item, splice in enumerate(splices(dataset, n, settings.seed)):
        missing = findings.missing("splice", item, [*by_name, CENTRE])
        progress(len(by_name) + 1 - len(missing))
        if not missing:
            continue
        inputs = {
            prefix: model_input(detector, image)[0]
            for prefix, image in {"": splice.image, "control_": splice.control}.items()
        }
        region = seen_region(detector.processor, *splice.image.size)
        fast = fast or fast_log_odds(detector, inputs[""])
        explainer = Explainer(detector, splice.target, fast(splice.target))
        for name in missing:
            values = {"kind": splice.kind, "share": float(splice.mask.mean())}
            for prefix, pixels in inputs.items():
                if name == CENTRE:
                    heat = centred_map(tuple(pixels.shape[2:]))
                else:
                    heat, _ = explainer(by_name[name], detector.for_maps(pixels), pixels)
                heat = region.to_image(heat)
                scores = {prefix: localisation(heat, splice.mask)}
                if not prefix:
                    scores["chance_"] = localisation_of_chance(heat, splice.mask, seed=item)
                values |= {
                    f"{start}{score}": value
                    for start, group in scores.items()
                    for score, value in group.items()
                }
            findings.add("splice", item, name, **values)
            progress(1)


def _compared_with_random(
    explainer: Explainer, pixels: torch.Tensor, heat: np.ndarray, box: Box, settings: Settings
) -> dict:
    inputs, options = (explainer.log_odds, pixels, heat), {"seed": settings.seed, "box": box}
    curves = curves_of(*inputs, settings.n_random, settings.steps, **options)
    names = ("deletion_area", "insertion_area", "deletion_gain", "insertion_gain")
    evidence = evidence_of(*inputs, explainer.target, **options)
    return {name: getattr(curves, name) for name in names} | {"beats_random": evidence.beats_random}
