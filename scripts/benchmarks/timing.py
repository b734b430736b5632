"""Times that are compared: in pairs, one after the other in the same process, in alternating order."""

import statistics
import time
from collections.abc import Callable, Sequence


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired(
    first: Callable[[int], object], second: Callable[[int], object], n: int
) -> list[tuple[float, float]]:
    """Time two functions of the pair's number, `n` times; which goes first alternates, so that neither profits."""
    times = []
    for number in range(n):
        order = (first, second) if number % 2 == 0 else (second, first)
        took = [seconds(lambda function=function, number=number: function(number)) for function in order]
        times.append(tuple(took) if number % 2 == 0 else tuple(reversed(took)))
    return times


def ratio_row(what: str, ratios: Sequence[float], target: float, at_least: bool, **more) -> dict:
    """One line of the table: the median of ratios, how far they spread, and whether the target is met.

    Args:
        what: What is compared, in words.
        ratios: One a pair.
        target: What the median has to reach.
        at_least: Whether more is better.
        more: Further facts, such as the times behind the ratios.
    """
    ratios = [float(ratio) for ratio in ratios]
    middle = statistics.median(ratios)
    return {
        "what": what,
        "value": middle,
        "low": min(ratios),
        "high": max(ratios),
        "n": len(ratios),
        "target": target,
        "at_least": at_least,
        "met": middle >= target if at_least else middle <= target,
        **more,
    }
