from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Literal

from acestep.domain.draft import Draft, DraftRequest, Metadata
from acestep.domain.song import MAX_SEED
from acestep.errors import InvalidFieldError
from acestep.rest.request.draft_tasks import FormatTask, UnderstandTask, WriteTask
from acestep.rest.request.fields_planner import DraftFields
from acestep.rest.request.fields_song import MusicFields
from acestep.rest.response.schemas import CreatedSample, DraftAnswer
from acestep.rest.submit import UNKNOWN_LANGUAGE, is_language_fixed, sampling_options


def to_format(task: FormatTask) -> DraftRequest:
    """Raises `InvalidFieldError` for a request without caption and lyrics."""
    if not (task.prompt.strip() or task.lyrics.strip()):
        raise InvalidFieldError("prompt", task.prompt, "a caption, or else lyrics")
    return DraftRequest(
        kind="format",
        caption=task.prompt,
        lyrics=task.lyrics,
        metadata=_metadata(task),
        options=sampling_options(task, task.temperature),
        seed=_seed(task),
    )


def to_write(task: WriteTask, kind: Literal["sample", "lyrics"]) -> DraftRequest:
    """Raises `InvalidFieldError` for a request that does not say what the song is about."""
    query = task.query.strip() or task.prompt.strip()
    if not query and (kind == "sample" or not task.lyrics.strip()):
        remedy = "POST /create_random_sample answers with an example"
        raise InvalidFieldError("query", task.query, "a sentence that says what the song is about", remedy)
    if task.instrumental and kind == "lyrics":
        raise InvalidFieldError("instrumental", True, "false where lyrics are asked for")
    caption = task.prompt if task.query.strip() and task.prompt.strip() else None
    return DraftRequest(
        kind=kind,
        lyrics=task.lyrics,
        query=query,
        instrumental=task.instrumental,
        metadata=replace(_metadata(task), caption=caption),
        options=sampling_options(task, task.temperature),
        seed=_seed(task),
    )


def to_understand(task: UnderstandTask, audio: Path | None) -> DraftRequest:
    """Raises `InvalidFieldError` unless the request has either audio or codes."""
    if audio is None and not task.audio_code_string:
        raise InvalidFieldError("src_audio", None, "an audio file, or else audio_code_string")
    if audio is not None and task.audio_code_string:
        raise InvalidFieldError(
            "audio_code_string",
            f"{len(task.audio_code_string)} codes",
            "no codes where audio is sent as well",
            "Send one of the two",
        )
    return DraftRequest(
        kind="understand",
        audio_path=str(audio or ""),
        audio_codes=task.audio_code_string,
        options=sampling_options(task, task.temperature),
        seed=_seed(task),
    )


def written(task: WriteTask, draft: Draft, kind: Literal["sample", "lyrics"]) -> CreatedSample:
    """Return the planner's song; what the client sent of it wins, but lyrics that it wants improved."""
    answer = formatted(task, draft)
    sent = {"caption": task.prompt if task.query.strip() else ""}
    sent |= {"lyrics": task.lyrics} if kind == "sample" else {}
    answer = answer.model_copy(update={name: text for name, text in sent.items() if text.strip()})
    spelled = {"keyscale": answer.key_scale, "timesignature": answer.time_signature}
    return CreatedSample(**answer.model_dump(), **spelled)


def formatted(task: FormatTask | WriteTask, draft: Draft) -> DraftAnswer:
    """Return the planner's draft; metadata that the client sent wins."""
    answer = understood(draft)
    sent = {
        "bpm": task.bpm,
        "key_scale": task.key_scale,
        "time_signature": task.time_signature,
        "duration": task.audio_duration,
        "vocal_language": task.vocal_language if is_language_fixed(task) else None,
        "caption": None if answer.caption else task.prompt,
        "lyrics": None if answer.lyrics else task.lyrics,
    }
    return answer.model_copy(update={name: value for name, value in sent.items() if value is not None})


def understood(draft: Draft) -> DraftAnswer:
    decided = draft.metadata
    return DraftAnswer(
        caption=decided.caption or "",
        lyrics=draft.lyrics,
        bpm=decided.bpm,
        key_scale=decided.key_scale or "",
        time_signature=decided.time_signature or "",
        duration=decided.duration,
        vocal_language=decided.language or UNKNOWN_LANGUAGE,
    )


def _metadata(task: MusicFields) -> Metadata:
    return Metadata(
        bpm=task.bpm,
        duration=None if task.audio_duration is None else round(task.audio_duration),
        key_scale=task.key_scale,
        language=task.vocal_language if is_language_fixed(task) else None,
        time_signature=task.time_signature,
    )


def _seed(task: DraftFields) -> int:
    return secrets.randbelow(MAX_SEED + 1) if task.seed == -1 else task.seed
