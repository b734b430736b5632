"""Reconstruct photographs through an autoencoder: from photographs to a corpus of aligned pairs.

Both images of a pair have the same content, size, format and JPEG quality, so a detector has to
learn the traces of the decoder. After Chen et al. (2025), "Dual Data Alignment Makes AI-Generated
Image Detector Easier Generalizable".
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import ExifTags
from PIL import Image as PILImage

from realfake.corpus.folders import is_metadata, walk
from realfake.corpus.rows import LABEL_COLUMNS, NO_GENERATOR, as_text, class_names
from realfake.corpus.sources import BUILDERS, is_saved, read_source
from realfake.corpus.splits import TRAIN, split_role
from realfake.corpus.write import saved
from realfake.imaging.colour import converts
from realfake.imaging.decode import (
    SUFFIXES,
    UPRIGHT,
    image_bytes,
    open_image,
    orientation,
    read_header,
)
from realfake.imaging.file_facts import container_facts
from realfake.labels import AI, NAMES, REAL, canonical
from realfake.models.autoencoders import REDUCTION, Autoencoder

FAMILY = "autoencoder"
COLUMNS = ("generator", "family", "source", "group")
FEATURES = Features(
    {
        "image": Image(decode=False),
        "label": ClassLabel(names=list(NAMES)),
        **{name: Value("string") for name in COLUMNS},
    }
)
# Photographs that wait for others of their size, at most.
_WAITING = 64
# Back from the upright image to the stored one, by EXIF orientation.
_FROM_UPRIGHT = UPRIGHT | {6: UPRIGHT[8], 8: UPRIGHT[6]}


def read_photographs(source: str | Path) -> Dataset:
    """Read the training photographs of a folder of image files or of a corpus.

    Folders of generated images and other splits are left out.

    Returns:
        Rows with an undecoded `image`, and text columns `source` and `group`, if they are known.

    Raises:
        ValueError: There are no photographs.
        OSError: There is no such file, folder or Hub dataset.
    """
    path = Path(source).expanduser()
    files = [file for file in walk(path) if file.is_file()] if path.is_dir() else []
    # A table with images in it, or of their labels.
    tables = any(file.suffix.lower() in (".parquet", ".arrow") for file in files)
    tables |= any(is_metadata(file) and file.suffix in BUILDERS for file in files)
    if path.is_dir() and not tables and not is_saved(path):
        rows = _read_folder(path, files)
    else:
        rows = _read_table(source)
    if not len(rows):
        raise ValueError(
            f"{source} holds no photographs; pass a folder of image files, or a corpus."
        )
    return rows


def _read_folder(path: Path, files: list[Path]) -> Dataset:
    folders = {
        file: file.relative_to(path).parts[:-1] for file in files if file.suffix.lower() in SUFFIXES
    }
    training = [file for file, names in folders.items() if TRAIN in map(split_role, names)]
    photographs = [file for file in training or folders if AI not in map(canonical, folders[file])]
    return Dataset.from_dict(
        {
            "image": [{"bytes": None, "path": str(file)} for file in photographs],
            "source": [path.resolve().name] * len(photographs),
            "group": [file.relative_to(path).as_posix() for file in photographs],
        },
        features=Features({name: FEATURES[name] for name in ("image", "source", "group")}),
    )


def _read_table(source: str | Path) -> Dataset:
    read = read_source(source)
    training = [name for name in read.splits if split_role(name) == TRAIN]
    rows = read.splits[(training or list(read.splits))[0]]
    label = next((name for name in rows.column_names if name.lower() in LABEL_COLUMNS), None)
    if label is None:
        return rows
    names = class_names(rows[label][:], rows.features[label], label, str(source))
    real = [index for index, name in enumerate(names) if name and canonical(name) == REAL]
    return rows.select(real)


@dataclass(frozen=True)
class _Photograph:
    pixels: PILImage.Image  # as stored, not turned upright
    data: bytes
    row: dict

    @property
    def padded_size(self) -> tuple[int, int]:
        width, height = (-(-side // REDUCTION) * REDUCTION for side in self.pixels.size)
        return width, height


def reconstruct(
    photographs: Dataset,
    autoencoder: Autoencoder,
    name: str,
    batch_size: int = 8,
    max_side: int | None = None,
) -> Iterator[tuple[dict, dict]]:
    """Pass photographs through an autoencoder.

    Images of one size share a batch, so the order changes. A photograph that cannot be decoded is
    left out, with a line on stderr.

    Args:
        photographs: Rows of [`read_photographs`].
        autoencoder: From [`~realfake.models.autoencoders.load_autoencoder`].
        name: Name of the autoencoder: the `generator` is `autoencoder (name)`.
        max_side: *optional*. Largest side in pixels. Larger photographs are cropped to their
            centre and encoded again.

    Yields:
        The rows of the photograph and of its reconstruction, with the columns of `FEATURES`.
    """
    waiting: dict[tuple[int, int], list[_Photograph]] = {}
    for index, row in enumerate(photographs):
        try:
            photograph = _open(row, index, max_side)
        except (ValueError, OSError) as error:
            where = row["image"].get("path") or f"row {index}"
            print(f"Left out: {where}: {error}", file=sys.stderr)
            continue
        batch = waiting.setdefault(photograph.padded_size, [])
        batch.append(photograph)
        if len(batch) < batch_size and sum(map(len, waiting.values())) >= _WAITING:
            batch = max(waiting.values(), key=len)
        elif len(batch) < batch_size:
            continue
        yield from _pass(waiting.pop(batch[0].padded_size), autoencoder, name)
    for batch in waiting.values():
        yield from _pass(batch, autoencoder, name)


def _open(row: dict, index: int, max_side: int | None) -> _Photograph:
    data = image_bytes(row["image"])
    pixels = open_image(data)
    turn = _FROM_UPRIGHT.get(orientation(read_header(data, "the photograph")))
    pixels = pixels if turn is None else pixels.transpose(turn)
    cropped = _crop(pixels, max_side)
    if cropped.size != pixels.size or not _keeps(data):
        data = encode_like(cropped, data)
    source = as_text(row.get("source")) or "photographs"
    return _Photograph(
        cropped,
        data,
        {
            "image": {"bytes": data, "path": None},
            "label": NAMES.index(REAL),
            "generator": as_text(row.get("generator")) or NO_GENERATOR,
            "family": as_text(row.get("family")) or "camera",
            "source": source,
            "group": as_text(row.get("group")) or f"{source}-{index}",
        },
    )


def _crop(pixels: PILImage.Image, max_side: int | None) -> PILImage.Image:
    if max_side is None or max(pixels.size) <= max_side:
        return pixels
    width, height = (min(side, max_side) for side in pixels.size)
    # From a corner of a block of JPEG's chroma, so that encoding again changes little.
    left, top = (pixels.width - width) // 32 * 16, (pixels.height - height) // 32 * 16
    return pixels.crop((left, top, left + width, top + height))


@torch.inference_mode()
def _pass(
    photographs: list[_Photograph], autoencoder: Autoencoder, name: str
) -> Iterator[tuple[dict, dict]]:
    width, height = photographs[0].padded_size
    arrays = []
    for photograph in photographs:
        below, right = height - photograph.pixels.height, width - photograph.pixels.width
        pixels = np.asarray(photograph.pixels)
        arrays.append(np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="symmetric"))
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    restored = (autoencoder(batch) * 255).round().clamp(0, 255).to(torch.uint8)
    for photograph, array in zip(photographs, restored.permute(0, 2, 3, 1).numpy()):
        pixels = np.ascontiguousarray(array[: photograph.pixels.height, : photograph.pixels.width])
        data = encode_like(PILImage.fromarray(pixels), photograph.data)
        yield (
            photograph.row,
            {
                **photograph.row,
                "image": {"bytes": data, "path": None},
                "label": NAMES.index(AI),
                "generator": f"{FAMILY} ({name})",
                "family": FAMILY,
            },
        )


def _keeps(data: bytes) -> bool:
    """Return whether [`encode_like`] writes the format, the mode and the colours of this file."""
    facts = container_facts(data)
    if facts.icc and converts(read_header(data, "the photograph").info.get("icc_profile")):
        return False
    return facts.format in ("JPEG", "MPO", "WEBP", "AVIF") or (
        facts.format == "PNG" and facts.mode in ("RGB", "L")
    )


def encode_like(image: PILImage.Image, original: bytes) -> bytes:
    """Encode an image as another file was encoded.

    A JPEG gets the quantisation tables and the chroma subsampling of the original, WebP and AVIF
    stay what they are, and everything else becomes PNG. A colour profile of sRGB is kept, and of an
    EXIF block the orientation only.
    """
    header, facts = read_header(original, "the photograph"), container_facts(original)
    profile = header.info.get("icc_profile")
    options: dict = {"icc_profile": None if converts(profile) else profile}
    if facts.exif:
        exif = PILImage.Exif()
        exif[ExifTags.Base.Orientation] = orientation(header)
        options["exif"] = exif
    format = "PNG"
    if facts.format in ("JPEG", "MPO"):
        format, tables = "JPEG", header.quantization
        known = facts.subsampling in ("4:4:4", "4:2:2", "4:2:0")
        options["subsampling"] = facts.subsampling if known else "4:2:0"
        options["qtables"] = [list(tables[key]) for key in sorted(tables)]
        options["progressive"] = facts.progressive
    elif facts.format in ("WEBP", "AVIF"):
        format = facts.format
        if format == "WEBP":
            options |= {"quality": 90, "lossless": b"VP8L" in original[: 2**16]}
    if facts.subsampling == "grey" or facts.mode == "L":
        image = image.convert("L")
    return saved(image, format, **options)
