"""The command line: verdicts, maps and provenance of image files.

    python -m realfake predict photo.jpg holiday/ --json
    python -m realfake explain photo.jpg -o map.png --method integrated_gradients
    python -m realfake provenance photo.jpg

The exit status is 0 where every file was answered, 1 where one was not (its reason is on stderr), 2 for wrong usage.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from realfake import io
from realfake.labels import AI, NAMES, REAL, parse_overrides

ANSWERED, FAILED = 0, 1
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has what it wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        return io.report_failure(f"realfake {args.command}", error)
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="realfake", description="Tell photographs from AI-generated images."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model",
        help="Hub id, user/name@revision, or folder of the detector (default: the bundled one)",
    )
    model.add_argument(
        "--label_map",
        metavar="NAME=real,NAME=ai",
        help="what the model's classes mean, if not obvious",
    )
    model.add_argument("--device", help="such as cpu or cuda (default: the GPU where there is one)")
    model.add_argument(
        "--prior_ai",
        type=_share,
        default=0.5,
        metavar="P",
        help="share of AI-generated images expected beforehand, 0 to 1; moves the probabilities, not the verdict",
    )
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument(
        "files", nargs="+", metavar="FILE", help="image, folder, URL, or - for an image on stdin"
    )

    predict = commands.add_parser(
        "predict", parents=[model, files], help="photograph or AI-generated?"
    )
    predict.set_defaults(run=_predict)
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="one line a file, with a header")
    predict.add_argument(
        "--stability",
        action="store_true",
        help="judge it recompressed, resized and cropped as well",
    )
    predict.add_argument(
        "--provenance", action="store_true", help="add what the files say of their origin"
    )
    predict.add_argument(
        "--batch_size", type=_positive, default=16, help="images in one forward pass (default: 16)"
    )

    explain = commands.add_parser("explain", parents=[model], help="draw where the evidence lies")
    explain.set_defaults(run=_explain)
    explain.add_argument("file", metavar="FILE", help="image, URL, or - for an image on stdin")
    explain.add_argument(
        "-o", "--output", required=True, metavar="MAP.png", help="where the picture goes"
    )
    explain.add_argument(
        "--method",
        help="attribution method (default: the one that measurements of the checkpoint support)",
    )
    explain.add_argument(
        "--target", choices=NAMES, default=AI, help="whose evidence is orange (default: ai)"
    )
    explain.add_argument(
        "--opacity", type=_share_or_end, default=0.5, help="of the map, 0 to 1 (default: 0.5)"
    )
    explain.add_argument("--json", action="store_true", help="print the answer as a JSON object")

    provenance = commands.add_parser(
        "provenance", parents=[files], help="what a file says of its origin"
    )
    provenance.set_defaults(run=_provenance)
    provenance.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _predict(args) -> int:
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
    return FAILED if failed else ANSWERED


def _explain(args) -> int:
    from realfake.answer import compose, read_once

    output = Path(args.output)
    if not output.parent.is_dir():
        raise ValueError(f"-o {output}: there is no folder {output.parent}; create it first.")
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
    return ANSWERED


def _provenance(args) -> int:
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
    return FAILED if failed else ANSWERED


def _open(args):
    from transformers.utils import logging

    from realfake.detector import Detector

    logging.disable_progress_bar()  # stderr is for what failed
    model, revision = args.model, None
    if model and "@" in model and not Path(model).is_dir():
        model, _, revision = model.rpartition("@")
    label_map = parse_overrides(args.label_map) or None
    return Detector.from_pretrained(
        model, revision=revision or None, device=args.device, label_map=label_map
    )


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
        raise ValueError(f"-o {output}: name a picture, such as map.png.")


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


def _share(text: str) -> float:
    value = _share_or_end(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1")
    return value


def _share_or_end(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
