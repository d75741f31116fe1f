"""Words out of a recording: Whisper itself is a fake, whose weights cannot be had here."""

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acestep.audio import transcribe as room
from acestep.audio.transcribe import MAX_WAITING, WhisperTranscriber, lines_of, whisper_loader
from acestep.domain.analysis import TimedLine, TimedWord
from acestep.errors import InvalidFieldError, JobCancelledError, ModelUnavailableError, QueueFullError
from tests.audio.sounds import File, encode, loudest_tone, tones


@dataclass
class Heard:
    word: str
    start: float
    end: float


@dataclass
class Segment:
    words: list[Heard] | None


CITY = [Heard(" City", 0.5, 0.9), Heard(" lights.", 0.9, 1.4), Heard(" Calling", 1.5, 2.0)]


@dataclass
class FakeWhisper:
    segments: list[Segment] = field(default_factory=lambda: [Segment(CITY)])
    supported_languages: tuple[str, ...] = ("en", "ja")
    asked: list[tuple[Any, str | None, dict[str, Any]]] = field(default_factory=list)

    def transcribe(self, audio: Any, language: str | None, **options: Any) -> tuple[Any, object]:
        self.asked.append((audio, language, options))
        return iter(self.segments), object()


def going_on() -> bool:
    return False


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return encode(tmp_path, File("song.wav", "wav", "pcm_s16le", 48000), tones((440.0, 440.0), 2.0, 48000))


class TestLines:
    def test_a_line_ends_with_a_sentence(self):
        assert [(line.text, line.start, line.end) for line in lines_of(CITY)] == [
            ("City lights.", 0.5, 1.4),
            ("Calling", 1.5, 2.0),
        ]

    def test_and_before_a_pause(self):
        words = [Heard(" la", 0.0, 0.5), Heard(" la", 1.4, 2.0), Heard(" la", 3.01, 4.0)]
        assert [line.text for line in lines_of(words)] == ["la la", "la"]

    def test_languages_without_spaces(self):
        words = [Heard("夜", 1.0, 1.2), Heard("の", 1.2, 1.3), Heard("歌。", 1.3, 2.0), Heard("朝", 2.0, 3.0)]
        assert lines_of(words)[0] == TimedLine(
            "夜の歌。",
            1.0,
            2.0,
            (TimedWord("夜", 1.0, 1.2), TimedWord("の", 1.2, 1.3), TimedWord("歌。", 1.3, 2.0)),
        )
        assert len(lines_of(words)) == 2

    @pytest.mark.parametrize("words", [[], [Heard(" ", 0.0, 1.0)]])
    def test_nothing(self, words: list[Heard]):
        assert lines_of(words) == []


class TestTranscribing:
    async def test_what_whisper_gets_and_what_comes_back(self, song: Path):
        loaded: dict[str, FakeWhisper] = {}

        def load(name: str) -> FakeWhisper:
            return loaded.setdefault(name, FakeWhisper([Segment(CITY), Segment(None)]))

        lines = await WhisperTranscriber("small", load).transcribe(song, "en", going_on)
        assert [line.text for line in lines] == ["City lights.", "Calling"]
        assert list(loaded) == ["small"]
        ((audio, language, options),) = loaded["small"].asked
        assert (audio.shape, audio.dtype, language) == ((32000,), np.float32, "en")
        assert loudest_tone(audio, 16000) == pytest.approx(440.0, abs=1.0)
        assert options == {"word_timestamps": True, "condition_on_previous_text": False}

    async def test_a_language_that_the_model_does_not_know(self, song: Path):
        transcriber = WhisperTranscriber("small.en", lambda _: FakeWhisper(supported_languages=("en",)))
        with pytest.raises(InvalidFieldError, match="language: 'ja' cannot be used; allowed: en"):
            await transcriber.transcribe(song, "ja", going_on)

    @pytest.mark.parametrize("error", [OSError("no network"), ValueError("Invalid model size 'smal'")])
    async def test_a_model_that_cannot_be_loaded(self, song: Path, error: Exception):
        def fail(name: str) -> FakeWhisper:
            raise error

        with pytest.raises(ModelUnavailableError, match=rf"smal .*{error}.*ACESTEP_WHISPER_MODEL"):
            await WhisperTranscriber("smal", fail).transcribe(song, None, going_on)

    async def test_its_folder_is_not_told(self, song: Path, tmp_path: Path):
        def fail(name: str) -> FakeWhisper:
            raise RuntimeError(f"Unable to open {name}/model.bin\nfor reading")

        with pytest.raises(ModelUnavailableError, match=r"\(Unable to open mine/model\.bin\)") as raised:
            await WhisperTranscriber(str(tmp_path / "mine"), fail).transcribe(song, None, going_on)
        assert str(tmp_path) not in str(raised.value)

    async def test_it_stops_between_segments(self, song: Path):
        stop = threading.Event()

        def segments() -> Any:
            yield Segment(CITY)
            stop.set()
            yield Segment(CITY)
            raise AssertionError("it goes on")

        whisper = FakeWhisper(segments())
        with pytest.raises(JobCancelledError):
            await WhisperTranscriber("small", lambda _: whisper).transcribe(song, None, stop.is_set)

    async def test_one_after_the_other_and_not_too_many(self, song: Path):
        may_go_on, busy, most = threading.Event(), [], []

        def load(name: str) -> FakeWhisper:
            busy.append(name)
            most.append(len(busy))
            may_go_on.wait(10)
            busy.pop()
            return FakeWhisper()

        transcriber = WhisperTranscriber("small", load)
        works = [
            asyncio.create_task(transcriber.transcribe(song, None, going_on)) for _ in range(MAX_WAITING)
        ]
        await asyncio.sleep(0)  # all of them have begun to wait
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="8 jobs waiting"):
            await transcriber.transcribe(song, None, going_on)
        # One that is given up keeps its turn until its thread ends.
        works[0].cancel()
        await asyncio.wait({works[0]})
        may_go_on.set()
        await asyncio.gather(*works[1:])
        assert most == [1] * MAX_WAITING
        await transcriber.transcribe(song, None, going_on)

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(room, "find_spec", lambda name: None)
        assert whisper_loader() is None
