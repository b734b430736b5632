"""Times in pairs, in the same process and in alternating order."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

T = TypeVar("T")

# `accelerate launch` of several processes on this machine, after the interpreter.
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "--main_process_port", "0"),
)


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turn(what: Sequence[T], n: int) -> Iterator[T]:
    """Yield all of `what` `n` times, in alternating order."""
    for number in range(n):
        yield from what if number % 2 == 0 else reversed(what)


def paired(
    first: Callable[[int], object], second: Callable[[int], object], n: int
) -> list[tuple[float, float]]:
    """Time two functions of the pair's number, `n` times, [`in_turn`]."""
    compared = ((first, []), (second, []))
    for function, took in in_turn(compared, n):
        took.append(seconds(partial(function, len(took))))
    return list(zip(*(took for _, took in compared), strict=True))


def ratio_row(what: str, ratios: Sequence[float], target: float, at_least: bool, **more) -> dict:
    """Return a row of the table: the median and the range of the ratios, and the target.

    Args:
        what: Description of the comparison.
        ratios: One ratio per pair.
        target: Bound of the median.
        at_least: Whether the target is a lower bound.
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
