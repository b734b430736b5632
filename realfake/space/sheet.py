"""Text and pictures set on A4 pages of a PDF, from top to bottom, with real text that can be searched and copied.

What `report` writes with; knows nothing of detectors. Drawn by matplotlib, without its global state.
"""

from pathlib import Path

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path
from PIL import Image

# Inches.
_WIDTH, _HEIGHT = 8.27, 11.69
_MARGIN = 0.8
_COLUMN = _WIDTH - 2 * _MARGIN
_PICTURE_HEIGHT = 2.5
# Unknown to the font: shown as this, not left out.
_UNKNOWN = "?"


class Sheet:
    """A PDF that is written from top to bottom; used in a `with` statement, which closes it.

    Args:
        path: Where it goes.
        title: In the file's metadata.
    """

    def __init__(self, path: Path, title: str):
        self._pages = PdfPages(path, metadata={"Title": title, "Creator": "realfake"})
        self._turn()

    def __enter__(self) -> "Sheet":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None:
            self._pages.savefig(self._figure)
        self._pages.close()

    def write(
        self, text: str, size: float = 9.5, bold: bool = False, colour: str = "#0f172a"
    ) -> None:
        """Write a paragraph."""
        for line in self._wrapped(text, _font(size, bold), _COLUMN):
            self._line(line, size, bold, colour, _MARGIN)
        self.space(0.05)

    def heading(self, text: str) -> None:
        """Write a heading, with space above it, and not as the last thing on a page."""
        self.space(0.12)
        if self._y < _MARGIN + 0.7:
            self._turn()
        self.write(text, 11, bold=True)

    def rows(self, rows: list[tuple[str, str]], first: float = 1.8) -> None:
        """Write two columns; `first` is the width of the left one in inches."""
        size = 9
        for left, right in rows:
            lines = self._wrapped(right, _font(size), _COLUMN - first)
            names = self._wrapped(left, _font(size), first - 0.1)
            if self._y - max(len(lines), len(names)) * _leading(size) < _MARGIN:
                self._turn()
            top = self._y
            for line in names:
                self._line(line, size, False, "#475569", _MARGIN)
            bottom, self._y = self._y, top
            for line in lines:
                self._line(line, size, False, "#0f172a", _MARGIN + first)
            self._y = min(bottom, self._y) - 0.02

    def pictures(self, pictures: list[tuple[str, Image.Image]]) -> None:
        """Set pictures side by side, each with its caption below."""
        width = (_COLUMN - 0.2 * (len(pictures) - 1)) / len(pictures)
        scales = [min(width / image.width, _PICTURE_HEIGHT / image.height) for _, image in pictures]
        height = max(
            image.height * scale for (_, image), scale in zip(pictures, scales, strict=True)
        )
        if self._y - height - 0.3 < _MARGIN:
            self._turn()
        top, lowest = self._y, self._y
        for place, ((caption, image), scale) in enumerate(zip(pictures, scales, strict=True)):
            left = _MARGIN + place * (width + 0.2)
            across, down = image.width * scale, image.height * scale
            axes = self._figure.add_axes(
                (left / _WIDTH, (top - down) / _HEIGHT, across / _WIDTH, down / _HEIGHT)
            )
            axes.imshow(image.convert("RGB"), aspect="auto", interpolation="lanczos")
            axes.set_axis_off()
            self._y = top - height - 0.06
            for line in self._wrapped(caption, _font(8), width):
                self._line(line, 8, False, "#475569", left)
            lowest = min(lowest, self._y)
        self._y = lowest - 0.08

    def space(self, inches: float = 0.1) -> None:
        self._y -= inches

    def _turn(self) -> None:
        if hasattr(self, "_figure"):
            self._pages.savefig(self._figure)
        self._figure = Figure((_WIDTH, _HEIGHT))
        self._y = _HEIGHT - _MARGIN

    def _line(self, line: str, size: float, bold: bool, colour: str, left: float) -> None:
        if self._y - _leading(size) < _MARGIN * 0.8:
            self._turn()
        self._figure.text(
            left / _WIDTH,
            (self._y - 0.76 * _leading(size)) / _HEIGHT,
            line,
            fontproperties=_font(size, bold),
            color=colour,
            parse_math=False,
        )
        self._y -= _leading(size)

    def _wrapped(self, text: str, font: FontProperties, width: float) -> list[str]:
        """Lines no wider than `width` inches; a word that is wider by itself, such as a hash, is cut."""
        lines, line = [], ""
        for word in _known(text, font).split():
            while _width(word, font) > width:
                cut = max(1, int(len(word) * width / _width(word, font)) - 1)
                lines.extend([line] if line else [])
                lines.append(word[:cut])
                line, word = "", word[cut:]
            longer = f"{line} {word}".strip()
            if _width(longer, font) <= width:
                line = longer
            else:
                lines.append(line)
                line = word
        return [*lines, line] if line else lines or [""]


def _width(text: str, font: FontProperties) -> float:
    """In inches."""
    # Of outlines, as a PDF sets them; on a screen's grid of pixels the same text is some percent wider or narrower.
    return text_to_path.get_text_width_height_descent(text, font, False)[0] / 72


def _font(size: float, bold: bool = False) -> FontProperties:
    return FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")


def _known(text: str, font: FontProperties) -> str:
    face = get_font(findfont(font))
    return "".join(c if c.isspace() or face.get_char_index(ord(c)) else _UNKNOWN for c in text)


def _leading(size: float) -> float:
    return 1.35 * size / 72
