"""Times in rounds, in the same process and in alternating order, and the rows of the table."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

T = TypeVar("T")
# Names of devices in the table.
PLACES = {"cpu": "CPU", "cuda": "GPU"}


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turn(what: Sequence[T], n: int) -> Iterator[T]:
    """Yield all of `what` `n` times, in alternating order."""
    for number in range(n):
        yield from what if number % 2 == 0 else reversed(what)


def rounds(functions: Mapping[str, Callable[[int], object]], n: int) -> dict[str, list[float]]:
    """Time functions of the round's number, `n` times, [`in_turn`].

    Returns:
        `{name: seconds of each round}`.
    """
    took: dict[str, list[float]] = {name: [] for name in functions}
    for name in in_turn(list(functions), n):
        took[name].append(seconds(partial(functions[name], len(took[name]))))
    return took


def ratio_row(
    what: str,
    above: Sequence[float],
    below: Sequence[float],
    target: float | None,
    at_least: bool = True,
    **more: object,
) -> dict:
    """Return a row of the table: the median and the range of the ratios, and the target.

    Args:
        what: Description of the comparison.
        above, below: The two figures of each round, whose ratio is taken.
        target: Bound of the median, or `None`.
        at_least: Whether the target is a lower bound.
        more: Further facts, such as a `profile`: `{name: seconds}`.
    """
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    more = {"low": min(ratios), "high": max(ratios), "n": len(ratios), "unit": "×", **more}
    return row(what, statistics.median(ratios), target, at_least, **more)


def row(
    what: str, value: float | None, target: float | None, at_least: bool = False, **more: object
) -> dict:
    """Return a row of the table; a value of `None` was not measured."""
    met = None
    value = None if value is None else float(value)  # NumPy's numbers are no JSON
    if value is not None and target is not None:
        met = value >= target if at_least else value <= target
    return {
        "what": what,
        "value": value,
        "target": target,
        "at_least": at_least,
        "met": met,
        **more,
    }
