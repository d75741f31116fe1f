"""Takes pictures of the page for the documentation: `python -m scripts.page_pictures --url http://127.0.0.1:8001`.

Make a song or two on that server before, so that there is something to see.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1180, 760), (390, 844)


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    size: tuple[int, int] = DESKTOP
    locale: str = "en"
    scheme: Literal["light", "dark"] = "light"
    view: str = "simple"


PICTURES = (
    Picture("page"),
    Picture("page-dark", scheme="dark", view="custom"),
    Picture("page-ja", locale="ja"),
    Picture("page-phone", PHONE),
)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8001")
    parser.add_argument(
        "names", nargs="*", help="which of them (all): " + ", ".join(p.name for p in PICTURES)
    )
    asked = parser.parse_args()
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--mute-audio", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        for picture in PICTURES:
            if not asked.names or picture.name in asked.names:
                take(browser, asked.url, picture)
        browser.close()


def take(browser: Browser, url: str, picture: Picture) -> None:
    """Write the picture: the page with its newest song playing."""
    width, height = picture.size
    context = browser.new_context(
        locale=picture.locale, color_scheme=picture.scheme, viewport={"width": width, "height": height}
    )
    context.add_init_script(f"localStorage.setItem('acestep.view', JSON.stringify('{picture.view}'))")
    page = context.new_page()
    page.goto(url)
    page.locator(".take .play").first.click()
    page.wait_for_timeout(4000)
    page.screenshot(path=FOLDER / f"{picture.name}.png")
    context.close()


if __name__ == "__main__":
    main()
