"""Songs on paper from one sentence: POST /v1/create_sample and POST /v1/lyrics."""

from typing import Any

import pytest

from acestep.domain.draft import Draft, DraftRequest, Metadata
from acestep.errors import PlannerUnavailableError
from acestep.jobs.worker import Cancelled
from acestep.rest.envelope import Envelope
from acestep.rest.response.schemas import CreatedSample
from tests.rest.conftest import PLANNER, FakeWorker, Serve, assert_error

DECIDED = Metadata(77, "Quiet city folk", 95, "E minor", "ja", "4")


async def ideas(request: DraftRequest, cancelled: Cancelled) -> Draft:
    return Draft(DECIDED, "[Verse]\nRain", ("lyrics: a warning",))


def planner(**changes: Any) -> FakeWorker:
    return FakeWorker(**{"planner_info": PLANNER, "drafter": ideas, **changes})


async def test_the_answer_has_the_spellings_of_the_original_and_ours(serve: Serve):
    async with serve(worker=planner()) as server:
        answer = await server.client.post("/v1/create_sample", json={"query": "rain"})
        Envelope[CreatedSample].model_validate(answer.json(), strict=True)
        assert answer.json()["data"] == {
            "caption": "Quiet city folk",
            "lyrics": "[Verse]\nRain",
            "bpm": 77,
            "keyscale": "E minor",
            "key_scale": "E minor",
            "timesignature": "4",
            "time_signature": "4",
            "duration": 95,
            "vocal_language": "ja",
        }
        assert answer.json()["extra"] == {"warnings": ["lyrics: a warning"]}


@pytest.mark.parametrize("name", ["query", "sample_query", "description", "desc", "prompt", "caption"])
@pytest.mark.parametrize(("path", "kind"), [("/v1/create_sample", "sample"), ("/v1/lyrics", "lyrics")])
async def test_what_the_planner_is_asked(serve: Serve, name: str, path: str, kind: Any):
    worker = planner()
    async with serve(worker=worker) as server:
        sent = {name: " rain ", "instrumental": "false", "vocal_language": "ja", "bpm": 90, "seed": 5}
        assert (await server.client.post(path, data=sent)).status_code == 200
    assert worker.asked == [
        DraftRequest(
            kind=kind, query="rain", instrumental=False, metadata=Metadata(90, None, language="ja"), seed=5
        )
    ]


async def test_the_sentence_decides_where_nothing_is_sent(serve: Serve):
    worker = planner()
    async with serve(worker=worker) as server:
        for flag in (None, True):
            await server.client.post("/v1/create_sample", json={"query": "rain", "instrumental": flag})
    assert [asked.instrumental for asked in worker.asked] == [None, True]


async def test_what_was_sent_of_the_song_stays(serve: Serve):
    sent = {"query": "rain", "caption": "folk", "lyrics": "la la", "bpm": 90, "key": "Am", "duration": 60}
    worker = planner()
    async with serve(worker=worker) as server:
        data = (await server.client.post("/v1/create_sample", json=sent)).json()["data"]
        kept = ("folk", "la la", 90, "A minor", "A minor", 60)
        names = ("caption", "lyrics", "bpm", "key_scale", "keyscale", "duration")
        assert tuple(data[name] for name in names) == kept
        better = (await server.client.post("/v1/lyrics", json=sent)).json()["data"]
        assert (better["caption"], better["lyrics"]) == ("folk", "[Verse]\nRain")
    assert worker.asked[0].metadata.caption == "folk"
    assert worker.asked[1].lyrics == "la la"


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("/v1/create_sample", {}, "query: ''"),
        ("/v1/create_sample", {"query": " ", "lyrics": "la"}, "POST /create_random_sample answers"),
        ("/v1/lyrics", {"prompt": "", "bpm": 90}, "a sentence that says what the song is about"),
        ("/v1/lyrics", {"prompt": "rain", "instrumental": True}, "instrumental: "),
        ("/v1/lyrics", {"prompt": "rain", "instrumental": "perhaps"}, "instrumental: "),
        ("/v1/create_sample", {"query": "x" * 10_001}, "query: "),
    ],
)
async def test_nothing_to_write_about(serve: Serve, path: str, fields: dict[str, Any], words: str):
    worker = planner()
    async with serve(worker=worker) as server:
        assert_error(await server.client.post(path, json=fields), 422, words)
    assert worker.asked == []


async def test_lyrics_alone_can_be_improved(serve: Serve):
    worker = planner()
    async with serve(worker=worker) as server:
        assert (await server.client.post("/v1/lyrics", json={"lyrics": "la la"})).status_code == 200
    assert (worker.asked[0].kind, worker.asked[0].lyrics) == ("lyrics", "la la")


async def test_a_planner_that_writes_none(serve: Serve):
    async def refuse(request: DraftRequest, cancelled: Cancelled) -> Draft:
        raise PlannerUnavailableError("nano writes no lyrics. Set ACESTEP_LM_MODEL_PATH.")

    async with serve(worker=planner(drafter=refuse)) as server:
        answer = await server.client.post("/v1/lyrics", json={"prompt": "rain"})
        assert_error(answer, 503, "writes no lyrics. Set ACESTEP_LM_MODEL_PATH.")


async def test_a_file_is_refused(serve: Serve):
    async with serve(worker=planner()) as server:
        files: Any = {"src_audio": ("a.wav", b"RIFF")}
        answer = await server.client.post("/v1/create_sample", data={"query": "rain"}, files=files)
        assert_error(answer, 422, "src_audio: 'a.wav'", "Only text can be sent here")
