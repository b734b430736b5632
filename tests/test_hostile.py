"""Hostile files: an answer or one error line, within bounds of time and memory."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import bad_files
from helpers.bad_files import bit_flips, encode, greedy_directory, truncations, with_segment
from helpers.timing import least
from helpers.tiny import draw_picture
from PIL import Image, ImageFile
from transformers.image_utils import load_image

from realfake import Detector
from realfake.imaging import decode
from realfake.imaging.decode import open_image
from realfake.imaging.limits import (
    TooCostly,
    check_decoder,
    checked,
    reads_within_bounds,
    webp_size,
)
from realfake.provenance import metadata, reading
from realfake.provenance.reading import read_provenance

ROOT = Path(__file__).parent.parent
ORDINARY = bad_files.ordinary()
UNUSUAL = bad_files.unusual()
REFUSED = bad_files.refused()
COSTLY = bad_files.costly()

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "scripts" / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def detector(tiny_vit):
    return Detector.from_pretrained(tiny_vit)


@pytest.mark.parametrize("name", ORDINARY)
def test_every_format_passes_through(name, fuzz, detector):
    assert fuzz.pass_through(detector, ORDINARY[name]) == "answered"


@pytest.mark.parametrize("name", UNUSUAL)
def test_odd_files_are_read_all_the_same(name, fuzz, detector):
    assert fuzz.pass_through(detector, UNUSUAL[name]) == "answered"


@pytest.mark.parametrize(
    "name", sorted(UNUSUAL.keys() - {"a thousand frames", "100 to 1", "gif and script"})
)
def test_what_stands_beside_the_pixels_does_not_change_them(name):
    plain = draw_picture(48, seed=5)
    expected = open_image(
        encode(plain, "WEBP" if "webp" in name else "PNG" if "png" in name else "JPEG")
    )
    np.testing.assert_array_equal(np.asarray(open_image(UNUSUAL[name])), np.asarray(expected))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_ends_in_one_line(name, fuzz, detector):
    assert fuzz.pass_through(detector, REFUSED[name], name) == "refused"


@pytest.mark.parametrize("name", COSTLY)
def test_files_that_ask_for_much_are_refused_at_once(name, fuzz, detector):
    data = COSTLY[name]()
    seconds, answer = least(lambda: fuzz.pass_through(detector, data, name), times=1)
    # Each would take from ten seconds to hours.
    assert answer == "refused" and seconds < 3


@pytest.mark.parametrize(
    ("name", "words"), [("pixels.avif", "the limit"), ("beyond.avif", "header cannot be read")]
)
def test_avif_is_refused_by_the_sides_that_it_declares(name, words):
    if name not in COSTLY:
        pytest.skip("this build of Pillow writes no AVIF")
    with pytest.raises(ValueError, match=words):
        open_image(COSTLY[name]())


@pytest.mark.parametrize("name", ["pixels.webp", "canvas.webp"])
def test_webp_is_refused_before_pillow_opens_it(name, monkeypatch):
    monkeypatch.setattr(
        decode, "read_header", lambda data, name: pytest.fail("Pillow takes memory on opening")
    )
    with pytest.raises(ValueError, match="the limit"):
        open_image(COSTLY[name]())


@pytest.mark.parametrize(
    "options", [{"quality": 80}, {"lossless": True}, {"quality": 80, "exif": b"Exif\0\0"}]
)
def test_the_size_that_a_webp_file_announces(options):
    data = encode(draw_picture((49, 31)), "WEBP", **options)
    assert webp_size(data) == (49, 31)
    assert [webp_size(data[:length]) for length in (0, 12, 20, 24)] == [None] * 4
    assert webp_size(ORDINARY["png"]) is None


def test_strips_of_jpeg_are_read_where_each_has_its_own_bytes():
    for size in (48, 700):
        picture = draw_picture((size, size), seed=5)
        data = encode(picture, "TIFF", compression="jpeg")
        assert open_image(data).size == (size, size)
    tile = encode(draw_picture(16).convert("L"), "JPEG")
    assert open_image(bad_files.jpeg_tiles(tile, 16, 64)).size == (
        64,
        64,
    )  # tiles may be one and the same
    with pytest.raises(TooCostly, match="progressive"):
        checked(
            bad_files.jpeg_tiles(
                encode(draw_picture(16).convert("L"), "JPEG", progressive=True), 16, 64
            ),
            "TIFF",
        )
    with pytest.raises(TooCostly, match="share"):
        checked(bad_files.jpeg_tiles(tile + bytes(100_000), 16, 64, gap=1), "TIFF")


_IN_LITTLE_MEMORY = """
import sys
sys.path[:0] = sys.argv[1:]
from helpers import bad_files
from fuzz import peak_mib
from realfake.runtime import keep_freed_memory
from realfake.imaging.decode import open_image
from realfake.provenance.reading import read_provenance
keep_freed_memory()
files = {**bad_files.unusual(), **{name: make() for name, make in bad_files.costly().items()}}
for data in bad_files.ordinary().values():
    open_image(data), read_provenance(data)
before = peak_mib()
for name, data in files.items():
    try:
        read_provenance(data)
        open_image(data)
    except ValueError:
        pass
    grown = peak_mib() - before
    assert grown < 100, f"{name}: {grown} MiB"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_bad_files_take_little_memory():
    """With the allocator of a server: the memory of a file is reused."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            _IN_LITTLE_MEMORY,
            str(ROOT / "tests"),
            str(ROOT / "scripts"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-500:]


_LARGE = """
import sys
sys.path[:0] = sys.argv[2:]
from helpers.bad_files import encode
from fuzz import pass_through, peak_mib
from PIL import Image
from realfake import Detector
from realfake.runtime import keep_freed_memory
from realfake.imaging.decode import open_image
keep_freed_memory()
detector = Detector.from_pretrained(sys.argv[1], device="cpu")
data = encode(Image.linear_gradient("L").resize((10_000, 10_000)).convert("RGB"), "JPEG")
before = peak_mib()
assert pass_through(detector, data) == "answered"
assert detector.stability(open_image(data)).variants
assert peak_mib() - before < 3072, peak_mib()
"""


@pytest.mark.slow
def test_an_image_of_as_many_pixels_as_are_allowed(tiny_vit):
    """It takes 10 s of one core and 2.4 GiB, most of it for the map and the picture of it."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            _LARGE,
            str(tiny_vit),
            str(ROOT / "tests"),
            str(ROOT / "scripts"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("name", ORDINARY)
def test_every_hundredth_of_a_file(name):
    outcomes = set()
    for cut in truncations(ORDINARY[name]):
        read_provenance(cut)
        try:
            outcomes.add(open_image({"bytes": cut, "path": "half.jpg"}).size)
        except ValueError as error:
            assert str(error).startswith("half.jpg is ") and "\n" not in str(error)
            outcomes.add("refused")
    # Some formats end in what can be done without; none may give an image of another size.
    assert outcomes <= {"refused", (48, 48)} and "refused" in outcomes


@pytest.mark.parametrize("name", ORDINARY)
def test_flipped_bits(name):
    for broken in bit_flips(ORDINARY[name], 40):
        read_provenance(broken)
        try:
            assert open_image(broken).mode == "RGB"
        except ValueError as error:
            assert str(error).startswith("the uploaded bytes") and "\n" not in str(error)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_fuzzing_in_short(fuzz, detector):
    files = [*ORDINARY.values(), *UNUSUAL.values(), *REFUSED.values()]
    files = [data for data in files if 0 < len(data) < 20_000]
    outcomes = [
        fuzz.pass_through(detector, fuzz.mutated(files, 1, number)) for number in range(300)
    ]
    assert 20 < outcomes.count("answered") < 280


def test_an_input_follows_from_its_number(fuzz):
    files = list(ORDINARY.values())
    first = [fuzz.mutated(files, 0, number) for number in range(20)]
    assert first == [fuzz.mutated(files, 0, number) for number in range(20)]
    assert len(set(first)) == 20 and first[0] != fuzz.mutated(files, 1, 0)
    broken = bytearray(ORDINARY["png"])
    broken[50] ^= 1
    assert fuzz.repaired(bytes(broken)) not in (bytes(broken), ORDINARY["png"])
    assert fuzz.repaired(ORDINARY["png"]) == ORDINARY["png"]


def test_the_fuzzer_reports_and_continues(fuzz, tmp_path, monkeypatch, capsys):
    bad_files.write(tmp_path)
    command = [
        "fuzz.py",
        str(tmp_path / "files"),
        "--model",
        str(tmp_path / "tiny"),
        "--processes",
        "1",
        "--quiet",
        "--log",
        str(tmp_path / "log.jsonl"),
        "--keep",
        str(tmp_path / "faults"),
        "--report",
        str(tmp_path / "r.json"),
    ]
    # In its own process, because its workers import it by name.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(ROOT / "scripts" / "fuzz.py"), *command[1:], "--inputs", "40"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    monkeypatch.setattr(sys, "argv", [*command, "--inputs", "40"])
    first = json.loads((tmp_path / "r.json").read_text())
    assert first["inputs"] == first["answered"] + first["refused"] == 40 and not first["faults"]
    # A piece that has no time leaves the rest to the next.
    done = subprocess.run(
        [*words[:-1], "80", "--minutes", "0"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert json.loads((tmp_path / "r.json").read_text()) == first | {"inputs_per_second": None}
    # Given again, nothing is left to do; another seed is another run.
    assert fuzz.main() == 0
    again = json.loads((tmp_path / "r.json").read_text())
    assert again == first | {"inputs_per_second": None}
    monkeypatch.setattr(sys, "argv", [*command, "--seed", "1"])
    capsys.readouterr()
    assert fuzz.main() == 2 and "another --log" in capsys.readouterr().err
    # A fault that is in the log ends in status 1, and its input is kept.
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    entry = json.loads(lines[1])
    entry["faults"] = [{"input": 7, "fault": "the process ended with status -6"}]
    (tmp_path / "log.jsonl").write_text("\n".join([lines[0], json.dumps(entry)]) + "\n")
    monkeypatch.setattr(sys, "argv", [*command, "--inputs", "40"])
    assert fuzz.main() == 1
    kept = (tmp_path / "faults" / "7.bin").read_bytes()
    assert kept == fuzz.mutated(fuzz.read_files(tmp_path / "files"), 0, 7)


def _out_of_memory(*args, **kwargs):
    raise MemoryError


def _trial(fuzz, attempt, **limits):
    options = SimpleNamespace(seed=0, **{"seconds": 5.0, "memory": 100, **limits})
    return fuzz.Trial(options, [ORDINARY["png"]], attempt, [0, 0.0])


def test_too_little_memory_is_a_refusal_of_its_own_and_a_fault_of_the_input(
    fuzz, detector, monkeypatch
):
    monkeypatch.setattr(ImageFile.ImageFile, "load", _out_of_memory)
    with pytest.raises(
        ValueError, match="^photo.png needs too much memory to decode. Scale it down.$"
    ):
        open_image({"bytes": ORDINARY["png"], "path": "photo.png"})
    found = _trial(fuzz, lambda data: fuzz.pass_through(detector, ORDINARY["png"])).run(0, 1)
    assert found["counts"] == {} and found["faults"][0]["fault"].startswith("OutOfMemory: ")


@pytest.mark.parametrize("name", ["checked", "JpegImageFile"])
def test_too_little_memory_for_a_header(name, monkeypatch):
    monkeypatch.setattr(decode, name, _out_of_memory)
    with pytest.raises(decode.OutOfMemory, match="^the uploaded bytes needs too much memory"):
        open_image(ORDINARY["jpeg"])


@pytest.mark.parametrize(
    ("owner", "name", "file"),
    [
        (metadata, "read_header", "gif"),
        (reading, "reads_within_bounds", "jpeg"),
        (Image.Exif, "load", "jpeg"),
        (metadata, "fromstring", "jpeg"),
        (json, "loads", "png_signed"),
    ],
)
def test_too_little_memory_for_metadata_is_a_fault(owner, name, file, fuzz, detector, monkeypatch):
    monkeypatch.setattr(owner, name, _out_of_memory)
    with pytest.raises(MemoryError):
        fuzz.pass_through(detector, ORDINARY[file])


def test_the_fuzzer_blames_the_input_that_memory_grew_at(fuzz, monkeypatch):
    peaks = iter([500, 500, 580, 650, 650, 640, 700])
    monkeypatch.setattr(fuzz, "peak_mib", lambda: next(peaks))
    found = _trial(fuzz, lambda data: "refused").run(10, 16)
    assert [(fault["input"], fault["fault"]) for fault in found["faults"]] == [
        (12, "memory grew by 150 MiB"),
        (15, "memory grew by 200 MiB"),
    ]
    assert found["counts"] == {"refused": 6} and found["grown_mib"] == 200


def test_the_fuzzer_sees_memory_that_an_input_takes(fuzz):
    """In its own process: a peak does not fall."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import fuzz, types, numpy as np; "
        "options = types.SimpleNamespace(seed=0, seconds=60, memory=100); "
        "trial = fuzz.Trial(options, [bytes(9)], lambda data: str(np.ones(2**25).sum()), [0, 0]); "
        "print([fault['input'] for fault in trial.run(0, 3)['faults']])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "scripts"), str(ROOT / "tests")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[0]\n"


def test_the_fuzzer_reports_time_by_the_processor_and_by_the_clock(fuzz):
    def busy(data):
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass
        return "refused"

    def idle(data):
        time.sleep(0.5)
        return "refused"

    (fault,) = _trial(fuzz, busy, seconds=0.02).run(0, 1)["faults"]
    assert fault["fault"].endswith("s of CPU")
    (fault,) = _trial(fuzz, idle, seconds=0.1).run(0, 1)["faults"]
    assert fault["fault"].endswith("s by the clock")


def test_the_fuzzer_gives_up_an_input_that_hangs(fuzz):
    alive = SimpleNamespace(is_alive=lambda: True)
    worker = SimpleNamespace(
        state=[7, time.monotonic() - 21], process=alive, left=[(0, 9)], started=0
    )
    assert fuzz.Worker.fault(worker, 5.0) == (7, "no answer for 20 s")
    worker.state[1] += 6
    assert fuzz.Worker.fault(worker, 5.0) is None


# Single limits, by hand


def test_directories_within_bounds():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + b"x" * 5000
    assert reads_within_bounds(exif.tobytes()) and reads_within_bounds(b"Exif\0\0" + exif.tobytes())
    assert reads_within_bounds(b"") and reads_within_bounds(b"MM\0*\0\0\0\x08\xff")
    assert not reads_within_bounds(greedy_directory(60_000))
    assert not reads_within_bounds(greedy_directory(60_000, big=True))
    assert not reads_within_bounds(b"Exif\0\0" * 3)
    # Hidden one level down, behind the EXIF pointer.
    entry = b"\x69\x87\x04\0\x01\0\0\0\x1a\0\0\0"
    hidden = b"II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0" + greedy_directory(60_000)[8:]
    assert not reads_within_bounds(hidden)


def test_orientation_survives_an_entry_that_lies_about_its_length():
    """Cameras write such; what stands before it counts, as in Pillow."""
    block = (
        b"MM\0*\0\0\0\x08\0\x02"
        + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
        + b"\x92\x7c\0\x07\x7f\xff\xff\xff\0\0\0\x10"
        + b"\0\0\0\0"
    )
    data = with_segment(encode(draw_picture((48, 32)), "JPEG"), 0xE1, b"Exif\0\0" + block)
    assert open_image(data).size == (32, 48)


def test_orientation_that_imagemagick_keeps_in_text():
    exif = Image.Exif()
    exif[0x0112] = 6
    block = b"Exif\0\0" + exif.tobytes()
    text = f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()
    png = bad_files.with_chunk(
        encode(draw_picture((48, 32)), "PNG"), b"tEXt", b"Raw profile type exif\0" + text
    )
    assert open_image(png).size == (32, 48)


def test_ordinary_progressive_files_are_far_from_the_limit():
    data = encode(draw_picture(64), "JPEG", progressive=True)
    assert checked(data, "JPEG") == data
    # Ten scans, twice over, of the largest image.
    large = data.replace(b"\0\x11\x08\0\x40\0\x40", b"\0\x11\x08" + b"\x27\x0f\x27\x0f")
    assert large != data and checked(large, "JPEG") == large
    with pytest.raises(TooCostly, match="scans"):
        checked(bad_files._with_scans(large, 30), "JPEG")


def test_scans_behind_the_end_do_not_count():
    """A phone's film behind its photograph holds every pair of bytes."""
    data = encode(draw_picture(64), "JPEG")
    assert checked(data + b"\xff\xda\0\x02" * 300_000, "JPEG")


@pytest.mark.parametrize("codec", ["raw", "zip", "jpeg", "webp"])
def test_fast_decoders_have_no_limit_of_their_own(codec):
    assert check_decoder(codec, 10_000, 10_000, 2**26) is None
    with pytest.raises(TooCostly, match="JPEG 2000"):
        check_decoder("jpeg2k", 10_000, 10_000, 2**26)


def test_run_length_encoded_bitmaps_are_read():
    np.testing.assert_array_equal(
        np.asarray(open_image(ORDINARY["bmp_rle"])), np.asarray(load_image(_picture("bmp_rle")))
    )


def test_a_deep_ppm_is_read_up_to_its_limit():
    assert open_image(b"P6 16 16 65535\n" + b"\x80\0" * 3 * 256).getpixel((3, 3)) == (128, 128, 128)


def _picture(name):
    from io import BytesIO

    return Image.open(BytesIO(ORDINARY[name]))


def test_bands_of_rows_are_scaled_alike():
    """A large image is converted in bands of a million pixels; the white level is common."""
    values = np.zeros((2100, 1000), np.float32)
    values[:1100], values[1100:] = 100.0, 50_000.0
    result = np.asarray(open_image(encode(Image.fromarray(values), "TIFF")))
    assert result[0, 0, 0] == 0 and result[2000, 0, 0] == round(50_000 / 65_535 * 255)
