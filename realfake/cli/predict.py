"""Commands for single images: predict, explain, provenance."""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realfake.cli import options
from realfake.cli.main import FAILED, OK
from realfake.labels import AI, NAMES, REAL

if TYPE_CHECKING:
    from realfake.detector import Detector

COLUMNS = (
    *("file", "verdict", "reason", "label", "real", "ai", "prior_ai", "log_odds", "alpha", "ood"),
    *("flips", "c2pa", "model", "revision", "sha256", "error"),
)
_VERDICTS = {REAL: "likely a photograph", AI: "likely AI-generated"}
_REASONS = {
    "between": "score between the thresholds",
    "no_thresholds": "no threshold for this label",
    "out_of_distribution": "image out of distribution",
    "unstable": "verdict changes after recompression, resizing or cropping",
}


def configure_predict(parser: argparse.ArgumentParser) -> None:
    """Classify images as photographs or AI-generated.

        realfake predict photo.jpg
        realfake predict holiday/ photo.heic --json --stability
        curl -s https://example.com/a.jpg | realfake predict -

    The exit status is 1 if a file cannot be read. Its error goes to stderr.
    """
    _add_files(parser)
    _add_detector(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per line")
    form.add_argument("--csv", action="store_true", help="print CSV with a header")
    parser.add_argument(
        "--stability",
        action="store_true",
        help="also judge recompressed, resized and cropped copies",
    )
    parser.add_argument(
        "--provenance", action="store_true", help="add what the file records about its origin"
    )
    options.add_batch_size(parser, default=16)


def configure_explain(parser: argparse.ArgumentParser) -> None:
    """Draw a map of the evidence in an image.

        realfake explain photo.jpg -o map.png
        realfake explain photo.jpg -o map.png --method integrated_gradients --target real

    The map shows which regions influence the score, not which pixels were generated.
    """
    parser.add_argument("file", metavar="FILE", help="image, URL, or - for stdin")
    options.add_output(parser, "picture to write, such as map.png")
    _add_detector(parser)
    parser.add_argument(
        "--method",
        help="attribution method (default: the one stored in the checkpoint, or gradcam)",
    )
    parser.add_argument(
        "--target", choices=NAMES, default=AI, help="class whose evidence is shown in orange"
    )
    parser.add_argument(
        "--opacity",
        type=options.between(0, 1, inclusive=True),
        default=0.5,
        help="opacity of the map, from 0 to 1",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as a JSON object")


def configure_provenance(parser: argparse.ArgumentParser) -> None:
    """Show what a file records about its origin: Content Credentials, metadata, generator tags.

        realfake provenance photo.jpg
        realfake provenance holiday/ --json
        realfake provenance --refresh_trust_list

    Signatures of Content Credentials are verified, with a copy of C2PA's trust list. Anyone can
    change other metadata.
    """
    _add_files(parser, required=False)
    parser.add_argument(
        "--refresh_trust_list",
        action="store_true",
        help="first download the current trust list of C2PA",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def _add_files(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "files",
        nargs="+" if required else "*",
        metavar="FILE",
        help="image, folder, URL, or - for stdin",
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
    options.add_views(parser)


def run_predict(args: argparse.Namespace) -> int:
    """Print one answer per file."""
    from realfake.answer import answers

    files = _expand(args.files)
    detector = _open(args)
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    if args.csv:
        writer.writeheader()
    results = answers(
        detector,
        map(_read, files),
        prior_ai=args.prior_ai,
        stability=args.stability,
        provenance=args.provenance,
        batch_size=args.batch_size,
        views=args.views,
    )
    status = OK
    for file, answer in zip(files, results, strict=True):
        if isinstance(answer, Exception):
            status = FAILED
            _report(file, answer)
            answer = {"error": str(answer)}
        answer = {"file": file, **answer}
        if args.json:
            _print_json(answer)
        elif args.csv:
            writer.writerow(_row(answer))
        elif "error" not in answer:
            print(_sentence(answer))
        sys.stdout.flush()
    return status


def run_explain(args: argparse.Namespace) -> int:
    """Write the map and print the answer."""
    from realfake.answer import compose, read_once

    output = Path(args.output)
    _check_picture(output)
    detector = _open(args)
    _check_method(args.method)
    try:
        decoded, data = read_once(_read(args.file))
        explanation = detector.explain(
            decoded,
            method=args.method,
            target=args.target,
            prior_ai=args.prior_ai,
            views=args.views,
        )
    except (ValueError, OSError) as error:
        _report(args.file, error)
        return FAILED
    explanation.overlay(args.opacity).save(output)
    answer = {
        "file": args.file,
        **compose(detector, explanation.prediction, decoded, data),
        "map": str(output),
        "method": explanation.method,
        "target": explanation.target,
    }
    if args.json:
        _print_json(answer)
    else:
        print(f"{_sentence(answer)}; map: {output}")
    return OK


def run_provenance(args: argparse.Namespace) -> int:
    """Print the records in each file."""
    from realfake.answer import read_once
    from realfake.provenance.content_credentials import VARIABLE, refresh, refreshed, trust_list
    from realfake.provenance.reading import read_provenance

    if args.refresh_trust_list:
        try:
            new = refresh()
        except (ValueError, OSError) as error:
            raise type(error)(
                f"{error} Or set {VARIABLE} to a file of PEM certificates."
            ) from error
        print(f"{len(new)} certificates of {new.date}: {refreshed()}", file=sys.stderr)
    elif not args.files:
        raise ValueError("Name the files to read, or pass --refresh_trust_list.")
    trusted, status = trust_list(), OK
    for file in _expand(args.files):
        try:
            provenance = read_provenance(read_once(_read(file))[1], trusted)
        except (ValueError, OSError) as error:
            status = FAILED
            _report(file, error)
            if args.json:
                _print_json({"file": file, "error": str(error)})
            continue
        if args.json:
            _print_json({"file": file, **provenance.to_dict()})
        else:
            lines = [f"{finding.title}. {finding.detail}" for finding in provenance.findings]
            print("\n  ".join([f"{_printable(file)}:", *lines]))
    return status


def _open(args: argparse.Namespace) -> "Detector":
    from transformers.utils import logging

    logging.disable_progress_bar()  # stderr is for errors
    return options.open_model(args)


def _expand(names: Sequence[str]) -> list[str]:
    """Replace each folder by the images in it."""
    if names.count("-") > 1:
        raise ValueError("- stands for one image on stdin; name it once.")
    return [file for name in names for file in _images(name)]


def _images(name: str) -> Iterator[str]:
    if name == "-" or not Path(name).is_dir():
        yield name
        return
    from realfake.corpus.folders import walk
    from realfake.imaging.decode import SUFFIXES

    paths = (path for path in walk(Path(name)) if path.suffix.lower() in SUFFIXES)
    images = sorted(str(path) for path in paths if path.is_file())
    if not images:
        raise ValueError(f"{name} is a folder without images; name the image files instead.")
    yield from images


def _read(name: str) -> str | bytes:
    return sys.stdin.buffer.read() if name == "-" else name


def _check_picture(output: Path) -> None:
    from PIL import Image

    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}; create it first.")
    kind = Image.registered_extensions().get(output.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"--output {output} is not a picture; give a name such as map.png.")


def _check_method(method: str | None) -> None:
    from realfake.attribution.methods import METHODS

    if method is not None and method not in METHODS:
        raise ValueError(f"--method {method!r} is unknown; choose from {', '.join(METHODS)}.")


def _report(file: str, error: Exception) -> None:
    print(f"{_printable(file)}: {error}", file=sys.stderr)


def _print_json(answer: dict) -> None:
    print(json.dumps(answer, ensure_ascii=False))


def _printable(text: str) -> str:
    """Replace control characters, which a terminal would execute."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _sentence(answer: dict) -> str:
    verdict = _VERDICTS.get(answer["verdict"], answer["verdict"])
    reason = f" ({_REASONS[answer['reason']]})" if answer.get("reason") else ""
    probability = answer["probabilities"][AI]
    return f"{_printable(answer['file'])}: {verdict}{reason}, P(ai) = {probability:.3f}"


def _row(answer: dict) -> dict:
    row = {name: answer.get(name) for name in COLUMNS}
    row |= {label: (answer.get("probabilities") or {}).get(label) for label in NAMES}
    row["flips"] = (answer.get("stability") or {}).get("flips")
    findings = (answer.get("provenance") or {}).get("findings") or []
    states = (finding["state"] for finding in findings if finding["kind"] == "c2pa")
    row["c2pa"] = next(states, None)
    return row
