"""Visitors of the page in Chromium: all tabs, methods and sizes, and the memory of the page."""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .memory import Memory, slope

# (width, height), from an icon to a 36-megapixel photograph.
SIZES = ((20, 20), (64, 48), (640, 480), (800, 600), (2048, 1536), (4000, 3000), (7200, 5000))
HUGE = (10_000, 10_000)
METHODS = (
    "gradcam",
    "integrated_gradients",
    "smoothgrad",
    "gradient_shap",
    "occlusion",
    "kernel_shap",
)
VISITORS = 2
BATCH = 20
# Seconds of rest before and after the image of 100 megapixels.
REST = 60.0
# Seconds between two points of the stored curve.
STEP = 5.0
_GB = 2**20 / 1e9

_DETAIL = """() => {
    const picture = document.querySelector("#rf-map .rf-coloured");
    return (picture && picture.naturalWidth > 0)
        || document.querySelector("#rf-map [data-slot=detail] .rf-alert");
}"""


class Visits:
    """What all visitors did.

    Attributes:
        actions: Names of the actions.
        failures: Actions that failed, with the reason.
    """

    def __init__(self):
        self.actions: list[str] = []
        self.failures: list[str] = []

    def step(self, action: str, function: Callable[..., object], *arguments: object) -> None:
        """Do something, and note a failure."""
        self.actions.append(action)
        try:
            function(*arguments)
        except Exception as error:
            self.failures.append(f"{action}: {' '.join(str(error).split())[:200]}")


def draw_pictures(folder: Path) -> list[Path]:
    """Write one image of each size, as JPEG and PNG in turn, and the huge one as JPEG."""
    from benchmarks.drawn import Drawer

    folder.mkdir(parents=True, exist_ok=True)
    draw, paths = Drawer(), []
    for number, (width, height) in enumerate((*SIZES, HUGE)):
        drawn = draw((min(width, 2304), min(height, 2304)), seed=number).resize((width, height))
        png = number % 2 and (width, height) != HUGE
        path = folder / f"{width}x{height}.{'png' if png else 'jpg'}"
        drawn.save(path) if png else drawn.save(path, quality=90)
        paths.append(path)
    return paths


def visit(url: str, pid: int, pictures: Sequence[Path], minutes: float, settling: float) -> dict:
    """Let visitors use the page at the same time, then check one image of 100 megapixels.

    Args:
        url: The page.
        pid: Its process.
        pictures: Of [`draw_pictures`].
        minutes: Duration of the visits. Each visitor does everything at least once.
        settling: Minutes after which the memory must not grow.

    Returns:
        The record of `soak.json`.
    """
    *usual, huge = pictures
    visits = Visits()
    with Memory(pid, every=0.25) as memory, ThreadPoolExecutor(VISITORS) as pool:
        began = time.monotonic()
        running = [
            pool.submit(_visitor, url, number, usual, minutes, visits) for number in range(VISITORS)
        ]
        for each in running:
            each.result()
        ended = time.monotonic() - began
        time.sleep(REST)
        start = time.monotonic() - began
        visits.step(huge.name, _alone, url, huge)
        answered = time.monotonic() - began
        time.sleep(REST)
        samples = list(memory.samples)
    return record(samples, visits, minutes, settling, (ended, start, answered))


def record(
    samples: Sequence[tuple[float, float]],
    visits: Visits,
    minutes: float,
    settling: float,
    times: tuple[float, float, float],
) -> dict:
    """Return the record of the visits.

    Args:
        samples: `(seconds, MiB)` of the page.
        visits: What the visitors did.
        minutes, settling: As in [`visit`].
        times: Seconds at which the visits ended, and the huge image began and was answered.
    """
    ended, start, answered = times
    during = [sample for sample in samples if sample[0] <= ended]
    most = max(mib for _, mib in during)
    before = [mib for second, mib in samples if ended < second <= start][-1]
    after = [sample for sample in samples if sample[0] > start]
    peak = max(mib for _, mib in after)
    least = min((mib for second, mib in after if answered < second <= answered + 60), default=peak)
    growth = slope(during, 60 * settling)
    return {
        "visitors": VISITORS,
        "minutes": minutes,
        "actions": len(visits.actions),
        "failures": visits.failures[:20],
        "first_gb": during[0][1] * _GB,
        "most_gb": most * _GB,
        "settled": growth and {"after_minutes": settling, **growth},
        "settled_at": 60 * settling if growth else None,
        "huge": {
            "before_gb": before * _GB,
            "most_gb": peak * _GB,
            "more_gb": max(0.0, peak - most) * _GB,
            "seconds": answered - start,
            "given_back": (peak - least) / (peak - before) if peak > before else 1.0,
        },
        "huge_at": start,
        "curve": _curve(samples),
    }


def _curve(samples: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Return the highest memory in each step of the curve, as `[second, GB]`."""
    steps = itertools.groupby(samples, key=lambda sample: sample[0] // STEP)
    return [[STEP * step, round(max(mib for _, mib in own) * _GB, 3)] for step, own in steps]


def _visitor(url: str, number: int, pictures: Sequence[Path], minutes: float, visits: Visits):
    from benchmarks.browser import chromium

    end = time.monotonic() + 60 * minutes
    with chromium() as browser:
        for turn in itertools.count():
            page = _opened(browser, url)
            for index, picture in enumerate(pictures):
                # In six turns each visitor sees every method with every size.
                method = METHODS[(index + turn + len(METHODS) // VISITORS * number) % len(METHODS)]
                visits.step(f"{method} of {picture.name}", check, page, picture, method)
                if turn and time.monotonic() > end:
                    return
            many = list(itertools.islice(itertools.cycle(pictures), BATCH))
            visits.step("batch", batch, page, many)
            visits.step("comparison", compare, page, pictures[-2])
            visits.step("other tabs", read, page)
            page.context.close()
            if time.monotonic() > end:
                return


def _alone(url: str, picture: Path) -> None:
    from benchmarks.browser import chromium

    with chromium() as browser:
        check(_opened(browser, url), picture, METHODS[0])


def _opened(browser, url: str):
    page = browser.new_context(locale="en-GB").new_page()
    page.set_default_timeout(300_000)
    page.goto(url)
    page.wait_for_selector("#rf-examples button")
    return page


def check(page, picture: Path, method: str) -> None:
    """Drop an image on the first tab, and wait for its verdict, its tiles and its map.

    Raises:
        RuntimeError: The page shows an error instead of the map.
    """
    page.get_by_role("tab").nth(0).click()
    if page.locator("#rf-layout.rf-has-image").count():
        page.get_by_label("Remove Image").first.click()
        page.wait_for_selector("#rf-layout:not(.rf-has-image)")
    page.evaluate(f"document.querySelector('#rf-method input[value={method}]').click()")
    page.set_input_files("#rf-drop input[type=file]", picture)
    page.wait_for_function("() => document.querySelector('#rf-verdict .rf-lead')")
    page.wait_for_selector("#rf-map .rf-tile", state="attached")  # hidden behind a shown map
    button = page.locator("#rf-map button[data-view=detail]")
    if button.get_attribute("aria-pressed") != "true":
        button.click()
    page.wait_for_function(_DETAIL)
    if page.locator("#rf-map .rf-coloured").count() == 0:
        raise RuntimeError(page.inner_text("#rf-map [data-slot=detail]"))


def batch(page, pictures: Sequence[Path]) -> None:
    """Check many images on the second tab, and wait for the table."""
    page.get_by_role("tab").nth(1).click()
    page.set_input_files("#rf-files input[type=file]", pictures)
    page.wait_for_function("() => !document.querySelector('#rf-csv').disabled")


def compare(page, picture: Path) -> None:
    """Check an image with two detectors on the third tab, and wait for both."""
    page.get_by_role("tab").nth(2).click()
    page.locator("#rf-models input").nth(1).check()
    page.set_input_files("#rf-compare-drop input[type=file]", picture)
    page.wait_for_function(
        "() => document.querySelectorAll('#rf-compared section .rf-photo').length === 2"
    )


def read(page) -> None:
    """Open the tabs that only show text."""
    for name, content in ((3, "#rf-quality"), (4, "#rf-code")):
        page.get_by_role("tab").nth(name).click()
        page.wait_for_selector(f"{content} >> visible=true")
