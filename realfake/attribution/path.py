"""Integrated gradients along a path that is refined where the integral is least accurate.

The straight path from the baseline to the image is divided into segments. The map of a segment must
sum to the difference of the scores at its ends. The segments with the largest errors are halved.
This takes about half the steps of a uniform refinement.
"""

from collections.abc import Callable

import torch
from captum.attr import IntegratedGradients

# Gauss-Legendre nodes in a segment, and the share of the segments that one refinement halves.
_NODES, _HALVED = 4, 0.25


class RefinedPath:
    """The integral along the straight path between two inputs, in segments.

    Args:
        log_odds: Maps inputs `(n, 3, h, w)` to scores `(n,)`.
        start: The baseline, `(1, 3, h, w)`.
        end: The image, `(1, 3, h, w)`.
        n_steps: Initial number of gradients.
        batch_size: Number of inputs in a forward pass.
    """

    def __init__(
        self,
        log_odds: Callable[[torch.Tensor], torch.Tensor],
        start: torch.Tensor,
        end: torch.Tensor,
        n_steps: int,
        batch_size: int,
    ) -> None:
        self._log_odds, self._start, self._end, self._batch_size = log_odds, start, end, batch_size
        segments = max(1, n_steps // _NODES)
        self._nodes = max(1, n_steps // segments)
        edges = torch.linspace(0, 1, segments + 1)
        self._from, self._to = edges[:-1], edges[1:]
        self.n_steps = 0
        self._maps = self._integrals(self._from, self._to)
        self.score_start, self.score_end = self._scores(torch.tensor([0.0, 1.0])).tolist()
        # Scores at both ends of each segment, computed on the first refinement.
        self._ends: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def heatmap(self) -> torch.Tensor:
        """The map, `(h, w)`, summed over the segments and the channels."""
        return self._maps.sum(dim=0)

    @property
    def delta(self) -> float:
        """The sum of the map minus the difference of the scores; 0 for an exact integral."""
        return float(self._maps.double().sum()) - (self.score_end - self.score_start)

    @property
    def gap(self) -> float:
        """The size of [`delta`] relative to the difference of the scores."""
        return abs(self.delta) / max(abs(self.score_end - self.score_start), 1e-9)

    def refine(self, max_steps: int) -> bool:
        """Halve the segments with the largest errors.

        Args:
            max_steps: Largest number of gradients in total.

        Returns:
            Whether `max_steps` was enough for at least one segment.
        """
        count = max(1, int(_HALVED * len(self._from)))
        count = min(count, (max_steps - self.n_steps) // (2 * self._nodes))
        if count < 1:
            return False
        if self._ends is None:
            scores = self._scores(torch.cat([self._from, self._to[-1:]]))
            self._ends = scores[:-1], scores[1:]
        low, high = self._ends
        errors = (self._maps.double().sum(dim=(1, 2)) - (high - low)).abs()
        chosen = torch.zeros(len(errors), dtype=torch.bool)
        chosen[errors.argsort(descending=True)[:count].cpu()] = True
        middle = (self._from[chosen] + self._to[chosen]) / 2
        score = self._scores(middle)
        first, last = torch.cat([self._from[chosen], middle]), torch.cat([middle, self._to[chosen]])
        self._maps = torch.cat([self._maps[~chosen], self._integrals(first, last)])
        self._ends = (
            torch.cat([low[~chosen], low[chosen], score]),
            torch.cat([high[~chosen], score, high[chosen]]),
        )
        self._from = torch.cat([self._from[~chosen], first])
        self._to = torch.cat([self._to[~chosen], last])
        return True

    def _at(self, places: torch.Tensor) -> torch.Tensor:
        places = places.to(self._end.device, self._end.dtype).view(-1, 1, 1, 1)
        return self._start + places * (self._end - self._start)

    def _integrals(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        maps = []
        batches = zip(low.split(self._batch_size), high.split(self._batch_size), strict=True)
        for first, last in batches:
            attribution = IntegratedGradients(self._log_odds).attribute(
                self._at(last).requires_grad_(),
                self._at(first),
                n_steps=self._nodes,
                internal_batch_size=self._batch_size,
            )
            maps.append(attribution.detach().sum(dim=1))
        self.n_steps += self._nodes * len(low)
        return torch.cat(maps)

    @torch.no_grad()
    def _scores(self, places: torch.Tensor) -> torch.Tensor:
        batches = places.split(self._batch_size)
        return torch.cat([self._log_odds(self._at(batch)).double().cpu() for batch in batches])
