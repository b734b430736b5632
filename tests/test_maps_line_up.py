"""From a file to a map over its pixels: a planted patch is found where it is, however the file and the processor turn, cut or pad."""

import io

import numpy as np
import pytest
import torch
import transformers
from helpers.hand_built import red_convnextv2, red_vit
from PIL import Image

from realfake.attribution.regions import strongest_regions
from realfake.detector import Detector


def detector(kind):
    plain = {"do_normalize": False}
    if kind == "squashed":
        size = {"height": 64, "width": 96}
        model, processor = red_convnextv2(), transformers.ViTImageProcessorPil(size=size, **plain)
    elif kind == "squashed vit":
        size = {"height": 48, "width": 64}
        model, processor = red_vit(), transformers.ViTImageProcessorPil(size=size, **plain)
    elif kind == "cropped":
        processor = transformers.MobileNetV2ImageProcessorPil(
            size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}, **plain
        )
        model = red_convnextv2()
    else:
        processor = transformers.ConvNextImageProcessorPil(
            do_resize=False, do_center_crop=True, crop_size={"height": 96, "width": 96}, **plain
        )
        model = red_convnextv2()
    model.config.id2label, model.config.label2id = {0: "real", 1: "ai"}, {"real": 0, "ai": 1}
    return Detector(model, processor)


def picture(size, box):
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), box)
    return image


def jpeg(image, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    return file.getvalue()


CASES = {
    # kind, size of the upright image, box of the patch in it
    "very wide, squashed": ("squashed", (4000, 300), (2800, 150, 3400, 250)),
    "very wide, tokens": ("squashed vit", (4000, 300), (1000, 100, 2000, 200)),
    "very tall": ("squashed", (300, 4000), (50, 500, 100, 1500)),
    "cropped": ("cropped", (640, 480), (400, 120, 500, 200)),
    "very wide, cropped": ("cropped", (4000, 300), (2020, 60, 2090, 120)),
    "native": ("native", (640, 480), (330, 200, 354, 224)),
    "very wide, native": ("native", (4000, 300), (1960, 110, 1984, 134)),
    "padded": ("native", (60, 40), (36, 4, 52, 20)),
    "padded on two sides": ("native", (400, 40), (206, 8, 230, 24)),
}


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", CASES)
def test_a_planted_patch_is_found(name, orientation, method):
    kind, size, box = CASES[name]
    upright = picture(size, box)
    # Orientation 6: the file's pixels lie on their left side, and must be turned a quarter clockwise.
    stored = upright.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else upright
    opened = detector(kind)
    options = {}
    if method == "occlusion":
        black = torch.zeros_like(opened.pixels(upright))
        options = {"baseline": black, "window": 8, "stride": 8}
    found = opened.explain(jpeg(stored, orientation), method=method, **options)
    assert found.image.size == size and found.heatmap.shape == size[::-1]

    heat = np.nan_to_num(found.heatmap).clip(0)
    rows, columns = np.indices(heat.shape)
    heat = np.where(heat > 0.3 * heat.max(), heat, 0)
    centre = ((heat * (columns + 0.5)).sum() / heat.sum(), (heat * (rows + 0.5)).sum() / heat.sum())
    width, height = box[2] - box[0], box[3] - box[1]
    assert abs(centre[0] - (box[0] + box[2]) / 2) < 0.3 * width
    assert abs(centre[1] - (box[1] + box[3]) / 2) < 0.3 * height
    inside = np.zeros(heat.shape, dtype=bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    assert inside[np.unravel_index(heat.argmax(), heat.shape)]
    region, *others = strongest_regions(found.heatmap)
    assert region.box[0] < (box[0] + box[2]) / 2 < region.box[2]
    assert region.box[1] < (box[1] + box[3]) / 2 < region.box[3]


def test_what_was_not_seen_has_no_value():
    found = detector("native").explain(picture((400, 40), (206, 8, 230, 24)))
    assert np.isnan(found.heatmap).sum() == 40 * (400 - 96)
