"""Integrated gradients along a path that is refined where the network is least straight.

Each part of the straight path from the baseline to the image is a path of its own, whose map must sum to the difference that
the score makes along it. The parts whose maps miss theirs by most are halved, the others stay as they are: the same accuracy
takes about half the steps of refining everywhere.
"""

from collections.abc import Callable

import torch
from captum.attr import IntegratedGradients

# Gauss-Legendre nodes in a part, and the share of the parts that is halved at a time.
_NODES, _HALVED = 4, 0.25


class RefinedPath:
    """The integral along the straight path between two inputs, in parts.

    Args:
        log_odds: From inputs `(n, 3, h, w)` to scores `(n,)`.
        start, end: `(1, 3, h, w)`.
        n_steps: Gradients to begin with, about.
        batch_size: Inputs that are computed at once.
    """

    def __init__(
        self,
        log_odds: Callable[[torch.Tensor], torch.Tensor],
        start: torch.Tensor,
        end: torch.Tensor,
        n_steps: int,
        batch_size: int,
    ):
        self._log_odds, self._start, self._end, self._batch_size = log_odds, start, end, batch_size
        parts = max(1, n_steps // _NODES)
        self._nodes = max(1, n_steps // parts)
        edges = torch.linspace(0, 1, parts + 1)
        self._from, self._to = edges[:-1], edges[1:]
        self.n_steps = 0
        self._maps = self._integrals(self._from, self._to)
        self.score_start, self.score_end = self._scores(torch.tensor([0.0, 1.0])).tolist()
        # Scores at both ends of each part: asked for when a first part has to be halved.
        self._ends: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def heatmap(self) -> torch.Tensor:
        """`(h, w)`, summed over the parts and the channels."""
        return self._maps.sum(dim=0)

    @property
    def delta(self) -> float:
        """The map's sum less the difference of the scores, which it should be."""
        return float(self._maps.double().sum()) - (self.score_end - self.score_start)

    @property
    def gap(self) -> float:
        """The size of [`delta`] relative to that difference."""
        return abs(self.delta) / max(abs(self.score_end - self.score_start), 1e-9)

    def refine(self, max_steps: int) -> bool:
        """Halve the parts that miss most, as far as `max_steps` gradients in all allow; whether there was one to halve."""
        count = min(
            max(1, int(_HALVED * len(self._from))), (max_steps - self.n_steps) // (2 * self._nodes)
        )
        if count < 1:
            return False
        if self._ends is None:
            scores = self._scores(torch.cat([self._from, self._to[-1:]]))
            self._ends = scores[:-1], scores[1:]
        missed = (self._maps.double().sum(dim=(1, 2)) - (self._ends[1] - self._ends[0])).abs()
        chosen = torch.zeros(len(missed), dtype=torch.bool)
        chosen[missed.argsort(descending=True)[:count].cpu()] = True
        middle = (self._from[chosen] + self._to[chosen]) / 2
        known = self._scores(middle)
        low, high = self._ends
        halves = torch.cat([self._from[chosen], middle]), torch.cat([middle, self._to[chosen]])
        self._maps = torch.cat([self._maps[~chosen], self._integrals(*halves)])
        self._ends = (
            torch.cat([low[~chosen], low[chosen], known]),
            torch.cat([high[~chosen], known, high[chosen]]),
        )
        self._from = torch.cat([self._from[~chosen], halves[0]])
        self._to = torch.cat([self._to[~chosen], halves[1]])
        return True

    def _at(self, places: torch.Tensor) -> torch.Tensor:
        places = places.to(self._end.device, self._end.dtype).view(-1, 1, 1, 1)
        return self._start + places * (self._end - self._start)

    def _integrals(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        maps = []
        for first, last in zip(
            low.split(self._batch_size), high.split(self._batch_size), strict=True
        ):
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
        found = [
            self._log_odds(self._at(some)).double().cpu() for some in places.split(self._batch_size)
        ]
        return torch.cat(found)
