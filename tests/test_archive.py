"""Archives from strangers: what is read of them, and what is refused with one line."""

import io
import stat
import struct
import zipfile

import pytest
from helpers.tiny import draw_picture

from realfake.imaging.archive import Bounds, count, is_archive, read_archive


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    draw_picture(24, seed).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def test_images_come_in_order_with_their_bytes(tmp_path):
    path = pack(
        tmp_path / "a.zip", [("b/two.png", png(2)), ("one.png", png(1)), ("letter.txt", b"hello")]
    )
    entries = list(read_archive(path))
    assert [entry.name for entry in entries] == ["b/two.png", "one.png", "letter.txt"]
    assert [entry.data for entry in entries] == [png(2), png(1), b"hello"]
    assert count(path) == 3


def test_folders_and_what_systems_leave_behind_are_passed_over(tmp_path):
    path = pack(
        tmp_path / "a.zip",
        [
            ("pictures/", b""),
            ("__MACOSX/._one.png", b"x"),
            ("pictures/.DS_Store", b"x"),
            ("pictures/one.png", png()),
        ],
    )
    assert [entry.name for entry in read_archive(path)] == ["pictures/one.png"]


def test_an_archive_is_known_by_its_bytes(tmp_path):
    renamed = pack(tmp_path / "photo.jpg", [("one.png", png())])
    picture = tmp_path / "photo.zip"
    picture.write_bytes(png())
    assert is_archive(renamed) and not is_archive(picture) and not is_archive(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../../etc/one.png", "points outside"),
        ("/etc/one.png", "points outside"),
        ("..\\one.png", "points outside"),
        ("C:/one.png", "points outside"),
        ("a/../../one.png", "points outside"),
    ],
)
def test_a_name_that_leads_elsewhere_is_not_read_and_the_rest_is(tmp_path, name, words):
    path = pack(tmp_path / "a.zip", [(name, png()), ("one.png", png(1))])
    first, second = read_archive(path)
    assert words in first.problem and first.data is None
    assert second.data == png(1)


def test_a_link_is_not_followed(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    (entry,) = read_archive(path)
    assert entry.data is None and "points outside" in entry.problem


def test_a_nested_archive_is_not_opened(tmp_path):
    inner = pack(tmp_path / "inner.zip", [("one.png", png())]).read_bytes()
    path = pack(
        tmp_path / "a.zip",
        [("inner.zip", inner), ("photo.jpg", b"\x1f\x8b" + bytes(100)), ("one.png", png())],
    )
    entries = list(read_archive(path))
    assert [bool(entry.problem) for entry in entries] == [True, True, False]
    assert "archive inside the archive" in entries[0].problem


def test_an_encrypted_entry_is_refused(tmp_path):
    path = pack(tmp_path / "a.zip", [("one.png", png())])
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[6] |= 1  # the flag, in the entry's own header and in the directory
    data[central + 8] |= 1
    path.write_bytes(data)
    (entry,) = read_archive(path)
    assert "encrypted" in entry.problem


def test_damaged_bytes_are_one_entrys_problem(tmp_path):
    path = pack(tmp_path / "a.zip", [("one.png", png()), ("two.png", png(2))], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    first, second = read_archive(path)
    assert "damaged" in first.problem and second.data == png(2)


def refusal(path, **bounds) -> str:
    with pytest.raises(ValueError) as caught:
        list(read_archive(path, Bounds(**bounds)))
    with pytest.raises(ValueError) as counted:
        count(path, Bounds(**bounds))
    assert str(caught.value) == str(counted.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_too_many_files_too_many_bytes_and_bombs_are_refused_before_reading(tmp_path, monkeypatch):
    bomb = pack(tmp_path / "bomb.zip", [("one.png", png()), ("zeros.png", bytes(20_000_000))])
    many = pack(tmp_path / "many.zip", [(f"{i}.png", png()) for i in range(5)])
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda *args, **kwargs: pytest.fail("nothing may be decompressed")
    )
    assert "zip bomb" in refusal(bomb)
    assert "5 files; the limit is 4" in refusal(many, max_entries=4)
    assert "when unpacked" in refusal(many, max_total=1000)


def _directory(path, count: int, said: int, zip64: bool = False):
    """An archive of `count` entries without names, whose last record says `said`."""
    entries = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 16) * count
    tail = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, min(said, 0xFFFF), min(said, 0xFFFF), len(entries), 0, 0
    )
    if zip64:
        tail = (
            struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, said, said, len(entries), 0)
            + struct.pack("<4sLQL", b"PK\x06\x07", 0, len(entries), 1)
            + struct.pack(
                "<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0
            )
        )
    path.write_bytes(entries + tail)
    return path


@pytest.mark.parametrize("zip64", [False, True])
def test_a_directory_of_many_entries_is_refused_before_it_is_parsed(tmp_path, monkeypatch, zip64):
    honest, lying = (
        _directory(tmp_path / f"{said}.zip", 60_000, said, zip64) for said in (60_000, 1)
    )
    monkeypatch.setattr(
        zipfile, "ZipFile", lambda *args, **kwargs: pytest.fail("nothing may be parsed")
    )
    assert "lists 60,000 entries" in refusal(honest)
    assert "a directory of 2,760,000 bytes" in refusal(lying)


@pytest.mark.parametrize("names", ["{}.png", "pictures/" + "long " * 40 + "{}.png"])
def test_as_many_files_as_are_allowed_are_read_with_what_macos_adds(tmp_path, names):
    files = [
        name
        for number in range(500)
        for name in (names.format(number), "__MACOSX/._" + names.format(number))
    ]
    path = pack(tmp_path / "a.zip", [("pictures/", b""), *((name, b"x") for name in files)])
    assert count(path) == 500


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """The overlap of Fifield's bomb: many directory entries for one stored file."""
    path = pack(tmp_path / "a.zip", [("one.png", png() * 40)], zipfile.ZIP_STORED)
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[start:end]
    copies = 20
    tail = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, copies, copies, len(entry) * copies, start, 0
    )
    path.write_bytes(data[:start] + entry * copies + tail)
    assert "overlap" in refusal(path)


def test_a_directory_that_lies_about_the_size_is_noticed_while_reading(tmp_path):
    path = pack(tmp_path / "a.zip", [("one.png", bytes(range(256)) * 4000)])
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    for place in (22, central + 24):
        data[place : place + 4] = struct.pack("<I", 10_000)
    path.write_bytes(data)
    (entry,) = read_archive(path, Bounds(max_entry=100_000))
    assert entry.data is None and entry.problem


def test_the_total_is_also_kept_while_reading(tmp_path):
    path = pack(tmp_path / "a.zip", [(f"{i}.png", png(i)) for i in range(3)])
    sizes = [len(png(i)) for i in range(3)]
    found = list(read_archive(path, Bounds(max_total=sum(sizes), max_entry=max(sizes))))
    assert all(entry.data for entry in found)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\x03\x04" + bytes(200))
    assert "not a ZIP archive" in refusal(path)
    whole = pack(tmp_path / "b.zip", [("one.png", png())]).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "a.zip" in refusal(path)


def test_names_are_made_printable_and_short(tmp_path):
    path = pack(tmp_path / "a.zip", [("one\n\x1b[31m.png", png()), ("x" * 300 + ".png", png(1))])
    first, second = read_archive(path)
    assert first.name.isprintable() and len(second.name) == 120 and second.name.endswith(".png")
