"""A real browser: pages of others read and change nothing, pages that are allowed work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, WarmServer, free_port
from tests.system.browser_pages import CHROMIUM, Pages, dom, pages

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

JSON, TEXT = "application/json", "text/plain"
SONG = '{"prompt": "from a page", "audio_duration": 10, "inference_steps": 1}'
CHAT = '{"messages": [{"role": "user", "content": "<prompt>from a page</prompt>"}], "audio_duration": 10}'
READS = [
    ["GET", path, "", ""]
    for path in ("/health", "/v1/models", "/v1/stats", "/v1/lora/status", "/openapi.json")
]
CHANGES = [
    ["POST", path, kind, body]
    for kind in (TEXT, JSON)
    for path, body in (
        ("/release_task", SONG),
        ("/api/release_task", SONG),
        ("/v1/init", '{"slot": 1}'),
        ("/v1/reinitialize", "{}"),
        ("/v1/lora/toggle", '{"use_lora": false}'),
        ("/v1/lora/unload", "{}"),
        ("/v1/chat/completions", CHAT),
        ("/v1/audio/generations", SONG),
        ("/v1/music/generate", SONG),
    )
] + [["POST", "/release_task", "application/x-www-form-urlencoded", "prompt=from+a+page"]]


@pytest.fixture(scope="module")
def sites() -> Iterator[Pages]:
    with pages(free_port()) as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sites: Pages) -> Iterator[LiveServer]:
    env = {"ACESTEP_CORS_ORIGINS": f"local,http://friend.example:{sites.port}", "ACESTEP_NO_INIT": "true"}
    with WarmServer(tmp_path_factory.mktemp("browser"), env) as live:
        yield live


def state(server: LiveServer) -> dict[str, Any]:
    """What a page might change."""
    answers = [
        server.client.get(path).json()["data"] for path in ("/v1/stats", "/v1/models", "/v1/lora/status")
    ]
    return {"stats": answers[0]["jobs"], "models": answers[1]["models"], "adapters": answers[2]}


def test_a_page_of_another_site_reads_and_changes_nothing(server: LiveServer, sites: Pages, tmp_path: Path):
    before = state(server)
    modes = ["cors", "no-cors", "form"]
    told = sites.visit("evil.example", server.url, READS + CHANGES, modes, tmp_path)
    assert len(told) == 2 * len(READS) + 3 * len(CHANGES)
    assert [each for each in told if each.get("text")] == []
    assert state(server) == before
    assert before["stats"]["total"] == 0


def test_a_name_that_leads_here_reads_nothing(server: LiveServer, sites: Pages, tmp_path: Path):
    api = f"http://rebound.example:{server.port}"
    told = sites.visit("evil.example", api, READS + CHANGES[:1], ["cors", "no-cors"], tmp_path / "a")
    assert [each for each in told if each.get("text")] == []
    for path in ("/health", "/v1/models"):
        shown = dom(f"{api}{path}", tmp_path / "b")
        assert "ACESTEP_ALLOWED_HOSTS" in shown
        assert "nano" not in shown
    assert state(server)["stats"]["total"] == 0


def test_a_page_whose_name_was_bound_to_this_machine_changes_nothing(
    server: LiveServer, sites: Pages, tmp_path: Path
):
    # To the browser the page is at the API's own origin: it may read all answers, and sees refusals.
    before = state(server)
    sites.api = server.port
    try:
        told = sites.visit("rebound.example", "", READS + CHANGES, ["cors", "same-origin", "form"], tmp_path)
    finally:
        sites.api = 0
    assert len(told) == 2 * len(READS) + 3 * len(CHANGES)
    assert {each["status"] for each in told if "status" in each} == {403}
    assert all("ACESTEP_ALLOWED_HOSTS" in each["text"] and "nano" not in each["text"] for each in told)
    assert state(server) == before


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "friend.example"])
def test_an_allowed_page_works(server: LiveServer, sites: Pages, tmp_path: Path, host: str):
    before = state(server)["stats"]["total"]
    asked = [
        *READS,
        ["POST", "/release_task", JSON, SONG],
        ["POST", "/query_result", JSON, '{"task_id_list": ["x"]}'],
    ]
    told = sites.visit(host, server.url, asked, ["cors"], tmp_path)
    assert [each["status"] for each in told] == [200] * len(asked)
    assert '"task_id"' in told[-2]["text"]
    assert state(server)["stats"]["total"] == before + 1
