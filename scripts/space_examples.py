"""Make the example images of the page, so that their true origin is known.

    python scripts/space_examples.py path/to/taef2

The sources are sample images of scikit-image and scikit-learn, see
realfake/space/examples/README.md. In the edited ones, a part or all of the picture passes through
the autoencoder of an image generator, which redraws it.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from realfake.imaging.decode import open_image
from realfake.models.autoencoders import REDUCTION, load_autoencoder

FOLDER = Path(__file__).parents[1] / "realfake" / "space" / "examples"
# Pixels over which an edit fades out.
FEATHER = 4


@dataclass(frozen=True)
class Example:
    """An example: its file, its source, and the edited box in pixels (`None`: not edited)."""

    name: str
    source: str
    box: tuple[int, int, int, int] | None = None


EXAMPLES = (
    Example("astronaut.jpg", "skimage/data/astronaut.png"),
    Example("temple.jpg", "sklearn/datasets/images/china.jpg"),
    Example("coffee-edited.jpg", "skimage/data/coffee.png", (180, 40, 500, 328)),
    Example("rocket-edited.jpg", "skimage/data/rocket.jpg", (216, 32, 440, 427)),
    Example("cat-edited.jpg", "skimage/data/chelsea.png", (0, 0, 451, 300)),
)


def edited(image: Image.Image, box: tuple[int, int, int, int], autoencoder) -> Image.Image:
    """Redraw a box of an image, with soft edges inside it."""
    pixels = np.asarray(image, np.float32) / 255
    height, width = pixels.shape[:2]
    pads = ((0, -height % REDUCTION), (0, -width % REDUCTION), (0, 0))
    padded = torch.from_numpy(np.pad(pixels, pads, mode="reflect")).permute(2, 0, 1)[None]
    with torch.no_grad():
        redrawn = autoencoder(padded)[0].permute(1, 2, 0).numpy()[:height, :width]
    left, top, right, bottom = box
    mask = np.zeros((height, width), np.float32)
    mask[top:bottom, left:right] = 1
    if box != (0, 0, width, height):
        mask = gaussian_filter(mask, FEATHER)
    mixed = mask[..., None] * redrawn + (1 - mask[..., None]) * pixels
    return Image.fromarray((255 * mixed.clip(0, 1)).round().astype(np.uint8))


def main() -> None:
    """Write the examples."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("autoencoder", help="folder or Hub id of the autoencoder")
    parser.add_argument("--output", type=Path, default=FOLDER)
    args = parser.parse_args()
    import skimage
    import sklearn

    packages = Path(skimage.__file__).parents[1], Path(sklearn.__file__).parents[1]
    autoencoder = load_autoencoder(args.autoencoder)
    for example in EXAMPLES:
        path = next(p / example.source for p in packages if (p / example.source).is_file())
        image = open_image(path)
        if example.box:
            image = edited(image, example.box, autoencoder)
        image.save(args.output / example.name, quality=90)
        print(args.output / example.name, image.size)


if __name__ == "__main__":
    main()
