"""What was found about maps, image by image and method by method, in a file that outlives the run."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from realfake.attribution.faithfulness import curves_of, evidence_of, road
from realfake.attribution.layers import candidate_layers, find_layer
from realfake.attribution.methods import METHODS, LogOdds, attribute
from realfake.detector import Detector
from realfake.engines import has_openvino, open_engine
from realfake.evaluation.log import plain
from realfake.evaluation.map_checks import (
    agreement,
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
from realfake.labels import AI, REAL
from realfake.models.geometry import seen_region
from realfake.statistics.log_odds import log_odds_from_logits

FOLDER = ".explanations"
# The map that looks at the middle whatever the image, among the names of methods.
CENTRE = "centre"


class Findings:
    """Lines of a file, one for each image and method, that outlive the run.

    Args:
        path: Created where it does not exist. A line that was cut off when a run died is left out.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, self.lines = Path(path), {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            for text in self.path.read_text(encoding="utf-8").split("\n"):
                try:
                    line = json.loads(text)
                    self.lines[line["part"], line["item"], line["name"]] = line
                except (ValueError, KeyError, TypeError):
                    continue

    def missing(self, part: str, item: int, names: Iterable[str]) -> list[str]:
        """Those names for which there is no line yet."""
        return [name for name in names if (part, item, name) not in self.lines]

    def add(self, part: str, item: int, name: str, **found) -> None:
        """Write one down."""
        line = plain({"part": part, "item": item, "name": name, **found})
        with open(self.path, "ab") as file:
            file.write(("\n" + json.dumps(line, allow_nan=False)).encode())
        self.lines[part, item, name] = line

    def of(self, part: str, name: str) -> list[dict]:
        """The lines of a part and a name, in the order of the images."""
        found = [
            line for (of, _, called), line in self.lines.items() if (of, called) == (part, name)
        ]
        return sorted(found, key=lambda line: line["item"])


def findings_file(folder: str | os.PathLike, *identity) -> Path:
    """Where the findings about one checkpoint, corpus and setting are kept."""
    key = hashlib.sha256(json.dumps(plain(list(identity)), sort_keys=True).encode()).hexdigest()[
        :16
    ]
    return Path(folder) / FOLDER / f"{key}.jsonl"


# Largest difference of a logit from PyTorch for which another engine serves.
_STRAYS = 1e-4
# These take a hundred passes through the network and more for a map.
SLOW = ("integrated_gradients", "occlusion", "kernel_shap")


@dataclass(frozen=True)
class Settings:
    """How thoroughly is measured.

    Attributes:
        steps: Of the deletion and insertion curves.
        n_random: Random maps that each map is compared with.
        n_checks: Images on which the slow checks are made: ROAD, sensitivity, shuffled weights. The first ones.
        n_slow: Images that the methods in [`SLOW`] explain. The first ones; with fewer than all, they are left out of the splices.
        n_timed: Images whose maps are timed. The first ones.
        seed: Of everything that is drawn.
    """

    steps: int = 8
    n_random: int = 3
    n_checks: int = 32
    n_slow: int = 200
    n_timed: int = 20
    seed: int = 0

    def methods(self, item: int, compared: "Sequence[Candidate]") -> "list[Candidate]":
        """Those of the candidates that explain this image."""
        return [one for one in compared if item < self.n_slow or one.method not in SLOW]


@dataclass(frozen=True)
class Candidate:
    """A method with its options, under a name of its own."""

    name: str
    method: str
    options: dict

    def explain(
        self,
        model,
        pixels: torch.Tensor,
        class_indices,
        target: str,
        log_odds: Callable | None = None,
    ):
        """[`attribute`], by this method."""
        return attribute(
            model, pixels, class_indices, self.method, target, log_odds=log_odds, **self.options
        )


def candidates(
    detector: Detector, methods: Sequence[str], layers: int, pixels: torch.Tensor
) -> list[Candidate]:
    """List what is to be compared: methods, and Grad-CAM on several layers.

    Args:
        methods: Of `METHODS`.
        layers: On how many further layers Grad-CAM is tried, 0 for the default one alone.
        pixels: An input, for the size.

    Raises:
        ValueError: There is no such method.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise ValueError(f"There is no method {unknown[0]!r}; there are {', '.join(METHODS)}.")
    found = [Candidate(method, method, {}) for method in methods]
    if layers:
        size = tuple(pixels.shape[2:])
        usual = find_layer(detector.model, size, detector.facts.get("gradcam_layer")).name
        for layer in candidate_layers(detector.model, size, layers):
            if layer.name == usual and "gradcam" in methods:
                continue
            found.append(Candidate(f"gradcam@{layer.name}", "gradcam", {"layer": layer.name}))
    return found


def measure_faithfulness(
    detector: Detector,
    dataset: Dataset,
    compared: Sequence[Candidate],
    findings: Findings,
    settings: Settings,
    progress: Callable[[int], object] = lambda n: None,
) -> None:
    """Explain each image's more probable label by each method, and take the maps to task.

    Args:
        dataset: Rows with an undecoded `image`.
        findings: What an earlier run found is not done again.
        progress: Called with the number of maps that were dealt with.
    """
    class_indices, broken = detector.class_indices, randomised(detector.model, settings.seed)
    fast = None
    everyone = compared
    for item in range(len(dataset)):
        compared = settings.methods(item, everyone)
        missing = findings.missing("faithfulness", item, [one.name for one in compared])
        # Methods are compared with each other, not Grad-CAM's layers: whose maps are needed for that.
        together = [one.name for one in compared if "@" not in one.name]
        if item >= settings.n_checks or not findings.missing("agreement", item, [""]):
            together = []
        progress(len(compared) - len(missing))
        if not missing and not together:
            continue
        image = open_image(dataset[item]["image"])
        pixels, box = _input(detector, image)
        model = detector.for_maps(pixels)
        with torch.no_grad():
            target = AI if float(LogOdds(model, class_indices, AI)(pixels)) > 0 else REAL
        fast = fast or fast_log_odds(detector, pixels)
        log_odds = fast(target)
        masks, effects = removal_effects(log_odds, pixels, seed=settings.seed)
        maps = {}
        for one in compared:
            if one.name not in missing and one.name not in together:
                continue
            # The first maps are made and timed as users have them made, later ones by whatever is fastest.
            as_users = item < settings.n_timed
            start = time.perf_counter()
            heat, details = _explained(
                one, model, pixels, class_indices, target, None if as_users else log_odds
            )
            seconds = time.perf_counter() - start
            maps[one.name] = heat
            if one.name not in missing:
                continue
            options = {"seed": settings.seed, "box": box}
            curves = curves_of(log_odds, pixels, heat, settings.n_random, settings.steps, **options)
            evidence = evidence_of(log_odds, pixels, heat, target, **options)
            found = {
                "target": target,
                "deletion_area": curves.deletion_area,
                "insertion_area": curves.insertion_area,
                "deletion_gain": curves.deletion_gain,
                "insertion_gain": curves.insertion_gain,
                "infidelity": normalised_infidelity(heat, masks, effects),
                "beats_random": evidence.beats_random,
                "milliseconds": 1000 * seconds if as_users else None,
                "completeness_gap": details.get("completeness_gap"),
            }
            if item < settings.n_checks:
                found["road_gain"] = road(log_odds, pixels, heat, **options)
                found["sensitivity"] = max_sensitivity(
                    lambda noisy, by=one, on=model, to=target, fast=log_odds: _explained(
                        by, on, noisy, class_indices, to, fast
                    )[0],
                    pixels,
                    n_samples=2,
                    seed=settings.seed,
                )
                other, _ = _explained(one, broken, pixels, class_indices, target)
                # Signed, and of the magnitudes: a method that draws edges keeps the latter whatever the weights are.
                found["randomised"] = rank_correlation(heat, other)
                found["randomised_magnitude"] = rank_correlation(np.abs(heat), np.abs(other))
            findings.add("faithfulness", item, one.name, **found)
            progress(1)
        if together:
            pairs = agreement({name: maps[name] for name in together})
            findings.add(
                "agreement",
                item,
                "",
                pairs={f"{a} / {b}": values for (a, b), values in pairs.items()},
            )


def fast_log_odds(detector: Detector, pixels: torch.Tensor) -> Callable[[str], Callable]:
    """The margins that curves and removals ask for by the hundred, by the fastest engine that computes in fp32.

    Args:
        pixels: An input. OpenVINO serves inputs of its size, and only where it agrees with PyTorch.

    Returns:
        A function of the target, which returns what [`LogOdds`] is: a function of inputs.
    """
    stock = Detector(detector.model, detector.processor)
    sample = pixels.cpu().numpy()
    names = ("openvino-fp32", "torch-fp32") if has_openvino() else ("torch-fp32",)
    for name in names:
        try:
            engine = open_engine(
                name, stock, sample, threads=len(os.sched_getaffinity(0)), callers=1
            )
            strays = np.abs(engine(sample)[0] - stock.forward(pixels)).max()
        except RuntimeError:
            continue
        if strays < _STRAYS:
            break
    else:
        return lambda target: LogOdds(detector.model, detector.class_indices, target)
    usual = LogOdds(detector.model, detector.class_indices, AI)

    def for_target(target: str):
        sign = 1 if target == AI else -1

        def signed(inputs: torch.Tensor) -> torch.Tensor:
            if inputs.shape[1:] != pixels.shape[1:]:
                return sign * usual(inputs)
            logits = engine(inputs.cpu().numpy())[0]
            return torch.from_numpy(sign * log_odds_from_logits(logits, detector.class_indices))

        return signed

    return for_target


def _input(detector: Detector, image) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
    region = seen_region(detector.processor, *image.size)
    pixels = detector.pixels(image).to(detector.model.device, detector.model.dtype)
    return pixels, tuple(round(edge) for edge in region.input_box)


def _explained(
    one: Candidate, model, pixels, class_indices, target, log_odds=None
) -> tuple[np.ndarray, dict]:
    attribution = one.explain(model, pixels, class_indices, target, log_odds)
    # Of broken weights a map may overflow: nothing is then said there.
    return np.nan_to_num(attribution.heatmap, posinf=0, neginf=0), attribution.details


def measure_localisation(
    detector: Detector,
    dataset: Dataset,
    compared: Sequence[Candidate],
    findings: Findings,
    settings: Settings,
    n: int,
    progress: Callable[[int], object] = lambda n: None,
) -> None:
    """Explain `n` splices of each kind and their controls by each method, towards the label of the spliced region."""
    compared = settings.methods(len(dataset) - 1, compared)
    names = [one.name for one in compared]
    fast = None
    for item, splice in enumerate(splices(dataset, n, settings.seed)):
        missing = findings.missing("splice", item, [*names, CENTRE])
        progress(len(names) + 1 - len(missing))
        if not missing:
            continue
        sources = {"": splice.image, "control_": splice.control}
        inputs = {key: _input(detector, image)[0] for key, image in sources.items()}
        region = seen_region(detector.processor, *splice.image.size)
        fast = fast or fast_log_odds(detector, inputs[""])
        log_odds = fast(splice.target)
        for name in missing:
            one = next((one for one in compared if one.name == name), None)
            found = {"kind": splice.kind, "share": float(splice.mask.mean())}
            for key, pixels in inputs.items():
                if one is None:
                    heat = centred_map(tuple(pixels.shape[2:]))
                else:
                    model = detector.for_maps(pixels)
                    heat, _ = _explained(
                        one, model, pixels, detector.class_indices, splice.target, log_odds
                    )
                heat = region.to_image(heat)
                found |= {
                    f"{key}{score}": value
                    for score, value in localisation(heat, splice.mask).items()
                }
                if not key:
                    chance = localisation_of_chance(heat, splice.mask, seed=item)
                    found |= {f"chance_{score}": value for score, value in chance.items()}
            findings.add("splice", item, name, **found)
            progress(1)
