"""Commands of the web page: serve it on this machine, deploy it as a Space on the Hub."""

import argparse
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

TRUST_LIST = "c2pa-trust-list.pem"
# Files of a checkpoint that opening it reads.
_LOADED = (".json", ".safetensors")
# Equal to `app.py` of the repository.
APP = '''"""The web page, as a Space or on this machine, see `realfake/space/README.md`."""

import sys

from realfake.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["space", "run"]))
'''


def configure_serve(parser: argparse.ArgumentParser) -> None:
    """Serve the web page and the HTTP API on this machine.

        realfake space run
        REALFAKE_MODEL=user/name@revision GRADIO_SERVER_PORT=8080 realfake space run

    Environment variables set everything; realfake/space/README.md lists them.
    """


def run_serve(args: argparse.Namespace) -> int:
    """Serve until the process is stopped."""
    from realfake.space.feedback import Feedback
    from realfake.space.limits import set_up_log
    from realfake.space.loading import load, use_zero_gpu
    from realfake.space.page import build, launch

    set_up_log()
    try:
        loaded = load()
        use_zero_gpu(loaded.detector)
        launch(build(loaded, Feedback.from_environ()))
    except (ValueError, OSError) as error:
        raise ValueError(f"The page cannot start: {error}") from None
    return 0


def configure_deploy(parser: argparse.ArgumentParser) -> None:
    """Create or update a Space on the Hugging Face Hub that serves a model.

        realfake space deploy user/name --model user/model
        realfake space deploy user/name --model user/model@v2 --hardware zero-a10g \\
            --secret HF_TOKEN

    Log in first: hf auth login. The command can be repeated: it uploads changed files in one
    commit, deletes files that no longer exist, and changes only the settings that are named.
    Examples of hardware: cpu-basic (free), zero-a10g (ZeroGPU), t4-small.
    """
    parser.add_argument("space", metavar="USER/NAME", help="Space to create or update")
    parser.add_argument(
        "--model", help="user/model or user/model@revision (default: the bundled detector)"
    )
    parser.add_argument("--hardware", help="hardware of the Space (default: unchanged)")
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
        raise ValueError(f"{args.space}: name the Space as user/name.")
    for name in args.secret:
        if not os.environ.get(name):
            raise ValueError(
                f"--secret {name}: there is no environment variable {name}; set it first."
            )
    if args.trust_list and "BEGIN CERTIFICATE" not in Path(args.trust_list).read_text(
        errors="replace"
    ):
        raise ValueError(f"--trust_list {args.trust_list} holds no PEM certificate.")
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        deploy(args)
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    return 0


def deploy(args: argparse.Namespace, api: "HfApi | None" = None) -> None:
    """Create or update the Space."""
    from huggingface_hub import HfApi

    api = api or HfApi()
    model = _model_info(api, args)
    variables = _variables(args)
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
    trust_list = _trust_list(api, args)
    with tempfile.TemporaryDirectory() as folder:
        requested = api.get_space_runtime(args.space).requested_hardware
        settings: dict[str, Any] = {"suggested_hardware": args.hardware or requested}
        if model is not None:
            settings |= {"models": [model.id], **_preloaded(model, "@" in args.model)}
        stage(Path(folder), trust_list, **settings)
        before = api.space_info(args.space).sha
        commit = api.upload_folder(
            repo_id=args.space,
            repo_type="space",
            folder_path=folder,
            delete_patterns="*",
            commit_message="Update the page",
        )
    unchanged = commit.oid == before
    print("The files are up to date" if unchanged else f"Uploaded the files: {commit.oid[:10]}")
    if exists and args.hardware and requested != args.hardware:
        api.request_space_hardware(args.space, args.hardware)
        print(f"Requested {args.hardware} instead of {requested}")
    print(f"{api.endpoint}/spaces/{args.space} is {api.get_space_runtime(args.space).stage}")


def stage(folder: Path, trust_list: bytes | None = None, **settings: Any) -> None:
    """Write the files of the Space: the installed package, its requirements, and an `app.py`.

    Args:
        folder: Where to write; it exists.
        trust_list: *optional*. Content of a C2PA trust list.
        settings: Metadata of the Space's card, instead of those of the repository's README.md.

    Raises:
        ValueError: The package was not installed by pip.
    """
    from huggingface_hub import SpaceCard

    package = _distribution()
    shutil.copytree(
        Path(__file__).parents[1],
        folder / "realfake",
        ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "scores-*.parquet", ".*"),
    )
    requirements = [line for line in package.requires or () if "extra ==" not in line]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    (folder / "LICENSE").write_text(package.read_text("licenses/LICENSE"), encoding="utf-8")
    (folder / "app.py").write_text(APP, encoding="utf-8")
    # The repository's README.md, which begins with the metadata of the Space.
    card = SpaceCard(package.metadata["Description"])
    for name, value in {"startup_duration_timeout": "1h", **settings}.items():
        if value:
            setattr(card.data, name, value)
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    if trust_list:
        (folder / TRUST_LIST).write_bytes(trust_list)


def _distribution() -> importlib.metadata.Distribution:
    """Return the metadata of the installed package; a checkout can have an incomplete copy."""
    for package in importlib.metadata.distributions(name="realfake"):
        if package.requires and package.read_text("licenses/LICENSE"):
            return package
    raise ValueError("This copy of realfake is not installed; install it with: pip install .")


def _model_info(api: "HfApi", args: argparse.Namespace) -> "ModelInfo | None":
    """Return what the Hub knows of `--model`."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if not args.model:
        return None
    model, _, revision = args.model.partition("@")
    try:
        return api.model_info(model, revision=revision or None)
    except RepositoryNotFoundError:
        raise ValueError(
            f"--model {model}: there is no such model on the Hub, or it is private."
        ) from None
    except RevisionNotFoundError:
        raise ValueError(f"--model {model} has no revision {revision!r}.") from None


def _preloaded(model: "ModelInfo", pinned: bool) -> dict[str, list[str]]:
    """Return the setting that downloads a model while the Space is built, not when it starts.

    A private model cannot be read at that time.
    """
    if model.private:
        return {}
    if not pinned:
        return {"preload_from_hub": [model.id]}
    # A revision can only be named after a list of files.
    names = [file.rfilename for file in model.siblings or ()]
    needed = [name for name in names if "/" not in name and name.endswith(_LOADED)]
    return {"preload_from_hub": [f"{model.id} {','.join(sorted(needed))} {model.sha}"]}


def _variables(args: argparse.Namespace) -> dict[str, str | None]:
    """Return the variables to set; `None` removes a variable."""
    variables: dict[str, str | None] = {}
    if args.model:
        model, _, revision = args.model.partition("@")
        variables |= {"REALFAKE_MODEL": model, "REALFAKE_REVISION": revision or None}
    if args.feedback_repo:
        variables["REALFAKE_FEEDBACK_REPO"] = args.feedback_repo
    if args.trust_list:
        variables["REALFAKE_C2PA_TRUST_LIST"] = TRUST_LIST
    return variables


def _set_variables(api: "HfApi", space: str, variables: dict[str, str | None]) -> None:
    current = {name: variable.value for name, variable in api.get_space_variables(space).items()}
    for name, value in variables.items():
        if value is None and name in current:
            api.delete_space_variable(space, name)
            print(f"Removed the variable {name}")
        elif value is not None and current.get(name) != value:
            # Every call restarts the Space, even without a change.
            api.add_space_variable(space, name, value)
            print(f"Set the variable {name} to {value}")


def _trust_list(api: "HfApi", args: argparse.Namespace) -> bytes | None:
    """Return the content of the given trust list, or of the one in the Space."""
    if args.trust_list:
        return Path(args.trust_list).read_bytes()
    if not api.file_exists(args.space, TRUST_LIST, repo_type="space"):
        return None
    return Path(api.hf_hub_download(args.space, TRUST_LIST, repo_type="space")).read_bytes()
