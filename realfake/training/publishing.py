"""What a finished run tells of itself: in its card, in `training.json`, and in the checkpoint's `config.json`."""

import ast
import dataclasses
import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from datasets import Dataset

from realfake.card.facts import hub_id
from realfake.card.render import write_card_of
from realfake.corpus.load import Corpus
from realfake.detector import Detector
from realfake.io import command_line, versions, write_atomically
from realfake.models.classifiers import input_size
from realfake.statistics.calibration import Calibration
from realfake.training.arguments import RunArguments
from realfake.training.runs import FINISHED, Arguments
from realfake.training.trainer import DetectorTrainer, ElapsedCallback, count_labels


def training_facts(
    trainer: DetectorTrainer,
    corpus: Corpus,
    parts: dict[str, Dataset],
    calibration: Calibration,
    arguments: Arguments,
) -> dict:
    """Collect what a reader of the card needs to know of the run, JSON-serialisable."""
    args, model = trainer.args, trainer.model
    options = {
        name: value
        for name, value in (
            ("ema_decay", args.ema_decay),
            ("backbone_lr_factor", args.backbone_lr_factor),
            ("l2_to_pretrained", args.l2_to_pretrained),
            ("head_epochs", args.head_epochs),
            ("mixup", arguments.data.mixup),
            ("cutmix", arguments.data.cutmix),
            ("consistency", arguments.data.consistency),
        )
        if value != (1 if name == "backbone_lr_factor" else 0)
    }
    changed = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if field.name
        in (
            "learning_rate",
            "lr_scheduler_type",
            "warmup_steps",
            "weight_decay",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "num_train_epochs",
            "max_steps",
            "label_smoothing_factor",
            "seed",
            "bf16",
            "metric_for_best_model",
            "early_stopping_patience",
            "optim",
            "max_grad_norm",
        )
    }
    elapsed = next(
        cb for cb in trainer.callback_handler.callbacks if isinstance(cb, ElapsedCallback)
    )
    return {
        "command": command_line(),
        "date": datetime.now(UTC).date().isoformat(),
        "world_size": args.world_size,
        "hardware": hardware(),
        "train_runtime_seconds": round(elapsed.seconds, 1),
        "epochs_trained": round(float(trainer.state.epoch or 0), 2),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "hyperparameters": {
            **{key: getattr(value, "value", value) for key, value in changed.items()},
            **options,
        },
        "model_class": type(trainer.plain_model()).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "base_model": arguments.model.model_name_or_path,
        "base_model_id": hub_id(arguments.model.model_name_or_path),
        "preprocessing": arguments.model.preprocessing,
        "trainable": arguments.model.trainable,
        "augmentation": trainer.train_dataset.augmentation.describe(),
        "class_weights": arguments.data.class_weights,
        "corpus": arguments.data.corpus_name,
        "corpus_id": hub_id(arguments.data.dataset),
        "hold_out": arguments.data.hold_out,
        "corpus_revision": arguments.data.dataset_revision,
        "corpus_report": corpus.report.to_dict(),
        "parts": {
            name: count_labels(part) for name, part in parts.items() if isinstance(part, Dataset)
        },
        "calibration": {**calibration.to_dict(), "folded": True},
        "license": args.license,
        "corpus_notes": Path(args.corpus_notes).read_text(encoding="utf-8")
        if args.corpus_notes
        else None,
        "repo_id": args.hub_model_id,
        "log_history": trainer.state.log_history,
        "versions": versions(),
    }


def config_facts(facts: dict, detector: Detector) -> dict:
    """Select what travels in `config.json`, where the page and the command line find it."""
    kept = ("corpus", "preprocessing", "calibration", "parts")
    return {**{name: facts[name] for name in kept}, "image_size": input_size(detector.processor)[0]}


def hardware() -> str:
    """Return the kind of machine in words, without its name."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


PACKAGE = Path(__file__).parents[1]
TEMPLATES = PACKAGE / "templates" / "endpoint"
# What the copied modules need that Endpoints' own image lacks or has in other versions.
REQUIREMENTS = (
    "transformers",
    "huggingface_hub",
    "captum",
    "numpy",
    "scipy",
    "pillow",
    "httpx",
    "httpcore",
    "safetensors",
    "defusedxml",
    "c2pa-python",
)


def write_endpoint(folder: str | Path, requirements: str | Path | None = None) -> list[Path]:
    """Write the handler, the modules it imports and their requirements into a checkpoint's folder.

    Args:
        folder: Of the checkpoint.
        requirements: *optional*. The project's list of requirements, whose bounds are taken over.

    Returns:
        The files, relative to the folder. Earlier copies that are needed no more are removed.
    """
    folder = Path(folder)
    handler = (TEMPLATES / "handler.py").read_text(encoding="utf-8")
    files = {Path("handler.py"): handler}
    for path in modules_of(handler):
        files[Path(PACKAGE.name) / path] = (PACKAGE / path).read_text(encoding="utf-8")
    files[Path("requirements.txt")] = _requirements(requirements)
    for old in (folder / PACKAGE.name).rglob("*.py"):
        if old.relative_to(folder) not in files:
            old.unlink()
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)
    return sorted(files)


def modules_of(source: str) -> list[Path]:
    """The files of this package that a program imports, directly or through others, relative to the package.

    Imports inside functions count: they are made when the function is called. Those under `TYPE_CHECKING` never are.
    """
    found: set[Path] = set()
    waiting = _imports(ast.parse(source), Path())
    while waiting:
        path = waiting.pop()
        if path in found or not (PACKAGE / path).is_file():
            continue
        found.add(path)
        waiting |= {parent / "__init__.py" for parent in path.parents}
        waiting |= _imports(ast.parse((PACKAGE / path).read_text(encoding="utf-8")), path.parent)
    return sorted(found)


def _imports(tree: ast.AST, here: Path) -> set[Path]:
    found: set[Path] = set()
    for node in _executed(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".") if node.module else []
        if node.level:
            base = here
            for _ in range(node.level - 1):
                base = base.parent
        elif parts[:1] == [PACKAGE.name]:
            base, parts = Path(), parts[1:]
        else:
            continue
        module = base.joinpath(*parts)
        if parts:
            found |= {module.with_suffix(".py"), module / "__init__.py"}
        else:
            found.add(module / "__init__.py")
        # `from . import text` names modules, `from .text import percent` does not.
        found |= {module / f"{alias.name}.py" for alias in node.names}
    return found


def _executed(tree: ast.AST):
    """All nodes but those under `if TYPE_CHECKING:`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            checking = isinstance(child, ast.If) and ast.unparse(child.test).endswith(
                "TYPE_CHECKING"
            )
            waiting += child.orelse if checking else [child]


def _requirements(path: str | Path | None) -> str:
    """The project's lines for the handler's packages; from the installed versions where there is no list."""
    bounds = {}
    path = PACKAGE.parent / "requirements.txt" if path is None else Path(path)
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            name = line.split("#")[0].strip()
            for mark in "[<>=~! ":
                name = name.split(mark)[0]
            bounds[name.lower()] = line.split("#")[0].strip()
    lines = [bounds.get(name) or _installed(name) for name in REQUIREMENTS]
    return "\n".join(["# What handler.py imports besides PyTorch.", *lines]) + "\n"


def _installed(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        major = version(name).split(".")[0]
    except PackageNotFoundError:
        return name
    return f"{name}>={major},<{int(major) + 1}"


# What belongs to the run, not to the checkpoint.
NOT_PUBLISHED = [
    ".margins/**",
    ".explanations/**",
    "checkpoint-*",
    "checkpoint-*/**",
    ".lock",
    "**/__pycache__/**",
    ".saving/**",
    ".*.tmp",
    "first_batch.png",
]
# What an earlier push may have left there: figures of other weights must not stand beside these.
REPLACED = [
    "plots/*",
    "scores-*.parquet",
    ".eval_results/realfake.yaml",
    "robustness.json",
    "explanations.*",
    "novelty.safetensors",
    "realfake/*",
]


def finish(folder: str | Path, facts: dict, measurement_log: str | Path) -> Path:
    """Store the run's facts and write the card; with `training.json` the run is finished.

    Args:
        facts: What [`run_facts.training_facts`] collected.

    Returns:
        The card.
    """
    folder = Path(folder)
    card = write_card_of(folder, facts, measurement_log)
    write_atomically(folder / FINISHED, json.dumps(facts, indent=1, default=str) + "\n")
    print(f"Finished: {card}", flush=True)
    return card


def check_login(args: RunArguments) -> None:
    """Look for a usable token before the training rather than after it, and complete `--hub_model_id` with its owner.

    Raises:
        ValueError: There is no token, or the Hub refuses it. A Hub that cannot be reached is only warned of.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

    try:
        owner = HfApi(token=args.hub_token).whoami()["name"]
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        refused = isinstance(error, LocalTokenNotFoundError) or error.response.status_code in (
            401,
            403,
        )
        if refused:
            raise ValueError(
                "--push_to_hub: the Hub does not know who you are; run `hf auth login` first."
            ) from error
        print(
            f"The Hub answers {error.response.status_code}; the push is tried again at the end.",
            file=sys.stderr,
        )
    except (HTTPError, OSError) as error:
        print(
            f"The Hub cannot be reached ({type(error).__name__}); the push is tried at the end.",
            file=sys.stderr,
        )
    else:
        repo = args.hub_model_id or Path(args.output_dir).resolve().name
        # The card's examples name the repository in full.
        args.hub_model_id = repo if "/" in repo else f"{owner}/{repo}"


def push(args: RunArguments, program: str = "train_hf.py") -> int:
    """Push the finished folder to the Hub, in one commit.

    Args:
        program: The script that says so when it fails.

    Returns:
        The exit status: 0, or 2 after one line that says why it failed and how to push again. The folder is complete
        either way.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, RevisionNotFoundError

    folder = Path(args.output_dir)
    repo = args.hub_model_id or folder.resolve().name
    try:
        write_endpoint(folder)
        api = HfApi(token=args.hub_token)
        repo = api.create_repo(repo, private=args.hub_private_repo, exist_ok=True).repo_id
        if args.hub_revision:
            try:
                api.model_info(repo, revision=args.hub_revision)
            except RevisionNotFoundError:
                api.create_branch(repo, branch=args.hub_revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=args.hub_revision,
            ignore_patterns=list(NOT_PUBLISHED),  # the client adds to the list it is given
            delete_patterns=REPLACED,
            commit_message="Calibrated detector with its card and figures",
        )
    # RuntimeError is what the client makes of a connection that is lost while it sends the weights.
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())[:300]
        print(
            f"{program}: error: the push to {repo} failed ({type(error).__name__}: {reason}). The checkpoint is complete "
            f"in {folder}; push it again with: {_upload_command(repo, folder, args)}",
            file=sys.stderr,
        )
        return 2
    print(f"Pushed to {commit.repo_url if hasattr(commit, 'repo_url') else repo}")
    return 0


def _upload_command(repo: str, folder: Path, args: RunArguments) -> str:
    """The command that does what [`push`] does."""
    words = ["hf", "upload", repo, str(folder), "."]
    words += ["--revision", args.hub_revision] if args.hub_revision else []
    words += ["--private"] if args.hub_private_repo else []
    words += [word for pattern in NOT_PUBLISHED for word in ("--exclude", pattern)]
    words += [word for pattern in REPLACED for word in ("--delete", pattern)]
    return shlex.join(words)
