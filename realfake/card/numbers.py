"""How figures are written: shares in per cent, scores with three digits, each with its 95 % interval."""

from collections.abc import Mapping

from scipy.special import expit

MISSING = "–"


def percent(value: float | None) -> str:
    """A share as `88.3 %`; what is not all does not read as all, and what is not nothing not as nothing."""
    if value is None:
        return MISSING
    if 0 < value < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """A score as `0.931`, with a fourth digit near 0 and 1."""
    if value is None:
        return MISSING
    return f"{value:.4f}" if 0.995 < value < 1 or 0 < value < 0.005 else f"{value:.3f}"


def share(figure: Mapping | None, bare: bool = False) -> str:
    """A proportion with its interval: `88.3 % (86.5 – 89.9)`; `bare`: the interval alone."""
    return _with_interval(figure, percent, bare)


def score(figure: Mapping | None, bare: bool = False) -> str:
    """A number with its interval: `0.931 (0.917 – 0.944)`; `bare`: the interval alone."""
    return _with_interval(figure, number, bare)


def _with_interval(figure, write, bare) -> str:
    if not figure or figure.get("value") is None:
        return MISSING
    if figure.get("low") is None:
        return write(figure["value"])
    low, high = (write(figure[end]).removesuffix(" %") for end in ("low", "high"))
    sign = " %" if write is percent and bare else ""
    return f"{low} – {high}{sign}" if bare else f"{write(figure['value'])} ({low} – {high})"


def probability(margin: float) -> str:
    """A margin (log-odds of ai) as the probability that it stands for."""
    p = float(expit(margin))
    return f"{p:.3f}" if 0.01 < p < 0.99 else f"{p:.4g}"


def duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def words(value) -> str:
    """A nested description as a line of words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        numbers = len(value) == 2 and all(isinstance(item, int | float) for item in value)
        return (" to " if numbers else ", ").join(words(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
