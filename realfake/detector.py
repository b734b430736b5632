"""The detector: a checkpoint that predicts and explains images.

The command line, the Space and users' code all call [`Detector`]. The calibration is part of the
weights; the thresholds of the verdict are in the checkpoint's `config.json`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from scipy.special import expit
from transformers import BaseImageProcessor, PreTrainedModel

from realfake.attribution import METHOD_NAMES
from realfake.examiner import Examined, Examiner, ImageSource, stored_facts
from realfake.imaging.decode import open_image
from realfake.labels import AI, NAMES, REAL
from realfake.models.classifiers import load_classifier, load_processor, optional_file
from realfake.models.folding import fold_batch_norms
from realfake.models.hub import locate, verified
from realfake.models.ood import FILE_NAME as OOD_FILE
from realfake.models.ood import OodReference
from realfake.models.views import tile_boxes
from realfake.prediction import (
    ORIGINAL,
    Explanation,
    Prediction,
    Scores,
    Stability,
    View,
    variants_of,
)
from realfake.runtime import keep_freed_memory
from realfake.statistics.contrast import ContrastThresholds
from realfake.statistics.stopping import is_settled
from realfake.statistics.verdicts import INCONCLUSIVE, Thresholds, check_prior, verdicts, with_prior

BUNDLED = Path(__file__).parent / "checkpoints"
DEFAULT_CHECKPOINT = BUNDLED / "photos"
# For checkpoints without measured maps: fast, and it works for every spatial layer.
DEFAULT_METHOD = "gradcam"
# Changed copies of an image are examined in fewer views than the image.
_COPY_VIEWS = 4
# Number of views after which opening a faster engine takes less time than it saves.
_WORTH_AN_ENGINE = 64


class Detector(Examiner):
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
        super().__init__(model, processor, label_map=label_map, name=name, ood=ood)
        self.revision = revision
        if ood is not None:
            # After an interrupted fit, config.json can describe an older file.
            self.facts["ood"] = ood.to_dict()
        thresholds = self.facts.get("thresholds")
        self.thresholds = Thresholds.from_dict(thresholds) if thresholds else None
        differing = self.facts.get("differing")
        self.differing = ContrastThresholds.from_dict(differing) if differing else None
        self._folded: tuple[tuple, torch.nn.Module] | None = None
        self._tried_engine = False
        self._listed = 0  # views of all lists so far, at most

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

    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        batch_size: int = 16,
        prior_ai: float = 0.5,
        views: int | None = None,
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self,
        images: ImageSource,
        batch_size: int = 16,
        prior_ai: float = 0.5,
        views: int | None = None,
    ) -> Prediction: ...

    def predict(
        self, images: Any, batch_size: int = 16, prior_ai: float = 0.5, views: int | None = None
    ) -> Prediction | list[Prediction]:
        """Predict one image or several.

        Args:
            images: A path, URL, bytes, `PIL.Image` or array, or a list of these.
            batch_size: Views in one forward pass, *defaults to* 16.
            prior_ai: Expected share of `ai` images, *defaults to* 0.5. It changes the probabilities
                and the label, not the verdict.
            views: *optional*. Largest number of views of an image; *defaults to*
                [`Detector.views`]. With 1, the probabilities are those of the stock pipeline.

        Returns:
            A [`Prediction`], or a list of them for a list.

        Raises:
            ValueError: An image is unusable, `prior_ai` is not inside (0, 1), or the detector
                cannot examine an image in several views.
            OSError: An image cannot be read.
        """
        check_prior(prior_ai)
        single = not isinstance(images, (list, tuple))
        if not single:
            self._listed += len(images) * self.limit(views)
            if self._listed >= _WORTH_AN_ENGINE:
                self.accelerate()
        batches = self.examined_batches([images] if single else images, batch_size, views)
        examined = [each for batch in batches for each in batch]
        predictions = self.predictions(examined, prior_ai)
        return predictions[0] if single else predictions

    def accelerate(self) -> bool:
        """Compute with OpenVINO in fp32 from now on, if that gives the same results.

        [`predict`] does this for lists, after 64 views. It takes a second or more, once.

        Returns:
            Whether OpenVINO is used. It needs `pip install "realfake[openvino]"` and a CPU.
        """
        if self.engine is None and not self._tried_engine:
            from realfake.engines import accelerate

            self._tried_engine = True
            noise = np.random.default_rng(0).integers(0, 256, (2, 640, 640, 3), dtype=np.uint8)
            tensors, _ = self.inputs([Image.fromarray(each) for each in noise], 1, 2)
            accelerate(self, torch.cat([each.float().cpu() for each in tensors]).numpy())
        return self.engine is not None

    def stability(
        self,
        image: ImageSource,
        prior_ai: float = 0.5,
        views: int | None = None,
        original: Prediction | None = None,
    ) -> Stability:
        """Predict an image and copies of it: recompressed like a messenger, at half size, cropped.

        The copies are examined in at most four views. Errors are those of [`Detector.predict`].

        Args:
            image, prior_ai, views: As in [`Detector.predict`].
            original: *optional*. The prediction for the image, if it is known.
        """
        check_prior(prior_ai)
        decoded = open_image(image)
        if original is None:
            original = self.predict(decoded, prior_ai=prior_ai, views=views)
        variants = variants_of(decoded)
        del variants[ORIGINAL]
        fewer = min(self.limit(views), _COPY_VIEWS)
        copies = self.predict(list(variants.values()), prior_ai=prior_ai, views=fewer)
        return Stability([(ORIGINAL, original), *zip(variants, copies, strict=True)])

    def log_odds(
        self, images: Sequence[ImageSource], batch_size: int = 16, views: int | None = None
    ) -> np.ndarray:
        """Compute the log-odds of `ai`, float64 of shape `(len(images),)`."""
        return self.scores(images, batch_size, views).log_odds

    def scores(
        self, images: Sequence[ImageSource], batch_size: int = 16, views: int | None = None
    ) -> Scores:
        """Compute the arguments of [`Detector.verdicts`] in one pass over the images.

        Arguments and errors are those of [`Detector.predict`].
        """
        batches = self.examined_batches(images, batch_size, views)
        return self.combine([each for batch in batches for each in batch])

    def combine(self, examined: Sequence[Examined]) -> Scores:
        """Return the scores of images from those of their views."""
        n_views = np.array([len(each.boxes) for each in examined], dtype=int)
        log_odds = np.array([each.log_odds.mean() for each in examined], dtype=np.float64)
        ood = None
        if self.ood is not None:
            ood = np.array([np.median(each.ood) for each in examined], dtype=np.float64)
        contrasts = [each.contrast() for each in examined]
        values = [np.nan if each is None else each.value for each in contrasts]
        return Scores(log_odds, ood, n_views, np.array(values, dtype=np.float64))

    def is_settled(self, examined: Examined, n_views: int) -> bool:
        """Return whether the remaining views of an image can hardly change its verdict.

        Args:
            examined: Some of the views, spread over the image.
            n_views: Number of all views.
        """
        if len(examined.boxes) == n_views or self.thresholds is None:
            return True
        real, ai = self.thresholds.edges([n_views])
        return is_settled(examined.log_odds, n_views, (float(real[0]), float(ai[0])))

    def verdicts(
        self,
        log_odds: np.ndarray,
        ood: np.ndarray | None = None,
        n_views: np.ndarray | None = None,
        contrast: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the verdict for each image: `"real"`, `"ai"` or `"inconclusive"`.

        The arguments are the fields of [`~realfake.prediction.Scores`].
        """
        return self._verdicts(log_odds, ood, n_views, contrast)[0]

    def reasons(
        self,
        log_odds: np.ndarray,
        ood: np.ndarray | None = None,
        n_views: np.ndarray | None = None,
        contrast: np.ndarray | None = None,
    ) -> list[str | None]:
        """Return the reason of each inconclusive verdict, and `None` for the other verdicts.

        [`~realfake.prediction.Prediction`] explains the codes. The arguments are those of
        [`Detector.verdicts`].
        """
        return self._verdicts(log_odds, ood, n_views, contrast)[1]

    def _verdicts(
        self,
        log_odds: np.ndarray,
        ood: np.ndarray | None,
        n_views: np.ndarray | None,
        contrast: np.ndarray | None,
    ) -> tuple[np.ndarray, list[str | None]]:
        """Return the verdicts, and the reasons of the inconclusive ones."""
        log_odds = np.asarray(log_odds)
        label = np.where(log_odds > 0, AI, REAL)
        codes = np.full(log_odds.shape, "between", dtype=object)
        result = label
        if self.thresholds is not None:
            result = verdicts(log_odds, self.thresholds, n_views)
            numbers = np.ones(log_odds.shape, dtype=int) if n_views is None else n_views
            real, ai = self.thresholds.edges(numbers)
            missing = np.where(label == AI, np.isinf(ai), np.isinf(real))
            codes[missing] = "no_thresholds"
        if self.differing is not None and contrast is not None and n_views is not None:
            hidden = self.differing.differs(contrast, n_views) & (result == REAL)
            codes[hidden] = "differing"
            result = np.where(hidden, INCONCLUSIVE, result)
        if ood is not None and self.ood is not None:
            unlike = self.ood.is_out_of_distribution(ood)
            codes[unlike] = "out_of_distribution"
            result = np.where(unlike, INCONCLUSIVE, result)
        pairs = zip(codes, result, strict=True)
        return result, [str(code) if each == INCONCLUSIVE else None for code, each in pairs]

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
        views: int | None = None,
        **options: Any,
    ) -> Explanation:
        """Map the evidence in an image.

        Slow methods map the four views with the largest shares of the log-odds. In the others, the
        share is distributed evenly.

        Args:
            image: As in [`Detector.predict`].
            method: A name of `realfake.attribution.METHOD_NAMES`, *defaults to*
                [`Detector.explanation_method`].
            target: The label whose evidence is positive, `"ai"` (default) or `"real"`.
            evidence: Whether to test the map by removing its strongest part, *defaults to* `False`.
            prior_ai: As in [`Detector.predict`], for the prediction.
            views: As in [`Detector.predict`].
            options: Passed to the method.

        Raises:
            ValueError: The image is unusable, or the method or the target is unknown.
            OSError: The image cannot be read.
        """
        # Importing Captum takes over a second.
        from realfake.attribution.views import ViewMaps
        from realfake.models.geometry import seen_region

        check_prior(prior_ai)
        method = method or self.explanation_method
        if target not in NAMES:
            raise ValueError(f"The target must be 'real' or 'ai', not {target!r}.")
        limit, decoded = self.limit(views), open_image(image)
        tensors, boxes = self.inputs([decoded], limit, batch_size=16)
        with self.lock:
            pixels = torch.cat([self.placed(each) for each in tensors])
            logits, ood = self.examine(pixels)
            (examined,) = self.split(logits, ood, boxes, [decoded.size])
            model = self.for_maps(pixels[:1])
            maps = ViewMaps(model, pixels, self.class_indices, examined, method, target, options)
            if limit == 1:
                region = seen_region(self.processor, *decoded.size)
                heatmap = region.to_image(maps.heatmaps[0])
                # Without the padding, whose removal has no effect.
                left, top, right, bottom = map(round, region.input_box)
                inside = (left, top, right, bottom)
            else:
                heatmap, inside = maps.stitched(decoded.size), None
            tested = maps.evidence(inside) if evidence else None
        return Explanation(
            heatmap=heatmap,
            method=method,
            target=target,
            prediction=self.predictions([examined], prior_ai)[0],
            image=decoded,
            details=maps.details,
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
        weights = self.weights_version()
        if self._folded is None or self._folded[0] != weights:
            self._folded = weights, fold_batch_norms(self.model, pixels)
        return self._folded[1]

    def predictions(self, examined: Sequence[Examined], prior_ai: float = 0.5) -> list[Prediction]:
        """Return the predictions for images from the scores of their views."""
        scores = self.combine(examined)
        results = zip(examined, *self._verdicts(*scores), strict=True)
        differs = np.zeros(len(examined), dtype=bool)
        if self.differing is not None:
            differs = self.differing.differs(scores.contrast, scores.n_views)
        predictions = []
        for index, (each, verdict, reason) in enumerate(results):
            contrast = each.contrast() if differs[index] else None
            posterior = float(with_prior(scores.log_odds[index], prior_ai))
            values = [None] * len(each.boxes) if each.ood is None else each.ood.tolist()
            covered = sum(
                (right - left) * (bottom - top)
                for left, top, right, bottom in tile_boxes(each.boxes)
            )
            predictions.append(
                Prediction(
                    label=AI if posterior > 0 else REAL,
                    probabilities={REAL: float(expit(-posterior)), AI: float(expit(posterior))},
                    verdict=str(verdict),
                    log_odds=float(scores.log_odds[index]),
                    alpha=None if self.thresholds is None else self.thresholds.alpha,
                    reason=reason,
                    ood=None if scores.ood is None else float(scores.ood[index]),
                    prior_ai=float(prior_ai),
                    views=tuple(map(View, each.boxes, each.log_odds.tolist(), values)),
                    examined=covered / (each.size[0] * each.size[1]),
                    differing=contrast.views if contrast and differs[index] else None,
                    ood_share=None
                    if each.ood is None
                    else float(self.ood.is_out_of_distribution(each.ood).mean()),
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
