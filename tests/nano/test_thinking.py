"""Nano's own planner on a real server: thinking, drafts and formatting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from acestep.catalog.planner_choice import NANO_PLANNER
from acestep.planner import codes as audio_codes
from tests.live_server import QUICK, LiveServer, WarmServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    data = tmp_path_factory.mktemp("thinking")
    with WarmServer(data, {"ACESTEP_INIT_LLM": "true"}) as live:
        live.wait_ready()
        yield live


def test_thinking_decides_metadata_and_codes(server: LiveServer) -> None:
    asked = server.submit(**QUICK | {"prompt": "lo-fi beat at 80 bpm", "batch_size": 2}, thinking=True)
    ((first, second),) = server.wait_for([asked])
    assert (first["error"], first["lm_model"]) == (None, NANO_PLANNER)
    assert first["metas"]["bpm"] == 80  # it was in the caption alone
    assert len(audio_codes.read(first["audio_codes"])) == len(audio_codes.read(second["audio_codes"])) == 50
    assert first["audio_codes"] != second["audio_codes"]
    assert len(server.download(first)) > 100_000


def test_a_song_is_drafted_from_one_sentence(server: LiveServer) -> None:
    asked = {"prompt": "", "sample_query": "a calm piano piece", "bpm": 90}
    ((song,),) = server.wait_for([server.submit(**QUICK | asked)])
    assert song["error"] is None
    assert song["prompt"]
    assert song["metas"]["bpm"] == 90  # what was given stays
    assert song["metas"]["keyscale"] != "N/A"


def test_a_planner_that_is_not_set_up_is_loaded_on_demand(tmp_path: Path) -> None:
    with WarmServer(tmp_path) as live:
        live.wait_ready()
        ((song,),) = live.wait_for([live.submit(**QUICK)])
        planner = live.client.get("/v1/stats").json()["data"]["planner"]
        assert (song["lm_model"], planner["name"], planner["state"]) == ("", NANO_PLANNER, "on_disk")
        answer = live.client.post("/format_input", json={"prompt": "sad piano, 70 bpm", "lyrics": ""}).json()
        assert (answer["code"], answer["data"]["bpm"]) == (200, 70)
        ((song,),) = live.wait_for([live.submit(**QUICK)])
        assert song["lm_model"] == ""


LYRICS = "[Verse]\n夜の街を歩く\n\n[Chorus]\nla la land"


@pytest.mark.parametrize("caption", ["R&B, warm, 女性ボーカル", "a story about the sea, " * 20])
def test_words_of_the_user_stay(server: LiveServer, caption: str) -> None:
    sent = {"prompt": caption, "lyrics": LYRICS}
    answer = server.client.post("/format_input", json=sent).json()
    assert (answer["data"]["caption"], answer["data"]["lyrics"]) == (caption, LYRICS)
    assert [text.partition(":")[0] for text in answer["extra"]["warnings"]] == ["prompt", "lyrics"]
    jobs = [
        server.submit(**QUICK | sent, use_format=True),
        server.submit(**QUICK | sent, thinking=True),
        server.submit(**QUICK | {"prompt": "", "sample_query": caption, "lyrics": LYRICS}),
    ]
    for (song,) in server.wait_for(jobs):
        assert (song["error"], song["prompt"], song["lyrics"]) == (None, caption.strip(), LYRICS)
        assert any("does not understand" in text for text in song["warnings"])


def test_a_caption_is_formatted(server: LiveServer) -> None:
    answer = server.client.post("/format_input", json={"prompt": "sad piano, 70 bpm", "lyrics": ""}).json()
    assert answer["code"] == 200
    assert answer["data"]["bpm"] == 70
    assert answer["data"]["caption"]


def test_a_song_on_paper(server: LiveServer) -> None:
    answer = server.client.post("/v1/create_sample", json={"query": "calm piano, 70 bpm"}).json()
    assert (answer["code"], answer["data"]["bpm"]) == (200, 70)
    assert answer["data"]["keyscale"] and answer["data"]["caption"]
    refused = server.client.post("/v1/lyrics", json={"query": "calm piano"})
    assert refused.status_code == 503
    assert "acestep-nano-lm writes no lyrics" in refused.json()["error"]
