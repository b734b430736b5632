"""Images that are not photographs: text, charts, screens, flat colours, gradients, noise.

Drawn on the spot, so that the tests can ask what a detector of photographs says of them.
`draw(kind, size, seed)` draws one, `draw_all(seeds)` a set of every kind at several sizes.
"""

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZES = ((288, 288), (512, 384), (640, 480), (720, 1280), (1280, 800), (1600, 1200))
_WORDS = [
    "the",
    "of",
    "and",
    "a",
    "in",
    "to",
    "it",
    "is",
    "was",
    "that",
    "he",
    "for",
    "on",
    "with",
    "as",
    "at",
    "by",
    "be",
    "this",
    "had",
    "not",
    "but",
    "from",
    "have",
    "are",
    "which",
    "or",
    "her",
    "she",
    "we",
    "photograph",
    "evidence",
    "image",
    "table",
    "result",
    "method",
    "figure",
    "value",
    "number",
    "sample",
    "model",
    "error",
    "measured",
    "between",
    "during",
    "committee",
    "report",
    "annual",
    "revenue",
    "growth",
    "region",
    "market",
    "share",
    "quarter",
    "university",
    "library",
    "station",
    "harbour",
]
_FONTS = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "DejaVuSans-Bold", "STIXGeneral", "cmr10")


@lru_cache(maxsize=128)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size
    )


def _sentence(rng, words: int) -> str:
    return " ".join(rng.choice(_WORDS, words)).capitalize() + "."


def _tone(rng, low: int, high: int) -> tuple[int, int, int]:
    return tuple(int(level) for level in rng.integers(low, high, 3))


def _lines(rng, draw, box, font, fill, spacing=1.4, ragged=0.3) -> None:
    """Fill a box with lines of words."""
    left, top, right, bottom = box
    height = font.size * spacing
    y = top
    while y + font.size < bottom:
        width = (right - left) * (1 - ragged * rng.random() ** 3)
        line = ""
        while draw.textlength(line, font) < width:
            line += str(rng.choice(_WORDS)) + " "
        while line and left + draw.textlength(line, font) > right:
            line = line[:-1]
        draw.text((left, y), line, fill=fill, font=font)
        y += height * (2 if rng.random() < 0.12 else 1)


def text_page(size, rng) -> Image.Image:
    """A page of running text with a heading, in one or two columns."""
    paper = _tone(rng, 235, 256) if rng.random() < 0.7 else (255, 255, 255)
    image = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(image)
    width, height = size
    points = int(rng.integers(9, 26))
    name, ink = str(rng.choice(_FONTS)), _tone(rng, 0, 60)
    log_odds = int(width * rng.uniform(0.04, 0.12))
    top = log_odds
    if rng.random() < 0.6:
        heading = _font(name, int(points * 1.7))
        draw.text((log_odds, top), _sentence(rng, 4), fill=ink, font=heading)
        top += int(points * 3)
    columns = 2 if width > 600 and rng.random() < 0.4 else 1
    gap = log_odds // 2
    across = (width - 2 * log_odds - gap * (columns - 1)) // columns
    for column in range(columns):
        left = log_odds + column * (across + gap)
        _lines(rng, draw, (left, top, left + across, height - log_odds), _font(name, points), ink)
    return image


def chart(size, rng) -> Image.Image:
    """A chart by matplotlib: lines, bars, points, a pie, a histogram or a heat map."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.style import context

    dpi = int(rng.choice([72, 100, 150]))
    dark = rng.random() < 0.2
    with context("dark_background" if dark else "default"):
        figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi)
        axes = figure.add_subplot()
        kind = rng.choice(["line", "bar", "scatter", "pie", "hist", "heat"])
        if kind == "line":
            for _ in range(rng.integers(1, 6)):
                axes.plot(
                    np.cumsum(rng.normal(size=60)),
                    linewidth=rng.uniform(1, 3),
                    label=str(rng.choice(_WORDS)),
                )
            axes.legend()
        elif kind == "bar":
            n = int(rng.integers(3, 10))
            axes.bar(range(n), rng.random(n), color=rng.random((n, 3)))
        elif kind == "scatter":
            axes.scatter(*rng.normal(size=(2, 120)), c=rng.random(120), s=rng.uniform(5, 60))
        elif kind == "pie":
            axes.pie(rng.random(5) + 0.1, labels=list(rng.choice(_WORDS, 5)))
        elif kind == "hist":
            axes.hist(rng.normal(size=400), bins=int(rng.integers(8, 40)), color=rng.random(3))
        else:
            axes.imshow(
                rng.random((8, 10)),
                cmap=str(rng.choice(["viridis", "magma", "coolwarm"])),
                aspect="auto",
            )
        axes.set_title(_sentence(rng, 4))
        if rng.random() < 0.5:
            axes.grid(alpha=0.5)
        canvas = FigureCanvasAgg(figure)
        buffer = BytesIO()
        canvas.print_png(buffer)
    return Image.open(buffer).convert("RGB").resize(size, Image.Resampling.NEAREST)


def screen(size, rng) -> Image.Image:
    """An interface: title bar, side list, cards with text, buttons and fields, a table."""
    dark = rng.random() < 0.4
    ground = _tone(rng, 15, 45) if dark else _tone(rng, 235, 256)
    ink = _tone(rng, 190, 240) if dark else _tone(rng, 10, 70)
    accent = _tone(rng, 30, 220)
    step = 18 if dark else -14
    panel = tuple(min(255, max(0, level + step)) for level in ground)
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    width, height = size
    points = int(rng.integers(10, 18))
    font = _font(str(rng.choice(["DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono"])), points)
    bar = int(points * 2.4)
    draw.rectangle((0, 0, width, bar), fill=accent if rng.random() < 0.5 else panel)
    draw.text((12, points // 2), _sentence(rng, 3), fill=ink, font=font)
    side = int(width * rng.uniform(0.15, 0.3)) if width > 400 else 0
    if side:
        draw.rectangle((0, bar, side, height), fill=panel)
        for row, y in enumerate(range(bar + 10, height - points, int(points * 2.2))):
            if row == 2:
                draw.rectangle((4, y - 4, side - 4, y + points + 6), fill=accent)
            draw.text((12, y), str(rng.choice(_WORDS)).capitalize(), fill=ink, font=font)
    y = bar + 14
    while y < height - 60:
        tall = int(rng.integers(60, 180))
        box = (side + 14, y, width - 14, min(y + tall, height - 8))
        draw.rounded_rectangle(
            box,
            radius=int(rng.integers(0, 12)),
            fill=panel,
            outline=accent if rng.random() < 0.3 else None,
        )
        what = rng.random()
        inner = (box[0] + 10, box[1] + 8, box[2] - 10, box[3] - 8)
        if what < 0.55:
            _lines(rng, draw, inner, font, ink)
        elif what < 0.8:
            for column in range(4):
                x = box[0] + 10 + column * (box[2] - box[0]) // 4
                for row in range(inner[1], inner[3] - points, int(points * 1.8)):
                    draw.text((x, row), f"{rng.random() * 1000:.1f}", fill=ink, font=font)
                    draw.line((box[0], row - 3, box[2], row - 3), fill=ground)
        else:
            for column in range(3):
                x = box[0] + 12 + column * 120
                draw.rounded_rectangle(
                    (x, inner[1] + 6, x + 100, inner[1] + 12 + 2 * points), radius=6, fill=accent
                )
                draw.text((x + 12, inner[1] + 8), str(rng.choice(_WORDS)), fill=ink, font=font)
        y += tall + 14
    return image


def flat(size, rng) -> Image.Image:
    """One colour."""
    return Image.new("RGB", size, _tone(rng, 0, 256))


def gradient(size, rng) -> Image.Image:
    """A linear or radial run from one colour to another."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    if rng.random() < 0.6:
        angle = rng.uniform(0, 2 * np.pi)
        run = np.cos(angle) * x / width + np.sin(angle) * y / height
    else:
        run = np.hypot(x / width - rng.random(), y / height - rng.random())
    run = (run - run.min()) / np.ptp(run)
    start, stop = np.array(_tone(rng, 0, 256)), np.array(_tone(rng, 0, 256))
    return Image.fromarray(np.round(start + run[..., None] * (stop - start)).astype(np.uint8))


def noise(size, rng) -> Image.Image:
    """White noise: grey or coloured, uniform or Gaussian, of fine or coarse grain."""
    width, height = size
    grain = int(rng.choice([1, 1, 2, 4]))
    shape = (-(-height // grain), -(-width // grain), 3 if rng.random() < 0.6 else 1)
    values = (
        rng.uniform(0, 256, shape)
        if rng.random() < 0.5
        else rng.normal(128, rng.uniform(20, 70), shape)
    )
    values = np.broadcast_to(values.clip(0, 255).astype(np.uint8), (*shape[:2], 3))
    return Image.fromarray(values.repeat(grain, 0).repeat(grain, 1)[:height, :width])


KINDS = {
    "text": text_page,
    "chart": chart,
    "screen": screen,
    "flat": flat,
    "gradient": gradient,
    "noise": noise,
}


def draw(kind: str, size: tuple[int, int] = (640, 480), seed: int = 0) -> Image.Image:
    """Draw one picture of a kind of `KINDS`; the same seed draws the same picture."""
    return KINDS[kind](size, np.random.default_rng([seed, sorted(KINDS).index(kind)]))


def draw_all(seeds=range(2), sizes=SIZES) -> Iterator[tuple[str, Image.Image]]:
    """Draw every kind at every size, once for each seed: `(kind, image)`."""
    for kind in KINDS:
        for size in sizes:
            for seed in seeds:
                yield kind, draw(kind, size, seed * 1000 + size[0])
