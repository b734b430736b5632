"""The detector: a checkpoint, opened once, that answers for images.

Everything that gives an answer (the page, scripts, people's own code) goes through [`Detector`], so that
decoding, preprocessing, labels and verdicts cannot differ between them. The calibration is in the weights, and
the verdict's thresholds are in the checkpoint's configuration.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from scipy.special import expit

from realfake.attribution import METHOD_NAMES
from realfake.imaging.decode import open_image
from realfake.labels import AI, NAMES, REAL, class_indices
from realfake.models.classifiers import load_classifier, load_processor, optional_file
from realfake.models.folding import fold_batch_norms
from realfake.models.hub import locate, verified
from realfake.models.ood import FILE_NAME as OOD_FILE
from realfake.models.ood import OodReference, forward_with_features
from realfake.prediction import Explanation, Prediction
from realfake.runtime import keep_freed_memory
from realfake.statistics.log_odds import log_odds_from_logits
from realfake.statistics.verdicts import INCONCLUSIVE, Thresholds, check_prior, verdicts, with_prior

if TYPE_CHECKING:
    from realfake.attribution.faithfulness import Evidence
    from realfake.prediction import Stability

BUNDLED = Path(__file__).parent / "checkpoints"
# For checkpoints whose maps nobody has measured: two passes, and a map for every spatial layer.
DEFAULT_METHOD = "gradcam"
DEFAULT_CHECKPOINT = BUNDLED / "photos"


# Keys of `config.realfake` under the names that earlier versions wrote.
_OLD_KEYS = {"novelty": "ood"}


def stored_facts(facts: Mapping | None) -> dict:
    """Return the `realfake` section of a `config.json` with the keys of this version."""
    facts = facts or {}
    renamed = {_OLD_KEYS.get(key, key): value for key, value in facts.items()}
    # A key of this version is newer than the old key beside it.
    return {**renamed, **{key: value for key, value in facts.items() if key not in _OLD_KEYS}}


class Detector:
    """Tells photographs from AI-generated images.

    Args:
        model: An image classifier of transformers, in evaluation mode.
        processor: Its image processor.
        label_map: *optional*. `{class name: "real" or "ai"}` for class names that do not say it themselves.
        name: What the checkpoint is called where people read it.
        revision: *optional*. Its revision on the Hub.
        ood: *optional*. What the images look like that it was calibrated on; without it no verdict is withheld for
            being about something else.

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
        model: torch.nn.Module,
        processor,
        *,
        label_map: dict[str, str] | None = None,
        name: str = "",
        revision: str | None = None,
        ood: OodReference | None = None,
    ):
        if model.config.num_labels < len(NAMES):
            raise ValueError(
                f"{name or 'The model'} has a single output; a detector needs a class for real and one for ai."
            )
        self.class_indices = class_indices(model.config.id2label, label_map)
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.revision = revision
        self.ood = ood
        self.facts: dict = stored_facts(getattr(model.config, "realfake", None))
        if ood is not None:
            # The file itself decides: a fit that was stopped may have left an older description of it.
            self.facts = {**self.facts, "ood": ood.to_dict()}
        stored = self.facts.get("thresholds")
        self.thresholds = Thresholds.from_dict(stored) if stored else None
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
        label_map: dict[str, str] | None = None,
        max_seconds: float | None = None,
    ) -> "Detector":
        """Open a checkpoint. On a CPU the process's allocator is set as in [`~realfake.runtime.keep_freed_memory`].

        Args:
            model: Hub id or folder of any image classifier of transformers; *defaults to* the bundled one.
            revision: *optional*. Branch, tag or commit on the Hub.
            token: *optional*. Hub token for private checkpoints.
            device: *optional*. *Defaults to* the GPU where there is one.
            dtype: *defaults to* `torch.float32`, in which all ways of calling the model give the same scores.
            label_map: *optional*. `{class name: "real" or "ai"}`, needed for names such as `LABEL_0`.
            max_seconds: *optional*. How long its files may take to arrive from the Hub. After that an earlier download of it is
                opened, where there is one.

        Raises:
            ValueError: It is no image classifier, or its classes cannot be mapped to `real` and `ai`.
            OSError: It cannot be opened.
        """
        source = model or DEFAULT_CHECKPOINT
        # All files from one state of the repository, even if somebody pushes in the meantime.
        located = locate(source, revision, token, max_seconds)
        files, pinned = located.source, located.revision

        def opening():
            classifier = load_classifier(files, revision=pinned, token=token, dtype=dtype)
            processor = load_processor(files, revision=pinned, token=token)
            facts = stored_facts(getattr(classifier.config, "realfake", None))
            if facts:
                classifier.config.realfake = facts
            return classifier, processor, _load_ood(files, facts, pinned, token)

        classifier, processor, ood = verified(located, opening)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cpu":
            keep_freed_memory()
        folder = Path(source)
        name = folder.name if folder.is_dir() else str(source)
        revision = located.commit or revision
        return cls(
            classifier.to(device),
            processor,
            label_map=label_map,
            name=name,
            revision=revision,
            ood=ood,
        )

    def predict(
        self, images, batch_size: int = 16, prior_ai: float = 0.5
    ) -> Prediction | list[Prediction]:
        """Predict one image or several.

        Args:
            images: A path, URL, bytes, `PIL.Image` or array, or a list of these.
            batch_size: Images in one forward pass, *defaults to* 16.
            prior_ai: Share of `ai` images to expect where these come from, *defaults to* 0.5. It moves the
                probabilities and the label, not the verdict.

        Returns:
            A [`Prediction`], or a list of them for a list.

        Raises:
            ValueError: An image is unusable; the message says which and why. Or `prior_ai` is not inside (0, 1).
            OSError: An image cannot be read.
        """
        check_prior(prior_ai)
        if not isinstance(images, (list, tuple)):
            return self._predictions(*self.scores([images]), prior_ai)[0]
        return self._predictions(*self.scores(images, batch_size), prior_ai)

    def stability(self, image, prior_ai: float = 0.5) -> "Stability":
        """Predict an image together with itself after a messenger's recompression, at half size and cropped.

        Args:
            image, prior_ai: As in [`Detector.predict`].

        Returns:
            [`~realfake.prediction.Stability`]

        Raises:
            ValueError, OSError: As in [`Detector.predict`].
        """
        from realfake.prediction import Stability, variants_of

        check_prior(prior_ai)
        variants = variants_of(open_image(image))
        predictions = self.predict(list(variants.values()), prior_ai=prior_ai)
        return Stability(list(zip(variants, predictions, strict=True)))

    def log_odds(self, images: Sequence, batch_size: int = 16) -> np.ndarray:
        """Compute the log-odds of `ai`.

        Args:
            images: As in [`Detector.predict`].

        Returns:
            Float64 array of shape `(len(images),)`.
        """
        return log_odds_from_logits(self.logits(images, batch_size), self.class_indices)

    def scores(
        self, images: Sequence, batch_size: int = 16
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Compute all that a verdict rests on, in one pass over the images.

        Args:
            images: As in [`Detector.predict`].

        Returns:
            The log-odds of `ai` and the novelty (see [`Prediction`]), float64 arrays of shape `(len(images),)`; `None` in
            place of the novelty where the checkpoint stores no statistics. [`Detector.verdicts`] takes them both.
        """
        logits, ood = [], []
        for pixels in self._decoded_batches(images, batch_size):
            rows, shares = self.examine(pixels)
            logits.append(rows)
            ood.append(shares)
        log_odds = log_odds_from_logits(self._joined(logits), self.class_indices)
        if self.ood is None:
            return log_odds, None
        return log_odds, np.concatenate([*ood, np.zeros(0)])

    def verdicts(self, log_odds: np.ndarray, ood: np.ndarray | None = None) -> np.ndarray:
        """Give the verdict on images by their [`Detector.scores`]: `"real"`, `"ai"` or `"inconclusive"`, of shape `(n,)`."""
        log_odds = np.asarray(log_odds)
        if self.thresholds is None:
            said = np.where(log_odds > 0, AI, REAL)
        else:
            said = verdicts(log_odds, self.thresholds)
        if ood is None or self.ood is None:
            return said
        return np.where(self.ood.is_out_of_distribution(ood), INCONCLUSIVE, said)

    def logits(self, images: Sequence, batch_size: int = 16) -> np.ndarray:
        """Compute the raw logits, float32 array of shape `(len(images), labels)`."""
        return self._joined(
            [self.forward(pixels) for pixels in self._decoded_batches(images, batch_size)]
        )

    @torch.inference_mode()
    def features(self, images: Sequence, batch_size: int = 16) -> dict[str, np.ndarray]:
        """Compute the features that novelty is judged by: `{block: float32 array of shape (len(images), size)}`."""
        rows = []
        for pixels in self._decoded_batches(images, batch_size):
            with self.lock:
                _, features = forward_with_features(self.model, pixels)
            rows.append({name: block.cpu().numpy() for name, block in features.items()})
        return {
            name: np.concatenate([row[name] for row in rows]) for name in (rows[0] if rows else ())
        }

    def pixels(self, image) -> torch.Tensor:
        """Decode and preprocess one image, as in [`Detector.predict`], to the model's input, `(1, 3, height, width)`."""
        return self.processor(images=open_image(image), return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor) -> np.ndarray:
        """Run the model on a batch of inputs: float32 array of shape `(len(pixels), labels)`.

        One caller at a time, whatever thread it comes from: a map hooks into the layers that a verdict runs through.
        """
        with self.lock:
            pixels = pixels.to(self.model.device, self.model.dtype)
            return self.model(pixel_values=pixels).logits.float().cpu().numpy()

    @torch.inference_mode()
    def examine(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Run the model once on a batch of inputs, as [`Detector.forward`], for the logits and the novelty of each.

        Returns:
            Logits of shape `(len(pixels), labels)`, and novelty of shape `(len(pixels),)`, `None` without statistics.
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
        """The method whose maps measurements of this checkpoint support, see `scripts/evaluate_explanations.py`; or Grad-CAM."""
        stored = self.facts.get("explanation_method")
        return stored if stored in METHOD_NAMES else DEFAULT_METHOD

    def explain(
        self,
        image,
        method: str | None = None,
        target: str = AI,
        evidence: bool = False,
        prior_ai: float = 0.5,
        **options,
    ) -> Explanation:
        """Show where in an image the evidence lies.

        Args:
            image: As in [`Detector.predict`].
            method: A method of `realfake.attribution.methods.METHODS`, *defaults to* [`Detector.explanation_method`].
            target: The label whose evidence is positive, `"ai"` (default) or `"real"`.
            evidence: Whether to take the map's strongest part away and see what becomes of the score, *defaults to*
                `False`.
            prior_ai: As in [`Detector.predict`], for the prediction.
            options: Passed on to the method.

        Raises:
            ValueError: The image is unusable, or there is no such method or target.
            OSError: The image cannot be read.
        """
        # Captum takes over a second to import, and a detector that only predicts does not need it.
        from realfake.attribution.methods import attribute
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
            # Every pass that is not made twice keeps the map affordable.
            score = float(log_odds[0]) * (1 if target == AI else -1)
            model = self.for_maps(pixels)
            attribution = attribute(
                model, pixels, self.class_indices, method, target, score=score, **options
            )
            tested = self._evidence(model, pixels, attribution, region) if evidence else None
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
        """The network that maps are made with: on a CPU a copy with [`fold_batch_norms`], where it has any.

        Args:
            pixels: An input, by which the copy is checked.
        """
        if self.model.device.type != "cpu":
            return self.model
        # A copy of weights that have changed since, a calibration folded in for instance, must not be asked.
        tensors = (*self.model.parameters(), *self.model.buffers())
        weights = tuple((id(tensor), tensor._version) for tensor in tensors)
        if self._folded is None or self._folded[0] != weights:
            self._folded = weights, fold_batch_norms(self.model, pixels)
        return self._folded[1]

    def _evidence(
        self, model: torch.nn.Module, pixels: torch.Tensor, attribution, region
    ) -> "Evidence":
        from realfake.attribution.faithfulness import evidence_of
        from realfake.attribution.methods import LogOdds

        log_odds = LogOdds(model, self.class_indices, attribution.target)
        # Random parts must not fall on padding, where removing costs nothing.
        box = tuple(round(edge) for edge in region.input_box)
        score = attribution.details["score"]
        return evidence_of(
            log_odds, pixels, attribution.heatmap, attribution.target, box=box, score=score
        )

    def _decoded_batches(self, images: Sequence, batch_size: int) -> Iterator[torch.Tensor]:
        for start in range(0, len(images), batch_size):
            yield from self._batches(
                [open_image(image) for image in images[start : start + batch_size]]
            )

    def _joined(self, logits: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(
            [np.zeros((0, self.model.config.num_labels), dtype=np.float32), *logits]
        )

    def _batches(self, images: list[Image.Image]) -> list[torch.Tensor]:
        # A processor that keeps an image's own size gives tensors that cannot be stacked: one at a time then.
        tensors = [
            self.processor(images=image, return_tensors="pt")["pixel_values"] for image in images
        ]
        if len({tensor.shape for tensor in tensors}) == 1:
            tensors = [torch.cat(tensors)]
        return [tensor.to(self.model.device, self.model.dtype) for tensor in tensors]

    def _predictions(
        self, log_odds: np.ndarray, ood: np.ndarray | None = None, prior_ai: float = 0.5
    ) -> list[Prediction]:
        given = self.verdicts(log_odds, ood)
        out_of_distribution = (
            np.zeros(len(log_odds), bool) if ood is None else self.ood.is_out_of_distribution(ood)
        )
        predictions = []
        for index, (calibrated, verdict) in enumerate(zip(log_odds, given, strict=True)):
            posterior = float(with_prior(calibrated, prior_ai))
            why = "out_of_distribution" if out_of_distribution[index] else "between"
            predictions.append(
                Prediction(
                    label=AI if posterior > 0 else REAL,
                    probabilities={REAL: float(expit(-posterior)), AI: float(expit(posterior))},
                    verdict=str(verdict),
                    log_odds=float(calibrated),
                    alpha=None if self.thresholds is None else self.thresholds.alpha,
                    reason=why if verdict == INCONCLUSIVE else None,
                    ood=None if ood is None else float(ood[index]),
                    prior_ai=float(prior_ai),
                )
            )
        return predictions


def _load_ood(
    files: str | Path, facts: Mapping, revision: str | None, token: str | None
) -> OodReference | None:
    """The statistics of a checkpoint whose configuration says that it has them; no other one is asked for them.

    Raises:
        OSError: They are missing or broken, or cannot be had.
    """
    if not facts.get("ood"):
        return None
    path = optional_file(files, OOD_FILE, revision=revision, token=token)
    if path is None:
        raise OSError(
            f"{files} cannot be opened as a checkpoint: it lacks {OOD_FILE}, which its config.json speaks of; "
            "download or save it again."
        )
    return OodReference.load(path)
