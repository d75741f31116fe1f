"""Jobs that end without a song answer in the shapes that clients of the original know."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acestep.domain.song import Sampling, Song, SongPlan
from tests.rest.conftest import PLANNER, FakeWorker, Serve, Server

RIFF: Any = {"src_audio": ("song.wav", b"RIFF")}
CODES = "<|audio_code_5|><|audio_code_7|>"


async def result(server: Server, **fields: Any) -> dict[str, Any]:
    """What a job answers whose plan has two codes, a tempo and a caption."""
    answer = await server.client.post("/release_task", files=RIFF, data=fields)
    assert answer.status_code == 200, answer.text
    job = await server.queue.take()
    assert job.request.goal != "song"
    plan = SongPlan(
        "a tune", "la la", "en", 12.0, 3, "Do:", Sampling(8, 1.0, 3.0), bpm=90, audio_codes=(5, 7)
    )
    await server.queue.finish(job.id, (Song("", plan, "mp3", "acestep-v15-turbo", "lm"),))
    (entry,) = await server.query(job.id)
    assert entry["status"] == 1
    (item,) = json.loads(entry["result"])
    return dict(item)


@pytest.fixture
async def planning(serve: Serve) -> Any:
    async with serve(worker=FakeWorker(planner_info=PLANNER)) as server:
        yield server


async def test_codes(server: Server):
    assert await result(server, extract_codes_only="true") == {
        "status_message": "Audio Codes Extraction Success",
        "audio_codes": CODES,
        "audio_paths": [],
        "raw_audio_paths": [],
        "first_audio_path": None,
        "metas": {},
    }


async def test_a_description(planning: Server):
    item = await result(planning, full_analysis_only="true")
    metas = item.pop("metas")
    assert item == {
        "status_message": "Full Hardware Analysis Success",
        "bpm": 90,
        "keyscale": "N/A",
        "timesignature": "N/A",
        "duration": 12.0,
        "genre": "N/A",
        "prompt": "a tune",
        "lyrics": "la la",
        "language": "en",
        "audio_paths": [],
        "audio_codes": CODES,
    }
    assert (metas["bpm"], metas["caption"]) == (90, "a tune")


async def test_metadata(planning: Server):
    item = await result(planning, analysis_only="true", prompt="pop")
    assert (item["file"], item["status"]) == ("", 1)
    assert (item["generation_info"], item["dit_model"], item["lm_model"]) == (
        "Analysis Only Mode Complete",
        "None (Analysis Only)",
        "lm",
    )
    assert item["metas"]["bpm"] == 90
    assert any(warning.startswith("src_audio: analysis_only") for warning in item["warnings"])
