"""The end of a run: the model card, the plots, and the push to the Hub."""

import json
import shlex
import sys
from pathlib import Path

from ..card.files import write_card_of
from ..endpoint import write_endpoint
from ..records import write_atomically
from .arguments import RunArguments
from .runs import FINISHED

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
        refused = isinstance(error, LocalTokenNotFoundError) or error.response.status_code in (401, 403)
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
