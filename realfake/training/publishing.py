"""Publish a finished run: its facts, its card, the Endpoint's handler, and the push to the Hub."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

import realfake
from realfake.card.claims import limits
from realfake.card.facts import CardFacts, hub_id, license_of
from realfake.card.render import card_data, write_card_of
from realfake.corpus.load import Corpus
from realfake.formatting import code, fence, md, table
from realfake.io import command_line, report_failure, versions, write_atomically
from realfake.labels import AI, REAL
from realfake.statistics.calibration import Calibration
from realfake.training.arguments import Arguments
from realfake.training.optimization import ElapsedCallback
from realfake.training.runs import FINISHED
from realfake.training.trainer import DetectorTrainer, count_labels

TEMPLATES = Path(realfake.__file__).parent / "templates"
# Files of the run that do not belong to the checkpoint.
NOT_PUBLISHED = [
    ".margins/**",
    ".scores/**",
    ".log_odds/**",
    ".explanations/**",
    "checkpoint-*",
    "checkpoint-*/**",
    ".lock",
    "**/__pycache__/**",
    ".saving/**",
    ".*.tmp",
    "first_batch.png",
    "measurements.jsonl",
]
# Files of an earlier push, which describe other weights or older code.
REPLACED = [
    "plots/*",
    "scores-*.parquet",
    ".eval_results/realfake.yaml",
    "robustness.json",
    "categories.json",
    "formats.json",
    "views.json",
    "explanations.*",
    "novelty.safetensors",
    "ood.safetensors",
    "realfake/*",
    "adapter/*",
]
# TrainingArguments that the card lists.
_LISTED = (
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

# The facts of a run


def config_facts(arguments: Arguments, splits: Mapping[str, Any]) -> dict:
    """Return what `config.json` stores of a run, next to its calibration."""
    return {
        "corpus": arguments.data.corpus_name,
        "preprocessing": arguments.model.preprocessing,
        "parts": _sizes(splits),
    }


def training_facts(
    trainer: DetectorTrainer,
    corpus: Corpus,
    splits: Mapping[str, Any],
    calibration: Calibration,
    arguments: Arguments,
) -> dict:
    """Collect what the card needs from a run, as JSON values."""
    args, data, model = trainer.args, arguments.data, arguments.model
    hyperparameters = {
        name: getattr(value, "value", value)
        for name, value in ((name, getattr(args, name)) for name in _LISTED)
    }
    optional = {
        "blocks": (model.blocks, None),
        "lora_rank": (model.lora_rank, 0),
        "lora_alpha": (model.lora_alpha, None),
        "probe_images": (args.probe_images, 0),
        "ema_decay": (args.ema_decay, 0),
        "max_minutes": (args.max_minutes, 0),
        "patch_dropout": (args.patch_dropout, 0),
        "patch_dropout_until": (args.patch_dropout_until, 1),
        "backbone_lr_factor": (args.backbone_lr_factor, 1),
        "balance": (data.balance, None),
        "native_views": (data.native_views, False),
        "pair_share": (data.pair_share, 0),
        "pair_mix": (data.pair_mix, 0),
        "cutmix": (data.cutmix, 0),
        "consistency": (data.consistency, 0),
    }
    hyperparameters |= {name: value for name, (value, off) in optional.items() if value != off}
    notes = args.corpus_notes
    return {
        "command": command_line(),
        "date": datetime.now(UTC).date().isoformat(),
        "world_size": args.world_size,
        "hardware": hardware(),
        "train_runtime_seconds": round(trainer.find_callback(ElapsedCallback).seconds, 1),
        "epochs_trained": round(float(trainer.state.epoch or 0), 2),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "hyperparameters": hyperparameters,
        "model_class": type(trainer.plain_model()).__name__,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "base_model": model.model_name_or_path,
        "base_model_id": hub_id(model.model_name_or_path),
        "preprocessing": model.preprocessing,
        "trainable": "low-rank adapters and head" if model.lora_rank else model.trainable,
        "augmentation": trainer.train_dataset.augmentation.describe(),
        "class_weights": data.class_weights,
        "corpus": data.corpus_name,
        "corpus_id": hub_id(data.dataset),
        "hold_out": data.hold_out,
        "corpus_revision": data.dataset_revision,
        "corpus_report": corpus.report.to_dict(),
        "parts": _sizes(splits),
        "calibration": {**calibration.to_dict(), "folded": True},
        "license": license_of(args.license, model.model_name_or_path, download=True),
        "corpus_notes": Path(notes).read_text(encoding="utf-8") if notes else None,
        "repo_id": args.hub_model_id,
        "log_history": trainer.state.log_history,
        "versions": versions(),
    }


def _sizes(splits: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    return {
        name: count_labels(split) for name, split in splits.items() if isinstance(split, Dataset)
    }


def hardware() -> str:
    """Return the kind of machine in words, without its name."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


# The card


def finish(folder: str | Path, facts: dict, measurement_log: str | Path) -> Path:
    """Write the card and `training.json`, which marks the run as finished.

    Args:
        facts: From [`training_facts`].

    Returns:
        The path of the card.
    """
    folder = Path(folder)
    card = write_card_of(folder, facts, measurement_log)
    write_atomically(folder / FINISHED, json.dumps(facts, indent=1, default=str) + "\n")
    print(f"Finished: {card}", flush=True)
    return card


def write_calibrated_card(
    folder: str | Path,
    facts: dict,
    calibration: Calibration,
    evaluation: Mapping,
    split: str,
    license: str | None,
) -> Path:
    """Write the card of a checkpoint that was calibrated here and trained elsewhere.

    Args:
        folder: Folder of the checkpoint.
        facts: `model`, `model_id` (on the Hub, or `None`), `revision`, `source`, `name`, `classes`,
            `original_classes`, `corpus`, `command`, `degraded`, `thresholds`, `ood`, `versions`,
            `plots`, `measurements`.
        evaluation: The content of `evaluation.json`.
        split: The split of the headline figures.
        license: Of the weights, by the Hub's identifier; `None` if unknown.
    """
    from huggingface_hub import ModelCard

    record = evaluation[split]
    known = CardFacts(
        name=facts["name"],
        base_model_id=facts["model_id"],
        corpus=facts["corpus"],
        tags=["calibrated"],
        calibration=calibration.to_dict(),
        evaluation={split: record},
        measurements=facts["measurements"],
    )
    data = card_data(known)
    data.license = license
    others = {name: entry for name, entry in evaluation.items() if name != split}
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATES / "calibrated_card.md"),
        facts=facts,
        calibration=calibration,
        thresholds=facts["thresholds"],
        ood=facts["ood"],
        split=split,
        record=record,
        comparison=before_and_after(record),
        others={name: before_and_after(entry) for name, entry in others.items()},
        limits=limits(known, name_split=False),
        license=license,
        real=REAL,
        ai=AI,
        md=md,
        code=code,
        fence=fence,
    )
    path = Path(folder) / "README.md"
    write_atomically(path, str(card))
    return path


def before_and_after(record: Mapping) -> str:
    """Return the figures of a split before and after calibration as a Markdown table.

    Args:
        record: The split's record of `evaluation.json`.
    """
    old, new = record["before_calibration"]["summary"], record["figures"]["summary"]
    names = {
        "nll": "NLL (nats, classes balanced)",
        "ece": "ECE (classes balanced)",
        "ece_noise_floor": "ECE of a perfectly calibrated model, by chance",
        "brier": "Brier score (classes balanced)",
        "balanced_accuracy": "Balanced accuracy",
        "auroc": "AUROC",
    }
    rows = [[text, _figure(old[key]), _figure(new[key])] for key, text in names.items()]
    return table(["", "before", "as published"], rows)


def _figure(figure: Mapping) -> str:
    if figure["value"] is None:
        return "–"
    text = f"{figure['value']:.4f}"
    return text if figure["low"] is None else f"{text} ({figure['low']:.4f} – {figure['high']:.4f})"


# The Inference Endpoint


def write_endpoint(folder: str | Path) -> None:
    """Write `handler.py` and its `requirements.txt` for Inference Endpoints into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handler = (TEMPLATES / "endpoint" / "handler.py").read_text(encoding="utf-8")
    write_atomically(folder / "handler.py", handler)
    write_atomically(folder / "requirements.txt", f"{requirement()}\n")


def requirement() -> str:
    """Return the pip requirement of this realfake: a commit if pip recorded one, else the version.

    The environment variable `REALFAKE_REQUIREMENT` takes precedence, such as
    `realfake @ git+https://github.com/user/realfake@COMMIT`.
    """
    if given := os.environ.get("REALFAKE_REQUIREMENT"):
        return given
    try:
        # PEP 610: pip stores where it installed a package from.
        source = json.loads(distribution("realfake").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        source = {}
    if commit := source.get("vcs_info", {}).get("commit_id"):
        return f"realfake @ {source['vcs_info']['vcs']}+{source['url']}@{commit}"
    return f"realfake=={realfake.__version__}"


# The Hub


def check_login(args: Any) -> None:
    """Check the token before the training, and complete `--hub_model_id` with its owner.

    Args:
        args: Options with `hub_token`, `hub_model_id` and `output_dir`.

    Raises:
        ValueError: There is no token, or the Hub refuses it. An unreachable Hub causes a warning.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

    try:
        owner = HfApi(token=args.hub_token).whoami()["name"]
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        if isinstance(error, LocalTokenNotFoundError) or error.response.status_code in (401, 403):
            raise ValueError(
                "--push_to_hub: the Hub refuses the token, or there is none; run `hf auth login`."
            ) from error
        status = error.response.status_code
        print(f"The Hub answers {status}; the push is tried at the end.", file=sys.stderr)
    except (HTTPError, OSError) as error:
        kind = type(error).__name__
        print(f"The Hub is unreachable ({kind}); the push is tried at the end.", file=sys.stderr)
    else:
        repo = args.hub_model_id or Path(args.output_dir).resolve().name
        # The card's examples name the repository in full.
        args.hub_model_id = repo if "/" in repo else f"{owner}/{repo}"


def push(args: Any) -> int:
    """Push the finished folder to the Hub, in one commit.

    Args:
        args: Options with `output_dir`, `hub_token`, `hub_model_id`, `hub_private_repo` and
            `hub_revision`.

    Returns:
        The exit status: 0, or 2 after a line with the error and a command that repeats the push.
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
    # The client raises RuntimeError for a connection that is lost while it sends the weights.
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())[:300]
        message = (
            f"The push to {repo} failed ({type(error).__name__}: {reason}). The checkpoint is "
            f"complete in {folder}; push it again with: {_upload_command(repo, folder, args)}"
        )
        return report_failure(RuntimeError(message))
    print(f"Pushed to {commit.repo_url if hasattr(commit, 'repo_url') else repo}")
    return 0


def _upload_command(repo: str, folder: Path, args: Any) -> str:
    """Return the command that repeats [`push`]."""
    words = ["hf", "upload", repo, str(folder), "."]
    words += ["--revision", args.hub_revision] if args.hub_revision else []
    words += ["--private"] if args.hub_private_repo else []
    words += [word for pattern in NOT_PUBLISHED for word in ("--exclude", pattern)]
    words += [word for pattern in REPLACED for word in ("--delete", pattern)]
    return shlex.join(words)
