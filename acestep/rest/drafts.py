from __future__ import annotations

import secrets
from pathlib import Path

from acestep.domain.draft import Draft, DraftRequest, Metadata
from acestep.domain.song import MAX_SEED
from acestep.errors import InvalidFieldError
from acestep.rest.request.fields_planner import DraftFields
from acestep.rest.request.schemas import FormatTask, UnderstandTask
from acestep.rest.response.schemas import DraftAnswer
from acestep.rest.submit import UNKNOWN_LANGUAGE, is_language_fixed, sampling_options


def to_format(task: FormatTask) -> DraftRequest:
    """Raises `InvalidFieldError` for a request without caption and lyrics."""
    if not (task.prompt.strip() or task.lyrics.strip()):
        raise InvalidFieldError("prompt", task.prompt, "a caption, or else lyrics")
    return DraftRequest(
        kind="format",
        caption=task.prompt,
        lyrics=task.lyrics,
        metadata=Metadata(
            bpm=task.bpm,
            duration=None if task.audio_duration is None else round(task.audio_duration),
            key_scale=task.key_scale,
            language=task.vocal_language if is_language_fixed(task) else None,
            time_signature=task.time_signature,
        ),
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


def formatted(task: FormatTask, draft: Draft) -> DraftAnswer:
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


def _seed(task: DraftFields) -> int:
    return secrets.randbelow(MAX_SEED + 1) if task.seed == -1 else task.seed
