"""`corpus reconstruct`: counterparts encoded as their photographs, and the tiny autoencoder."""

import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from datasets import load_dataset
from helpers.profiles import DISPLAY_P3, rgb_profile
from helpers.tiny import draw_corpus, draw_picture
from helpers.training import last_line
from PIL import ExifTags, Image
from safetensors.torch import save_file

from realfake.cli.main import main
from realfake.corpus.load import load_corpus
from realfake.corpus.reconstruction import encode_like, read_photographs, reconstruct
from realfake.imaging.decode import open_image
from realfake.imaging.file_facts import container_facts
from realfake.models.autoencoders import TinyAutoencoder, load_autoencoder

SAME = ("format", "mode", "width", "height", "jpeg_quality", "jpeg_tables", "subsampling") + (
    "progressive",
    "exif",
    "icc",
    "turned",
)


def darker(pixels):
    return pixels * 0.5


def facts(row):
    return container_facts(row["image"]["bytes"])


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    turned[ExifTags.Base.Make] = "Camera"
    files = {
        "0.jpg": {"quality": 60},
        "1.png": {},
        "2.webp": {},
        "3.jpg": {"quality": 95, "exif": turned, "icc_profile": b"a profile"},
        "4.webp": {"lossless": True},
        "5.avif": {},
        "6.bmp": {},
        "7.jpg": {"quality": 77, "subsampling": 0, "progressive": True},
    }
    for number, (name, options) in enumerate(files.items()):
        picture = draw_picture(72, seed=number).crop((0, 0, 72, 61))
        picture.save(folder / "trip" / name, **options)
    return folder


def test_a_reconstruction_is_encoded_as_its_photograph(photographs):
    pairs = list(reconstruct(read_photographs(photographs), darker, "darker", batch_size=3))
    assert len(pairs) == 8
    for real, ai in pairs:
        for name in SAME:
            assert getattr(facts(real), name) == getattr(facts(ai), name), (name, real["group"])
        assert real["group"] == ai["group"] and real["source"] == ai["source"] == "photos"
        assert (real["label"], ai["label"]) == (0, 1)
        assert ai["generator"] == "autoencoder (darker)" and ai["family"] == "autoencoder"
        before, after = (
            np.asarray(open_image(row["image"]["bytes"]), dtype=float) for row in (real, ai)
        )
        assert after.mean() == pytest.approx(before.mean() / 2, abs=2)
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.95, "the same orientation"
    assert len({real["group"] for real, _ in pairs}) == 8

    kept = {real["group"]: real["image"]["bytes"] for real, _ in pairs}
    for name in ("trip/0.jpg", "trip/1.png", "trip/5.avif"):
        assert kept[name] == (photographs / name).read_bytes()
    with Image.open(
        BytesIO(next(ai for _, ai in pairs if facts(ai).turned)["image"]["bytes"])
    ) as ai:
        assert set(ai.getexif()) == {ExifTags.Base.Orientation}


def test_both_images_of_a_pair_are_in_srgb(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    draw_picture(64).save(folder / "phone.jpg", quality=95, icc_profile=rgb_profile(DISPLAY_P3))
    ((real, ai),) = reconstruct(read_photographs(folder), lambda pixels: pixels, "same")
    assert not facts(real).icc and not facts(ai).icc
    before = np.asarray(open_image(folder / "phone.jpg"), dtype=float)
    for row in (real, ai):
        after = np.asarray(open_image(row["image"]["bytes"]), dtype=float)
        assert np.abs(after - before).mean() < 3


def test_large_photographs_and_their_reconstructions_are_cropped(photographs):
    pairs = list(reconstruct(read_photographs(photographs), darker, "darker", max_side=32))
    for real, ai in pairs:
        assert {open_image(row["image"]["bytes"]).size for row in (real, ai)} == {(32, 32)}
        for name in SAME:
            assert getattr(facts(real), name) == getattr(facts(ai), name), name
    # JPEG at the same tables and on the same blocks changes little.
    real = next(real for real, _ in pairs if real["group"] == "trip/7.jpg")
    whole = np.asarray(open_image(str(photographs / "trip" / "7.jpg")), dtype=float)
    part = np.asarray(open_image(real["image"]["bytes"]), dtype=float)
    assert np.abs(whole[:32, 16:48] - part).mean() < 1


def test_a_grey_jpeg_stays_grey():
    buffer = BytesIO()
    draw_picture(40, seed=0).convert("L").save(buffer, "JPEG", quality=77)
    encoded = container_facts(encode_like(draw_picture(40, seed=1), buffer.getvalue()))
    assert encoded.subsampling == "grey" and encoded.jpeg_quality == 77


def test_a_broken_photograph_is_left_out_with_a_line(photographs, capsys):
    (photographs / "trip" / "0.jpg").write_bytes(b"\xff\xd8 no image")
    assert len(list(reconstruct(read_photographs(photographs), darker, "darker"))) == 7
    assert "0.jpg" in capsys.readouterr().err


def test_photographs_of_many_sizes_do_not_all_wait(tmp_path):
    for number in range(80):
        draw_picture((16 + 8 * (number % 40), 16 + 8 * (number // 40)), seed=number).save(
            tmp_path / f"{number:02d}.png"
        )
    passes = []

    def watched(pixels):
        passes.append(len(pixels))
        return pixels

    assert len(list(reconstruct(read_photographs(tmp_path), watched, "same", batch_size=4))) == 80
    assert sum(passes) == 80 and max(passes) <= 4


def test_generated_images_and_other_splits_are_no_photographs(tmp_path):
    draw_corpus(tmp_path / "train", n=8)
    draw_corpus(tmp_path / "test", n=4)
    rows = read_photographs(tmp_path)
    assert len(rows) == 4 and all(group.startswith("train/real/") for group in rows["group"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no photographs"):
        read_photographs(tmp_path / "empty")


@pytest.fixture(scope="module")
def taef2(tmp_path_factory):
    """Random weights of the layout of taef2, in fp16."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "taef2"
    folder.mkdir()
    state = TinyAutoencoder().state_dict()
    save_file({name: tensor.half() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def test_the_tiny_autoencoder_has_the_published_names(taef2):
    names = set(TinyAutoencoder().state_dict())
    assert names >= {
        "encoder.0.weight",
        "encoder.11.pool.1.bias",
        "encoder.14.bias",
        "decoder.1.weight",
        "decoder.5.pool.3.weight",
        "decoder.7.weight",
        "decoder.17.weight",
        "decoder.18.conv.4.bias",
        "decoder.19.weight",
    }
    assert sum(name.startswith("encoder.") for name in names) == 79 and len(names) == 158
    pixels = torch.rand(2, 3, 24, 16)
    autoencoder = load_autoencoder(taef2, "cpu")
    with torch.inference_mode():
        restored = autoencoder(pixels)
        assert restored.shape == pixels.shape and restored.min() >= 0 and restored.max() <= 1
        assert torch.equal(restored, autoencoder(pixels))


def test_the_command_writes_a_corpus_of_pairs(photographs, taef2, tmp_path, capsys):
    def run(*words, photos=photographs):
        words = ("corpus", "reconstruct", photos, "--autoencoder", taef2, "--device", "cpu", *words)
        return main([str(word) for word in words])

    pairs = tmp_path / "pairs"
    assert run("--output", pairs) == 0
    corpus = load_corpus(pairs, num_proc=1)
    assert sum(len(split) for split in corpus.splits.values()) == 16
    for split in corpus.splits.values():  # both of a pair are in one split
        assert sorted(split["group"])[::2] == sorted(split["group"])[1::2]
    generators = set(corpus.splits["train"]["generator"])
    assert generators == {"none", "autoencoder (taef2)"}
    assert "autoencoder (taef2)" in (pairs / "README.md").read_text()

    only = tmp_path / "only"
    assert run("--output", only, "--counterparts_only", "--max_images", 3, photos=pairs) == 0
    rows = load_dataset("parquet", data_dir=str(only), split="train", cache_dir=str(tmp_path / "c"))
    assert rows["label"] == [1] * 3 and isinstance(rows[0]["image"], Image.Image)
    assert set(rows["group"]) <= {f"trip/{path.name}" for path in photographs.rglob("*.*")}

    capsys.readouterr()
    assert run("--output", pairs) == 2
    assert "not empty" in last_line(capsys)
    assert run("--output", tmp_path / "x", "--counterparts_only", photos=tmp_path / "no") == 2
    assert str(tmp_path / "no") in last_line(capsys)


def test_a_missing_diffusers_is_named(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    words = ["corpus", "reconstruct", str(photographs), "--autoencoder", "user/vae"]
    assert main([*words, "--output", str(tmp_path / "pairs")]) == 2
    assert "pip install diffusers" in last_line(capsys)
