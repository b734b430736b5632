"""HEIC photographs: read by their content, with the limits of every decoder."""

import struct

import numpy as np
import pytest
from helpers.bad_files import bit_flips, heic, truncations
from helpers.timing import least
from helpers.tiny import draw_picture
from PIL import Image
from pillow_heif import as_plugin

from realfake.imaging import limits
from realfake.imaging.decode import Limits, OutOfMemory, open_image
from realfake.imaging.file_facts import container_facts
from realfake.imaging.limits import TooCostly, check_heif, is_heif


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L4s", 8 + len(content), kind) + content


def full_box(kind: bytes, content: bytes) -> bytes:
    return box(kind, bytes(4) + content)


def composed(side: int, references: dict[int, list[int]], described: int = 0, more: bytes = b""):
    """The structure of a file whose items all have the given side."""
    items = sorted(set(references) | {item for below in references.values() for item in below})
    size = full_box(b"ispe", struct.pack(">LL", side, side))
    owned = struct.pack(">L", len(items))
    owned += b"".join(struct.pack(">HBB", item, 1, 1) for item in items)
    iref = b"".join(
        box(b"dimg", struct.pack(f">HH{len(below)}H", item, len(below), *below))
        for item, below in references.items()
    )
    iref += box(b"cdsc", struct.pack(f">HH{described}H", 99, described, *range(described)))
    parts = box(b"iprp", box(b"ipco", size) + full_box(b"ipma", owned)) + full_box(b"iref", iref)
    return box(b"ftyp", b"heic\0\0\0\0mif1heic") + full_box(b"meta", parts) + more


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg", "photo"])
def test_a_phones_photograph_is_read_whatever_its_name(name, tmp_path):
    photograph = draw_picture(96, seed=4)
    path = tmp_path / name
    path.write_bytes(heic(photograph, quality=95))
    image = open_image(path)
    assert image.mode == "RGB" and image.size == (96, 96) and image.info == {}
    difference = np.asarray(image).astype(int) - np.asarray(photograph)
    assert np.abs(difference).mean() < 4


def test_tiles_transparency_and_deep_colours():
    photograph = draw_picture(200, seed=4)
    plain = np.asarray(open_image(heic(photograph, quality=95))).astype(int)
    tiled = np.asarray(open_image(heic(photograph, quality=95, tile_size=64))).astype(int)
    assert tiled.shape == (200, 200, 3) and np.abs(tiled - plain).mean() < 4
    clear = photograph.copy()
    clear.putalpha(Image.new("L", clear.size, 0))
    assert np.asarray(open_image(heic(clear))).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(orientation):
    photograph = draw_picture(64, seed=4).crop((0, 0, 64, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    # HEIF has its own rotation; a tag without it is ignored (ISO 23008-12, A.2.1).
    assert open_image(heic(photograph, exif=exif)).size == (64, 40)
    photograph.info["exif"] = exif.tobytes()
    upright = np.asarray(open_image(heic(photograph, quality=95))).astype(int)
    turned = {1: 0, 3: 2, 6: 3, 8: 1}.get(orientation)
    assert upright.shape == ((40, 64, 3) if orientation < 5 else (64, 40, 3))
    if turned is not None:
        assert np.abs(upright - np.rot90(np.asarray(photograph), turned)).mean() < 4


def test_several_pictures_name_the_judged_one():
    first, second = draw_picture(64, seed=1), draw_picture(64, seed=2)
    data = heic(first, save_all=True, append_images=[second], primary_index=1, quality=95)
    image = open_image(data)
    assert image.info["frame"] == (1, 2)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(second)).mean() < 4


def test_the_facts_of_a_file():
    facts = container_facts(heic(draw_picture(64)))
    assert (facts.format, facts.width, facts.height) == ("HEIF", 64, 64)


def test_pixels_and_bytes_are_limited(monkeypatch):
    data = heic(draw_picture(64))
    with pytest.raises(ValueError, match="64 x 64 pixels; the limit is"):
        open_image(data, Limits(max_pixels=1000))
    monkeypatch.setitem(limits.SLOW, "heif", (1000, 100, "a HEIC file"))
    with pytest.raises(ValueError, match="a HEIC file, supported up to"):
        open_image(data)
    # The size in the header is the one that libheif allows.
    place = data.find(b"ispe") + 8
    with pytest.raises(ValueError, match="supported up to 64 million pixels"):
        monkeypatch.undo()
        open_image(data[:place] + struct.pack(">LL", 9000, 9000) + data[place + 8 :])
    with pytest.raises(ValueError, match="damaged"):
        open_image(data[:place] + struct.pack(">LL", 32, 32) + data[place + 8 :])


def test_a_lack_of_memory_is_not_damage(monkeypatch):
    def load(image):
        raise RuntimeError(message)

    monkeypatch.setattr(as_plugin.HeifImageFile, "load", load)
    message = "Memory allocation error: Cannot allocate memory"
    with pytest.raises(OutOfMemory):
        open_image(heic(draw_picture(64)))
    message = "Memory allocation error: Security limit exceeded: Image size 9 x 9"
    with pytest.raises(ValueError, match="damaged"):
        open_image(heic(draw_picture(64)))


def test_compositions_are_limited():
    grid = {1: list(range(2, 202))}
    check_heif(composed(1000, grid))  # 200 tiles of a million pixels
    for references in (
        {1: [2] * 1000},
        {1: [2] * 30, 2: [3] * 30},
        {1: [2], 2: [1]},
        {number: [number + 1] for number in range(1, 20)},
    ):
        with pytest.raises(TooCostly, match="too many pictures"):
            check_heif(composed(1000, references))
    check_heif(composed(1000, {}, described=50))
    with pytest.raises(TooCostly, match="metadata"):
        check_heif(composed(1000, {}, described=1000, more=box(b"mdat", bytes(2**20))))
    with pytest.raises(TooCostly, match="boxes"):
        check_heif(composed(10, {}) + box(b"free", b"") * 200_000)
    with pytest.raises(ValueError, match="two boxes"):
        check_heif(composed(10, {}) * 2)


def test_only_heif_is_taken_for_heif():
    head = b"\0\0\0\x1cftyp%b\0\0\0\0mif1%bmiaf"
    assert is_heif(head % (b"heic", b"heic")) and is_heif(head % (b"mif1", b"heic"))
    assert not is_heif(head % (b"avif", b"avif")) and not is_heif(head % (b"mif1", b"avif"))
    assert not is_heif(head % (b"mp42", b"isom")) and not is_heif(b"")


def test_damage_is_one_line():
    data = heic(draw_picture(64), quality=60)
    for broken in (*truncations(data, 20), *bit_flips(data, 80)):
        try:
            assert open_image(broken).mode == "RGB"
        except ValueError as error:
            assert "\n" not in str(error) and str(error).startswith("the uploaded bytes")


def test_checking_costs_little():
    data = heic(draw_picture(64))
    assert least(lambda: check_heif(data))[0] < 0.05
