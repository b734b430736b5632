"""Build a corpus of current generators from the previews of ComfyUI's workflow templates.

    for part in image==0.3.160 api==0.3.84 other==0.3.229; do
        pip download --no-deps comfyui-workflow-templates-media-$part --dest wheels
    done
    for wheel in wheels/*.whl; do unzip -q -o $wheel -d templates; done
    python scripts/corpora/comfy_templates.py templates ../shared/data/scenes runs/templates
    python scripts/corpora/scenes_pairs.py \\
        ../shared/data/scenes runs/templates runs/scenes-templates

The packages have the licence MIT. Each preview is the result of one generator. The previews that
look like photographs were picked by hand (`comfy_templates.txt`); of an animation the middle frame
is taken. The top is cut off, because some previews have a mark there.

The previews are WebP files. So that this reveals nothing, photographs of scenes are compressed as
WebP too, two for each preview, and all are saved like scenes: JPEG of quality 90, 4:2:0.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage
from scenes_pairs import FAMILIES, FEATURES, SOURCES, free_rows, group_names, left_out, read

LIST = Path(__file__).with_suffix(".txt")
MARK = 0.15  # share of the height
SIDE = 336
QUALITY = (60, 90)
# Part of a template's name: family. The first match counts.
FAMILY_OF = {
    "seedream": "seedream",
    "seedance": "seedance",
    "bytedance": "seedance",
    "gemini": "gemini-image",
    "nano": "gemini-image",
    "veo": "veo",
    "openai_dall": "dalle",
    "openai": "gpt-image",
    "qwen": "qwen-image",
    "krea2": "krea",
    "flux": "flux",
    "kling": "kling",
    "king_o3": "kling",
    "hidream": "hidream",
    "wan": "wan",
    "ltx": "ltx",
    "luma": "luma",
    "vidu": "vidu",
    "z_image": "z-image",
    "runway": "runway",
    "magnific": "magnific",
    "grok": "grok",
    "sd3.5": "sd3",
    "stab": "sd3",
    "sdxl": "sdxl",
    "happyhorse": "happyhorse",
}


def family_of(name: str) -> str:
    """Return the family of a template; "several" for the generators with one template."""
    return next((family for part, family in FAMILY_OF.items() if part in name), "several")


def picture(path: Path) -> PILImage.Image:
    """Return a preview, or its middle frame, without its top."""
    with PILImage.open(path) as file:
        file.seek(getattr(file, "n_frames", 1) // 2)
        image = file.convert("RGB")
    image = image.crop((0, round(MARK * image.height), image.width, image.height))
    if min(image.size) > 600:  # previews at full size
        image = image.resize((image.width // 2, image.height // 2), PILImage.Resampling.LANCZOS)
    left, top = (max(0, (side - SIDE) // 2) for side in image.size)
    return image.crop((left, top, min(left + SIDE, image.width), min(top + SIDE, image.height)))


def compressed(image: PILImage.Image, format: str, **options: object) -> bytes:
    """Return the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def build(templates: Path, scenes: Path) -> Dataset:
    """Return the previews, and compressed photographs of the training images of scenes."""
    files = {path.name: path for path in sorted(templates.rglob("*.webp"))}
    rows = []

    def add(image: PILImage.Image, label: int, **columns: str) -> None:
        data = compressed(image, "JPEG", quality=90, subsampling="4:2:0")
        rows.append({"image": {"bytes": data, "path": None}, "label": label, **columns})

    for name in LIST.read_text().split():
        template = name.rsplit("-", 1)[0]
        facts = {"generator": template, "family": family_of(template), "source": "comfy-templates"}
        add(picture(files[name]), 1, group=f"template {template}", **facts)
    photographs = read(sorted(scenes.glob("train-*.parquet")))
    groups = group_names(photographs)
    free = free_rows(groups, left_out(photographs, FAMILIES, SOURCES))
    choice = np.flatnonzero(free & (np.array(photographs["label"]) == 0))
    rng = np.random.default_rng(0)
    for row in sorted(rng.choice(choice, 2 * len(rows), replace=False).tolist()):
        facts = photographs[row]
        image = PILImage.open(io.BytesIO(facts["image"]["bytes"])).convert("RGB")
        webp = compressed(image, "WEBP", quality=int(rng.integers(*QUALITY)))
        image = PILImage.open(io.BytesIO(webp)).convert("RGB")
        # The family keeps the copies apart from their originals when the images are drawn.
        add(image, 0, group=str(groups[row]), source=str(facts["source"]), family="webp")
    return Dataset.from_list(rows, features=FEATURES)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("templates", "scenes", "output"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    dataset = build(args.templates, args.scenes)
    dataset.cast_column("image", Image()).to_parquet(args.output / "train-00000.parquet")
    print(f"{len(dataset)} images, {sum(dataset['label'])} generated")
