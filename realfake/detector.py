"""The detector: a checkpoint that predicts and explains images.

The command line, the Space and users' code all call [`Detector`]. The calibration is part of the
weights; the thresholds of the verdict are in the checkpoint's `config.json`.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.special import expit
from transformers import BaseImageProcessor, PreTrainedModel

from realfake.attribution import METHOD_NAMES
from realfake.imaging.decode import open_image
from realfake.labels import AI, NAMES, REAL, class_indices
from realfake.models.classifiers import load_classifier, load_processor, optional_file
from realfake.models.folding import fold_batch_norms
from realfake.models.hub import locate, verified
from realfake.models.ood import FILE_NAME as OOD_FILE
from realfake.models.ood import OodReference, forward_with_features
from realfake.prediction import Explanation, Prediction, Stability, variants_of
from realfake.runtime import keep_freed_memory
from realfake.statistics.log_odds import log_odds_from_logits
from realfake.statistics.verdicts import INCONCLUSIVE, Thresholds, check_prior, verdicts, with_prior

BUNDLED = Path(__file__).parent / "checkpoints"
DEFAULT_CHECKPOINT = BUNDLED / "photos"
# For checkpoints without measured maps: fast, and it works for every spatial layer.
DEFAULT_METHOD = "gradcam"
# Keys of `config.realfake` in earlier versions.
_OLD_KEYS = {"novelty": "ood"}

ImageSource = str | os.PathLike | bytes | Mapping | np.ndarray | Image.Image


def stored_facts(facts: Mapping | None) -> dict:
    """Return the `realfake` section of a `config.json` with the keys of this version."""
    facts = dict(facts or {})
    for old, new in _OLD_KEYS.items():
        if old in facts:
            facts.setdefault(new, facts.pop(old))
    return facts


class Detector:
    """A classifier of photographs and AI-generated images.

    Args:
        model: An image classifier of transformers.
        processor: Its image processor.
        label_map: *optional*. `{class name: "real" or "ai"}`, for names such as `LABEL_0`.
        name: Display name of the checkpoint.
        revision: *optional*. Its revision on the Hub.
        ood: *optional*. Statistics of the calibration images. Without them, out-of-distribution
            (OOD) images are not detected.

    Raises:
        ValueError: The classes cannot be mapped to `real` and `ai`.

    Example:
        ```python
        from realfake import Detector

        detector = Detector.from_pretrained()
        detector.predict("photo.jpg").probabilities  # {"real": 0.97, "ai": 0.03}
        ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor,
        *,
        label_map: Mapping[str, str] | None = None,
        name: str = "",
        revision: str | None = None,
        ood: OodReference | None = None,
    ) -> None:
        if model.config.num_labels < len(NAMES):
            raise ValueError(
                f"{name or 'The model'} has a single output; a detector needs two classes or more."
            )
        self.class_indices = class_indices(model.config.id2label, label_map)
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.revision = revision
        self.ood = ood
        self.facts: dict = stored_facts(getattr(model.config, "realfake", None))
        if ood is not None:
            # After an interrupted fit, config.json can describe an older file.
            self.facts["ood"] = ood.to_dict()
        thresholds = self.facts.get("thresholds")
        self.thresholds = Thresholds.from_dict(thresholds) if thresholds else None
        # Maps add hooks to the model, so only one thread may use it.
        self.lock = threading.RLock()
        self._folded: tuple[tuple, torch.nn.Module] | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        label_map: Mapping[str, str] | None = None,
        max_seconds: float | None = None,
    ) -> "Detector":
        """Open a checkpoint. On a CPU this sets [`~realfake.runtime.keep_freed_memory`].

        Args:
            model: Hub id or folder of an image classifier; *defaults to* the bundled checkpoint.
            revision: *optional*. Branch, tag or commit on the Hub.
            token: *optional*. Hub token for private checkpoints.
            device: *optional*. *Defaults to* a GPU if there is one.
            dtype: *defaults to* `torch.float32`, in which all engines agree.
            label_map: *optional*. `{class name: "real" or "ai"}`, for names such as `LABEL_0`.
            max_seconds: *optional*. Time limit for the download; then an earlier one is opened.

        Raises:
            ValueError: The checkpoint is not an image classifier, or its classes cannot be mapped.
            OSError: The checkpoint cannot be opened.
        """
        source = model or DEFAULT_CHECKPOINT
        # All files are from one commit, even if someone pushes in the meantime.
        located = locate(source, revision, token, max_seconds)
        files, pinned = located.source, located.revision

        def opening() -> tuple[PreTrainedModel, BaseImageProcessor, OodReference | None]:
            classifier = load_classifier(files, revision=pinned, token=token, dtype=dtype)
            processor = load_processor(files, revision=pinned, token=token)
            facts = stored_facts(getattr(classifier.config, "realfake", None))
            if facts:
                classifier.config.realfake = facts
            return classifier, processor, _load_ood(files, facts, pinned, token)

        classifier, processor, ood = verified(located, opening)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cpu":  # type: ignore[union-attr]
            keep_freed_memory()
        folder = Path(source)
        return cls(
            classifier.to(device),
            processor,
            label_map=label_map,
            name=folder.name if folder.is_dir() else str(source),
            revision=located.commit or revision,
            ood=ood,
        )

    def predict(
        self,
        images: ImageSource | Sequence[ImageSource],
        batch_size: int = 16,
        prior_ai: float = 0.5,
    ) -> Prediction | list[Prediction]:
        """Predict one image or several.

        Args:
            images: A path, URL, bytes, `PIL.Image` or array, or a list of these.
            batch_size: Images in one forward pass, *defaults to* 16.
            prior_ai: Expected share of `ai` images, *defaults to* 0.5. It changes the probabilities
                and the label, not the verdict.

        Returns:
            A [`Prediction`], or a list of them for a list.

        Raises:
            ValueError: An image is unusable, or `prior_ai` is not inside (0, 1).
            OSError: An image cannot be read.
        """
        check_prior(prior_ai)
        if not isinstance(images, (list, tuple)):
            return self._predictions(*self.scores([images]), prior_ai)[0]
        return self._predictions(*self.scores(images, batch_size), prior_ai)

    def stability(self, image: ImageSource, prior_ai: float = 0.5) -> Stability:
        """Predict an image and copies of it: recompressed like a messenger, at half size, cropped.

        Arguments and errors are those of [`Detector.predict`].
        """
        check_prior(prior_ai)
        variants = variants_of(open_image(image))
        predictions = self.predict(list(variants.values()), prior_ai=prior_ai)
        return Stability(list(zip(variants, predictions, strict=True)))

    def log_odds(self, images: Sequence[ImageSource], batch_size: int = 16) -> np.ndarray:
        """Compute the log-odds of `ai`, float64 of shape `(len(images),)`."""
        return log_odds_from_logits(self.logits(images, batch_size), self.class_indices)

    def scores(
        self, images: Sequence[ImageSource], batch_size: int = 16
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Compute the arguments of [`Detector.verdicts`] in one pass over the images.

        Returns:
            The log-odds of `ai` and the OOD p-values (`Prediction.ood`), float64 of shape
            `(len(images),)`. The second is `None` without statistics of the calibration images.
        """
        logits, ood = [], []
        for pixels in self._decoded_batches(images, batch_size):
            batch_logits, batch_ood = self.examine(pixels)
            logits.append(batch_logits)
            ood.append(batch_ood)
        log_odds = log_odds_from_logits(self._joined(logits), self.class_indices)
        return log_odds, None if self.ood is None else np.concatenate([*ood, np.zeros(0)])

    def verdicts(self, log_odds: np.ndarray, ood: np.ndarray | None = None) -> np.ndarray:
        """Return the verdict for each image: `"real"`, `"ai"` or `"inconclusive"`.

        Args:
            log_odds: Of shape `(n,)`, from [`Detector.scores`].
            ood: *optional*. Of shape `(n,)`, from [`Detector.scores`].
        """
        log_odds = np.asarray(log_odds)
        if self.thresholds is None:
            result = np.where(log_odds > 0, AI, REAL)
        else:
            result = verdicts(log_odds, self.thresholds)
        return np.where(self._is_out_of_distribution(log_odds, ood), INCONCLUSIVE, result)

    def reasons(self, log_odds: np.ndarray, ood: np.ndarray | None = None) -> list[str | None]:
        """Return the reason of each inconclusive verdict, and `None` for the other verdicts.

        [`~realfake.prediction.Prediction`] explains the codes.
        """
        log_odds = np.asarray(log_odds)
        missing = [
            label for label in NAMES if self.thresholds and getattr(self.thresholds, label) is None
        ]
        is_missing = np.isin(np.where(log_odds > 0, AI, REAL), missing)
        codes = np.where(is_missing, "no_thresholds", "between")
        is_ood = self._is_out_of_distribution(log_odds, ood)
        codes = np.where(is_ood, "out_of_distribution", codes)
        pairs = zip(codes, self.verdicts(log_odds, ood), strict=True)
        return [str(code) if verdict == INCONCLUSIVE else None for code, verdict in pairs]

    def logits(self, images: Sequence[ImageSource], batch_size: int = 16) -> np.ndarray:
        """Compute the logits, float32 of shape `(len(images), labels)`."""
        batches = self._decoded_batches(images, batch_size)
        return self._joined([self.forward(pixels) for pixels in batches])

    @torch.inference_mode()
    def features(
        self, images: Sequence[ImageSource], batch_size: int = 16
    ) -> dict[str, np.ndarray]:
        """Compute the features of OOD detection: `{block: float32 (len(images), size)}`."""
        batches = []
        for pixels in self._decoded_batches(images, batch_size):
            with self.lock:
                _, features = forward_with_features(self.model, pixels)
            batches.append({name: block.cpu().numpy() for name, block in features.items()})
        names = batches[0] if batches else ()
        return {name: np.concatenate([batch[name] for batch in batches]) for name in names}

    def pixels(self, image: ImageSource) -> torch.Tensor:
        """Decode and preprocess one image to the model's input, `(1, 3, height, width)`."""
        return self.processor(images=open_image(image), return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor) -> np.ndarray:
        """Run the model on a batch of inputs: logits, float32 of shape `(len(pixels), labels)`."""
        with self.lock:
            pixels = pixels.to(self.model.device, self.model.dtype)
            return self.model(pixel_values=pixels).logits.float().cpu().numpy()

    @torch.inference_mode()
    def examine(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Run the model once on a batch of inputs for logits and OOD p-values.

        Returns:
            Logits of shape `(len(pixels), labels)`, and p-values of shape `(len(pixels),)`, or
            `None` without statistics of the calibration images.
        """
        if self.ood is None:
            return self.forward(pixels), None
        with self.lock:
            pixels = pixels.to(self.model.device, self.model.dtype)
            logits, features = forward_with_features(self.model, pixels)
        blocks = {name: block.cpu().numpy() for name, block in features.items()}
        return logits.cpu().numpy(), self.ood.p_value(blocks)

    @property
    def explanation_method(self) -> str:
        """The most faithful attribution method of this checkpoint if measured, or Grad-CAM."""
        method = self.facts.get("explanation_method")
        return method if method in METHOD_NAMES else DEFAULT_METHOD

    def explain(
        self,
        image: ImageSource,
        method: str | None = None,
        target: str = AI,
        evidence: bool = False,
        prior_ai: float = 0.5,
        **options: Any,
    ) -> Explanation:
        """Map the evidence in an image.

        Args:
            image: As in [`Detector.predict`].
            method: A name of `realfake.attribution.METHOD_NAMES`, *defaults to*
                [`Detector.explanation_method`].
            target: The label whose evidence is positive, `"ai"` (default) or `"real"`.
            evidence: Whether to test the map by removing its strongest part, *defaults to* `False`.
            prior_ai: As in [`Detector.predict`], for the prediction.
            options: Passed to the method.

        Raises:
            ValueError: The image is unusable, or the method or the target is unknown.
            OSError: The image cannot be read.
        """
        # Importing Captum takes over a second.
        from realfake.attribution.faithfulness import evidence_of
        from realfake.attribution.methods import LogOdds, attribute
        from realfake.models.geometry import seen_region

        check_prior(prior_ai)
        method = method or self.explanation_method
        if target not in NAMES:
            raise ValueError(f"The target must be 'real' or 'ai', not {target!r}.")
        decoded = open_image(image)
        (pixels,) = self._batches([decoded])
        region = seen_region(self.processor, *decoded.size)
        with self.lock:
            logits, ood = self.examine(pixels)
            log_odds = log_odds_from_logits(logits, self.class_indices)
            score = float(log_odds[0]) * (1 if target == AI else -1)
            model = self.for_maps(pixels)
            attribution = attribute(
                model, pixels, self.class_indices, method, target, score=score, **options
            )
            tested = None
            if evidence:
                scorer = LogOdds(model, self.class_indices, target)
                # Without the padding, whose removal has no effect.
                box = tuple(round(edge) for edge in region.input_box)
                heatmap = attribution.heatmap
                tested = evidence_of(scorer, pixels, heatmap, target, box=box, score=score)
        return Explanation(
            heatmap=region.to_image(attribution.heatmap),
            method=method,
            target=target,
            prediction=self._predictions(log_odds, ood, prior_ai)[0],
            image=decoded,
            details=attribution.details,
            evidence=tested,
        )

    def for_maps(self, pixels: torch.Tensor) -> torch.nn.Module:
        """Return the model for maps: on a CPU, a faster copy from [`fold_batch_norms`].

        Args:
            pixels: An input to check the copy with.
        """
        if self.model.device.type != "cpu":
            return self.model
        # Folding a calibration in changes the weights and makes the copy invalid.
        tensors = (*self.model.parameters(), *self.model.buffers())
        weights = tuple((id(tensor), tensor._version) for tensor in tensors)
        if self._folded is None or self._folded[0] != weights:
            self._folded = weights, fold_batch_norms(self.model, pixels)
        return self._folded[1]

    def _decoded_batches(
        self, images: Sequence[ImageSource], batch_size: int
    ) -> Iterator[torch.Tensor]:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            yield from self._batches([open_image(image) for image in batch])

    def _batches(self, images: list[Image.Image]) -> list[torch.Tensor]:
        tensors = [
            self.processor(images=image, return_tensors="pt")["pixel_values"] for image in images
        ]
        # Inputs of different sizes cannot be stacked and go through the model one at a time.
        if len({tensor.shape for tensor in tensors}) == 1:
            tensors = [torch.cat(tensors)]
        return [tensor.to(self.model.device, self.model.dtype) for tensor in tensors]

    def _joined(self, logits: list[np.ndarray]) -> np.ndarray:
        empty = np.zeros((0, self.model.config.num_labels), dtype=np.float32)
        return np.concatenate([empty, *logits])

    def _is_out_of_distribution(self, log_odds: np.ndarray, ood: np.ndarray | None) -> np.ndarray:
        if ood is None or self.ood is None:
            return np.zeros(log_odds.shape, dtype=bool)
        return self.ood.is_out_of_distribution(ood)

    def _predictions(
        self, log_odds: np.ndarray, ood: np.ndarray | None, prior_ai: float
    ) -> list[Prediction]:
        results = zip(self.verdicts(log_odds, ood), self.reasons(log_odds, ood), strict=True)
        predictions = []
        for index, (verdict, reason) in enumerate(results):
            posterior = float(with_prior(log_odds[index], prior_ai))
            predictions.append(
                Prediction(
                    label=AI if posterior > 0 else REAL,
                    probabilities={REAL: float(expit(-posterior)), AI: float(expit(posterior))},
                    verdict=str(verdict),
                    log_odds=float(log_odds[index]),
                    alpha=None if self.thresholds is None else self.thresholds.alpha,
                    reason=reason,
                    ood=None if ood is None else float(ood[index]),
                    prior_ai=float(prior_ai),
                )
            )
        return predictions


def _load_ood(
    files: str | Path, facts: Mapping, revision: str | None, token: str | None
) -> OodReference | None:
    """Load the OOD statistics of a checkpoint whose configuration mentions them."""
    if not facts.get("ood"):
        return None
    path = optional_file(files, OOD_FILE, revision=revision, token=token)
    if path is None:
        raise OSError(
            f"{files} cannot be opened as a checkpoint: it lacks {OOD_FILE}, which its config.json "
            "mentions; download or save it again."
        )
    return OodReference.load(path)
