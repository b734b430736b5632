"""Attribution maps of the views of an image, and their sum over the image.

The log-odds of an image are the mean over its views. So the map of a view, divided by the number of
views, is its part of the image's evidence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from realfake.attribution.faithfulness import Box as InputBox
from realfake.attribution.faithfulness import Evidence, baseline_pixels, evidence_of
from realfake.attribution.methods import LogOdds, attribute
from realfake.examiner import Examined
from realfake.labels import AI
from realfake.models.views import padding_box

# Methods with few passes per view; the others map only the strongest views.
FAST_METHODS = ("gradcam",)
SLOW_LIMIT = 4


class ViewMaps:
    """Maps of the views of one image.

    Args:
        pixels: `(n, 3, h, w)` inputs of the views.
        method, target, options: As in [`~realfake.attribution.methods.attribute`].

    Attributes:
        heatmaps: `n` maps `(h, w)` float32. Each is a view's part of the image's evidence.
        details: Details of the method for the image: `score`, the log-odds of the target;
            `mapped_views`, the indices of the views that the method mapped; the largest
            `completeness_gap`; and the details of the strongest view. `by_view` has those of all
            mapped views, and the `sum` of their maps.
    """

    def __init__(
        self,
        model: nn.Module,
        pixels: torch.Tensor,
        class_indices: Mapping[str, Sequence[int]],
        examined: Examined,
        method: str,
        target: str,
        options: Mapping[str, Any],
    ) -> None:
        self._model, self._pixels, self._boxes = model, pixels, examined.boxes
        self._class_indices, self._target = class_indices, target
        n = len(pixels)
        scores = examined.log_odds * (1 if target == AI else -1)
        strongest = np.argsort(-np.abs(scores), kind="stable")
        if method not in FAST_METHODS:
            strongest = strongest[:SLOW_LIMIT]
        # Views that are not mapped get an even map with the right sum.
        area = pixels.shape[2] * pixels.shape[3]
        self.heatmaps = [
            np.full(tuple(pixels.shape[2:]), score / area / n, dtype=np.float32) for score in scores
        ]
        by_view = {}
        for index in strongest.tolist():
            attribution = attribute(
                model,
                pixels[index : index + 1],
                class_indices,
                method,
                target,
                score=float(scores[index]),
                **options,
            )
            self.heatmaps[index] = attribution.heatmap / np.float32(n)
            total = float(self.heatmaps[index].sum(dtype=np.float64))
            by_view[index] = {**attribution.details, "sum": total}
        self.details: dict[str, Any] = dict(by_view[int(strongest[0])])
        del self.details["sum"]
        self.details["score"] = float(scores.mean())
        if n > 1:
            gaps = [each["completeness_gap"] for each in by_view.values() if "n_steps" in each]
            self.details |= {"completeness_gap": max(gaps)} if gaps else {}
            self.details |= {"mapped_views": sorted(by_view), "by_view": by_view}

    def stitched(self, size: tuple[int, int]) -> np.ndarray:
        """Return the map over the upright image: overlaps averaged, NaN where there is no view.

        Args:
            size: `(width, height)` of the image.

        Returns:
            float32 `(height, width)`.
        """
        total = np.zeros(size[::-1], dtype=np.float32)
        count = np.zeros(size[::-1], dtype=np.float32)
        height, width = self.heatmaps[0].shape
        for box, heatmap in zip(self._boxes, self.heatmaps, strict=True):
            left, top, right, bottom = box
            u0, v0, u1, v1 = padding_box(box, (width, height))
            total[top:bottom, left:right] += heatmap[v0:v1, u0:u1]
            count[top:bottom, left:right] += 1
        with np.errstate(invalid="ignore"):
            return total / count

    def evidence(self, inside: InputBox | None = None) -> Evidence:
        """Test the maps by removing the strongest part of all views together.

        Args:
            inside: *optional*. The part of a single input that is not padding.
        """
        columns = len({box[0] for box in self._boxes})
        rows = len(self._boxes) // columns
        log_odds = LogOdds(self._model, self._class_indices, self._target)
        height, width = self._pixels.shape[2:]

        def mosaic(views: torch.Tensor) -> torch.Tensor:
            """(n, c, h, w) to (1, c, rows h, columns w)."""
            grid = views.reshape(rows, columns, -1, height, width)
            return grid.permute(2, 0, 3, 1, 4).reshape(1, -1, rows * height, columns * width)

        def mean_log_odds(mosaics: torch.Tensor) -> torch.Tensor:
            grid = mosaics.reshape(-1, 3, rows, height, columns, width)
            views = grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, height, width)
            return log_odds(views).reshape(len(mosaics), -1).mean(dim=1)

        heat = mosaic(torch.from_numpy(np.stack(self.heatmaps))[:, None])[0, 0].numpy()
        fill = torch.cat([baseline_pixels(view[None]) for view in self._pixels])
        return evidence_of(
            mean_log_odds,
            mosaic(self._pixels),
            heat,
            self._target,
            box=inside,
            score=self.details["score"],
            fill=mosaic(fill),
        )
