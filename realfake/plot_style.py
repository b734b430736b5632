"""How every plot of the project looks: colours, axes, resolution.

Uses Matplotlib's object-oriented `Figure`, so that nothing global changes, and imports Matplotlib only when called: it is
slow to load.
"""

import os
from io import BytesIO
from pathlib import Path

from .labels import AI, REAL
from .records import write_atomically

# From Okabe and Ito's palette, which the colour-blind tell apart; line styles and markers differ as well.
COLOURS = {REAL: "#0072B2", AI: "#D55E00"}
GREY = "#6E6E6E"
INK = "#222222"
DPI = 110


def new_figure(width: float, height: float):
    """A Matplotlib `Figure` of so many inches; nothing global changes."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def plain_axes(axes, title: str | None = None):
    """Give axes the project's look, and a line above them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    if title:
        axes.set_title(title, fontsize=10.5, color=INK, loc="left")
    return axes


def save(figure, path: str | os.PathLike) -> Path:
    """Write a figure as a PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    # Without a software tag the same figures give the same bytes.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return path


def plain_text(text: str) -> str:
    """Text that Matplotlib draws as it is."""
    # Matplotlib reads "$" as the beginning of a formula.
    return str(text).replace("$", r"\$")
