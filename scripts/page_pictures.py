"""Takes pictures of the page for the documentation: `python -m scripts.page_pictures --url http://127.0.0.1:8001`.

Make a song or two on that server before, so that there is something to see.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1180, 760), (390, 844)

Scheme = Literal["light", "dark"]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8001")
    url = parser.parse_args().url
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--mute-audio", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        take(browser, url, "page", DESKTOP, "en", "light", "simple")
        take(browser, url, "page-dark", DESKTOP, "en", "dark", "custom")
        take(browser, url, "page-ja", DESKTOP, "ja", "light", "simple")
        take(browser, url, "page-phone", PHONE, "en", "light", "simple")
        browser.close()


def take(  # noqa: PLR0913
    browser: Browser, url: str, name: str, size: tuple[int, int], locale: str, scheme: Scheme, view: str
) -> None:
    """Write `name`.png: the page with its newest song playing."""
    width, height = size
    context = browser.new_context(
        locale=locale, color_scheme=scheme, viewport={"width": width, "height": height}
    )
    context.add_init_script(f"localStorage.setItem('acestep.view', JSON.stringify('{view}'))")
    page = context.new_page()
    page.goto(url)
    page.locator(".take .play").first.click()
    page.wait_for_timeout(4000)
    page.screenshot(path=PICTURES / f"{name}.png")
    context.close()


if __name__ == "__main__":
    main()
