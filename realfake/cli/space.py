"""The commands of the web page: serve it on this machine, deploy it as a Space on the Hub."""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, SpaceCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

ROOT = Path(__file__).resolve().parents[2]
# What the page runs on. The scores behind the figures are large and not shown.
FILES = ("app.py", "requirements.txt", "README.md", "LICENSE", "realfake")
NOT_NEEDED = shutil.ignore_patterns("__pycache__", "*.pyc", "scores-*.parquet", ".*")
TRUST_LIST = "c2pa-trust-list.pem"


def configure_serve(parser: argparse.ArgumentParser) -> None:
    """Serve the web page and the HTTP API on this machine.

    realfake space run
    REALFAKE_MODEL=user/name@revision GRADIO_SERVER_PORT=8080 realfake space run

    The settings are environment variables: realfake/space/README.md lists them.
    """


def run_serve(args: argparse.Namespace) -> int:
    """Serve until the process is stopped."""
    from realfake.space import log
    from realfake.space.feedback import Feedback
    from realfake.space.loading import load
    from realfake.space.page import build, launch
    from realfake.space.zero_gpu import lend

    log.set_up()
    loaded = load()
    lend(loaded.detector)
    launch(build(loaded, Feedback.from_environ()))
    return 0


def configure_deploy(parser: argparse.ArgumentParser) -> None:
    """Create or update a Space on the Hugging Face Hub that serves a model.

    realfake space deploy user/name --model user/model
    realfake space deploy user/name --model user/model@v2 --hardware zero-a10g --secret HF_TOKEN

    Needs `hf auth login`. The command changes only what differs, so it can be repeated at any time.
    It uploads changed files in one commit, removes files that no longer exist, and keeps settings
    that are not named. Examples of hardware: cpu-basic (free), zero-a10g (ZeroGPU), t4-small.
    """
    parser.add_argument("space", metavar="USER/NAME", help="Space; created if it does not exist")
    parser.add_argument(
        "--model", help="detector: user/model or user/model@revision (default: the bundled one)"
    )
    parser.add_argument("--hardware", help="hardware of the Space (default: no change)")
    parser.add_argument("--private", action="store_true", help="create a private Space")
    parser.add_argument("--feedback_repo", help="Hub dataset for visitors' corrections")
    parser.add_argument("--trust_list", metavar="FILE", help="PEM file of trusted C2PA signers")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME",
        help="environment variable to store as a secret of the Space; can be repeated",
    )


def run_deploy(args: argparse.Namespace) -> int:
    """Check the options and deploy."""
    if args.space.count("/") != 1:
        raise ValueError(f"{args.space}: name the Space with its owner, user/name.")
    for name in args.secret:
        if not os.environ.get(name):
            raise ValueError(f"--secret {name}: there is no environment variable of this name.")
    if args.trust_list and "BEGIN CERTIFICATE" not in Path(args.trust_list).read_text(
        errors="replace"
    ):
        raise ValueError(f"--trust_list {args.trust_list} holds no PEM certificate.")
    try:
        deploy(args)
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    return 0


def deploy(args: argparse.Namespace, api: HfApi | None = None) -> None:
    """Bring the Space to what the options say."""
    api = api or HfApi()
    variables = _variables(api, args)
    exists = api.repo_exists(args.space, repo_type="space")
    if not exists:
        api.create_repo(
            args.space,
            repo_type="space",
            space_sdk="gradio",
            space_hardware=args.hardware,
            private=args.private,
            exist_ok=True,
        )
        print(f"Created the Space {args.space}")
    _set_variables(api, args.space, variables)
    for name in args.secret:
        api.add_space_secret(args.space, name, os.environ[name])
        print(f"Set the secret {name}")
    with tempfile.TemporaryDirectory() as staged:
        model = (args.model or "").partition("@")[0] or None
        stage(Path(staged), model, args.trust_list, _kept_trust_list(api, args))
        before = api.space_info(args.space).sha
        commit = api.upload_folder(
            repo_id=args.space,
            repo_type="space",
            folder_path=staged,
            delete_patterns="*",
            commit_message="Bring the page up to date",
        )
    print(
        "The files are as they were"
        if commit.oid == before
        else f"Uploaded the files: {commit.oid[:10]}"
    )
    if exists and args.hardware:
        requested = api.get_space_runtime(args.space).requested_hardware
        if requested != args.hardware:
            api.request_space_hardware(args.space, args.hardware)
            print(f"Asked for {args.hardware} instead of {requested}")
    print(f"{api.endpoint}/spaces/{args.space} is {api.get_space_runtime(args.space).stage}")


def stage(
    folder: Path, model: str | None = None, trust_list: str | None = None, kept: bytes | None = None
) -> None:
    """Put together what the Space is to hold.

    Args:
        folder: Where; exists.
        model: Named in the Space's card.
        trust_list: C2PA trust list to add, or
        kept: the content of the one that the Space has.
    """
    for name in FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=NOT_NEEDED)
        else:
            shutil.copyfile(source, folder / name)
    if model:
        card = SpaceCard((folder / "README.md").read_text(encoding="utf-8"))
        card.data.models = [model]
        (folder / "README.md").write_text(str(card), encoding="utf-8")
    if trust_list:
        kept = Path(trust_list).read_bytes()
    if kept:
        (folder / TRUST_LIST).write_bytes(kept)


def _variables(api: HfApi, args: argparse.Namespace) -> dict[str, str | None]:
    """What the options say of the Space's variables; `None` takes one away."""
    variables: dict[str, str | None] = {}
    if args.model:
        model, _, revision = args.model.partition("@")
        try:
            api.model_info(model, revision=revision or None)
        except RepositoryNotFoundError:
            raise ValueError(
                f"--model {model}: there is no such model on the Hub, or it is private."
            ) from None
        except RevisionNotFoundError:
            raise ValueError(f"--model {model} has no revision {revision!r}.") from None
        variables |= {"REALFAKE_MODEL": model, "REALFAKE_REVISION": revision or None}
    if args.feedback_repo:
        variables["REALFAKE_FEEDBACK_REPO"] = args.feedback_repo
    if args.trust_list:
        variables["REALFAKE_C2PA_TRUST_LIST"] = TRUST_LIST
    return variables


def _set_variables(api: HfApi, space: str, variables: dict[str, str | None]) -> None:
    held = {name: variable.value for name, variable in api.get_space_variables(space).items()}
    for name, value in variables.items():
        if value is None and name in held:
            api.delete_space_variable(space, name)
            print(f"Removed the variable {name}")
        elif value is not None and held.get(name) != value:
            # Every change restarts the Space; one that changes nothing would too.
            api.add_space_variable(space, name, value)
            print(f"Set the variable {name} to {value}")


def _kept_trust_list(api: HfApi, args: argparse.Namespace) -> bytes | None:
    if args.trust_list or not api.file_exists(args.space, TRUST_LIST, repo_type="space"):
        return None
    return Path(api.hf_hub_download(args.space, TRUST_LIST, repo_type="space")).read_bytes()
