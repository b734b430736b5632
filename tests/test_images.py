import base64
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from helpers.timing import least
from PIL import Image, ImageFile, features
from transformers.image_utils import load_image

from realfake.imaging import decode
from realfake.imaging.decode import Limits, frames, open_image
from realfake.imaging.degradations import (
    DEGRADATIONS,
    GRID,
    RETOUCHED,
    SMALL,
    bilateral,
    blur,
    center_crop,
    gamma,
    local_contrast,
    noise,
    recompress,
    rescale,
    shrink,
)


def picture(width=40, height=30, seed=0):
    """Smooth random colours, so that lossy formats have something to do."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image, format, **options):
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(image):
    return np.asarray(image).astype(int)


def png_of_size(width, height):
    """A valid PNG that decodes to width x height black pixels from few bytes."""

    def chunk(kind, data):
        return (
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"\0" * 64)
        + chunk(b"IEND", b"")
    )


ORDINARY = {
    "jpeg": (picture(), "JPEG", {"quality": 90}),
    "jpeg_444": (picture(), "JPEG", {"subsampling": 0}),
    "jpeg_progressive": (picture(), "JPEG", {"progressive": True}),
    "jpeg_grey": (picture().convert("L"), "JPEG", {}),
    "png": (picture(), "PNG", {}),
    "png_grey": (picture().convert("L"), "PNG", {}),
    "png_palette": (picture().convert("P"), "PNG", {}),
    "png_1_bit": (picture().convert("1"), "PNG", {}),
    "webp": (picture(), "WEBP", {}),
    "gif": (picture(), "GIF", {}),
    "bmp": (picture(), "BMP", {}),
    "tiff": (picture(), "TIFF", {}),
    "tiff_lzw": (picture(), "TIFF", {"compression": "tiff_lzw"}),
    "ppm": (picture(), "PPM", {}),
    "jpeg2000": (picture(), "JPEG2000", {}),
    "cmyk": (picture().convert("CMYK"), "JPEG", {}),
    "opaque_rgba": (picture().convert("RGBA"), "PNG", {}),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_pixels_equal_those_of_transformers(name, tmp_path):
    image, format, options = ORDINARY[name]
    path = tmp_path / f"{name}.{format.lower()}"
    image.save(path, format, **options)
    expected = np.asarray(load_image(str(path)))
    for source in (str(path), path, path.read_bytes(), {"bytes": path.read_bytes(), "path": None}):
        result = open_image(source)
        assert result.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(result), expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(format, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{format.lower()}"
    picture().save(path, format, exif=exif)
    result = open_image(path)
    np.testing.assert_array_equal(np.asarray(result), np.asarray(load_image(str(path))))
    assert result.size == ((40, 30) if orientation < 5 else (30, 40))
    # No orientation is left for a later step, in the object or in a file written from it.
    np.testing.assert_array_equal(np.asarray(load_image(result)), np.asarray(result))
    assert open_image(result).size == result.size and not result.getexif()


def test_orientation_by_hand():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its right side: turn clockwise
    image = picture()
    result = open_image(encode(image, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(result), np.rot90(np.asarray(image), -1))


def test_orientation_written_in_xmp_does_not_survive_in_the_result():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    result = open_image(encode(picture(), "JPEG", xmp=xmp))
    assert result.size == (30, 40)
    assert load_image(result).size == (30, 40)


def test_broken_exif_does_not_cost_the_image():
    data = encode(picture(), "JPEG", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20)
    assert open_image(data).size == (40, 30)
    data = encode(picture(), "JPEG", exif=b"Exif\0\0nothing of the kind")
    assert open_image(data).size == (40, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_white(mode):
    image = picture().convert(mode)
    alpha = np.zeros((30, 40), np.uint8)
    alpha[:, 20:] = 255
    alpha[:, 10:20] = 51  # a fifth
    image.putalpha(Image.fromarray(alpha))
    result = pixels(open_image(encode(image, "PNG")))
    opaque = pixels(image.convert("RGB"))
    assert (result[:, :10] == 255).all()
    np.testing.assert_array_equal(result[:, 20:], opaque[:, 20:])
    np.testing.assert_allclose(result[:, 10:20], 0.2 * opaque[:, 10:20] + 0.8 * 255, atol=1)


def test_palette_with_transparency_is_composited_on_white():
    image = Image.new("P", (10, 10), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (5, 0, 10, 10))
    for format in ("PNG", "GIF"):
        result = open_image(encode(image, format, transparency=0))
        assert result.getpixel((0, 0)) == (255, 255, 255) and result.getpixel((9, 9)) == (0, 0, 255)


def test_colour_key_is_composited_on_white():
    image = Image.new("RGB", (10, 10), (10, 20, 30))
    image.paste((200, 0, 0), (5, 0, 10, 10))
    result = open_image(encode(image, "PNG", transparency=(10, 20, 30)))
    assert result.getpixel((0, 0)) == (255, 255, 255) and result.getpixel((9, 9)) == (200, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_scaled(format):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    data = encode(Image.fromarray(np.tile(ramp, (16, 1))), format)
    result = np.asarray(open_image(data))
    assert result.shape == (16, 256, 3)
    np.testing.assert_array_equal(result[0, :, 0], np.arange(256))


def test_dark_16_bit_image_stays_dark():
    data = encode(Image.fromarray(np.full((16, 16), 200, np.uint16)), "PNG")
    assert np.asarray(open_image(data)).max() == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([-3.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 100.4, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([0.0, 5e5, 1e6], [0, 128, 255]),
        ([np.nan, np.inf, 0.5], [0, 255, 128]),
    ],
)
def test_float_tiff_is_scaled(values, expected):
    array = np.repeat(np.array(values, np.float32), 4)[None].repeat(8, 0)
    result = np.asarray(open_image(encode(Image.fromarray(array), "TIFF")))
    np.testing.assert_array_equal(result[0, ::4, 0], expected)


def test_32_bit_integers_are_scaled():
    array = np.array([[0, 257, 65535] * 3] * 8, np.int32)
    result = np.asarray(open_image(encode(Image.fromarray(array), "TIFF")))
    np.testing.assert_array_equal(result[0, :3, 2], [0, 1, 255])


def animated(format, colours=("red", "lime", "blue")):
    pictures = [Image.new("RGB", (16, 16), colour) for colour in colours]
    options = {"lossless": True} if format == "WEBP" else {}
    return encode(pictures[0], format, save_all=True, append_images=pictures[1:], **options)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format):
    image = open_image(animated(format))
    assert image.getpixel((3, 3)) == (255, 0, 0)
    assert image.info == {"frame": (0, 3)}


def test_a_single_picture_has_no_frame():
    for image, format, options in ORDINARY.values():
        assert open_image(encode(image, format, **options)).info == {}


def test_mpo_gives_its_first_picture():
    data = encode(
        picture(seed=1), "MPO", save_all=True, append_images=[picture(seed=2)], quality=95
    )
    image = open_image(data)
    assert np.abs(pixels(image) - pixels(picture(seed=1))).mean() < 4
    assert image.info["frame"] == (0, 2)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_frames_of_an_animation_are_evenly_spaced(format):
    levels = [(20 * number, 0, 255 - 20 * number) for number in range(11)]
    data = animated(format, levels)
    judged = list(frames(data, most=3))
    assert [frame.info["frame"] for frame in judged] == [(0, 11), (5, 11), (10, 11)]
    assert [frame.getpixel((3, 3)) for frame in judged] == [levels[0], levels[5], levels[10]]
    assert len(list(frames(data, most=1))) == 1 and len(list(frames(data, most=50))) == 11


def test_frames_of_other_files_and_of_a_damaged_animation(monkeypatch):
    for format in ("JPEG", "TIFF"):
        (frame,) = frames(encode(picture(), format))
        np.testing.assert_array_equal(
            np.asarray(frame), np.asarray(open_image(encode(picture(), format)))
        )
    with pytest.raises(ValueError, match="text file"):
        list(frames(b"words"))
    data = animated("GIF", [(number, 0, 0) for number in range(40)])
    judged = [frame.info["frame"][0] for frame in frames(data[: len(data) // 2], most=40)]
    assert judged[0] == 0 and 5 < len(judged) < 30
    monkeypatch.setattr(decode, "MAX_PLAYED", 16 * 16 * 4)
    assert [frame.info["frame"] for frame in frames(data, most=2)] == [(0, 40), (3, 40)]


def test_counting_frames_is_bounded():
    data = animated("GIF")
    blocks = data[:-1] + b"!\xfe" + b"\x01a" * 3_000_000 + b"\0;"
    assert least(lambda: open_image(blocks))[0] < 1
    assert open_image(blocks).info["frame"] == (0, 3)


def test_a_data_uri_is_decoded():
    data = encode(picture(), "PNG")
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    for text in (uri, uri.replace("data:", "DATA:"), uri[:80] + "\n" + uri[80:]):
        np.testing.assert_array_equal(np.asarray(open_image(text)), np.asarray(open_image(data)))
    with pytest.raises(ValueError, match="larger than"):
        open_image(uri, Limits(max_bytes=100))


@pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow has no AVIF")
def test_avif():
    data = encode(picture(), "AVIF", quality=95)
    assert np.abs(pixels(open_image(data)) - pixels(picture())).mean() < 4
    with pytest.raises(ValueError, match="photo.avif is (damaged|truncated)"):
        open_image({"bytes": data[: len(data) // 2], "path": "photo.avif"})


def test_pil_image_is_left_unchanged():
    exif = Image.Exif()
    exif[0x0112] = 3
    source = Image.open(BytesIO(encode(picture(), "PNG", exif=exif)))
    result = open_image(source)
    assert "exif" in source.info and source.getexif()[0x0112] == 3
    np.testing.assert_array_equal(np.asarray(result), np.rot90(np.asarray(source), 2))
    plain = picture()
    result = open_image(plain)
    result.putpixel((0, 0), (1, 2, 3))
    assert result is not plain and plain.getpixel((0, 0)) != (1, 2, 3)


def test_arrays():
    array = np.asarray(picture())
    np.testing.assert_array_equal(np.asarray(open_image(array)), array)
    np.testing.assert_array_equal(np.asarray(open_image(array / 255)), array)
    np.testing.assert_array_equal(
        np.asarray(open_image((array / 255).astype(np.float32)[::-1])), array[::-1]
    )
    np.testing.assert_array_equal(np.asarray(open_image(array[..., 0]))[..., 1], array[..., 0])
    transparent = np.dstack([array, np.zeros(array.shape[:2], np.uint8)])
    assert (np.asarray(open_image(transparent)) == 255).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 20, 2), np.uint8), r"shape \(20, 20, 2\)"),
        (np.zeros((3, 20, 20), np.uint8), r"shape \(3, 20, 20\)"),
        (np.zeros(20, np.uint8), r"shape \(20,\)"),
        (np.zeros((0, 20), np.uint8), r"shape \(0, 20\)"),
        (np.zeros((20, 20), np.int64), "type int64"),
        (np.zeros((20, 20), np.uint16), "type uint16"),
        (np.full((20, 20), 2.0), "outside 0..1"),
        (np.full((20, 20), -0.1), "outside 0..1"),
        (np.full((20, 20), np.nan), "outside 0..1"),
        (np.zeros((4, 20), np.uint8), "20 x 4 pixels"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(ValueError, match=message):
        open_image(array)


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + b"\x00" * 200
NOT_IMAGES = {
    "text.jpg": (b"these are only words\n" * 200, "is a text file"),
    "utf8.jpg": (("é" * 600).encode(), "is a text file"),
    "page.png": (
        b"<!DOCTYPE html>\n<html><body>404</body></html>",
        "is an HTML page.*Download the image itself",
    ),
    "drawing.png": (
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "is an SVG drawing.*PNG",
    ),
    "docs.zip": (b"PK\x03\x04" + bytes(range(256)), "is an archive.*Unpack"),
    "paper.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "is a PDF"),
    "empty.jpg": (b"", "is empty"),
    "photo.heic": (HEIC, "is damaged: its HEIF header"),
    "photo_mif1.heic": (HEIC.replace(b"ftypheic", b"ftypmif1"), "is damaged: its HEIF header"),
    "photo.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(200), "JPEG XL.*PNG"),
    "bare.jxl": (b"\xff\n" + bytes(200), "JPEG XL.*PNG"),
    "clip.mp4": (b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 100, "is a video"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "noise.jpg": (bytes(range(1, 256)) * 8, "not an image in a supported format"),
    "fake_bitmap.bmp": (b"BMW is a maker of cars and motorcycles", "is a text file"),
    "head.jpg": (encode(picture(), "JPEG")[:30], "is (damaged|truncated)"),
    "head.png": (encode(picture(), "PNG")[:20], "is (damaged|truncated)"),
    "half.jpg": (encode(picture(200, 200), "JPEG")[:1500], r"half.jpg is truncated.*again\.$"),
    "half.png": (encode(picture(200, 200), "PNG")[:2000], "is truncated"),
    "half.webp": (encode(picture(200, 200), "WEBP")[:400], "is (damaged|truncated)"),
    "half.bmp": (encode(picture(200, 200), "BMP")[:5000], "is truncated"),
    "half.tiff": (encode(picture(200, 200), "TIFF")[:5000], "is (damaged|truncated)"),
    "dot.png": (
        encode(Image.new("RGB", (1, 1)), "PNG"),
        "1 x 1 pixels; each side needs at least 8",
    ),
    "line.png": (encode(Image.new("RGB", (500, 7)), "PNG"), "500 x 7 pixels"),
    "postscript.jpg": (encode(picture(), "EPS"), "not an image|text file"),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_refused_content(name, tmp_path):
    content, message = NOT_IMAGES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_image(path)
    text = str(caught.value)
    assert text.startswith(name) and "\n" not in text and str(tmp_path) not in text
    with pytest.raises(ValueError, match="^the uploaded bytes") as caught:
        open_image(content)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.jpg does not exist; check the path"):
        open_image(tmp_path / "nowhere.jpg")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(OSError, match="cannot be read: File name too long"):
        open_image("x" * 5000)
    with pytest.raises(OSError, match="NUL"):
        open_image("a\0b.jpg")
    with pytest.raises(OSError, match="not a regular file"):
        open_image("/dev/zero")


def test_name_with_a_line_break_stays_one_line(tmp_path):
    path = tmp_path / "two\nlines.jpg"
    path.write_bytes(b"words")
    with pytest.raises(ValueError) as caught:
        open_image(path)
    assert "\n" not in str(caught.value) and "two?lines.jpg" in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [None, 3, ["a.jpg"], {"bytes": None, "path": None}, {}, "data:image/png;base64,AA", "data:x"],
)
def test_sources_that_are_none(source):
    with pytest.raises(ValueError):
        open_image(source)


def test_row_prefers_its_bytes(tmp_path):
    row = {"bytes": encode(picture(), "PNG"), "path": str(tmp_path / "gone.png")}
    assert open_image(row).size == (40, 30)
    with pytest.raises(FileNotFoundError):
        open_image({"bytes": None, "path": row["path"]})


def test_url_goes_through_fetch(monkeypatch):
    calls = []
    data = encode(picture(), "PNG")
    monkeypatch.setattr(
        decode, "fetch", lambda url, max_bytes: calls.append((url, max_bytes)) or data
    )
    assert open_image("HTTPS://example.org/a.png?key=1", Limits(max_bytes=5000)).size == (40, 30)
    assert calls == [("HTTPS://example.org/a.png?key=1", 5000)]
    data = b"words"
    with pytest.raises(ValueError, match="^https://example.org/a.png is a text file"):
        open_image("https://example.org/a.png?key=1")


def test_bombs_are_refused_before_allocation():
    def refused():
        for width, height in ((30_000, 30_000), (100_000, 1_001), (2**31 - 1, 2**31 - 1)):
            with pytest.raises(
                ValueError, match=f"{width} x {height} pixels; the limit is 100 million"
            ):
                open_image(png_of_size(width, height))

    assert least(refused)[0] < 0.5


@pytest.mark.filterwarnings("error")
def test_our_limit_rules_not_pillows():
    # Pillow warns above 89 million pixels and raises above 179 million; max_pixels decides.
    with pytest.raises(ValueError, match="truncated|damaged"):
        open_image(png_of_size(95_000, 1_000))
    with pytest.raises(ValueError, match="truncated|damaged"):
        open_image(png_of_size(100_000, 2_000), Limits(max_pixels=10**9))
    with pytest.raises(ValueError, match="the limit is 0.001 million"):
        open_image(picture(), Limits(max_pixels=1_000))


def test_byte_limit(tmp_path):
    path = tmp_path / "large.bmp"
    picture(400, 300).save(path)
    limits = Limits(max_bytes=100_000)
    for source, name in ((path, "large.bmp"), (path.read_bytes(), "the uploaded bytes")):
        with pytest.raises(ValueError, match=f"{name} has 0.3 MiB; the limit is 0.0953674 MiB"):
            open_image(source, limits)


@pytest.mark.parametrize("size", [(4000, 300), (20_000, 200), (200, 20_000), (8, 8)])
def test_extreme_shapes_work(size):
    assert open_image(encode(Image.new("RGB", size, "red"), "PNG")).size == size


@pytest.mark.parametrize("size", [(1_000_000, 8), (8, 801)])
def test_strips_are_refused(size):
    # A processor that brings 8 pixels to 224 would make an image of 28 million x 224 of the first.
    with pytest.raises(ValueError, match="one side is more than 100 times the other. Crop it."):
        open_image(encode(Image.new("L", size), "PNG"))
    assert open_image(encode(Image.new("L", size), "PNG"), Limits(max_aspect=1e9)).size == size


@pytest.mark.parametrize(
    "name", ["jpeg", "png", "png_palette", "webp", "gif", "bmp", "tiff_lzw", "jpeg2000", "ppm"]
)
def test_damage_of_any_kind_is_one_line(name):
    image, format, options = ORDINARY[name]
    data = np.frombuffer(encode(image, format, **options), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = data.copy()
        # headers are where readers break
        places = rng.integers(0, min(len(data), rng.choice([40, 400, 100_000])), rng.integers(1, 6))
        broken[places] = rng.integers(0, 256, len(places))
        try:
            assert open_image(broken.tobytes()).mode == "RGB"
        except ValueError as error:
            assert "\n" not in str(error) and str(error).startswith("the uploaded bytes")


def test_threads_give_the_same_pixels():
    sources = [encode(*ORDINARY[name][:2], **ORDINARY[name][2]) for name in ORDINARY]
    expected = [np.asarray(open_image(source)) for source in sources]
    with ThreadPoolExecutor(8) as pool:
        for result, (position, _) in zip(
            pool.map(open_image, sources * 10), enumerate(sources * 10)
        ):
            np.testing.assert_array_equal(np.asarray(result), expected[position % len(sources)])


# Degradations


def test_recompress_equals_a_file_of_that_quality():
    image = picture(64, 48)
    for format, options in (
        ("JPEG", {"quality": 40, "subsampling": "4:2:2"}),
        ("WEBP", {"quality": 50}),
    ):
        expected = load_image(Image.open(BytesIO(encode(image, format, **options))))
        np.testing.assert_array_equal(
            np.asarray(recompress(image, format, **options)), np.asarray(expected)
        )


def test_lower_quality_is_further_away():
    image = picture(128, 96)
    distances = [
        np.abs(pixels(recompress(image, "JPEG", q)) - pixels(image)).mean() for q in (95, 60, 20)
    ]
    assert distances == sorted(distances) and distances[0] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"format": "GIF"},
        {"subsampling": "4:1:0"},
        {"format": "WEBP", "image": Image.new("RGB", (16_384, 8))},
    ],
)
def test_recompress_refuses(options):
    with pytest.raises(ValueError):
        recompress(**{"image": picture(), **options})


def test_sizes():
    image = picture(100, 60)
    assert rescale(image, 0.5).size == (50, 30)
    assert shrink(image, 50).size == (50, 30)
    assert shrink(image, 100) is image
    assert center_crop(image, 0.6).size == (60, 36)
    np.testing.assert_array_equal(
        np.asarray(center_crop(image, 0.6)), np.asarray(image)[12:48, 20:80]
    )
    with pytest.raises(ValueError, match="lanczos"):
        rescale(image, 0.5, "sinc")


def test_noise_has_the_standard_deviation_asked_for():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = pixels(noise(grey, 5.0, np.random.default_rng(0)))
    # rounding adds 1/12
    assert noisy.std() == pytest.approx(np.sqrt(25 + 1 / 12), rel=0.01)
    assert noisy.mean() == pytest.approx(128, abs=0.1)
    white = pixels(noise(Image.new("RGB", (64, 64), "white"), 5.0, np.random.default_rng(0)))
    assert white.min() > 200  # clipped, not wrapped around


def test_blur_spreads_a_point_by_sigma():
    point = Image.new("RGB", (41, 41))
    point.putpixel((20, 20), (255, 255, 255))
    weights = pixels(blur(point, 2.0))[..., 0]
    offsets = np.arange(41) - 20
    spread = np.sqrt((weights.sum(0) * offsets**2).sum() / weights.sum())
    assert spread == pytest.approx(2.0, abs=0.35)
    assert blur(point, 0) is point


def test_grid_is_deterministic_and_changes_the_image():
    assert list(GRID)[0] == "clean"
    image = picture(900, 90)
    for name, degrade in GRID.items():
        result = degrade(image, 3)
        assert result.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(result), np.asarray(degrade(image, 3)))
        unchanged = result.size == image.size and (pixels(result) == pixels(image)).all()
        assert unchanged == (name == "clean")
    assert (pixels(GRID["noise_5"](image, 1)) != pixels(GRID["noise_5"](image, 2))).any()
    assert GRID["resize_512_jpeg_40"](image, 0).size == (512, 51)
    assert GRID["double_jpeg"](image, 0).size == (899, 89)


@pytest.mark.parametrize("size", [(8, 8), (20_000, 16)])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_degradations_take_what_open_image_gives(name, size):
    assert DEGRADATIONS[name](picture(*size), 0).mode == "RGB"


def test_bilateral_smoothing_keeps_edges():
    rng = np.random.default_rng(0)
    values = np.where(np.arange(40)[:, None] < 20, 40, 200) + rng.normal(0, 5, (40, 40))
    noisy = Image.fromarray(np.stack([values] * 3, -1).clip(0, 255).astype(np.uint8))
    smooth = pixels(bilateral(noisy)).astype(float)[..., 0]
    assert smooth[:20].std() < 0.5 * pixels(noisy)[:20].astype(float)[..., 0].std()
    assert smooth[19].mean() < 50 and smooth[20].mean() > 190  # a blur would mix them
    flat = Image.new("RGB", (9, 7), (10, 200, 30))
    assert (pixels(bilateral(flat)) == pixels(flat)).all()


def test_bilateral_smoothing_by_the_formula():
    image = picture(20, 140)  # of two strips
    values, y, x = pixels(image).astype(float), 128, 7
    window = values[y - 3 : y + 4, x - 3 : x + 4]
    offsets = np.arange(-3, 4)
    space = np.exp(-np.add.outer(offsets**2, offsets**2) / (2 * 2.0**2))
    weight = space * np.exp(-((window - values[y, x]) ** 2).sum(-1) / (2 * 25.0**2))
    expected = (weight[..., None] * window).sum((0, 1)) / weight.sum()
    assert pixels(bilateral(image))[y, x] == pytest.approx(expected, abs=0.51)


def test_retouching_by_hand():
    grey = Image.new("RGB", (64, 48), (64, 64, 64))
    assert gamma(grey, 0.5).getpixel((0, 0)) == (128, 128, 128)  # 255 * sqrt(64 / 255) is 127.7
    assert gamma(grey, 1).tobytes() == grey.tobytes() == local_contrast(grey).tobytes()
    assert RETOUCHED["upscaled"](grey, 0).size == (128, 96)
    assert RETOUCHED["upscaled"](picture(8000, 8), 0).size == (8192, 8)
    for name, degradation in RETOUCHED.items():
        changed = degradation(picture(90, 70), 0)
        assert changed.size != (90, 70) or (pixels(changed) != pixels(picture(90, 70))).any(), name


def test_small_images_have_a_short_side_within_the_range():
    sides = {min(SMALL["short_side_64_180"](picture(400, 300), seed).size) for seed in range(200)}
    assert min(sides) < 70 and max(sides) > 174 and all(64 <= side <= 180 for side in sides)
    assert SMALL["short_side_180_320"](picture(100, 90), 0).size == (100, 90)  # never enlarged
