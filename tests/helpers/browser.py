"""The page in headless Chromium: open it, drop an image, wait for the answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright


@contextmanager
def launched(chromium: str) -> Iterator[Browser]:
    """Start Chromium."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, url: str, width: int = 1280, height: int = 900, query: str = "", **options
) -> Iterator[Page]:
    """Open the page. At the end, assert that there was no script error and no request elsewhere."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    with visited(context, url, query) as page:
        yield page
    context.close()


@contextmanager
def visited(context: BrowserContext, url: str, query: str = "") -> Iterator[Page]:
    """Open the page as [`opened`] does, in a context whose cache may hold its scripts already."""
    page = context.new_page()
    page.set_default_timeout(60_000)
    requests, failures = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(url + query)
    page.wait_for_selector("#rf-verdict h2")
    page.wait_for_selector("#rf-examples button")
    yield page
    page.close()
    assert failures == []
    assert [r for r in requests if not r.startswith((url, "data:", "blob:"))] == []


def drop(page: Page, path: Path | str) -> None:
    """Put a file into the empty drop area of the first tab."""
    page.set_input_files("#rf-drop input[type=file]", path)


def wait_for_verdict(page: Page) -> str:
    """Wait for a verdict, and return the text of its card."""
    return page.wait_for_function(
        """() => {
            const card = document.querySelector("#rf-verdict");
            return card.querySelector(".rf-lead") && card.innerText;
        }"""
    ).json_value()


def wait_for_tiles(page: Page) -> int:
    """Wait for the tile map, and return its number of tiles."""
    page.wait_for_function("() => document.querySelector('#rf-map .rf-tile')")
    return page.locator("#rf-map .rf-tile").count()


def wait_for_map(page: Page, other_than: str | None = None) -> str:
    """Show the detail, wait for one that is not the one given, and return its picture."""
    wait_for_tiles(page)
    button = page.locator("#rf-map button[data-view=detail]")
    if button.get_attribute("aria-pressed") != "true":
        button.click()
    page.wait_for_function(
        """old => {
            const picture = document.querySelector("#rf-map .rf-coloured");
            return picture && picture.naturalWidth > 0 && picture.src !== old;
        }""",
        arg=other_than,
    )
    return page.get_attribute("#rf-map .rf-coloured", "src")


def unfold(page: Page, name: str) -> None:
    """Open a group of settings: `advanced`, `prior` or `feedback`."""
    line = page.locator(f"#rf-{name} .rf-line")
    if line.get_attribute("aria-expanded") != "true":
        line.click()
