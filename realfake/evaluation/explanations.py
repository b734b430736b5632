"""Measure the maps of a checkpoint, image by image and method by method.

Faithfulness: deletion and insertion curves against random maps, the change of the map under noise,
and its dependence on the weights (Adebayo et al. 2018). Localisation: the evidence in the spliced
region of [`~realfake.evaluation.splices`]. Each result is a line in a file, so that an interrupted
run continues. [`summarise`] computes the figures, and `report` writes them as a page.
"""

import copy
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from scipy.stats import spearmanr
from torch import nn
from tqdm.auto import tqdm

from realfake.attribution.faithfulness import Box, curves_of, evidence_of
from realfake.attribution.layers import candidate_layers, find_layer
from realfake.attribution.methods import METHODS, LogOdds, attribute
from realfake.corpus.rows import column, corpus_fingerprint
from realfake.detector import Detector
from realfake.evaluation import report
from realfake.evaluation.log import log_test, new_record, plain
from realfake.evaluation.splices import KINDS, chance_energy, energy_inside, splices
from realfake.imaging.decode import open_image
from realfake.io import write_atomically, write_record
from realfake.labels import AI, REAL
from realfake.models.geometry import seen_region
from realfake.statistics.metrics import mean_figure

FILE_NAME = "explanations.json"
FOLDER = ".explanations"
# Methods that need a hundred forward passes or more for a map.
SLOW = ("integrated_gradients", "occlusion", "kernel_shap")


@dataclass(frozen=True)
class Candidate:
    """A method with its options, under the name of the report."""

    name: str
    method: str
    options: dict = field(default_factory=dict)


def candidates(
    detector: Detector, methods: Sequence[str], layers: int, pixels: torch.Tensor
) -> list[Candidate]:
    """Return the methods to compare, and Grad-CAM on `layers` further layers.

    Raises:
        ValueError: A method is unknown.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise ValueError(f"Unknown method {unknown[0]!r}; there are {', '.join(METHODS)}.")
    result = [Candidate(method, method) for method in methods]
    if layers:
        height, width = pixels.shape[2:]
        size = int(height), int(width)
        default = find_layer(detector.model, size, detector.facts.get("gradcam_layer")).name
        for layer in candidate_layers(detector.model, size, layers):
            if layer.name != default or "gradcam" not in methods:
                result.append(Candidate(f"gradcam@{layer.name}", "gradcam", {"layer": layer.name}))
    return result


@dataclass(frozen=True)
class Settings:
    """The extent of the measurement.

    Attributes:
        steps: Steps of the deletion and insertion curves.
        n_random: Random maps that each map is compared with.
        n_checks: Number of images (the first ones) for sensitivity and shuffled weights.
        n_slow: Number of images (the first ones) that the methods in [`SLOW`] explain. If this is
            fewer than all, the splices are measured without these methods.
    """

    steps: int = 8
    n_random: int = 3
    n_checks: int = 32
    n_slow: int = 200
    seed: int = 0

    def methods(self, item: int, compared: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates that explain an image."""
        return [each for each in compared if item < self.n_slow or each.method not in SLOW]


class Findings:
    """Results in a file, one line for each section, image and method. Torn lines are ignored."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.lines: dict[tuple[str, int, str], dict] = {}
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
    """Measure maps of a split, write `explanations.json` and its report, and return the record.

    Args:
        split, corpus, command, measurement_log, n_resamples: As in
            [`robustness.measure_robustness`].
        methods, layers: As in [`candidates`].
        n_splices: Spliced images of each kind; 0 measures no localisation.
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
    on_splices = settings.methods(n - 1, compared)
    total = sum(len(settings.methods(item, compared)) for item in range(n))
    total += n_splices * 2 * len(on_splices)
    with tqdm(total=total, desc="maps", mininterval=0.5 if sys.stderr.isatty() else 15.0) as bar:
        measure_faithfulness(detector, dataset, compared, findings, settings, bar.update)
        if n_splices:
            measure_localisation(
                detector, dataset, on_splices, findings, n_splices, settings.seed, bar.update
            )
    print("Computing the figures.", flush=True)
    names, groups = [each.name for each in compared], column(dataset, "group")
    figures = summarise(findings, names, groups, n_resamples, settings.seed)
    record = {
        **new_record(detector.name, identity, corpus, fingerprint, command),
        "gradcam_layer": layer,
        "split": split,
        "n": n,
        "settings": asdict(settings),
        "figures": figures,
    }
    gains = {name: one["gain"]["value"] for name, one in figures["faithfulness"].items()}
    logged = {"gain_over_chance": gains, "supports": figures["default"]}
    log_test(measurement_log, record, split, kind="maps", n=n, figures=logged)
    records = write_record(Path(folder) / FILE_NAME, split, record)
    page = "\n".join(report.explanations_page(each) for each in records.values())
    write_atomically(Path(folder) / report.EXPLANATIONS_NAME, page)
    return record


def _explain(
    detector: Detector, target: str, candidate: Candidate, model: nn.Module, pixels: torch.Tensor
) -> np.ndarray:
    indices, method = detector.class_indices, candidate.method
    map_ = attribute(model, pixels, indices, method, target, **candidate.options)
    # With shuffled weights a map may overflow.
    return np.nan_to_num(map_.heatmap, posinf=0, neginf=0)


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
        findings: Where results are added; those of an earlier run are kept.
        progress: Called with numbers of finished maps.
    """
    shuffled, seed = randomised(detector.model, settings.seed), settings.seed
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
        explain = partial(_explain, detector, target)
        log_odds = LogOdds(model, detector.class_indices, target)
        for each in explaining:
            if each.name not in missing:
                continue
            start = time.perf_counter()
            heat = explain(each, model, pixels)
            values: dict = {"milliseconds": 1000 * (time.perf_counter() - start)}
            curves = curves_of(log_odds, pixels, heat, settings.n_random, settings.steps, seed, box)
            evidence = evidence_of(log_odds, pixels, heat, target, seed, box)
            values |= {name: getattr(curves, name) for name in ("deletion_gain", "insertion_gain")}
            values["beats_random"] = evidence.beats_random
            if item < settings.n_checks:
                values["sensitivity"] = max_sensitivity(
                    partial(explain, each, model), pixels, n_samples=2, seed=seed
                )
                other = explain(each, shuffled, pixels)
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
    n: int,
    seed: int = 0,
    progress: Callable[[int], object] = lambda n: None,
) -> None:
    """Explain `n` splices of each kind and their controls by each method, for the donor's label.

    The arguments are those of [`measure_faithfulness`].
    """
    by_name = {each.name: each for each in compared}
    for item, splice in enumerate(splices(dataset, n, seed)):
        missing = findings.missing("splice", item, by_name)
        progress(len(by_name) - len(missing))
        explain = partial(_explain, detector, splice.target)
        region = seen_region(detector.processor, *splice.image.size)
        for name in missing:
            maps = []
            for image in (splice.image, splice.control):
                pixels = model_input(detector, image)[0]
                heat = explain(by_name[name], detector.for_maps(pixels), pixels)
                maps.append(region.to_image(heat))
            findings.add(
                "splice",
                item,
                name,
                kind=splice.kind,
                share=float(splice.mask.mean()),
                energy=energy_inside(maps[0], splice.mask),
                chance_energy=chance_energy(maps[0], splice.mask, seed=item),
                control_energy=energy_inside(maps[1], splice.mask),
            )
            progress(1)


def model_input(detector: Detector, image: Image.Image) -> tuple[torch.Tensor, Box]:
    """Return the input of the model, `(1, 3, h, w)`, and the box of the image in it."""
    left, top, right, bottom = seen_region(detector.processor, *image.size).input_box
    pixels = detector.pixels(image).to(detector.model.device, detector.model.dtype)
    return pixels, (round(left), round(top), round(right), round(bottom))


def max_sensitivity(
    explain: Callable[[torch.Tensor], np.ndarray],
    pixels: torch.Tensor,
    n_samples: int = 4,
    radius: float = 0.02,
    seed: int = 0,
) -> float:
    """Return the largest relative change of a map under small noise (Yeh et al. 2019).

    Args:
        radius: Amplitude of the uniform noise, as a share of the image's range of values.

    Returns:
        0 for a map that does not change, 1 for a change as large as the map.
    """
    # Captum takes over a second to import.
    from captum.metrics import sensitivity_max

    def maps(inputs: torch.Tensor | tuple) -> torch.Tensor:
        batch = inputs[0] if isinstance(inputs, tuple) else inputs
        return torch.from_numpy(np.stack([explain(one[None]) for one in batch]))[:, None].float()

    spread = radius * float(pixels.max() - pixels.min())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        result = sensitivity_max(maps, pixels, perturb_radius=spread, n_perturb_samples=n_samples)
    return float(result)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a model with the weights shuffled within each tensor.

    Shuffling keeps the statistics of each layer, so that signals neither vanish nor explode.
    """
    shuffled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in shuffled.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return shuffled


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation of two maps; 0 if one of them is constant."""
    both = np.isfinite(one) & np.isfinite(other)
    one, other = one[both], other[both]
    if len(one) < 2 or not np.ptp(one) or not np.ptp(other):
        return 0.0
    return float(spearmanr(one, other).statistic)


# Figures


def summarise(
    findings: Findings,
    names: Sequence[str],
    groups: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Compute means with 95 % bootstrap intervals.

    Args:
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

    localisation: dict[str, dict] = {kind: {} for kind in KINDS}
    for kind in KINDS:
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None and _is_number(value)]
    return sum(known) if len(known) == len(values) else None
