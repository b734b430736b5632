"""Scoring of photographs, compared with the stock pipeline: rates, and changes of the answers."""

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.special import expit, logit
from transformers import pipeline

from realfake.detector import DEFAULT_CHECKPOINT, Detector
from realfake.engines import SAFETY, Choice, choose
from realfake.imaging.decode import open_image
from realfake.labels import AI
from realfake.runtime import lone_threads
from realfake.scoring.run import open_tasks, score_tasks
from realfake.scoring.scorer import Scorer
from realfake.scoring.shards import ScoreFolder
from realfake.scoring.source import Row, open_source

from .drawn import draw_photographs
from .timing import PLACES, ratio_row, rounds, row, seconds

EXAMPLES = Path(__file__).parents[2] / "realfake" / "space" / "examples"
BATCH = 16
# The engines of a run are compared on this number of images.
SAMPLE = 24
TARGET, EXACT, TOLERANCE = 3.0, 1e-5, 0.01


def one_view(work: Path, quick: bool) -> dict:
    """Compare the stock pipeline with `Detector.predict` and with the path of `realfake score`."""
    return against_pipeline(work, 1, 4 if quick else 96, 1 if quick else 3)


def all_views(work: Path, quick: bool) -> dict:
    """Compare all views with a pipeline that gets the same views as crops."""
    return against_pipeline(work, None, 1 if quick else 16, 1 if quick else 3)


def against_pipeline(
    work: Path, views: int | None, n: int, n_rounds: int, device: str = "cpu"
) -> dict:
    """Time three ways to score the same JPEG files of 0.3 to 4 megapixels, and compare the answers.

    Decoding is part of the times. Opening the model and choosing an engine, once for a corpus, are
    not. `realfake score` uses the engine that it chooses for large corpora.

    Args:
        views: As in `Detector.predict`; the pipeline gets the files for 1, and crops for `None`.
        n: Number of images.
    """
    folder = work / f"photographs-{n}"
    paths = draw_photographs(folder, n)
    files, threads = [str(path) for path in paths], len(os.sched_getaffinity(0))
    classify = pipeline(
        "image-classification", model=str(DEFAULT_CHECKPOINT), device=device, batch_size=BATCH
    )
    detector = Detector.from_pretrained(device=device)
    images = [open_image(path) for path in paths[:SAMPLE]]
    choice = choose(detector, detector.preprocessing(images))
    scorer = Scorer(detector, choice, threads, views)
    source = open_source(folder, work / "listing")
    answers: dict[str, list] = {}

    def crops() -> Iterator[Image.Image]:
        for file in files:
            image = open_image(file)
            yield from (image.crop(box) for box in detector.boxes(image.size, views))

    def stock(_: int) -> None:
        answers["pipeline"] = list(classify(files if views == 1 else crops()))

    def predict(_: int) -> None:
        answers["predict"] = detector.predict(files, views=views)

    # Small batches of all views, because few images must keep all threads busy.
    sizes = dict.fromkeys(("chunk_size", "batch_size"), BATCH if views == 1 else 2)

    def score(number: int) -> None:
        out = ScoreFolder(work / "scores" / f"{os.getpid()}-{number}")
        tasks = open_tasks(source, out, sizes["chunk_size"])
        score_tasks(scorer, source, out, tasks, threads=threads, **sizes)

    # The first calls allocate and tune. `Detector.predict` opens its engine after 64 views.
    opening = seconds(lambda: detector.accelerate())
    classify(files[:BATCH])
    predict(0)
    score(-1)
    times = rounds({"pipeline": stock, "predict": predict, "score": score}, n_rounds)
    counts = [len(prediction.views) for prediction in answers["predict"]]
    given = [next(e["score"] for e in each if e["label"] == AI) for each in answers["pipeline"]]
    parts = np.split(logit(given), np.cumsum(counts)[:-1])
    expected = expit([part.mean() for part in parts])
    found = np.array([prediction.probabilities[AI] for prediction in answers["predict"]])
    profile = steps(detector, paths[: 12 if views == 1 else 3], views, choice)
    rows = [
        ratio_row(what, times["pipeline"], times[name], TARGET, profile=profile)
        for name, what in lines(views, device).items()
    ]
    label = "one view" if views == 1 else "all views"
    what = (
        f"`Detector.predict`, {label}, {PLACES[device]}: largest change of a probability, n = {n}"
    )
    rows.append(row(what, float(np.abs(found - expected).max()), EXACT))
    return {
        "rows": rows,
        "images": n,
        "views_an_image": float(np.mean(counts)),
        "images_a_second": {name: n / float(np.median(each)) for name, each in times.items()},
        "threads": threads,
        "choice": choice.to_dict(),
        "predict_uses_openvino": detector.engine is not None,
        "seconds_to_open_it": opening,
    }


def lines(views: int | None, device: str) -> dict[str, str]:
    """Return the descriptions of the comparisons with the pipeline."""
    label, of = ("one view", "") if views == 1 else ("all views", " of the same crops")
    end = f"{label}, {PLACES[device]}: images a second over `pipeline`{of}"
    return {"predict": f"`Detector.predict`, {end}", "score": f"`realfake score`, {end}"}


def steps(
    detector: Detector, paths: Sequence[Path], views: int | None, choice: Choice
) -> dict[str, float]:
    """Return the seconds of each step for one image, and of each engine for a view on one core."""
    images: list[Image.Image] = []
    cuts: list[tuple] = []
    limit, n = detector.limit(views), len(paths)
    took = {"decoding": seconds(lambda: images.extend(map(open_image, paths)))}
    took["cutting views"] = seconds(
        lambda: cuts.extend(detector.cut(image, limit) for image in images)
    )
    pieces = [piece for _, own in cuts for piece in own]
    starts = range(0, len(pieces), BATCH)
    batches = [detector.preprocessing.stack(pieces[start : start + BATCH]) for start in starts]
    took["network of `Detector.predict`"] = seconds(
        lambda: [detector.examine(torch.from_numpy(batch)) for batch in batches]
    )
    engines = {f"a view on one core, {name}": e["ms"] / 1e3 for name, e in choice.trials.items()}
    return {name: each / n for name, each in took.items()} | engines


def deviations(work: Path, quick: bool) -> dict:
    """Compare probabilities and verdicts of each engine with those of PyTorch in fp32."""
    del work
    pictures = cuttings(6 if quick else 450)
    detector = Detector.from_pretrained(device="cpu")
    trials = choose(detector, detector.preprocessing(pictures[:SAMPLE])).trials
    exact = "openvino-fp32" if "openvino-fp32" in trials else "torch-fp32"
    expected = answers_of(detector, Choice(), pictures)
    rows, details = [], {}
    for name, trial in trials.items():
        if name == "torch-fp32":
            continue
        fp32 = name.endswith("fp32")
        # Also if bfloat16 is not chosen because it would recompute too many images.
        bands = [0.0 if fp32 else SAFETY * trial[key] for key in ("log_odds", "ood")]
        found = answers_of(detector, Choice(name, name if fp32 else exact, *bands), pictures)
        pairs = list(zip(found, expected, strict=True))
        change = max(abs(mine[AI] - other[AI]) for mine, other in pairs)
        changed = sum(mine["verdict"] != other["verdict"] for mine, other in pairs)
        again = sum(answer["recomputed"] for answer in found)
        details[name] = {"change": change, "verdicts_changed": changed, "recomputed": again}
        what = f"{name}, all views: largest change of a probability, n = {len(pictures)}"
        rows.append(row(what, change, EXACT if fp32 else TOLERANCE))
        rows.append(row(f"{name}, all views: verdicts changed, n = {len(pictures)}", changed, 0))
    return {"rows": rows, "details": details}


def answers_of(detector: Detector, choice: Choice, pictures: Sequence[Image.Image]) -> list[dict]:
    """Return the answers of `realfake score` with an engine."""
    threads = len(os.sched_getaffinity(0))
    scorer = Scorer(detector, choice, threads)
    rows = [
        Row(str(number), None, {"bytes": _encoded(picture), "path": None})
        for number, picture in enumerate(pictures)
    ]
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    with lone_threads(threads) as pool:
        return [answer for answers, _ in pool.map(scorer, batches) for answer in answers]


def _encoded(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def cuttings(n: int) -> list[Image.Image]:
    """Crop the example photographs at random, to 64 – 320 pixels; resize a third of the crops."""
    rng = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB") for path in sorted(EXAMPLES.glob("*.jpg"))]
    pictures = []
    for number in range(n):
        original = originals[number % len(originals)]
        side = int(rng.integers(64, min(320, *original.size) + 1))
        left, top = (int(rng.integers(0, length - side + 1)) for length in original.size)
        part = original.crop((left, top, left + side, top + side))
        pictures.append(part.resize((side * 2 // 3, side * 3 // 4)) if number % 3 == 0 else part)
    return pictures
