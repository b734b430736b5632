"""Two curves of a detector's quality as SVG: reliability and ROC, in the page's own colours, light or dark.

Drawn by hand from a few points, so that no picture of a stranger's checkpoint is shown; `quality` puts the same numbers in a table.
"""

from collections.abc import Sequence

from realfake.space.markup import escape
from realfake.space.text import Words

_SIDE, _LEFT, _RIGHT, _BOTTOM = 260, 44, 24, 16
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def reliability_curve(words: Words, points: Sequence[tuple[float, float]]) -> str:
    """What was said against what came true: `(predicted, observed)` pairs in 0..1."""
    dots = "".join(f'<circle cx="{_x(x):.1f}" cy="{_y(y):.1f}" r="4.5"/>' for x, y in points)
    inside = f'<polyline class="rf-chart-line" points="{_path(points)}"/><g class="rf-chart-dots">{dots}</g>'
    return _chart(
        words("quality.reliability_alt"),
        words("quality.predicted"),
        words("quality.observed"),
        inside,
        words,
    )


def roc_curve(words: Words, corners: Sequence[tuple[float, float]]) -> str:
    """Found against falsely called: corners from (0, 0) to (1, 1)."""
    area = f"{_path(corners)} {_x(1):.1f},{_y(0):.1f}"
    inside = f'<polygon class="rf-chart-area" points="{area}"/><polyline class="rf-chart-line" points="{_path(corners)}"/>'
    return _chart(
        words("quality.roc_alt"),
        words("quality.false_alarms"),
        words("quality.found"),
        inside,
        words,
    )


def _chart(alt: str, across: str, up: str, inside: str, words: Words) -> str:
    width, height = _LEFT + _SIDE + _RIGHT, _SIDE + _BOTTOM + 12
    grid, ticks = [], []
    for tick in _TICKS:
        x, y, shown = _x(tick), _y(tick), escape(words("number.percent", n=round(100 * tick)))
        grid.append(
            f'<path d="M{_x(0):.1f} {y:.1f}H{_x(1):.1f}"/><path d="M{x:.1f} {_y(0):.1f}V{_y(1):.1f}"/>'
        )
        ticks.append(f'<text x="{x:.1f}" y="{_y(0) + 16:.1f}" text-anchor="middle">{shown}</text>')
        ticks.append(f'<text x="{_x(0) - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{shown}</text>')
    return (
        f'<figure class="rf-chart"><p class="rf-axis">↑ {escape(up)}</p>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}"><g class="rf-chart-grid">{"".join(grid)}</g>'
        f'<path class="rf-chart-diagonal" d="M{_x(0):.1f} {_y(0):.1f}L{_x(1):.1f} {_y(1):.1f}"/>{inside}'
        f'<g class="rf-chart-ticks">{"".join(ticks)}</g></svg>'
        f'<figcaption class="rf-axis" style="text-align:right">{escape(across)} →</figcaption></figure>'
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in points)


def _x(share: float) -> float:
    return _LEFT + _SIDE * share


def _y(share: float) -> float:
    return 8 + _SIDE * (1 - share)
