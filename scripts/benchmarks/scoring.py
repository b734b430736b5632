"""Scoring, compared with the stock pipeline: images a second, and differences of probabilities."""

import json
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline

from realfake.detector import BUNDLED, DEFAULT_CHECKPOINT, Detector
from realfake.engines import EXACT, SAFETY, Choice, choose
from realfake.labels import AI, REAL
from realfake.scoring.run import open_tasks, score_tasks
from realfake.scoring.scorer import Scorer, choose_engine
from realfake.scoring.shards import ScoreFolder
from realfake.scoring.source import Row, open_source

from .drawn import draw_photographs
from .timing import paired, ratio_row

EXAMPLES = Path(__file__).parents[2] / "realfake" / "space" / "examples"
PAIRS = 5


def random_vit(folder: Path) -> Path:
    """Save a ViT-B/16 with random weights, which is as fast as a trained one.

    The bias of its head moves the scores away from 0, because scores near 0 are computed twice.
    """
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(0)
        names = {"id2label": {0: REAL, 1: AI}, "label2id": {REAL: 0, AI: 1}}
        model = ViTForImageClassification(ViTConfig(**names)).eval()
        model.classifier.bias.data = torch.tensor([2.0, -2.0])
        model.config.dtype = torch.float32
        model.save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)
    return folder


def against_pipeline(model: Path, images: Path, work: Path, what: str, target: float) -> dict:
    """Time the pipeline and the scorer on the same blocks of files, with reading and writing.

    The times exclude opening the model and choosing the engine, which happen once per corpus.
    """
    classify = pipeline("image-classification", model=str(model), batch_size=16)
    detector = Detector.from_pretrained(model, device="cpu")
    threads = len(os.sched_getaffinity(0))
    paths = sorted(images.glob("*.jpg"))
    blocks = [block.tolist() for block in np.array_split(np.array(paths, dtype=object), PAIRS)]
    folders = []
    for number, block in enumerate(blocks):
        folder = work / f"blocks-{model.name}-{images.name}" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        for path in block:
            if not (folder / path.name).exists():
                (folder / path.name).hardlink_to(path)
        folders.append(folder)
    source = open_source(images, work / "listing")
    choice = choose_engine(detector, source, exact=False)
    scorer = Scorer(detector, choice, threads)
    runs = iter(range(1000))

    def ours(number: int) -> None:
        block = open_source(folders[number], work / "listing")
        out = ScoreFolder(work / "scores" / f"{model.name}-{images.name}-{next(runs)}")
        score_tasks(scorer, block, out, open_tasks(block, out, 64), chunk_size=64, threads=threads)

    def theirs(number: int) -> None:
        for _ in classify([str(path) for path in blocks[number]], batch_size=16):
            pass

    classify([str(path) for path in paths[:16]], batch_size=16)
    scorer([Row(path.name, None, {"bytes": None, "path": str(path)}) for path in paths[:16]])
    times = paired(theirs, ours, PAIRS)
    sizes = [len(block) for block in blocks]
    rates = {
        name: sum(sizes) / sum(pair[index] for pair in times)
        for index, name in enumerate(("pipeline", "realfake score"))
    }
    return ratio_row(
        what,
        [stock / fast for stock, fast in times],
        target,
        at_least=True,
        images=len(paths),
        images_a_second={name: round(rate, 2) for name, rate in rates.items()},
        threads=threads,
        choice=choice.to_dict(),
    )


def vit(work: Path, quick: bool) -> dict:
    """Compare ViT-B/16 on JPEGs of 0.3 to 4 megapixels."""
    images = work / ("photographs-100" if quick else "photographs")
    draw_photographs(images, 100 if quick else 1000)
    what = "Scoring, ViT-B/16, JPEGs of 0.3 – 4 megapixels: images a second over `pipeline`"
    return {"rows": [against_pipeline(random_vit(work / "vit"), images, work, what, 3.0)]}


def photos(work: Path, quick: bool) -> dict:
    """Compare the bundled photos detector on the same JPEGs."""
    images = work / ("photographs-100" if quick else "photographs")
    draw_photographs(images, 100 if quick else 1000)
    what = "Scoring, bundled photos detector, the same JPEGs: images a second over `pipeline`"
    return {"rows": [against_pipeline(DEFAULT_CHECKPOINT, images, work, what, 1.6)]}


def model_size(work: Path, quick: bool) -> dict:
    """Compare the bundled photos detector on images of its input size."""
    size = json.loads((DEFAULT_CHECKPOINT / "preprocessor_config.json").read_text())["crop_size"]
    side = (size["width"], size["height"])
    n = 100 if quick else 500
    images = work / f"model-size-{n}"
    draw_photographs(images, n, sizes=(side,))
    what = (
        f"Scoring, bundled photos detector, JPEGs of {side[0]} × {side[1]}: images a second over "
        "`pipeline`"
    )
    return {"rows": [against_pipeline(DEFAULT_CHECKPOINT, images, work, what, 2.5)]}


def deviations(work: Path, quick: bool) -> dict:
    """Compare probabilities and verdicts of the chosen engine, of bfloat16, and of `--exact`."""
    del work
    pictures = _cuttings(40 if quick else 150)
    encoded = [_encoded(picture) for picture in pictures]
    largest = {"chosen": 0.0, "bf16": 0.0, "exact": 0.0}
    flipped = dict.fromkeys(largest, 0)
    details = {}
    for name in ("photos", "cifake"):
        detector = Detector.from_pretrained(BUNDLED / name, device="cpu")
        classify = pipeline("image-classification", model=str(BUNDLED / name), batch_size=16)
        expected = np.array(
            [
                next(row["score"] for row in answer if row["label"] == AI)
                for answer in classify(pictures)
            ]
        )
        predictions = detector.predict(pictures)
        chosen = choose(detector, detector.preprocessing(pictures[:24]))
        trials = chosen.trials
        exact = min(
            (
                engine
                for engine in trials
                if engine.endswith("fp32") and trials[engine]["probability"] <= EXACT
            ),
            key=lambda engine: trials[engine]["ms"],
        )
        bf16 = next(
            (engine for engine in ("openvino-bf16", "torch-bf16") if engine in trials), exact
        )
        # Also if bfloat16 is not chosen because it would recompute too many images.
        bands = [
            SAFETY * trials[bf16][key] if bf16 != exact else 0.0 for key in ("log_odds", "ood")
        ]
        choices = {
            "chosen": chosen,
            "bf16": Choice(bf16, exact, *bands),
            "exact": Choice(exact, exact),
        }
        details[name] = {}
        for kind, choice in choices.items():
            scorer = Scorer(detector, choice)
            rows = [
                Row(str(number), None, {"bytes": data, "path": None})
                for number, data in enumerate(encoded)
            ]
            answers = [
                answer
                for start in range(0, len(rows), 16)
                for answer in scorer(rows[start : start + 16])[0]
            ]
            difference = float(
                np.abs(np.array([answer[AI] for answer in answers]) - expected).max()
            )
            changed = sum(
                answer["verdict"] != prediction.verdict
                for answer, prediction in zip(answers, predictions, strict=True)
            )
            largest[kind] = max(largest[kind], difference)
            flipped[kind] += changed
            again = sum(answer["recomputed"] for answer in answers)
            details[name][kind] = {
                "engine": choice.engine,
                "difference": difference,
                "verdicts_changed": changed,
                "recomputed": again,
            }
    n = len(pictures) * 3
    rows = [
        _bound(
            f"Largest difference of a probability from `pipeline`, trained checkpoints, n = {n}",
            largest["chosen"],
            0.01,
        ),
        _bound("The same with bfloat16 forced", largest["bf16"], 0.01),
        _bound("The same with `--exact`", largest["exact"], 1e-5),
        _bound(
            "Verdicts changed (chosen engine, bfloat16 forced, exact)", sum(flipped.values()), 0
        ),
    ]
    return {"rows": rows, "details": details}


def _encoded(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _cuttings(n: int) -> Sequence[Image.Image]:
    """Crop the example photographs at random, to 64 – 640 pixels; resize a third of the crops."""
    rng = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB") for path in sorted(EXAMPLES.glob("*.jpg"))]
    pictures = []
    for number in range(n):
        original = originals[number % len(originals)]
        side = int(rng.integers(64, min(640, *original.size) + 1))
        left, top = (int(rng.integers(0, length - side + 1)) for length in original.size)
        part = original.crop((left, top, left + side, top + side))
        pictures.append(part.resize((side * 2 // 3, side * 3 // 4)) if number % 3 == 0 else part)
    return pictures


def _bound(what: str, value: float, target: float) -> dict:
    return {
        "what": what,
        "value": value,
        "target": target,
        "at_least": False,
        "met": value <= target,
    }
