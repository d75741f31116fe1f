from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from fastapi import APIRouter, Request

from acestep.domain.analysis import TimedLine
from acestep.errors import InvalidFieldError, NotInstalledError
from acestep.rest.deps import RequestBody, Services
from acestep.rest.envelope import Envelope
from acestep.rest.openapi import body_of
from acestep.rest.request.draft_tasks import TranscribeTask
from acestep.rest.request.schemas import read_plain
from acestep.rest.request.sounds import Sound, lent
from acestep.rest.request.task_rules import check_strict
from acestep.rest.response.schemas import TranscribedWord, Transcript
from acestep.rest.response.song import lrc
from acestep.rest.submit import UNKNOWN_LANGUAGE, named_sound
from acestep.rest.wait import wait_for

router = APIRouter(tags=["drafts"])

FIELD = "audio_path"


@router.post("/v1/transcribe", openapi_extra=body_of(TranscribeTask))
async def transcribe(request: Request, body: RequestBody, services: Services) -> Envelope[Transcript]:
    """Write down the vocals of a recording, with the time of each word. Needs faster-whisper."""
    transcriber = services.transcriber
    if transcriber is None:
        raise NotInstalledError(
            "This server cannot transcribe: faster-whisper is not installed. Install it with "
            "`uv sync --extra transcribe`, choose its model with ACESTEP_WHISPER_MODEL, and start the server "
            "again."
        )
    task = read_plain(TranscribeTask, body.fields)
    if bool(body.files) == bool(task.audio_path) or len(body.files) > 1:
        allowed = "one audio file, uploaded as audio or named by audio_path"
        raise InvalidFieldError(FIELD, task.audio_path, allowed)
    seconds = services.config.generation_timeout
    async with lent(body.files, services.uploads, services.probe) as uploads:
        sound = await _sound(task, uploads.values(), services)
        check_strict(sound.warnings, services.config.strict)
        language = None if task.language == UNKNOWN_LANGUAGE else task.language
        lines = await wait_for(
            request,
            lambda cancelled: transcriber.transcribe(sound.path, language, cancelled),
            seconds,
            lambda: _too_slow(seconds),
        )
    warnings = [*sound.warnings, *([] if lines else [f"{FIELD}: no words were heard"])]
    return Envelope(data=_transcript(lines), extra={"warnings": warnings} if warnings else None)


async def _sound(task: TranscribeTask, uploads: Iterable[Sound], services: Services) -> Sound:
    return next(iter(uploads), None) or await named_sound(FIELD, task.audio_path or "", services)


def _transcript(lines: Sequence[TimedLine]) -> Transcript:
    words = chain.from_iterable(line.words for line in lines)
    return Transcript(
        words=[TranscribedWord(word=word.text, start=word.start, end=word.end) for word in words],
        lrc_text=lrc(lines),
        lyrics_text="".join(f"{line.text}\n" for line in lines),
    )


def _too_slow(seconds: float) -> str:
    return (
        f"The transcription was not finished within {seconds:g} s, the limit of this server "
        "(ACESTEP_GENERATION_TIMEOUT). Send less audio, or choose a smaller ACESTEP_WHISPER_MODEL."
    )
