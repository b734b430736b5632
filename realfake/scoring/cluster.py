"""Score on the machines of a Ray cluster.

Ray Data hands the tasks of a run to a pool of actors. Each actor opens the detector once, scores
its tasks as a single machine does, and writes the same files. All machines must see the source and
the output: a shared file system, object storage, or the Hub.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realfake.scoring.source import ScoringSource, open_source

if TYPE_CHECKING:
    import numpy as np

    from realfake.scoring.run import Progress, Task


@dataclass
class Cluster:
    """A Ray cluster, and what its actors need to open.

    Args:
        detector: Arguments of [`~realfake.detector.Detector.from_pretrained`].
        source: Arguments of [`~realfake.scoring.source.open_source`] after `scratch`.
        output: The folder of the shards.
        address: *optional*. Address of the cluster; *defaults to* the environment's, or a local
            one.
        actors: *optional*. Number of actors; *defaults to* one for each core, or for each GPU.
        gpus: GPUs of an actor; a fraction lets several share one.

    Raises:
        OSError: Ray is not installed.
    """

    detector: Mapping[str, Any]
    source: Mapping[str, Any]
    output: str
    address: str | None = None
    actors: int | None = None
    gpus: float = 0.0
    started: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise OSError('--ray needs Ray: pip install "realfake[ray]".') from error
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
            self.started = True

    def score(
        self,
        tasks: "Sequence[Task]",
        source: ScoringSource,
        manifest: Mapping[str, Any],
        views: int | None,
        early_exit: bool,
        log: Callable[[str], None],
    ) -> "Progress":
        """Score tasks on the actors. A task whose machine is lost runs again on another one."""
        import ray

        from realfake.scoring.run import Progress, count_images

        resources = ray.cluster_resources()
        available = resources.get("GPU", 0) / self.gpus if self.gpus else resources.get("CPU", 1)
        actors = max(1, min(self.actors or int(available), len(tasks) or 1))
        log(f"Scoring {len(tasks):,} tasks with {actors} actors on {len(ray.nodes())} machines.")
        progress = Progress(count_images(source, tasks, manifest["identity"]["chunk_size"]), log)
        if not tasks:
            return progress
        items = [
            {"segment": index, "chunk": -1 if chunk is None else chunk} for index, chunk in tasks
        ]
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        results = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(
                _Actor,
                fn_constructor_args=(
                    self.detector,
                    self.source,
                    self.output,
                    manifest,
                    views,
                    early_exit,
                ),
                batch_size=1,
                concurrency=(1, actors),
                num_cpus=None if self.gpus else 1,
                num_gpus=self.gpus or None,
            )
            .iter_rows()
        )
        for row in results:
            progress.count(int(row["images"]), int(row["errors"]), float(row["deviation"]))
        return progress

    def close(self) -> None:
        """Disconnect from the cluster, if this object connected to it."""
        import ray

        if self.started:
            ray.shutdown()


class _Actor:
    """Scores tasks in a separate process."""

    def __init__(
        self,
        detector: Mapping[str, Any],
        source: Mapping[str, Any],
        output: str,
        manifest: Mapping[str, Any],
        views: int | None,
        early_exit: bool,
    ) -> None:
        from realfake.detector import Detector
        from realfake.engines import Choice
        from realfake.scoring.scorer import Scorer
        from realfake.scoring.shards import ScoreFolder

        self._scratch = tempfile.TemporaryDirectory()
        self._source = open_source(**source, scratch=Path(self._scratch.name))
        if self._source.fingerprint != manifest["identity"]["source"]:
            raise ValueError("The machines see different sources; give all of them the same files.")
        self._folder = ScoreFolder(output)
        self._settings = {name: manifest["identity"][name] for name in ("chunk_size", "batch_size")}
        choice = Choice.from_dict(manifest["engine"])
        self._scorer = Scorer(
            Detector.from_pretrained(**detector), choice, views=views, early_exit=early_exit
        )

    def __call__(self, batch: "dict[str, np.ndarray]") -> dict[str, list]:
        from realfake.scoring.run import score_tasks

        tasks = [
            (int(segment), None if chunk < 0 else int(chunk))
            for segment, chunk in zip(batch["segment"], batch["chunk"], strict=True)
        ]
        done = score_tasks(self._scorer, self._source, self._folder, tasks, **self._settings)
        return {"images": [done.images], "errors": [done.errors], "deviation": [done.deviation]}
