"""The page where the server wants a key, is busy, or goes away."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.live_server import WarmServer
from tests.page.browser import CHROMIUM, ask_for, chromium, opened

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_no_key_a_wrong_one_and_the_right_one(browser: Browser, tmp_path: Path) -> None:
    env = {"ACESTEP_API_KEY": "right", "ACESTEP_AUDIO_NEEDS_KEY": "true"}
    with WarmServer(tmp_path, env) as server, opened(browser, server.url, allowed=("401",)) as page:
        page.get_by_label("This server wants a key").fill("wrong")
        page.get_by_role("button", name="Use", exact=True).click()
        expect(page.get_by_text("The server does not take this key.")).to_be_visible()
        page.get_by_label("This server wants a key").fill("right")
        page.get_by_role("button", name="Use", exact=True).click()
        expect(page.get_by_label("This server wants a key")).to_have_count(0)
        ask_for(page, "with a key")
        page.locator(".card").get_by_role("button", name="Play take 1").click()
        expect(page.get_by_role("region", name="Player").get_by_role("button", name="Pause")).to_be_visible()


def test_a_full_queue_and_a_server_that_is_killed(browser: Browser, tmp_path: Path) -> None:
    env = {"ACESTEP_QUEUE_MAXSIZE": "1", "ACESTEP_QUEUE_WORKERS": "1"}
    allowed = ("429", "ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET")
    with WarmServer(tmp_path, env) as server, opened(browser, server.url, allowed=allowed) as page:
        server.wait_ready()
        page.get_by_role("tab", name="Custom").click()
        page.get_by_label("Length in seconds").fill("30")
        ask_for(page, "the first")
        expect(page.locator(".card.running")).to_have_count(1)
        ask_for(page, "the second")
        expect(page.locator(".card.queued")).to_have_count(1)
        ask_for(page, "the third")
        expect(page.get_by_role("alert")).to_contain_text("queue")
        server.kill()
        expect(page.get_by_text("The server does not answer.")).to_be_visible()
        server.start()
        expect(page.get_by_text("The server does not answer.")).to_have_count(0)
        for name in ("the first", "the second"):
            expect(page.locator(".card", has_text=name).locator(".take")).to_have_count(1)
