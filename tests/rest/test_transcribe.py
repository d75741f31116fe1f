"""POST /v1/transcribe: what is sung in a recording."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.domain.analysis import TimedLine, TimedWord
from acestep.errors import JobCancelledError, ModelUnavailableError, QueueFullError
from acestep.jobs.worker import Cancelled
from acestep.rest.deps import HttpConfig, provide
from acestep.rest.envelope import Envelope
from acestep.rest.response.schemas import Transcript
from tests.rest.conftest import CONFIG, Facts, Serve, Server, assert_error

PATH = "/v1/transcribe"
LINES = (
    TimedLine("City lights", 0.5, 1.4, (TimedWord("City", 0.5, 0.9), TimedWord("lights", 0.9, 1.4))),
    TimedLine("夜の歌", 61.25, 63.0, (TimedWord("夜の歌", 61.25, 63.0),)),
)
FILE: Any = {"audio": ("My song.wav", b"RIFF")}


class FakeTranscriber:
    def __init__(self, lines: tuple[TimedLine, ...] = LINES, error: Exception | None = None) -> None:
        self.lines = lines
        self.error = error
        self.asked: list[tuple[str, bytes, str | None]] = []

    async def transcribe(
        self, path: Path, language: str | None, cancelled: Cancelled
    ) -> tuple[TimedLine, ...]:
        self.asked.append((path.name, await asyncio.to_thread(path.read_bytes), language))
        if self.error:
            raise self.error
        return self.lines


def installed(server: Server, transcriber: Any) -> Any:
    provide(server.app, replace(server.app.state.services, transcriber=transcriber))
    return transcriber


@pytest.mark.parametrize("sent", [{"files": FILE}, {"json": {"audio_path": "x.wav"}}, {"json": {}}])
async def test_without_the_library(server: Server, sent: Any):
    answer = await server.client.post(PATH, **sent)
    assert_error(answer, 501, "faster-whisper", "uv sync --extra transcribe", "ACESTEP_WHISPER_MODEL")
    assert list(server.uploads.iterdir()) == []


async def test_the_key_comes_first(serve: Serve):
    async with serve(replace(CONFIG, api_key="secret")) as server:
        assert_error(await server.client.post(PATH, json={}), 401)


@pytest.mark.parametrize(
    ("fields", "language"),
    [
        ({}, None),
        ({"language": "unknown"}, None),
        ({"language": "ja"}, "ja"),
        ({"vocal_language": "en-US"}, "en"),
    ],
)
async def test_a_file(server: Server, fields: Any, language: str | None):
    transcriber = installed(server, FakeTranscriber())
    answer = await server.client.post(PATH, files=FILE, data=fields)
    assert answer.status_code == 200, answer.text
    Envelope[Transcript].model_validate(answer.json(), strict=True)
    assert answer.json()["extra"] is None
    assert answer.json()["data"] == {
        "words": [
            {"word": "City", "start": 0.5, "end": 0.9},
            {"word": "lights", "start": 0.9, "end": 1.4},
            {"word": "夜の歌", "start": 61.25, "end": 63.0},
        ],
        "lrc_text": "[00:00.50]City lights\n[01:01.25]夜の歌\n",
        "lyrics_text": "City lights\n夜の歌\n",
    }
    assert [(content, spoken) for _, content, spoken in transcriber.asked] == [(b"RIFF", language)]
    assert list(server.uploads.iterdir()) == []


async def test_a_song_by_its_link(server: Server):
    transcriber = installed(server, FakeTranscriber())
    task = await server.release(prompt="pop", audio_format="wav")
    await server.finish_next("wav", b"RIFFsong")
    (entry,) = await server.query(task)
    link = entry["result"].split('"file": "')[1].split('"')[0]
    for name in ("audio_path", "src_audio_path"):
        answer = await server.client.post(PATH, json={name: link, "language": "ja"})
        assert answer.status_code == 200, answer.text
    assert [asked[1:] for asked in transcriber.asked] == [(b"RIFFsong", "ja")] * 2


@pytest.mark.parametrize("path", ["/etc/passwd", "song.wav", "../song.wav"])
async def test_other_files_of_this_machine(server: Server, path: str):
    installed(server, FakeTranscriber())
    answer = await server.client.post(PATH, json={"audio_path": path})
    assert_error(answer, 422, "audio_path: ", "Upload the file as audio")


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {}},
        {"json": {"language": "ja"}},
        {"files": FILE, "data": {"audio_path": "song.wav"}},
        {"files": {"audio": ("a.wav", b"RIFF"), "reference_audio": ("b.wav", b"RIFF")}},
    ],
)
async def test_not_one_recording(server: Server, sent: Any):
    installed(server, FakeTranscriber())
    answer = await server.client.post(PATH, **sent)
    assert_error(answer, 422, "audio_path: ", "one audio file")
    assert list(server.uploads.iterdir()) == []


async def test_a_language_that_is_none(server: Server):
    installed(server, FakeTranscriber())
    answer = await server.client.post(PATH, files=FILE, data={"language": "klingon"})
    assert_error(answer, 422, "language: 'klingon'")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelUnavailableError("The Whisper model"), 503),
        (QueueFullError(8, 60), 429),
    ],
)
async def test_errors(server: Server, error: Exception, status: int):
    installed(server, FakeTranscriber(error=error))
    assert_error(await server.client.post(PATH, files=FILE), status)
    assert list(server.uploads.iterdir()) == []


async def test_no_words_and_a_damaged_file(server: Server):
    installed(server, FakeTranscriber(()))
    services = server.app.state.services
    said = "{} was cut off"
    provide(server.app, replace(services, probe=lambda path: Facts(warnings=(said.format(path.name),))))
    answer = (await server.client.post(PATH, files=FILE)).json()
    assert answer["data"] == {"words": [], "lrc_text": "", "lyrics_text": ""}
    assert answer["extra"]["warnings"] == [
        "src_audio: My song.wav was cut off",
        "audio_path: no words were heard",
    ]


async def test_one_that_takes_too_long_is_stopped(serve: Serve):
    class Slow:
        ended = ""

        async def transcribe(
            self, path: Path, language: str | None, cancelled: Cancelled
        ) -> tuple[TimedLine, ...]:
            while not cancelled():  # noqa: ASYNC110 - as a thread would, it looks now and then
                await asyncio.sleep(0.001)
            self.ended = "stopped"
            raise JobCancelledError("The transcription was cancelled.")

    config: HttpConfig = replace(CONFIG, generation_timeout=0.02)
    async with serve(config) as server:
        slow = installed(server, Slow())
        answer = await server.client.post(PATH, files=FILE)
        assert_error(answer, 504, "not finished within 0.02 s", "ACESTEP_GENERATION_TIMEOUT")
        assert slow.ended == "stopped"
        assert list(server.uploads.iterdir()) == []
