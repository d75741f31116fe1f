"""The sung words of a recording and their times, heard by Whisper, where faster-whisper is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from acestep.audio.decode import read
from acestep.domain.analysis import TimedLine, TimedWord
from acestep.errors import InvalidFieldError, JobCancelledError, ModelUnavailableError, QueueFullError

SAMPLE_RATE = 16000  # Hz, of all Whisper models
MAX_WAITING = 8  # requests, each of which holds a file
_SECONDS_EACH = 60  # a guess: a song of 4 minutes with `small` on 4 cores
_PAUSE = 1.0  # seconds between two words that end a line
_ENDS = (".", "!", "?", "。", "！", "？", "…")

Cancelled = Callable[[], bool]


class HeardWord(Protocol):
    word: str  # with the space before it, in languages that have spaces
    start: float
    end: float


class Segment(Protocol):
    words: Sequence[HeardWord] | None


class Whisper(Protocol):
    # A `faster_whisper.WhisperModel`.
    @property
    def supported_languages(self) -> Sequence[str]: ...

    def transcribe(
        self,
        audio: NDArray[np.float32],
        language: str | None,
        *,
        word_timestamps: bool,
        condition_on_previous_text: bool,
    ) -> tuple[Iterable[Segment], object]: ...


LoadWhisper = Callable[[str], Whisper]


def whisper_loader() -> LoadWhisper | None:
    return _load if find_spec("faster_whisper") else None


def _load(model: str) -> Whisper:
    from faster_whisper import WhisperModel

    # On a GPU it would take memory that the plan has given to the other models.
    whisper: Whisper = WhisperModel(model, device="cpu", compute_type="int8")
    return whisper


class WhisperTranscriber:
    """Runs one transcription at a time, and loads the model for each, so that none stays in memory."""

    def __init__(self, model: str, load: LoadWhisper) -> None:
        self._model = model
        self._load = load
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def transcribe(
        self, path: Path, language: str | None, cancelled: Cancelled
    ) -> tuple[TimedLine, ...]:
        """The lines in the file `path`. None as the language: it is detected.

        Raises ModelUnavailableError, InvalidFieldError for a language that the model does not know,
        QueueFullError, UnusableAudioError, and JobCancelledError after `cancelled()`.
        """
        if self._waiting >= MAX_WAITING:
            raise QueueFullError(MAX_WAITING, _SECONDS_EACH)
        # A thread that is abandoned keeps its turn until it ends.
        work = asyncio.ensure_future(self._in_turn(path, language, cancelled))
        work.add_done_callback(_retrieve)
        return await asyncio.shield(work)

    async def _in_turn(self, path: Path, language: str | None, cancelled: Cancelled) -> tuple[TimedLine, ...]:
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.wrap_future(
                    _in_thread(lambda: self._transcribe(path, language, cancelled))
                )
        finally:
            self._waiting -= 1

    def _transcribe(self, path: Path, language: str | None, cancelled: Cancelled) -> tuple[TimedLine, ...]:
        _check(cancelled)
        whisper = self._loaded()
        known = whisper.supported_languages
        if language not in (None, *known):
            raise InvalidFieldError("language", language, ", ".join(sorted(known)))
        sound = read(path, SAMPLE_RATE).samples.mean(axis=0)
        _check(cancelled)
        # Text that is carried on makes it repeat itself where only instruments play.
        segments, _ = whisper.transcribe(
            sound, language, word_timestamps=True, condition_on_previous_text=False
        )
        lines: list[TimedLine] = []
        for segment in segments:
            _check(cancelled)
            lines += lines_of(segment.words or ())
        return tuple(lines)

    def _loaded(self) -> Whisper:
        try:
            return self._load(self._model)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            # Clients read it, without the folders of this machine.
            name = Path(self._model).name
            why = (str(error).splitlines() or [""])[0].replace(self._model, name)
            raise ModelUnavailableError(
                f"The Whisper model {name} cannot be loaded ({why}). Set ACESTEP_WHISPER_MODEL to a name "
                "such as small, which is downloaded, or to the folder of a model for faster-whisper."
            ) from error


def lines_of(words: Sequence[HeardWord]) -> list[TimedLine]:
    """The words of a segment in lines, which end with a sentence and before a pause."""
    lines: list[TimedLine] = []
    line: list[HeardWord] = []
    for index, word in enumerate(words):
        line.append(word)
        following = words[index + 1] if index + 1 < len(words) else None
        is_end = following is None or following.start - word.end > _PAUSE
        if is_end or word.word.rstrip().endswith(_ENDS):
            lines += _line(line)
            line = []
    return lines


def _line(words: Sequence[HeardWord]) -> list[TimedLine]:
    text = "".join(word.word for word in words).strip()
    timed = tuple(
        TimedWord(word.word.strip(), round(float(word.start), 3), round(float(word.end), 3))
        for word in words
        if word.word.strip()
    )
    return [TimedLine(text, timed[0].start, timed[-1].end, timed)] if timed else []


def _in_thread(work: Callable[[], tuple[TimedLine, ...]]) -> Future[tuple[TimedLine, ...]]:
    # Not a thread of asyncio's pool, for which the event loop would wait when the server stops.
    executor = ThreadPoolExecutor(1, "transcribe")
    try:
        return executor.submit(work)
    finally:
        executor.shutdown(wait=False)


def _check(cancelled: Cancelled) -> None:
    if cancelled():
        raise JobCancelledError("The transcription was cancelled.")


def _retrieve(work: asyncio.Future[tuple[TimedLine, ...]]) -> None:
    if not work.cancelled():
        work.exception()
