"""Kill a scoring or training run at random moments, and check that nothing is lost.

    python scripts/kill_and_resume.py scoring --kills 20 --log kills-scoring.json
    python scripts/kill_and_resume.py training --kills 20 --log kills-training.json

SIGKILL ends each start of the run: in turn during the imports, the loading, the steps, and the
writing of a shard or a checkpoint. Then the run continues to its end. After scoring, the shards
must equal those of an undisturbed run, byte for byte. After training, the final loss may differ
from that of an undisturbed run by no more than the loss differs between seeds. The log holds each
kill: its target, the age of the run, and the files on the disk. Uses drawn images and tiny
networks; takes minutes.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("imports", "loading", "steps", "writing")
TIMEOUT = 600
CHECKPOINT = "realfake/checkpoints/cifake"
OVERRIDES = '{"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "patch_size": 2}'


class Run:
    """One start of a command, observed from outside."""

    def __init__(self, command: list[str], log: Path):
        self._log = log
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        self._started = time.monotonic()
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def ended(self) -> bool:
        return self._process.poll() is not None

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, event: Callable[[], bool], seconds: float = TIMEOUT) -> bool:
        """Wait for an event, and return whether it happened before the run ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended():
            if event():
                return True
            time.sleep(0.0005)  # writing a shard takes a few milliseconds
        return event()

    def wait(self, seconds: float) -> None:
        self.wait_for(lambda: False, seconds)

    def kill(self) -> None:
        """Kill the process and its children."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def finish(self) -> None:
        """Wait for the end of the run.

        Raises:
            SystemExit: The run failed.
        """
        code = self._process.wait()
        if code:
            raise SystemExit(f"The run failed with status {code}:\n{self.output()[-3000:]}")


def kill_repeatedly(
    start: Callable[[], Run],
    kills: int,
    began: Callable[[Run], bool],
    writing: Callable[[], bool],
    work: float,
    on_disk: Callable[[], dict],
    seed: int,
) -> list[dict]:
    """Start a run until it has been killed `kills` times, at most twice as often.

    Args:
        began: Returns whether a run has begun its steps.
        writing: Returns whether the run is writing to the disk.
        work: Seconds that all steps take.
        on_disk: Returns what to log of the disk after a kill.
    """
    rng, moments, loading = random.Random(seed), [], None
    landed = 0
    for number in range(2 * kills):
        if landed == kills:
            break
        target = TARGETS[landed % len(TARGETS)]
        run = start()
        if target == "imports":
            run.wait(rng.uniform(0.05, 2))
        elif target == "loading":
            run.wait(rng.uniform(0.4, 1.0) * (loading or 8))
        else:
            if run.wait_for(lambda run=run: began(run)):
                loading = run.seconds
            if target == "steps":
                run.wait(rng.uniform(0, work))
            else:
                # Not always the first write.
                run.wait(rng.uniform(0, work / 2))
                run.wait_for(writing, 4 * work)
        ended, seconds = run.ended(), run.seconds
        if not ended:
            run.kill()
            landed += 1
        moments.append(
            {
                "kill": number + 1,
                "aimed_at": target,
                "seconds": round(seconds, 3),
                "too_late": ended,
                **on_disk(),
            }
        )
        print(", ".join(f"{name}: {value}" for name, value in moments[-1].items()), flush=True)
    return moments


def scoring(kills: int, work: Path, seed: int) -> dict:
    """Kill a scoring run and compare its shards with those of an undisturbed run."""
    from benchmarks.drawn import draw_photographs

    draw_photographs(work / "images", 240, sizes=((320, 240), (200, 300), (400, 400)))
    (work / "images" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    command = [sys.executable, "-m", "realfake", "score", str(work / "images"), "--chunk_size", "8"]
    command += ["--engine", "torch-fp32", "--num_threads", "2", "--model", str(ROOT / CHECKPOINT)]

    def start(out: str) -> Run:
        return Run([*command, "--output", str(work / out)], work / "run.log")

    began = time.monotonic()
    clean = start("clean")
    clean.wait_for(lambda: "Scoring" in clean.output())
    loading = time.monotonic() - began
    clean.finish()
    seconds = time.monotonic() - began - loading
    out = work / "killed"

    def shards(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}

    def on_disk() -> dict:
        return {"shards": len(shards(out)), "half_written": len(list(out.glob(".*.tmp")))}

    def begin() -> Run:
        done = sorted(shards(out))
        if len(done) > 24:  # delete some, so that later kills interrupt work, too
            for name in random.Random(len(done)).sample(done, 20):
                (out / name).unlink()
        return start("killed")

    moments = kill_repeatedly(
        begin,
        kills,
        lambda run: "Scoring" in run.output(),
        lambda: any(out.glob(".*.tmp")),
        seconds,
        on_disk,
        seed,
    )
    start("killed").finish()
    expected, found = shards(work / "clean"), shards(out)
    differ = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    return {
        "moments": moments,
        "shards": len(expected),
        "shards_that_differ": differ,
        "passed": not differ,
    }


def training(kills: int, work: Path, seed: int) -> dict:
    """Kill a training run and compare its final loss with that of an undisturbed run."""
    from benchmarks.drawn import draw_classes

    draw_classes(work / "corpus", 160, (64, 64))
    words = ["--model_type", "convnextv2", "--image_size", "32", "--config_overrides", OVERRIDES]
    words += ["--dataset", str(work / "corpus"), "--preprocessing_num_workers", "1"]
    words += ["--augmentation", "0.3", "--learning_rate", "2e-3", "--num_train_epochs", "36"]
    words += ["--per_device_train_batch_size", "8", "--use_cpu", "True", "--bf16", "False"]
    words += ["--save_strategy", "steps", "--save_steps", "4", "--save_total_limit", "3"]
    words += ["--eval_strategy", "steps", "--eval_steps", "4", "--logging_steps", "1"]
    words += ["--measure_test", "False", "--measure_degradations", "0", "--disable_tqdm", "True"]
    words += ["--measurement_log", str(work / "log.jsonl")]

    def start(out: str, *more: str) -> Run:
        return Run(
            [sys.executable, "train_hf.py", "--output_dir", str(work / out), *words, *more],
            work / "run.log",
        )

    def losses(out: str) -> list[float]:
        history = json.loads((work / out / "training.json").read_text())["log_history"]
        return [line["loss"] for line in history if "loss" in line]

    def end(out: str) -> float:
        last = losses(out)[-20:]
        return sum(last) / len(last)

    began = time.monotonic()
    clean = start("clean")
    clean.wait_for(lambda: "'loss'" in clean.output())
    loading = time.monotonic() - began
    clean.finish()
    seconds = time.monotonic() - began - loading
    for other in ("1", "2"):
        start(f"seed-{other}", "--seed", other).finish()
    out = work / "killed"
    known: dict[str, int] = {}

    def writing() -> bool:
        """Return whether a checkpoint is unfinished."""
        return any(not (path / "trainer_state.json").is_file() for path in out.glob("checkpoint-*"))

    def on_disk() -> dict:
        known["whole"] = sum(
            (path / "trainer_state.json").is_file() for path in out.glob("checkpoint-*")
        )
        steps = [int(path.name.split("-")[1]) for path in out.glob("checkpoint-*")]
        return {
            "checkpoints": known["whole"],
            "last_step": max(steps, default=0),
            "half_written": len(steps) - known["whole"],
        }

    # Divides the steps among the kills, so that the run does not end before the last kill.
    share = 1.5 * seconds / kills
    moments = kill_repeatedly(
        lambda: start("killed"),
        kills,
        lambda run: "'loss'" in run.output(),
        writing,
        share,
        on_disk,
        seed,
    )
    if not (out / "training.json").is_file():
        start("killed").finish()
    ends = {name: end(name) for name in ("clean", "seed-1", "seed-2", "killed")}
    undisturbed = [ends[name] for name in ("clean", "seed-1", "seed-2")]
    noise = max(undisturbed) - min(undisturbed)
    steps = {name: len(losses(name)) for name in ends}
    difference = abs(ends["killed"] - ends["clean"])
    return {
        "moments": moments,
        "final_losses": ends,
        "noise": noise,
        "difference": difference,
        "steps": steps,
        "passed": difference <= noise and steps["killed"] == steps["clean"],
    }


def main(arguments: list[str] | None = None) -> int:
    """Kill runs and print the result; return 1 if something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("scoring", "training"), help="kind of run")
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--log", help="JSON file of the kills and the result")
    parser.add_argument(
        "--work_dir", help="folder for images and runs; its content is deleted (default: temporary)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.work_dir or temporary)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        result = {"scoring": scoring, "training": training}[options.what](
            options.kills, work, options.seed
        )
    hit = [moment["aimed_at"] for moment in result["moments"] if not moment["too_late"]]
    result["kills"] = {target: hit.count(target) for target in TARGETS}
    result["passed"] = result["passed"] and len(hit) == options.kills
    if options.log:
        Path(options.log).write_text(json.dumps(result, indent=2) + "\n")
    summary = {name: value for name, value in result.items() if name != "moments"}
    print(json.dumps(summary, indent=2))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
