"""Maps find the region that decides, on hand-built models and in files of many shapes."""

import io

import numpy as np
import pytest
import torch
import transformers
from helpers.hand_built import RED, red_convnextv2, red_square, red_vit
from PIL import Image

from realfake.attribution.layers import find_layer
from realfake.attribution.methods import METHODS, attribute
from realfake.attribution.overlay import strongest_regions
from realfake.detector import Detector

CLASS_INDICES = {"real": [0], "ai": [1]}


# Fewer passes than by default, and less noise, which would turn black into red.
FEWER = {
    "gradient_shap": {"noise": 0.005},
    "occlusion": {"window": 16, "stride": 16},
    "kernel_shap": {"n_segments": 24, "n_samples": 60},
}


# Tokens in front of the patches.
PREFIXES = {"ViT": 1, "DeiT": 2, "DINOv2": 1}


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


@pytest.fixture(scope="module")
def models():
    built = {}

    def get(name):
        if name not in built:
            built[name] = RED[name][0]()
        return built[name], RED[name][1]

    return get


def places(size):
    """Two squares of 16 pixels, off the diagonal and no mirror images of each other."""
    height, width = size
    return ((0, 16), (width - 32, width - 16)), ((height - 16, height), (16, 32))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RED)
def test_the_map_points_at_the_region_that_decides(models, name, method):
    model, size = models(name)
    for rows, columns in places(size):
        pixels = red_square(size, rows, columns)
        options = {"baseline": torch.zeros_like(pixels)} if method != "gradcam" else {}
        heat = attribute(
            model, pixels, CLASS_INDICES, method, **options, **FEWER.get(method, {})
        ).heatmap
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        # Bilinear upsampling spreads by half a cell, strided convolutions look to the side.
        spread = {"gradcam": 12, "occlusion": 8, "kernel_shap": 12}.get(method, 4)
        near = np.zeros(size, dtype=bool)
        near[
            max(0, rows[0] - spread) : rows[1] + spread,
            max(0, columns[0] - spread) : columns[1] + spread,
        ] = True
        assert near[y, x]
        positive = heat.clip(0)
        assert positive[near].sum() > 0.8 * positive.sum()
        assert (
            heat[rows[0] : rows[1], columns[0] : columns[1]].mean() > 5 * np.abs(heat[~near]).mean()
        )


@pytest.mark.parametrize("name", PREFIXES)
def test_transformer_maps_are_not_flat_transposed_or_shifted(models, name):
    model, size = models(name)
    layer = find_layer(model, size)
    assert (layer.layout, layer.prefix, layer.grid) == (
        "tokens",
        PREFIXES[name],
        (size[0] // 16, size[1] // 16),
    )
    # A map that is shifted by the class token or folded in another order is wrong at most patches.
    for row in range(layer.grid[0]):
        for column in range(layer.grid[1]):
            pixels = red_square(size, (16 * row, 16 * row + 16), (16 * column, 16 * column + 16))
            heat = attribute(model, pixels, CLASS_INDICES).heatmap
            y, x = np.unravel_index(heat.argmax(), heat.shape)
            assert (y // 16, x // 16) == (row, column)
            assert np.ptp(heat) > 0.5 * heat.max() > 0


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


# The image is turned upright before any method sees it.
@pytest.mark.parametrize(
    ("method", "orientation"), [("gradcam", 1), ("gradcam", 6), ("occlusion", 1)]
)
@pytest.mark.parametrize("name", CASES)
def test_a_planted_patch_is_found(name, orientation, method):
    kind, size, box = CASES[name]
    upright = picture(size, box)
    # Orientation 6: the pixels of the file must be turned clockwise by a quarter.
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


def test_unseen_pixels_are_nan():
    found = detector("native").explain(picture((400, 40), (206, 8, 230, 24)))
    assert np.isnan(found.heatmap).sum() == 40 * (400 - 96)
