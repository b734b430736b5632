"""The fast preprocessing gives the pixels of the stock image processors, or is not used."""

from functools import cache
from io import BytesIO

import numpy as np
import pytest
import transformers
from PIL import Image

from realfake.imaging.decode import open_image
from realfake.models.preprocessing import TOLERANCE, Preprocessing

SQUARE = {"height": 40, "width": 40}
FAST = {
    "vit": lambda: transformers.ViTImageProcessorPil(size=SQUARE),
    "vit-nearest": lambda: transformers.ViTImageProcessorPil(
        size={"height": 24, "width": 56}, resample=0
    ),
    "vit-no-normalise": lambda: transformers.ViTImageProcessorPil(size=SQUARE, do_normalize=False),
    "vit-no-rescale": lambda: transformers.ViTImageProcessorPil(size=SQUARE, do_rescale=False),
    "deit": lambda: transformers.DeiTImageProcessorPil(
        size=SQUARE, crop_size={"height": 33, "width": 35}
    ),
    "bit": lambda: transformers.BitImageProcessorPil(size={"shortest_edge": 44}, crop_size=SQUARE),
    "clip": lambda: transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 40}, crop_size=SQUARE
    ),
    "siglip": lambda: transformers.SiglipImageProcessorPil(size=SQUARE),
    "convnext": lambda: transformers.ConvNextImageProcessorPil(
        size={"shortest_edge": 40}, crop_pct=0.875
    ),
    "convnext-warp": lambda: transformers.ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "efficientnet": lambda: transformers.EfficientNetImageProcessorPil(
        size=SQUARE, crop_size=SQUARE
    ),
    "efficientnet-offset": lambda: transformers.EfficientNetImageProcessorPil(
        size=SQUARE, rescale_offset=True
    ),
    "mobilenet_v1": lambda: transformers.MobileNetV1ImageProcessorPil(
        size={"shortest_edge": 44}, crop_size=SQUARE
    ),
    "mobilenet_v2": lambda: transformers.MobileNetV2ImageProcessorPil(
        size={"shortest_edge": 44}, crop_size=SQUARE
    ),
    "native": lambda: transformers.MobileNetV2ImageProcessorPil(
        do_resize=False, do_center_crop=True, crop_size={"height": 72, "width": 72}
    ),
    "beit": lambda: transformers.BeitImageProcessorPil(size=SQUARE, crop_size=SQUARE),
    "pvt": lambda: transformers.PvtImageProcessorPil(size=SQUARE),
}
# Their geometry is not in their settings (LeViT enlarges by 256/224), or they change pixels.
STOCK = {
    "levit": transformers.LevitImageProcessorPil,
    "poolformer": transformers.PoolFormerImageProcessorPil,
    "mobilevit": transformers.MobileViTImageProcessorPil,
    "perceiver": transformers.PerceiverImageProcessorPil,
}
MODES = ("RGB", "L", "RGBA", "P", "CMYK", "LA", "1", "I;16", "YCbCr")


@cache
def odd_images() -> list[Image.Image]:
    """500 images of odd shapes and modes, decoded as the project decodes them."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(500):
        mode = MODES[number % len(MODES)]
        width, height = (int(side) for side in rng.integers(8, 130, 2))
        if number % 25 == 0:
            width, height = [(8, 300), (300, 8), (40, 40), (41, 40)][number // 25 % 4]
        pixels = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        file = BytesIO()
        if mode == "I;16":
            Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16)).save(
                file, "PNG"
            )
        else:
            picture = pixels.convert(mode) if mode != "LA" else pixels.convert("L").convert("LA")
            picture.save(file, {"CMYK": "JPEG", "YCbCr": "JPEG", "RGB": "WEBP"}.get(mode, "PNG"))
        images.append(open_image(file.getvalue()))
    return images


@pytest.mark.parametrize("name", FAST)
def test_pixels_equal_those_of_the_stock_processor(name):
    processor = FAST[name]()
    fast = Preprocessing(processor)
    assert fast.fast
    images = odd_images()[:: 20 if name == "convnext-warp" else 1]
    for image in images:
        expected = processor(images=image, return_tensors="np")["pixel_values"]
        found = fast([image])
        assert found.dtype == np.float32 and found.shape == expected.shape
        assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", STOCK)
def test_others_are_left_to_the_stock_processor(name):
    processor = STOCK[name]()
    plain = Preprocessing(processor)
    assert not plain.fast
    image = odd_images()[0]
    assert np.array_equal(
        plain([image]), processor(images=image, return_tensors="np")["pixel_values"]
    )


def test_a_processor_that_does_something_else_is_found_out():
    class Mirrored(transformers.ViTImageProcessorPil):
        def resize(self, image, *args, **kwargs):
            return super().resize(image[..., ::-1], *args, **kwargs)

    processor = Mirrored(size=SQUARE)
    plain = Preprocessing(processor)
    assert not plain.fast
    image = odd_images()[3]
    assert np.array_equal(
        plain([image]), processor(images=image, return_tensors="np")["pixel_values"]
    )


def test_batches_are_the_images_one_by_one():
    fast = Preprocessing(FAST["convnext"]())
    images = odd_images()[:5]
    assert np.array_equal(fast(images), np.concatenate([fast([image]) for image in images]))
