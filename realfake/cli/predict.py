"""The commands for single images: predict, explain, provenance."""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from realfake.cli import options
from realfake.labels import AI, NAMES, REAL

OK, FAILED = 0, 1
# What is looked for in a folder; a file that is named is always tried.
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".jp2",
    ".ppm",
    ".pgm",
    ".mpo",
)
COLUMNS = (
    "file",
    "verdict",
    "reason",
    "label",
    "real",
    "ai",
    "prior_ai",
    "log_odds",
    "alpha",
    "ood",
    "flips",
    "c2pa",
    "model",
    "revision",
    "sha256",
    "error",
)


def configure_predict(parser: argparse.ArgumentParser) -> None:
    """Tell whether images are photographs or AI-generated.

    realfake predict photo.jpg
    realfake predict holiday/ photo.heic --json --stability
    curl -s https://example.com/a.jpg | realfake predict -

    The exit status is 1 if a file could not be read; its error is on stderr.
    """
    _add_files(parser)
    _add_detector(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per line")
    form.add_argument("--csv", action="store_true", help="print CSV with a header")
    parser.add_argument(
        "--stability", action="store_true", help="test recompressed, resized and cropped copies"
    )
    parser.add_argument("--provenance", action="store_true", help="add the origin a file records")
    options.add_batch_size(parser, default=16)


def configure_explain(parser: argparse.ArgumentParser) -> None:
    """Draw a map of the evidence in an image.

    realfake explain photo.jpg -o map.png
    realfake explain photo.jpg -o map.png --method integrated_gradients --target real
    """
    parser.add_argument("file", metavar="FILE", help="image, URL, or - for stdin")
    options.add_output(parser, "picture to write, such as map.png")
    _add_detector(parser)
    parser.add_argument(
        "--method", help="attribution method (default: the best measured one of the checkpoint)"
    )
    parser.add_argument(
        "--target", choices=NAMES, default=AI, help="class whose evidence is orange"
    )
    parser.add_argument(
        "--opacity",
        type=options.between(0, 1, inclusive=True),
        default=0.5,
        help="opacity of the map, 0 to 1",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as a JSON object")


def configure_provenance(parser: argparse.ArgumentParser) -> None:
    """Show what a file records about its origin: Content Credentials, metadata, generator tags.

    realfake provenance photo.jpg
    realfake provenance holiday/ --json
    """
    _add_files(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="image, folder, URL, or - for stdin"
    )


def _add_detector(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser, positional=False)
    options.add_device(parser)
    parser.add_argument(
        "--prior_ai",
        type=options.between(0, 1),
        default=0.5,
        metavar="P",
        help="expected share of AI-generated images; changes probabilities, not verdicts",
    )


def run_predict(args: argparse.Namespace) -> int:
    """Print one answer per file."""
    from realfake.answer import answers

    files, failed = _collect(args.files), False
    detector = _open(args)
    writer = None
    if args.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
    found = answers(
        detector,
        (_source(file) for file in files),
        prior_ai=args.prior_ai,
        stability=args.stability,
        provenance=args.provenance,
        batch_size=args.batch_size,
    )
    for file, answer in zip(files, found, strict=True):
        if isinstance(answer, Exception):
            failed = True
            _complain(file, answer)
            answer = {"error": str(answer)}
            if not args.csv and not args.json:
                continue
        answer = {"file": file, **answer}
        if writer:
            writer.writerow(_row(answer))
        else:
            print(json.dumps(answer, ensure_ascii=False) if args.json else _sentence(answer))
        sys.stdout.flush()
    return FAILED if failed else OK


def run_explain(args: argparse.Namespace) -> int:
    """Write the map and print the answer."""
    from realfake.answer import compose, read_once

    output = Path(args.output)
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}; create it first.")
    _check_picture(output)
    detector = _open(args)
    _check_method(args.method)
    try:
        decoded, data = read_once(_source(args.file))
        explanation = detector.explain(
            decoded, method=args.method, target=args.target, prior_ai=args.prior_ai
        )
    except (ValueError, OSError) as error:
        _complain(args.file, error)
        return FAILED
    explanation.overlay(args.opacity).save(output)
    answer = {"file": args.file, **compose(detector, explanation.prediction, decoded, data)}
    answer |= {"map": str(output), "method": explanation.method, "target": explanation.target}
    print(
        json.dumps(answer, ensure_ascii=False)
        if args.json
        else f"{_sentence(answer)}; {output} shows where"
    )
    return OK


def run_provenance(args: argparse.Namespace) -> int:
    """Print what each file records."""
    from realfake.answer import read_once
    from realfake.provenance.content_credentials import trust_anchors
    from realfake.provenance.reading import read_provenance

    anchors, failed = trust_anchors(), False
    for file in _collect(args.files):
        try:
            _, data = read_once(_source(file))
        except (ValueError, OSError) as error:
            failed = True
            _complain(file, error)
            if args.json:
                print(json.dumps({"file": file, "error": str(error)}, ensure_ascii=False))
            continue
        found = read_provenance(data, anchors)
        if args.json:
            print(json.dumps({"file": file, **found.to_dict()}, ensure_ascii=False))
        else:
            lines = [f"{finding.title}. {finding.detail}" for finding in found.findings]
            print("\n  ".join([f"{_line(file)}:", *lines]))
    return FAILED if failed else OK


def _open(args: argparse.Namespace):
    from transformers.utils import logging

    logging.disable_progress_bar()  # stderr is for errors
    return options.open_model(args)


def _collect(names: Sequence[str]) -> list[str]:
    """Files as they are named, folders as the images below them."""
    if names.count("-") > 1:
        raise ValueError("- stands for one image on stdin; name it once.")
    return [file for name in names for file in _below(name)]


def _below(name: str) -> Iterator[str]:
    if name == "-" or not Path(name).is_dir():
        yield name
        return
    images = sorted(
        str(path)
        for path in Path(name).rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not images:
        raise ValueError(
            f"{name} is a folder without images; name the files themselves if theirs have other endings."
        )
    yield from images


def _source(name: str):
    return sys.stdin.buffer.read() if name == "-" else name


def _check_picture(output: Path) -> None:
    from PIL import Image

    if output.suffix.lower() not in (
        suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE
    ):
        raise ValueError(f"--output {output}: name a picture, such as map.png.")


def _check_method(method: str | None) -> None:
    from realfake.attribution.methods import METHODS

    if method is not None and method not in METHODS:
        raise ValueError(f"--method {method!r} is unknown; there are {', '.join(METHODS)}.")


def _complain(file: str, error: Exception) -> None:
    print(f"{_line(file)}: {error}", file=sys.stderr)


def _line(text: str) -> str:
    """A file's name can hold what a terminal would act on."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _sentence(answer: dict) -> str:
    words = {REAL: "likely a photograph", AI: "likely AI-generated"}.get(
        answer["verdict"], answer["verdict"]
    )
    why = f" ({answer['reason']})" if answer.get("reason") else ""
    return f"{_line(answer['file'])}: {words}{why}, P(ai) = {answer['probabilities'][AI]:.3f}"


def _row(answer: dict) -> dict:
    row = {name: answer.get(name) for name in COLUMNS}
    row |= {label: (answer.get("probabilities") or {}).get(label) for label in NAMES}
    row["flips"] = (answer.get("stability") or {}).get("flips")
    findings = (answer.get("provenance") or {}).get("findings") or []
    row["c2pa"] = next(
        (finding["state"] for finding in findings if finding["kind"] == "c2pa"), None
    )
    return row
