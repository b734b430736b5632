"""Files that a stranger might send instead of a photograph: damaged, hostile, or merely unusual.

All are made on the spot, small, and the same on every call, but for those signed by a signer made
up each time. `ordinary` are valid images of every format and mode; `unusual` are valid too and must
be read; `refused` must end in one line; `costly` are refused as well, and would take gigabytes or
minutes if they were not. `truncations` and `bit_flips` damage any of them.
"""

import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, features
from pillow_heif import register_heif_opener

from helpers.signing import make_authority, sign
from helpers.tiny import draw_picture, save_tiny


def encode(image: Image.Image, format: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def ordinary(size: int = 48) -> dict[str, bytes]:
    """A valid file of each format and mode that the project reads."""
    picture = draw_picture(size, seed=5)
    alpha = picture.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(picture.size))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    text = PngImagePlugin.PngInfo()
    text.add_text(
        "parameters", "a picture\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 48x48"
    )
    text.add_itxt("XML:com.adobe.xmp", _XMP, zip=True)
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    frames = {
        "save_all": True,
        "append_images": [draw_picture(size, seed=6), draw_picture(size, seed=7)],
    }
    files = {
        "jpeg": encode(
            picture, "JPEG", quality=85, exif=exif, xmp=_XMP, icc_profile=_icc(), comment=b"words"
        ),
        "jpeg_progressive": encode(picture, "JPEG", progressive=True),
        "jpeg_grey": encode(picture.convert("L"), "JPEG"),
        "jpeg_cmyk": encode(picture.convert("CMYK"), "JPEG"),
        "mpo": encode(picture, "MPO", save_all=True, append_images=[draw_picture(size, seed=6)]),
        "png": encode(picture, "PNG", pnginfo=text, exif=exif),
        "png_rgba": encode(alpha, "PNG"),
        "png_16": encode(deep, "PNG"),
        "png_palette": encode(picture.quantize(64), "PNG", transparency=3),
        "apng": encode(picture, "PNG", **frames),
        "gif": encode(picture, "GIF", comment=b"words"),
        "gif_animated": encode(picture, "GIF", **frames),
        "webp": encode(picture, "WEBP", quality=80, exif=exif, xmp=_XMP),
        "webp_lossless": encode(alpha, "WEBP", lossless=True),
        "webp_animated": encode(picture, "WEBP", **frames),
        "tiff": encode(picture, "TIFF", exif=exif),
        "tiff_lzw": encode(picture, "TIFF", compression="tiff_lzw"),
        "tiff_jpeg": encode(picture, "TIFF", compression="jpeg"),
        "tiff_big": encode(picture, "TIFF", big_tiff=True),
        "tiff_float": encode(Image.fromarray(np.asarray(deep).astype(np.float32) / 65535), "TIFF"),
        "tiff_cmyk": encode(picture.convert("CMYK"), "TIFF"),
        "bmp": encode(picture, "BMP"),
        "bmp_rle": bmp(
            size, size, b"".join(bytes([size, row % 256, 0, 0]) for row in range(size)), 1
        ),
        "ppm": encode(picture, "PPM"),
        "jpeg2000": encode(picture, "JPEG2000"),
        "heic": heic(picture, exif=exif, xmp=_XMP),
    }
    authority = make_authority()
    files["jpeg_signed"] = sign(files["jpeg"], authority)
    files["png_signed"] = sign(files["png"], authority, "image/png")
    if features.check("avif"):
        files["avif"] = encode(picture, "AVIF", exif=exif, xmp=_XMP)
    return files


def heic(image: Image.Image, **options) -> bytes:
    """A photograph as phones save it."""
    register_heif_opener()
    return encode(image, "HEIF", **options)


_XMP = (
    b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" '
    b'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    b'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/'
    b'trainedAlgorithmicMedia"/>'
    b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def _icc() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def unusual() -> dict[str, bytes]:
    """Odd but valid: each must be read, whatever stands beside its pixels."""
    picture = draw_picture(48, seed=5)
    jpeg, png = encode(picture, "JPEG"), encode(picture, "PNG")
    return {
        "exif of nonsense": with_segment(
            jpeg, 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 200
        ),
        "exif that asks for gigabytes": with_segment(
            jpeg, 0xE1, b"Exif\0\0" + greedy_directory(60_000)
        ),
        "exif of prefixes": with_segment(jpeg, 0xE1, b"Exif\0\0" * 5000),
        "xmp of nonsense": with_segment(
            jpeg, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta" + b"<a>" * 9000
        ),
        "xmp with entities": with_segment(
            jpeg, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + billion_laughs()
        ),
        "icc of nonsense": with_segment(jpeg, 0xE2, b"ICC_PROFILE\0\x01\x01" + b"\xff" * 60_000),
        "icc out of order": with_segment(jpeg, 0xE2, b"ICC_PROFILE\0\x07\x03abc"),
        "c2pa of nonsense": with_segment(
            jpeg, 0xEB, b"JP\0\1\0\0\0\1" + b"\0\0\xff\xffjumb" + b"\0\0\0\x10jumdc2pa" * 900
        ),
        "mpf that asks for gigabytes": with_segment(
            jpeg, 0xE2, b"MPF\0" + greedy_directory(60_000)
        ),
        "png exif that asks for gigabytes": with_chunk(png, b"eXIf", greedy_directory(120_000)),
        "png raw profile that asks for gigabytes": with_chunk(
            png,
            b"tEXt",
            b"Raw profile type exif\0\nexif\n  9\n" + greedy_directory(60_000).hex().encode(),
        ),
        "png text without end": with_chunk(png, b"tEXt", b"k" * 100_000),
        "png with a broken icc profile": with_chunk(png, b"iCCP", b"name\0\0" + b"\xff" * 300),
        "webp exif that asks for gigabytes": encode(
            picture, "WEBP", exif=b"Exif\0\0" + greedy_directory(120_000)
        ),
        "photograph and archive": jpeg + b"PK\x03\x04" + b"\0" * 26 + b"PK\x05\x06" + b"\0" * 18,
        "photograph and page": jpeg + b"<html><script>alert(1)</script></html>",
        "photograph with a page for a comment": with_segment(
            jpeg, 0xFE, b"<!DOCTYPE html><html>" + b"*/" * 9
        ),
        "gif and script": encode(picture, "GIF", comment=b"*/=1;alert(1)//"),
        "photograph and film": jpeg + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 500,
        "a thousand frames": encode(
            Image.new("P", (16, 16)),
            "GIF",
            save_all=True,
            loop=0,
            optimize=False,
            disposal=2,
            append_images=[Image.new("P", (16, 16), value % 2) for value in range(1000)],
        ),
        "100 to 1": encode(Image.new("RGB", (800, 8), "teal"), "PNG"),
    }


def refused() -> dict[str, bytes]:
    """No image, or none of use: each must end in one line."""
    return {
        "empty.jpg": b"",
        "one_byte.jpg": b"\xff",
        "svg.png": b'<?xml version="1.0"?>'
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "page.jpg": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
        "archive.png": b"PK\x03\x04" + bytes(range(256)) * 20,
        "words.webp": b"not a picture at all\n" * 50,
        "noise.png": np.random.default_rng(0).bytes(5000),
        "zeros.jpg": b"\0" * 5000,
        "one_pixel.png": encode(Image.new("RGB", (1, 1)), "PNG"),
        "no_width.png": png(0, 10),
        "no_height.gif": encode(Image.new("P", (9, 9)), "GIF")[:6] + b"\x09\0\0\0" + b"\0" * 30,
        "strip.png": encode(Image.new("RGB", (2000, 8)), "PNG"),
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 300,
        "film.avif": b"\0\0\0\x18ftypisom\0\0\0\0" + b"\0" * 300,
        "text_form.ppm": b"P3 16 16 255\n" + b"1 2 3 " * 256,
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n"
        b"(/etc/passwd) (r) file\n",
        "icon.ico": encode(Image.new("RGB", (32, 32)), "ICO"),
    }


def costly() -> dict[str, Callable[[], bytes]]:
    """Small files that would cost gigabytes or minutes. Functions: some are slow to make."""
    files = {
        "pixels.png": lambda: png(30_000, 30_000),
        "pixels.gif": lambda: (
            b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"," + bytes(200)
        ),
        "pixels.webp": lambda: webp_lossless_header(16_383, 16_383),
        "pixels.tiff": lambda: tiff(
            {256: 60_000, 257: 60_000, 258: 8, 259: 8, 262: 1, 273: 8, 279: 100}
        ),
        "pixels.bmp": lambda: bmp(60_000, 60_000, b"", 0),
        "pixels.ppm": lambda: b"P5 60000 60000 255\n" + b"\0" * 100,
        "canvas.webp": lambda: webp_canvas(65_535, 65_535),
        "pixels.jp2": lambda: _resized_jpeg2000(60_000),
        "tile.tiff": lambda: tiff(
            {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 322: 32_768, 323: 32_768, 324: 8, 325: 100}
        ),
        "directory.tiff": lambda: greedy_directory(600_000),
        "big_directory.tiff": lambda: greedy_directory(600_000, big=True),
        "entries.tiff": lambda: b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 12 * 65_535,
        "numbers.tiff": lambda: tiff(
            {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: (600_000, 8)}, 3_000_000
        ),
        "scans.jpg": lambda: _with_scans(
            encode(Image.new("L", (2000, 2000)), "JPEG", progressive=True), 2000
        ),
        "hidden_scans.jpg": lambda: _with_hidden_scans(
            encode(Image.new("L", (2000, 2000)), "JPEG", progressive=True), 10
        ),
        "scans.tiff": lambda: jpeg_tiles(
            _with_scans(encode(draw_picture(16).convert("L"), "JPEG", progressive=True), 90),
            16,
            7000,
        ),
        "strips.tiff": lambda: jpeg_tiles(
            encode(Image.new("L", (16, 16)), "JPEG") + bytes(2_000_000), 16, 7000, gap=1
        ),
        "small_scans.jpg": lambda: _with_scans(
            encode(Image.new("L", (16, 16)), "JPEG", progressive=True), 220_000
        ),
        "segments.jpg": lambda: b"\xff\xd8" + b"\xff\xfe\0\x02" * 150_000,
        "junk.jpg": lambda: b"\xff\xd8\xff\xe0\0\x02" + b"\0" * 3_000_000,
        "fill.jpg": lambda: b"\xff\xd8" + b"\xff" * 3_000_000,
        "chunks.png": lambda: png(64, 64, b"".join([chunk(b"gAMA", b"\0\0\0\1")] * 150_000)),
        "comment.gif": lambda: (
            b"GIF89a\x10\0\x10\0\0\0\0" + b"!\xfe" + (b"\xff" + b"x" * 255) * 20_000 + b"\0"
        ),
        "blocks.gif": lambda: b"GIF89a\x10\0\x10\0\0\0\0" + b"!\x01\0" * 200_000,
        "delta.bmp": lambda: bmp(1_000_000, 64, b"\0\x02\xff\xff" * 8, 1),
        "idle.bmp": lambda: bmp(64, 64, b"\0\0" * 5_000_000, 1),
        "comment.ppm": lambda: b"P5 #" + b"x" * 3_000_000 + b"\n64 64 255\n",
        "deep.ppm": lambda: b"P6 2000 2000 65535\n" + b"\1\2" * 3 * 4_000_000,
        "text_form.ppm": lambda: b"P3 1000 1000 255\n" + b"#\n" * 2_000_000,
    }
    if features.check("avif"):
        files["pixels.avif"] = lambda: resized_avif(16_000)
        files["beyond.avif"] = lambda: resized_avif(60_000)
    return files


def truncations(data: bytes, steps: int = 100) -> Iterator[bytes]:
    """The file cut off at every hundredth of its length."""
    for step in range(steps):
        yield data[: len(data) * step // steps]


def bit_flips(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Copies with a few bits turned over, mostly near the beginning, where readers break."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        broken = bytearray(data)
        reach = min(len(data), int(rng.choice([40, 400, len(data)])))
        for place in rng.integers(0, reach, rng.integers(1, 6)):
            broken[place] ^= 1 << int(rng.integers(8))
        yield bytes(broken)


# The parts


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, before: bytes = b"") -> bytes:
    """A grey PNG that promises more pixels than it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", b"\0" * 64)
        + chunk(b"IEND", b"")
    )


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk, behind its header."""
    return data[:33] + chunk(kind, content) + data[33:]


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment, at its beginning."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


def greedy_directory(size: int, big: bool = False) -> bytes:
    """A TIFF directory of `size` bytes in which every entry refers to all of them."""
    head, form = (
        (b"II+\0\x08\0\0\0" + struct.pack("<Q", 16), "<HHQQ")
        if big
        else (b"II*\0\x08\0\0\0", "<HHII")
    )
    count = min(4000, size // struct.calcsize(form) - 2)
    entries = b"".join(struct.pack(form, 40_000 + number, 7, size, 0) for number in range(count))
    return (head + struct.pack("<Q" if big else "<H", count) + entries).ljust(size, b"\0")


def tiff(tags: dict[int, int | tuple[int, int]], length: int = 200, body: bytes = b"") -> bytes:
    """A TIFF file with one directory after `body`; a pair is a number of values and an offset."""
    entries = b""
    for tag, value in sorted(tags.items()):
        count, place = value if isinstance(value, tuple) else (1, value)
        entries += struct.pack("<HHII", tag, 4, count, place)
    body = body.ljust(length, b"\0")
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(body))
        + body
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def jpeg_tiles(jpeg: bytes, tile: int, side: int, gap: int = 0) -> bytes:
    """A grey TIFF of JPEG tiles with the same bytes, or each `gap` bytes after the previous one."""
    count = (-(-side // tile)) ** 2
    starts = 8 + 8 * count + gap * np.arange(count)
    body = (
        starts.astype("<u4").tobytes()
        + np.full(count, len(jpeg), "<u4").tobytes()
        + jpeg
        + bytes(gap * count)
    )
    tags = {256: side, 257: side, 258: 8, 259: 7, 262: 1, 277: 1, 322: tile, 323: tile}
    return tiff({**tags, 324: (count, 8), 325: (count, 8 + 4 * count)}, body=body)


def bmp(width: int, height: int, body: bytes, compression: int) -> bytes:
    """An 8-bit BMP; compression 1 is run-length encoding."""
    palette = b"".join(bytes([level, 255 - level, level // 2, 0]) for level in range(256))
    offset = 14 + 40 + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(body), 0, 0, 256, 0
    )
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + header + palette + body


def webp_lossless_header(width: int, height: int) -> bytes:
    """A lossless WebP of one colour: a few bytes, whatever its size."""
    data = bytearray(encode(Image.new("RGB", (16, 16)), "WEBP", lossless=True, method=0))
    place = data.find(b"VP8L") + 9
    bits = int.from_bytes(data[place : place + 4], "little") >> 28
    data[place : place + 4] = ((bits << 28) | ((height - 1) << 14) | (width - 1)).to_bytes(
        4, "little"
    )
    return bytes(data)


def webp_canvas(width: int, height: int) -> bytes:
    """An animated WebP whose canvas has another size than was drawn."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("teal", "red")]
    data = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def _with_scans(data: bytes, count: int) -> bytes:
    start, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    return data[:start] + data[start:end] * count + data[end:]


def _with_hidden_scans(data: bytes, count: int) -> bytes:
    """Thousands of scans after each of `count` TEM markers, which have no length."""
    start, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    scans = data[start:end] * (60_000 // (end - start))
    return (
        data[:end] + (b"\xff\x01" + struct.pack(">H", 2 + len(scans)) + scans) * count + data[end:]
    )


def resized_avif(side: int) -> bytes:
    """A small AVIF that declares other sides, in its box `ispe` (ISO 23008-12, 6.5.3)."""
    data = bytearray(encode(Image.new("L", (64, 64)), "AVIF"))
    struct.pack_into(">II", data, data.find(b"ispe") + 8, side, side)
    return bytes(data)


def _resized_jpeg2000(side: int) -> bytes:
    data = bytearray(encode(Image.new("L", (64, 64)), "JPEG2000"))
    for place in (data.find(b"ihdr") + 4, data.find(b"\xff\x51") + 6):
        struct.pack_into(">II", data, place, side, side)
    return bytes(data)


def billion_laughs() -> bytes:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    document = f'<!DOCTYPE x [<!ENTITY a0 "ha">{entities}]>'
    return (document + '<x:xmpmeta xmlns:x="adobe:ns:meta/">&a9;</x:xmpmeta>').encode()


def write(folder: str | Path) -> Path:
    """Write files for `scripts/fuzz.py` to `folder/files`, and a tiny model to `folder/tiny`."""
    folder = Path(folder)
    (folder / "files").mkdir(parents=True, exist_ok=True)
    for position, data in enumerate(
        [*ordinary().values(), *unusual().values(), *refused().values()]
    ):
        if 0 < len(data) < 70_000:
            (folder / "files" / f"{position:03d}").write_bytes(data)
    save_tiny("vit", folder / "tiny")
    return folder


if __name__ == "__main__":
    write(sys.argv[1])
