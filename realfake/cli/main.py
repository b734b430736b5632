"""The `realfake` command: it finds the subcommand, parses the options, runs it and reports errors.

A command is a module of `realfake.cli` with two functions:

    configure(parser)      adds the arguments
    run(args) -> int       does the work and returns the exit status

The docstring of the module is the help text. Its first paragraph is the description; the rest
follows the options. A module with several commands has `configure_NAME` and `run_NAME`, and the
docstring of `configure_NAME` is the help text. A module with `parse(arguments)` parses its own
options. Modules import torch, transformers and datasets inside functions only, so that `--help` is
fast. A user's mistake raises `ValueError` or `OSError`.
"""

import argparse
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from realfake import io
from realfake.cli.options import HelpFormatter
from realfake.runtime import end

# 2, a user's mistake, is returned by `io.report_failure`.
OK, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Args:
        module: Module of `realfake.cli`.
        help: One line for `realfake --help`.
        name: End of `configure_NAME` and `run_NAME`, if the module has several commands.
        resumable: Whether the same command continues an interrupted run.
        training_options: Whether to keep unknown options, as `args.training_options`.
    """

    module: str
    help: str
    name: str = ""
    resumable: bool = False
    training_options: bool = False


COMMANDS = {
    "predict": Command("predict", "classify images as photographs or AI-generated", "predict"),
    "explain": Command("predict", "draw a map of the evidence in an image", "explain"),
    "provenance": Command("predict", "show what a file records about its origin", "provenance"),
    "score": Command("score", "score a corpus of any size into Parquet files", resumable=True),
    "corpus prepare": Command("corpus", "clean and split raw images", "prepare"),
    "corpus reconstruct": Command(
        "corpus", "pair photographs with reconstructions of them", "reconstruct"
    ),
    "corpus audit": Command("corpus", "check whether a corpus reveals its labels", "audit"),
    "corpus feedback": Command("corpus", "turn feedback from the Space into a corpus", "feedback"),
    "train": Command("train", "fine-tune, calibrate and document a detector", resumable=True),
    "compare": Command(
        "compare",
        "train several models and compare them",
        "compare",
        resumable=True,
        training_options=True,
    ),
    "leave-one-out": Command(
        "compare",
        "train without each generator in turn",
        "leave_one_out",
        resumable=True,
        training_options=True,
    ),
    "calibrate": Command("calibrate", "calibrate an existing image classifier"),
    "evaluate robustness": Command(
        "evaluate", "measure a detector on degraded images", "robustness", resumable=True
    ),
    "evaluate formats": Command(
        "evaluate", "measure how the file format changes verdicts", "formats"
    ),
    "evaluate views": Command("evaluate", "compare one view with the whole image", "views"),
    "evaluate explanations": Command(
        "evaluate", "measure the faithfulness of the maps", "explanations", resumable=True
    ),
    "evaluate gallery": Command("evaluate", "score reported images, list changes", "gallery"),
    "card": Command("evaluate", "rewrite the model card of a finished run", "card"),
    "space run": Command("space", "serve the web page and the HTTP API", "serve"),
    "space deploy": Command("space", "create or update a Space on the Hugging Face Hub", "deploy"),
}
GROUPS = {
    "corpus": "make a training corpus: prepare, reconstruct, audit, feedback",
    "evaluate": "measure a detector: robustness, formats, views, explanations, gallery",
    "space": "serve the web page: run, deploy",
}


# Optional packages and the extra that installs them, see pyproject.toml.
EXTRAS = {
    "openvino": "openvino",
    "optuna": "train",
    "peft": "train",
    "ray": "ray",
    "tensorboard": "train",
}


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations, whose errors become one line."""

    def __init__(self, **settings: Any):
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (?:-\w/)?(\S+): must ", r"\1 must ", message)
        message = re.sub(r"^argument (?:-\w/)?(\S+): ", r"\1: ", message)
        raise ValueError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: *optional*. The command line without the program. *Defaults to* that of this
            process, which then ends with the exit status.

    Returns:
        The exit status: 0; 1 if some files could not be processed; 2 for a user's mistake; 130
        after Ctrl-C.

    Raises:
        SystemExit: After `--help` or `--version`.
    """
    if arguments is None:
        end(dispatch(sys.argv[1:]))
    argv = sys.argv
    # Records store the command as typed, see `io.command_line`.
    sys.argv = ["realfake", *map(str, arguments)]
    try:
        return dispatch(sys.argv[1:])
    finally:
        sys.argv = argv


def dispatch(arguments: list[str]) -> int:
    """Run a command as [`main`] does, but do not change `sys.argv`."""
    command = None
    try:
        name, rest = _find(arguments)
        command = COMMANDS[name]
        module = _module(command)
        options = module.parse(rest) if hasattr(module, "parse") else _parse(name, rest)
        return _function(module, "run", command)(options)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = f'pip install "realfake[{EXTRAS[error.name]}]"'
        return io.report_failure(ValueError(f"{error.name} is not installed; run: {extra}"))
    except (ValueError, OSError) as error:
        return io.report_failure(error)
    except KeyboardInterrupt:
        resumable = command is not None and command.resumable
        hint = "; give the same command again to continue" if resumable else ""
        print(f"stopped{hint}", file=sys.stderr)
        return INTERRUPTED


def _find(arguments: list[str]) -> tuple[str, list[str]]:
    """Split the command line into the command's name and its own arguments."""
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if len(arguments) >= length and name in COMMANDS:
            return name, arguments[length:]
    group = arguments[0] if arguments and arguments[0] in GROUPS else None
    _overview(group).parse_args(arguments[1:] if group else arguments)
    raise AssertionError("unreachable: no command was found")


def _overview(group: str | None) -> Parser:
    """Return the parser of `realfake`, or of a group of commands, for help and errors only."""
    from realfake import __version__

    prog = f"realfake {group}" if group else "realfake"
    commands = {}
    for name, command in COMMANDS.items():
        first, _, rest = name.partition(" ")
        if group is None:
            commands[first] = GROUPS[first] if rest else command.help
        elif first == group:
            commands[rest] = command.help
    parser = Parser(
        prog=prog,
        description="Tell photographs from AI-generated images.",
        epilog=f"{prog} COMMAND --help describes a command.",
        formatter_class=HelpFormatter,
    )
    if group:
        parser.description = f"{GROUPS[group][0].upper()}{GROUPS[group][1:]}."
    else:
        parser.add_argument(
            "--version", action="version", version=f"realfake {__version__}", help="show version"
        )
    subparsers = parser.add_subparsers(
        metavar="COMMAND", required=True, title="commands", parser_class=Parser
    )
    for name, text in commands.items():
        subparsers.add_parser(name, help=text)
    return parser


def build_parser(name: str) -> Parser:
    """Return the parser of one command."""
    command = COMMANDS[name]
    module = _module(command)
    configure = _function(module, "configure", command)
    text = configure.__doc__ if command.name else module.__doc__
    description, _, epilog = inspect.cleandoc(text or "").partition("\n\n")
    parser = Parser(
        prog=f"realfake {name}",
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
    )
    configure(parser)
    return parser


def _parse(name: str, arguments: list[str]) -> argparse.Namespace:
    parser = build_parser(name)
    if not COMMANDS[name].training_options:
        return parser.parse_args(arguments)
    options, rest = parser.parse_known_args(arguments)
    options.training_options = rest
    return options


def _module(command: Command) -> ModuleType:
    return importlib.import_module(f"realfake.cli.{command.module}")


def _function(module: ModuleType, kind: str, command: Command) -> Callable:
    return getattr(module, f"{kind}_{command.name}" if command.name else kind)
