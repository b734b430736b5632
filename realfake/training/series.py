"""The image classifiers that `scripts/compare.py` knows by name: from the Hub, or built from scratch at a smaller scale.

The seven are those that papers on generated images compare most often.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from realfake.evaluation import results
from realfake.io import command_line, write_atomically
from realfake.training.runs import FINISHED

SCALES = ("tiny", "small", "full")


@dataclass(frozen=True)
class Architecture:
    """One of the seven.

    Args:
        hub_id: A checkpoint pretrained on ImageNet.
        model_type: What transformers calls it.
        full: Fields of its configuration in which it differs from the default one.
        small, tiny: The same at about a quarter and a sixteenth of the width, with fewer layers where there are many.
    """

    hub_id: str
    model_type: str
    full: dict = field(default_factory=dict)
    small: dict = field(default_factory=dict)
    tiny: dict = field(default_factory=dict)


def _resnet(width: int, depths: list[int], layer_type: str) -> dict:
    stages = [width * 2**stage for stage in range(4)]
    first = width if layer_type == "basic" else max(8, width // 4)
    return {
        "embedding_size": first,
        "hidden_sizes": stages,
        "depths": depths,
        "layer_type": layer_type,
    }


def _vit(width: int, layers: int, heads: int) -> dict:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


def _convnext(width: int, depths: list[int]) -> dict:
    return {"hidden_sizes": [width * 2**stage for stage in range(4)], "depths": depths}


def _efficientnet(width: float, depth: float, dropout: float) -> dict:
    # The top convolution has 1280 channels at width 1, and the classifier has to be told.
    return {
        "width_coefficient": width,
        "depth_coefficient": depth,
        "hidden_dim": max(8, round(1280 * width / 8) * 8),
        "dropout_rate": dropout,
        # For weights from TensorFlow. From scratch, signals this small drown in the normalisations' epsilon (0.02), and running
        # statistics that forget at TensorFlow's 0.99 are those of the last batch.
        "initializer_range": 0.1,
        "batch_norm_momentum": 0.1,
    }


ARCHITECTURES = {
    "resnet-18": Architecture(
        "microsoft/resnet-18",
        "resnet",
        _resnet(64, [2, 2, 2, 2], "basic"),
        _resnet(32, [2, 2, 2, 2], "basic"),
        _resnet(16, [1, 1, 1, 1], "basic"),
    ),
    "resnet-50": Architecture(
        "microsoft/resnet-50",
        "resnet",
        _resnet(256, [3, 4, 6, 3], "bottleneck"),
        _resnet(128, [2, 3, 4, 2], "bottleneck"),
        _resnet(32, [2, 2, 3, 2], "bottleneck"),
    ),
    "vit-b/16": Architecture(
        "google/vit-base-patch16-224", "vit", _vit(768, 12, 12), _vit(192, 9, 3), _vit(64, 4, 2)
    ),
    "convnextv2-tiny": Architecture(
        "facebook/convnextv2-tiny-1k-224",
        "convnextv2",
        _convnext(96, [3, 3, 9, 3]),
        _convnext(40, [2, 2, 6, 2]),
        _convnext(16, [1, 1, 2, 1]),
    ),
    "convnextv2-base": Architecture(
        "facebook/convnextv2-base-1k-224",
        "convnextv2",
        _convnext(128, [3, 3, 27, 3]),
        _convnext(64, [2, 2, 9, 2]),
        _convnext(24, [1, 1, 4, 1]),
    ),
    "efficientnet-b0": Architecture(
        "google/efficientnet-b0",
        "efficientnet",
        _efficientnet(1.0, 1.0, 0.2),
        _efficientnet(0.5, 1.0, 0.2),
        _efficientnet(0.25, 0.5, 0.1),
    ),
    "efficientnet-b6": Architecture(
        "google/efficientnet-b6",
        "efficientnet",
        _efficientnet(1.8, 2.6, 0.5),
        _efficientnet(0.8, 1.6, 0.3),
        _efficientnet(0.4, 0.8, 0.2),
    ),
}


def words_for(name: str, *, from_scratch: bool, scale: str, image_size: int | None) -> list[str]:
    """Return the options of `train_hf.py` that name a model.

    Args:
        name: One of the seven, or a Hub id or folder.
        from_scratch: Random weights instead of the Hub's.
        scale: "full", or smaller; only from scratch.
        image_size: Side of the input in pixels; with small inputs the first layer's patches become smaller too.

    Raises:
        ValueError: A checkpoint that is not one of the seven is to be built from scratch, or scaled down.
    """
    known = ARCHITECTURES.get(name)
    if not from_scratch:
        return ["--model_name_or_path", known.hub_id if known else name]
    if known is None:
        raise ValueError(
            f"--from_scratch knows {', '.join(ARCHITECTURES)}, not {name!r}; describe other models in a JSON file."
        )
    overrides = dict(getattr(known, scale))
    if image_size is not None and image_size < 128:
        patch = {"vit": max(2, image_size // 8), "convnextv2": 2 if image_size < 64 else 4}.get(
            known.model_type
        )
        overrides |= {"patch_size": patch} if patch else {}
    return ["--model_type", known.model_type, "--config_overrides", json.dumps(overrides)]


TRAIN_HF = Path(__file__).parents[2] / "train_hf.py"
WORDS = "words.json"


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: Of the model or of what is left out, for people.
        words: Options of `train_hf.py`, without `--output_dir`.
        folder: Where it goes.
    """

    name: str
    words: tuple[str, ...]
    folder: Path

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def finished(self) -> bool:
        return (self.folder / FINISHED).is_file()


def check_folders(runs: Sequence[Run]) -> None:
    """Look for folders that hold a run of other options, before anything is trained.

    Raises:
        ValueError: There is one.
    """
    for run in runs:
        path = run.folder / WORDS
        if path.is_file() and json.loads(path.read_text()) != list(run.words):
            raise ValueError(
                f"{run.folder} holds a run of other options; give the same ones again, or pass another --output_dir."
            )


def train_all(runs: Sequence[Run], launcher: str | None = None) -> dict[str, str]:
    """Train what is not finished yet; an interrupted run continues.

    Args:
        launcher: *optional*. What starts `train_hf.py`, such as `"accelerate launch --num_processes 2"`; *defaults to* this
            Python.

    Returns:
        `{folder's name: the last line it printed}` of the runs that failed; the others are trained all the same.
    """
    start = shlex.split(launcher) if launcher else [sys.executable]
    failed = {}
    for number, run in enumerate(runs, start=1):
        where = f"[{number}/{len(runs)}] {run.folder.name}"
        if run.finished:
            print(f"{where}: finished before", flush=True)
            continue
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.folder / WORDS, json.dumps(run.words) + "\n")
        print(f"{where}: training; its output is in {run.log}", flush=True)
        began = time.monotonic()
        with open(run.log, "a", encoding="utf-8") as log:
            status = subprocess.run(
                [*start, str(TRAIN_HF), *run.words, "--output_dir", str(run.folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode
        if status or not run.finished:
            lines = run.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [
                ""
            ]
            failed[run.folder.name] = lines[-1]
            print(f"{where}: failed (status {status}): {lines[-1]}", file=sys.stderr, flush=True)
        else:
            print(f"{where}: {time.monotonic() - began:.0f} s", flush=True)
    return failed


def conclude(
    folder: Path,
    name: str,
    figures: Mapping,
    failed: Mapping[str, str],
    page: Callable[[Mapping], str],
) -> int:
    """Write what came of the runs to `name.json` and `name.md`, and print the page.

    Args:
        figures: What is recorded beside the date, the command and the failures.
        failed: What [`train_all`] returned.
        page: Makes Markdown of the record.

    Returns:
        The exit status: 2 if a run failed, else 0.

    Raises:
        OSError: A file cannot be written.
    """
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        **figures,
        "failed": failed,
    }
    text = page(record)
    write_atomically(
        folder / f"{name}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    )
    write_atomically(folder / f"{name}.md", text)
    print(f"\n{text}\n{folder / f'{name}.md'}")
    return 2 if failed else 0


def read_run_scores(folder: Path, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """Read what a finished run scored, several splits one after the other.

    Returns:
        `{"margin": (n,), "is_ai": (n,), "groups": (n,)}`; images of different splits share no group.
    """
    log_odds, is_ai, groups = [], [], []
    for split in splits:
        table = results.read_scores(folder / f"scores-{split}.parquet")
        own = table.get("groups")
        own = np.arange(len(table["log_odds"])) if own is None else np.asarray(own, dtype=np.int64)
        offset = max((int(part.max()) + 1 for part in groups if len(part)), default=0)
        log_odds.append(np.asarray(table["log_odds"], dtype=np.float64))
        is_ai.append(np.asarray(table["is_ai"], dtype=bool))
        groups.append(own - own.min(initial=0) + offset)
    return {
        "log_odds": np.concatenate(log_odds),
        "is_ai": np.concatenate(is_ai),
        "groups": np.concatenate(groups),
    }
