"""Songs made in a real browser, on a real server with nano."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, expect

from tests.live_server import QUICK, LiveServer, WarmServer
from tests.page.browser import CHROMIUM, ask_for, chromium, opened

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with WarmServer(tmp_path_factory.mktemp("page")) as live:
        live.wait_ready()
        yield live


def take(server: LiveServer, **fields: object) -> None:
    server.wait_for([server.submit(**{**QUICK, "waveform_peaks": 100, **fields})])


def test_a_sentence_becomes_a_song_that_plays_to_its_end(server: LiveServer, browser: Browser) -> None:
    with opened(browser, server.url) as page:
        ask_for(page, "A calm piano waltz")
        card = page.locator(".card").first
        expect(card.get_by_role("heading")).to_have_text("A calm piano waltz")
        expect(card.locator("progress")).to_be_visible()
        card.get_by_role("button", name="Play take 1").click()
        player = page.get_by_role("region", name="Player")
        expect(player.get_by_role("button", name="Pause")).to_be_visible()
        # The last seconds are played to their end.
        wave = player.locator(".wave")
        box = wave.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] * 0.98, box["y"] + box["height"] / 2)
        expect(player.get_by_role("button", name="Play")).to_be_visible()
        expect(player.locator("small")).to_have_text("0:30 / 0:30")


def test_every_field_of_the_custom_view_arrives(server: LiveServer, browser: Browser) -> None:
    with opened(browser, server.url) as page:
        page.get_by_role("tab", name="Custom").click()
        page.fill("#prompt", "rock")
        page.get_by_role("button", name="upbeat", exact=True).click()
        page.get_by_label("Instrumental").uncheck()
        page.get_by_role("button", name="[verse]", exact=True).click()
        page.locator("#lyrics").press_sequentially("la la")
        for name, value in (
            ("Length in seconds", "12"),
            ("Takes", "2"),
            ("Tempo (BPM)", "96"),
            ("Seed", "7"),
        ):
            page.get_by_label(name, exact=True).fill(value)
        page.get_by_role("combobox", name="Key", exact=True).select_option("A minor")
        page.get_by_role("combobox", name="Metre").select_option("3")
        page.get_by_role("combobox", name="Language of the lyrics").select_option("ja")
        page.get_by_text("Advanced", exact=True).click()
        page.get_by_label("inference_steps").fill("2")
        page.get_by_label("audio_format").select_option("wav")
        page.reload()  # which loses nothing
        with page.expect_request("**/release_task") as asked:
            page.get_by_role("button", name="Make a song").click()
        sent = asked.value.post_data_json
        expect(page.locator(".take")).not_to_have_count(0)
    assert sent == {
        "prompt": "rock, upbeat", "task_type": "text2music", "batch_size": 2, "waveform_peaks": 600,
        "vocal_language": "ja", "bpm": 96, "key_scale": "A minor", "time_signature": "3", "seed": 7,
        "lyrics": "[verse]\nla la", "thinking": False, "audio_duration": 12, "inference_steps": 2,
        "audio_format": "wav",
    }  # fmt: skip


def test_two_takes_switch_at_the_same_second(server: LiveServer, browser: Browser) -> None:
    take(server, prompt="two takes", batch_size=2)
    with opened(browser, server.url) as page:
        card = page.locator(".card", has_text="two takes").first
        card.get_by_role("button", name="Play take 1").click()
        player = page.get_by_role("region", name="Player")
        expect(player.locator("small")).to_have_text(re.compile("0:0[2-9] / 0:10"))
        before = player.locator("small").inner_text()
        page.locator("h1").click()
        page.keyboard.press("2")
        expect(player.get_by_role("button", name="2", exact=True)).to_have_attribute("aria-pressed", "true")
        after = player.locator("small").inner_text()
        assert abs(int(after[3]) - int(before[3])) <= 1
        expect(player.get_by_role("button", name="Pause")).to_be_visible()
        page.keyboard.press(" ")
        expect(player.get_by_role("button", name="Play")).to_be_visible()


def test_a_song_is_covered_and_repainted_from_the_list(server: LiveServer, browser: Browser) -> None:
    take(server, prompt="the source")
    with opened(browser, server.url) as page:
        card = page.locator(".card", has_text="the source").first
        card.locator("summary").click()
        card.get_by_role("menuitem", name="Cover this").click()
        expect(page.locator(".drop .name")).to_have_text(re.compile("the source · 0:10"))
        with page.expect_request("**/release_task") as asked:
            page.get_by_role("button", name="Make a song").click()
        body: Any = asked.value.post_data_json
        assert (body["task_type"], body["audio_cover_strength"]) == ("cover", 1)
        card.locator("summary").click()
        card.get_by_role("menuitem", name="Repaint a part").click()
        box = page.locator(".pick").bounding_box()
        assert box is not None
        page.wait_for_timeout(300)  # until the waveform is drawn
        page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20, steps=5)
        page.mouse.up()
        expect(page.locator("#from")).to_have_value(re.compile(r"^(0\.9|1|1\.1)$"))
        with page.expect_request("**/release_task") as asked:
            page.get_by_role("button", name="Make a song").click()
        body = asked.value.post_data_json
        assert body["task_type"] == "repaint"
        assert 0.8 < body["repainting_start"] < 1.2
        assert 2.3 < body["repainting_end"] < 2.7
        expect(page.locator(".card.succeeded", has_text="piano").first).to_be_visible()


def test_a_part_of_a_dropped_file_is_dragged(server: LiveServer, browser: Browser, tmp_path: Path) -> None:
    source = tmp_path / "dropped.wav"
    source.write_bytes(server.download(server.wait_for([server.submit(**QUICK)])[0][0]))
    with opened(browser, server.url) as page:
        page.get_by_role("tab", name="Custom").click()
        page.get_by_role("combobox", name="What to make").select_option("repaint")
        page.set_input_files("#source", source)
        page.get_by_role("button", name="Make a song").click()
        expect(page.get_by_role("alert")).to_contain_text("Choose the part first")
        page.locator(".pick canvas").first.wait_for()
        page.locator("h1").scroll_into_view_if_needed()
        page.wait_for_timeout(500)  # until it takes the mouse
        box = page.locator(".pick").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 20, steps=5)
        page.mouse.up()
        expect(page.locator("#from")).to_have_value(re.compile(r"^(3\.9|4|4\.1)$"))
        expect(page.locator("#to")).to_have_value(re.compile(r"^(5\.9|6|6\.1)$"))


def test_again_with_this_seed_asks_for_the_same_song(server: LiveServer, browser: Browser) -> None:
    take(server, prompt="the same", seed=5, guidance_scale=2.5, bpm=90)
    with opened(browser, server.url) as page:
        card = page.locator(".card", has_text="the same").first
        card.locator("summary").click()
        card.get_by_role("menuitem", name="Again with this seed").click()
        with page.expect_request("**/release_task") as asked:
            page.get_by_role("button", name="Make a song").click()
        sent: Any = asked.value.post_data_json
    names = ("prompt", "seed", "bpm", "audio_duration", "inference_steps", "guidance_scale", "audio_format")
    assert [sent[name] for name in names] == ["the same", 5, 90, 10, 1, 2.5, "wav"]


def test_two_deleted_songs_come_back_together(server: LiveServer, browser: Browser) -> None:
    take(server, prompt="not yet one")
    take(server, prompt="not yet two")
    with opened(browser, server.url) as page:
        cards = page.locator(".card", has_text="not yet")
        expect(cards).to_have_count(2)
        for left in (1, 0):
            cards.first.get_by_role("button", name="Delete").click()
            expect(cards).to_have_count(left)
        page.get_by_role("button", name="Undo").click()
        expect(cards).to_have_count(2)
        cards.first.get_by_role("button", name="Delete").click()
        page.reload()  # which ends the time to undo
        expect(cards).to_have_count(1)


def test_a_song_is_cancelled_and_deleted_with_undo(server: LiveServer, browser: Browser) -> None:
    with opened(browser, server.url) as page:
        page.get_by_role("tab", name="Custom").click()
        page.get_by_label("Length in seconds").fill("300")
        ask_for(page, "far too long")
        card = page.locator(".card", has_text="far too long").first
        card.get_by_role("button", name="Cancel").click()
        expect(card.get_by_text("Cancelled")).to_be_visible()
        card.get_by_role("button", name="Delete").click()
        expect(page.locator(".card", has_text="far too long")).to_have_count(0)
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(".card", has_text="far too long")).to_have_count(1)


HOSTILE = "<img src=x onerror=alert(1)> </script> 🎹 {{version}} \"'&"


def test_text_that_looks_like_html_is_text(server: LiveServer, browser: Browser, tmp_path: Path) -> None:
    take(server, prompt=HOSTILE)
    source = tmp_path / "<b>🎷.wav"
    source.write_bytes(server.download(server.wait_for([server.submit(**QUICK)])[0][0]))
    with opened(browser, server.url) as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        expect(page.locator(".card h2", has_text="<img").first).to_have_text(HOSTILE)
        page.locator(".card", has_text="<img").first.get_by_role("button", name="Play take 1").click()
        expect(page.locator(".player strong")).to_have_text(HOSTILE)
        page.get_by_role("tab", name="Custom").click()
        page.get_by_role("combobox", name="What to make").select_option("cover")
        page.set_input_files("#source", source)
        expect(page.locator(".drop .name")).to_have_text("<b>🎷.wav · 0:10")
        page.get_by_role("button", name="Make a song").click()
        expect(page.locator(".card").first.locator(".take")).to_have_count(1)


def test_two_tabs_show_the_same_songs(server: LiveServer, browser: Browser) -> None:
    with opened(browser, server.url) as one, opened(browser, server.url) as two:
        ask_for(one, "for both tabs")
        expect(two.locator(".card", has_text="for both tabs").locator(".take")).to_have_count(1)


def test_the_server_drawer_names_models_memory_and_the_documentation(
    server: LiveServer, browser: Browser
) -> None:
    with opened(browser, server.url) as page:
        page.get_by_role("button", name="Server").click()
        drawer = page.get_by_role("complementary", name="Server")
        expect(drawer).to_contain_text("acestep-nano")
        expect(drawer.get_by_role("img")).to_have_accessible_name(re.compile("DiT 0.0"))
        expect(drawer.get_by_role("link", name="API documentation")).to_have_attribute("href", "docs")


def test_japanese_on_a_phone(server: LiveServer, browser: Browser) -> None:
    with opened(browser, server.url, locale="ja-JP", width=390) as page:
        page.fill("#prompt", "雨の夜に合う静かなピアノのワルツ")
        page.get_by_role("button", name="曲を作る").click()
        page.locator(".card").first.get_by_role("button", name="テイク 1 を再生").click()
        expect(page.get_by_role("region", name="プレーヤー")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.documentElement.lang") == "ja"


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed (npm install)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_anybody(
    server: LiveServer, browser: Browser, scheme: Literal["light", "dark"]
) -> None:
    take(server, prompt="to look at", batch_size=2)
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)  # so that axe may run
    page = context.new_page()
    page.goto(server.url)
    page.locator(".card", has_text="to look at").first.get_by_role("button", name="Play take 1").click()
    page.get_by_role("button", name="Server").click()
    page.get_by_role("tab", name="Custom").click()
    page.get_by_text("Advanced", exact=True).click()
    page.locator(".menu summary").first.click()
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run().then(({violations}) => violations)")
    context.close()
    assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found] == []
