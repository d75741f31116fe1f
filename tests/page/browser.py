"""Chromium for tests of the page: whatever it complains of, or asks of another host, is an error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60  # generous: most of what is waited for takes one

expect.set_options(timeout=SECONDS * 1000)


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # As root there is no sandbox; sound may begin without a click.
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, url: str, locale: str = "en", width: int = 1280, allowed: tuple[str, ...] = ()
) -> Iterator[Page]:
    """The page in a browser of its own. `allowed`: parts of complaints that the test provokes."""
    context = browser.new_context(locale=locale, viewport={"width": width, "height": 860})
    context.set_default_timeout(SECONDS * 1000)
    complaints = watch(context, url)
    page = context.new_page()
    page.goto(url)
    page.locator("#prompt").wait_for()
    yield page
    context.close()
    assert [each for each in complaints if not any(part in each for part in allowed)] == []


def watch(context: BrowserContext, url: str) -> list[str]:
    """Complaints of all pages, and requests to other hosts, as they come."""
    found: list[str] = []
    own = urlsplit(url).netloc
    context.on("weberror", lambda error: found.append(f"error: {error.error}"))
    context.on(
        "console", lambda told: found.append(f"console: {told.text}") if told.type == "error" else None
    )
    context.on(
        "request",
        lambda asked: (
            found.append(f"request: {asked.url}")
            if urlsplit(asked.url).scheme.startswith("http") and urlsplit(asked.url).netloc != own
            else None
        ),
    )
    return found


def ask_for(page: Page, sentence: str) -> None:
    """Make a song from one sentence."""
    page.fill("#prompt", sentence)
    page.get_by_role("button", name="Make a song").click()
