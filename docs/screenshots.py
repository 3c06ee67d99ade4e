"""Pictures of the report page, for docs/: taken in a headless Chromium.

.venv/bin/python docs/screenshots.py report.html docs/pictures/report.png            # the top of the page
.venv/bin/python docs/screenshots.py "report.html#fit=huber&hidden=others" x.png     # as the address has it
.venv/bin/python docs/screenshots.py report.html docs/pictures/claims.png claims     # one section
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

import palette
import PIL.Image
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1100, 1180


def screenshot(address: str, section: str | None) -> bytes:
    """The page's top, or a section with its first part opened, as PNG."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        # Without a sandbox: that of Chromium refuses to run for root, as in a container.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(120_000)
        name, _, view = address.partition("#")
        page.goto(f"{Path(name).resolve().as_uri()}#{view}")
        page.wait_for_selector("html[data-ready]")
        if section is None:
            shot = page.screenshot()
        else:
            whole = page.locator(f'section[aria-labelledby="{section}-title"]')
            whole.locator("summary").first.click()
            shot = whole.screenshot()
        browser.close()
    return shot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", help="a file, with #VIEW where its address has one")
    parser.add_argument("out", type=Path)
    parser.add_argument("section", nargs="?")
    asked = parser.parse_args()
    palette.write(PIL.Image.open(io.BytesIO(screenshot(asked.page, asked.section))), asked.out)


if __name__ == "__main__":
    main()
