"""The effect of `keep_freed_memory` on the speed of a detector."""

import subprocess
import sys
from pathlib import Path

from .drawn import draw_photographs
from .serving import ROOT, environment
from .timing import in_turn, ratio_row

_RATE = """
import sys, time
from pathlib import Path
import realfake.detector as module
if sys.argv[1] == "default":
    module.keep_freed_memory = lambda: False
detector = module.Detector.from_pretrained(device="cpu")
images = [path.read_bytes() for path in sorted(Path(sys.argv[2]).glob("*.jpg"))]
detector.predict(images[:16], batch_size=16)
began = time.perf_counter()
detector.predict(images, batch_size=16)
print(len(images) / (time.perf_counter() - began))
"""


def allocator(work: Path, quick: bool) -> dict:
    """Return the images a second of `Detector.predict`: photos, batches of 16, fp32."""
    images = work / "users"
    draw_photographs(images, 32, sizes=((640, 480), (512, 512), (480, 640)))

    def rate(kind: str) -> float:
        command = [sys.executable, "-c", _RATE, kind, str(images)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(work, 0), capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    rates: dict[str, list[float]] = {"kept": [], "default": []}
    for kind in in_turn(("kept", "default"), 1 if quick else 2):
        rates[kind].append(rate(kind))
    ratios = [kept / default for kept, default in zip(rates["kept"], rates["default"], strict=True)]
    what = (
        "Detector.predict, batches of 16, fp32: images a second over the C library's own allocation"
    )
    return {"rows": [ratio_row(what, ratios, 1.0, at_least=True, images_a_second=rates)]}
