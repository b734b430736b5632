"""Drawn images for benchmarks: light, shapes, texture and sensor noise.

They take as much space and decoding time as photographs: a 2-megapixel JPEG of quality 90 has 0.4
to 0.8 MB, as from a camera, because of the noise and texture.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# Sizes of cameras, phones and generators, (width, height): 0.3 to 4 megapixels, 1.6 on average.
SIZES = (
    (640, 480),
    (800, 600),
    (1024, 768),
    (1024, 1024),
    (1280, 960),
    (768, 1344),
    (1600, 1200),
    (1200, 1600),
    (1536, 1024),
    (1920, 1080),
    (2048, 1536),
    (2304, 1728),
)
_SIDE = 2304


class Drawer:
    """Draws the same image for the same seed. All images share one field of noise."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self._noise = rng.normal(0, 5, (_SIDE, _SIDE, 3)).astype(np.float32)
        coarse = Image.fromarray(rng.normal(0, 14, (_SIDE // 8, _SIDE // 8)).astype(np.float32))
        self._texture = np.asarray(coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))[
            ..., None
        ]

    def __call__(self, size: tuple[int, int], seed: int, residue: bool = False) -> Image.Image:
        """Draw one image.

        Args:
            size: `(width, height)`, at most 2304 each.
            seed: Seed of the content.
            residue: Whether to add a checkerboard of 2 × 2 pixel cells, which identifies a class.
        """
        width, height = size
        rng = np.random.default_rng([seed, width, height])
        left, top = rng.integers(0, _SIDE - width + 1), rng.integers(0, _SIDE - height + 1)
        cut = slice(top, top + height), slice(left, left + width)
        angle = rng.uniform(0, 2 * np.pi)
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None] * np.float32(np.sin(angle))
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * np.float32(np.cos(angle))
        light = rng.uniform(70, 180, 3).astype(np.float32) + (x + y) * rng.uniform(
            -60, 60, 3
        ).astype(np.float32)
        picture = Image.fromarray(light.clip(0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        for _ in range(rng.integers(6, 18)):
            corner = rng.uniform(-0.2, 0.9, 2) * size
            extent = rng.uniform(0.05, 0.5, 2) * size
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape(
                (*corner, *(corner + extent)),
                fill=tuple(int(level) for level in rng.integers(20, 235, 3)),
            )
        pixels = np.asarray(picture, dtype=np.float32) + self._noise[cut] + self._texture[cut]
        if residue:
            rows, columns = np.arange(height)[:, None] // 2, np.arange(width)[None, :] // 2
            pixels += ((rows + columns) % 2 * 20.0 - 10)[..., None]
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_photographs(folder: Path, n: int, sizes=SIZES, quality: int = 90) -> list[Path]:
    """Write `n` JPEG files, of all sizes in turn; keep existing files."""
    folder.mkdir(parents=True, exist_ok=True)
    sized = [sizes[number % len(sizes)] for number in range(n)]
    paths = [
        folder / f"{number:05d}-{width}x{height}.jpg"
        for number, (width, height) in enumerate(sized)
    ]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    if missing:
        drawer = Drawer()

        def write(number: int) -> None:
            _save(drawer(sized[number], number, bool(number % 2)), paths[number], quality)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(write, missing))
    return paths


def draw_classes(folder: Path, n: int, size: tuple[int, int]) -> Path:
    """Write `n` JPEG files to `folder/real` and `folder/ai`, which differ only in the residue."""
    drawer = None
    for number in range(n):
        label = "ai" if number % 2 else "real"
        path = folder / label / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            drawer = drawer or Drawer()
            _save(drawer(size, number, label == "ai"), path, 92)
    return folder


def link_many(paths: list[Path], folder: Path, n: int) -> Path:
    """Make a folder of `n` hard links to the given files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(os.listdir(folder)), n):
        os.link(paths[number % len(paths)], folder / f"{number:06d}.jpg")
    return folder


def _save(picture: Image.Image, path: Path, quality: int) -> None:
    temporary = path.with_suffix(".tmp")
    picture.save(temporary, "JPEG", quality=quality)
    os.replace(temporary, path)
