"""The visible region: against arithmetic by hand, and against bright patches in pictures."""

import numpy as np
import pytest
import transformers
from PIL import Image

from realfake.models.geometry import seen_region


def make(name, **options):
    return getattr(transformers, f"{name}ImageProcessorPil")(**options)


def native(size=288, name="ConvNext"):
    return make(
        name, do_resize=False, do_center_crop=True, crop_size={"height": size, "width": size}
    )


PROCESSORS = {
    "vit": make("ViT"),
    "deit": make("DeiT"),
    "mobilenet_v2": make("MobileNetV2"),
    "convnext_224": make("ConvNext", size={"shortest_edge": 224}),
    "convnext_384": make("ConvNext"),
    "efficientnet": make("EfficientNet"),
    "clip": make("CLIP"),
    "siglip": make("Siglip"),
    "bit": make("Bit"),
    "native": native(),
    "native_bit": native(65, "Bit"),
    "mobilevit": make("MobileViT"),  # blue, green, red; and pads after resizing
}
SIZES = [(640, 480), (333, 517), (4000, 300), (300, 4000), (32, 32), (200, 301)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_planted_patch_is_where_the_region_says(name, size):
    processor, (width, height) = PROCESSORS[name], size
    region = seen_region(processor, width, height)
    assert (region.image_size, region.box[0] >= 0, region.box[2] <= width) == (size, True, True)
    left, top, right, bottom = region.box
    # Off the centre and off the diagonal, on whole pixels, at least two model pixels large.
    u0, v0, u1, v1 = region.input_box
    scale = ((u1 - u0) / (right - left), (v1 - v0) / (bottom - top))
    x0, y0 = round(left + 0.62 * (right - left)), round(top + 0.2 * (bottom - top))
    x1 = x0 + max(2, round(0.1 * (right - left)), round(3 / scale[0]))
    y1 = y0 + max(2, round(0.1 * (bottom - top)), round(3 / scale[1]))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[y0:y1, x0:x1] = 255
    pixels = processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0].mean(axis=0)
    assert pixels.shape == region.input_size[::-1]
    # Padding may have another value where it comes after the normalisation.
    inner = pixels[int(v0) : int(v1), int(u0) : int(u1)]
    weight = np.zeros_like(pixels)
    weight[int(v0) : int(v1), int(u0) : int(u1)] = (inner - np.median(inner)) / (
        inner.max() - np.median(inner)
    )
    found = centroid(weight)
    expected = (u0 + ((x0 + x1) / 2 - left) * scale[0], v0 + ((y0 + y1) / 2 - top) * scale[1])
    assert found == pytest.approx(expected, abs=0.2 + 0.02 * max(scale))

    back = region.to_image(weight)
    assert (back.shape, back.dtype) == ((height, width), np.float32)
    tolerance = [0.3 + 0.3 / s for s in scale]
    for found, expected, limit in zip(
        centroid(np.nan_to_num(back)), ((x0 + x1) / 2, (y0 + y1) / 2), tolerance
    ):
        assert abs(found - expected) < limit


def centroid(weight):
    weight = np.where(weight > 0.1, weight, 0)
    rows, columns = np.indices(weight.shape)
    return (
        float((weight * (columns + 0.5)).sum() / weight.sum()),
        float((weight * (rows + 0.5)).sum() / weight.sum()),
    )


def test_squash_sees_everything():
    for size in SIZES:
        region = seen_region(PROCESSORS["vit"], *size)
        assert region.box == (0, 0, *size) and region.complete and not region.padded


@pytest.mark.parametrize(
    "name, size, box",
    [
        # 640 x 480 -> 341 x 256, of which 224 from 58 and from 16.
        ("mobilenet_v2", (640, 480), (58 * 640 / 341, 30, 282 * 640 / 341, 450)),
        ("convnext_224", (640, 480), (58 * 640 / 341, 30, 282 * 640 / 341, 450)),
        # 4000 x 300 -> 3413 x 256, of which 224 from 1594.
        ("mobilenet_v2", (4000, 300), (1594 * 4000 / 3413, 18.75, 1818 * 4000 / 3413, 281.25)),
        ("convnext_384", (640, 480), (0, 0, 640, 480)),
        # 640 x 480 -> 256 x 256, of which 224 from 16.
        ("deit", (640, 480), (40, 30, 600, 450)),
        # 333 x 517 -> 224 x 347, of which 224 from 61.
        ("clip", (333, 517), (0, 61 * 517 / 347, 333, 285 * 517 / 347)),
    ],
)
def test_resized_crops_by_hand(name, size, box):
    region = seen_region(PROCESSORS[name], *size)
    model_pixel = (box[2] - box[0]) / region.input_size[0]
    assert region.box == pytest.approx(box, abs=0.1 * model_pixel)


@pytest.mark.parametrize(
    "size, box, input_box",
    [
        ((640, 480), (176, 96, 464, 384), (0, 0, 288, 288)),
        ((641, 481), (176, 96, 464, 384), (0, 0, 288, 288)),
        ((8000, 300), (3856, 6, 4144, 294), (0, 0, 288, 288)),
        ((288, 288), (0, 0, 288, 288), (0, 0, 288, 288)),
        ((289, 287), (0, 0, 288, 287), (0, 1, 288, 288)),
        ((32, 32), (0, 0, 32, 32), (128, 128, 160, 160)),
        ((200, 400), (0, 56, 200, 344), (44, 0, 244, 288)),
    ],
)
def test_native_crops_are_exact_and_hold_the_images_own_pixels(size, box, input_box):
    region = seen_region(PROCESSORS["native"], *size)
    assert (region.box, region.input_box) == (box, input_box)
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels = PROCESSORS["native"](
        Image.fromarray(image), do_normalize=False, do_rescale=False, return_tensors="np"
    )
    pixels = np.asarray(pixels["pixel_values"][0]).transpose(1, 2, 0)
    (left, top, right, bottom), (u0, v0, u1, v1) = map(
        lambda b: tuple(map(int, b)), (box, input_box)
    )
    assert np.array_equal(pixels[v0:v1, u0:u1], image[top:bottom, left:right])
    # A map is carried back pixel by pixel, with nothing interpolated.
    heat = np.random.default_rng(1).normal(size=(288, 288)).astype(np.float32)
    back = region.to_image(heat)
    assert np.allclose(back[top:bottom, left:right], heat[v0:v1, u0:u1])
    assert np.isnan(back).sum() == size[0] * size[1] - (right - left) * (bottom - top)


def test_a_near_native_resize_is_not_taken_for_native():
    region = seen_region(make("ViT", size={"height": 256, "width": 256}), 257, 255)
    assert region.box == (0, 0, 257, 255)


def test_padding_after_resizing_is_found():
    region = seen_region(
        PROCESSORS["mobilevit"], 640, 480
    )  # 298 x 224, of which 256 from 21; 16 rows padded
    assert region.input_box == (0, 16, 256, 240) and region.padded
    assert region.box == pytest.approx((21 * 640 / 298, 0, 277 * 640 / 298, 480), abs=0.3)


def test_to_image_interpolates_between_pixel_centres():
    region = seen_region(make("ViT", size={"height": 2, "width": 2}), 8, 8)
    row = region.to_image(np.array([[0, 4], [0, 4]], dtype=np.float32))[3]
    assert row == pytest.approx([0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4])


def test_to_image_of_a_small_image_averages_and_skips_nothing():
    region = seen_region(PROCESSORS["vit"], 32, 32)
    heat = np.zeros((224, 224), dtype=np.float32)
    heat[100, 50] = 1  # 7 x 7 model pixels lie in each image pixel
    back = region.to_image(heat)
    assert np.unravel_index(back.argmax(), back.shape) == (14, 7)
    assert back.sum() == pytest.approx(1 / 49, rel=0.01)


def test_to_image_refuses_another_shape():
    with pytest.raises(ValueError, match="224"):
        seen_region(PROCESSORS["vit"], 32, 32).to_image(np.zeros((32, 32)))


def test_flipped_output_is_refused():
    class Flipping(type(PROCESSORS["vit"])):
        def _preprocess(self, images, **kwargs):
            return super()._preprocess([image[..., ::-1] for image in images], **kwargs)

    with pytest.raises(ValueError, match="Flipping"):
        seen_region(Flipping(), 64, 48)


def test_the_cache_tells_processors_apart():
    assert seen_region(native(64), 100, 100).box == (18, 18, 82, 82)
    assert seen_region(native(50), 100, 100).box == (25, 25, 75, 75)
