"""Take the screenshots of the page that the README shows.

    python scripts/screenshots.py

Starts the page with the detector that REALFAKE_MODEL names, or the bundled one, opens it in
headless Chromium and writes .github/screenshots/*.png: the first tab on a desktop in light and dark
mode and on a phone, and the tab with the test results.
"""

import argparse
import shutil
import tempfile
from io import BytesIO
from pathlib import Path

from benchmarks.serving import ROOT, serving
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

OUTPUT = ROOT / ".github" / "screenshots"
PICTURE = ROOT / "realfake" / "space" / "examples" / "temple.jpg"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def opened(browser: Browser, url: str, scheme: str, options: dict) -> Page:
    """Open the page in a colour scheme and wait until it is complete."""
    page = browser.new_context(locale="en-GB", color_scheme=scheme, **options).new_page()
    page.set_default_timeout(180_000)
    page.goto(f"{url}/?__theme={scheme}")
    page.wait_for_selector("#rf-examples button")
    return page


def answered(page: Page, picture: Path) -> None:
    """Check a picture and wait for the tile map."""
    page.set_input_files("#rf-drop input[type=file]", picture)
    page.wait_for_selector("#rf-map .rf-tile")
    page.wait_for_timeout(1000)


def save(page: Page, path: Path, full_page: bool = True) -> None:
    """Save a screenshot with 64 levels per colour, which nobody sees and which compresses well."""
    with Image.open(BytesIO(page.screenshot(full_page=full_page))) as shot:
        levels = shot.convert("RGB").point(lambda value: min((value + 2) // 4 * 4, 255))
    levels.save(path, optimize=True)


def main() -> None:
    """Write the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="picture to check")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.error("There is no chromium in PATH; install it.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with serving(Path(folder), "app.py") as server:
            views = (
                ("page", "light", DESKTOP),
                ("dark", "dark", DESKTOP),
                ("phone", "light", PHONE),
            )
            for name, scheme, options in views:
                page = opened(browser, server.url, scheme, options)
                answered(page, args.picture)
                save(page, args.output / f"{name}.png")
            page = opened(browser, server.url, "light", DESKTOP)
            page.get_by_role("tab").nth(3).click()
            page.wait_for_timeout(1000)
            save(page, args.output / "quality.png", full_page=False)
        browser.close()


if __name__ == "__main__":
    main()
