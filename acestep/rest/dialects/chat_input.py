"""From a chat to the fields and files of `/release_task`."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile

from acestep.domain.models import PlannerInfo
from acestep.domain.song import INSTRUMENTAL, is_instrumental
from acestep.errors import InvalidFieldError
from acestep.limits import PLANNED_TASKS
from acestep.rest.dialects.chat_fields import (
    GUIDANCE,
    AudioPart,
    ChatRequest,
    InputAudio,
    TextPart,
    UserMessage,
)
from acestep.rest.dialects.chat_text import understand
from acestep.rest.dialects.reading import ignored, read

_TEXT_TO_MUSIC = "text2music"
# What a song can be made of besides the message.
_SUBSTANCE = ("prompt", "lyrics", "sample_query", "sample_mode", "audio_code_string", "audio_codes")


@dataclass(frozen=True, slots=True)
class ChatSong:
    """What a chat asks for: the wire `fields`, the `audio` that comes along by what it is, and `warnings`."""

    request: ChatRequest
    fields: dict[str, Any]
    audio: dict[str, InputAudio]
    warnings: tuple[str, ...]


def read_chat(body: Mapping[str, Any], planner: PlannerInfo) -> ChatSong:
    """Translate a chat.

    Raises `InvalidFieldError` for a field of its own, and where it does not say what the song is.
    """
    request = read(ChatRequest, body)
    said = next((said for said in reversed(request.messages) if isinstance(said, UserMessage)), None)
    if said is None:
        raise InvalidFieldError("messages", None, "at least one message whose role is user")
    audio = _audio_of(said, (request.task_type or _TEXT_TO_MUSIC).strip().lower())
    fields, warnings = _own_fields(request)
    warnings += _say(_text_of(said), fields, request, planner)
    if planner.is_usable and (request.task_type or _TEXT_TO_MUSIC) in PLANNED_TASKS:
        fields.setdefault("lm_cfg_scale", GUIDANCE)
    warnings += _silence(fields) if request.audio_config.instrumental else []
    # What is no text at all is refused later, by its own name.
    unreadable = any(not isinstance(fields.get(name, ""), str) for name in ("prompt", "lyrics"))
    if not (audio or unreadable or any(fields.get(name) for name in _SUBSTANCE)):
        raise InvalidFieldError("messages", "", "a user message that says what the song is, or brings audio")
    return ChatSong(request, fields, audio, tuple(warnings))


def decode(audio: Mapping[str, InputAudio]) -> dict[str, UploadFile]:
    """Return audio parts as uploads. Raises `InvalidFieldError` for what is not base64."""
    return {kind: _upload(kind, part) for kind, part in audio.items()}


def _own_fields(request: ChatRequest) -> tuple[dict[str, Any], list[str]]:
    """All fields but what the message says, and warnings about those that mean nothing here."""
    config, output = request.audio_config, request.audio
    own = {
        "model": request.model,
        "lyrics": request.lyrics,
        "task_type": request.task_type,
        "sample_mode": request.sample_mode,
        "use_format": request.use_format,
        "batch_size": request.n or 1,
        "audio_format": config.format or output.format,
        "lm_temperature": request.temperature,
        "lm_top_p": request.top_p,
        "lm_top_k": request.top_k,
        "lm_cfg_scale": request.lm_cfg_scale,
    }
    fields: dict[str, Any] = {}
    for source in (own, config.model_extra or {}, request.model_extra or {}):
        fields |= {name: value for name, value in source.items() if value is not None}
    if "caption" in fields and "prompt" not in fields:
        fields["prompt"] = fields.pop("caption")
    sent = request.model_dump(include={"max_tokens", "max_completion_tokens", "stop"})
    warnings = ignored(sent, tuple(sent), "a song has a duration, not tokens")
    warnings += ignored({"audio.voice": output.voice}, ("audio.voice",), "the caption says who sings")
    if not request.use_cot_metas:
        warnings.append("use_cot_metas: a planner always fills in what nobody decided; false is not used")
    if request.modalities and "audio" not in request.modalities:
        warnings.append("modalities: the answer always carries text and audio")
    return fields, warnings


def _say(text: str, fields: dict[str, Any], request: ChatRequest, planner: PlannerInfo) -> list[str]:
    """Put what a message says into `fields`; what was sent as a field of its own wins."""
    message = understand(text, not (request.lyrics or request.audio_config.instrumental))
    said = {"prompt": message.caption, "lyrics": message.lyrics}
    warnings = ["messages: the text beside the tags is not used"] if message.aside else []
    if message.sentence is not None:
        for_planner = request.sample_mode or _leaves_it_to_a_planner(request, fields)
        name = "sample_query" if for_planner and (planner.is_usable or request.sample_mode) else "prompt"
        said[name] = message.sentence
        if for_planner and name == "prompt":
            warnings.append("messages: no planner is loaded on this server; the sentence is the caption")
    for name, value in said.items():
        if value is None:
            continue
        if fields.get(name, "") != "":
            warnings.append(f"{name}: it was sent as a field as well; what the message says is not used")
        else:
            fields[name] = value
    return warnings


def _leaves_it_to_a_planner(request: ChatRequest, fields: Mapping[str, Any]) -> bool:
    """Whether a sentence is all there is, so that somebody has to write the song."""
    decided = request.sample_mode is False or request.use_format or bool(request.lyrics)
    return not decided and request.task_type in (None, _TEXT_TO_MUSIC) and not fields.get("prompt")


def _silence(fields: dict[str, Any]) -> list[str]:
    lyrics = fields.get("lyrics") or ""
    fields["lyrics"] = INSTRUMENTAL
    if isinstance(lyrics, str) and is_instrumental(lyrics):
        return []
    return ["lyrics: instrumental=true was sent as well; they are not used"]


def _text_of(said: UserMessage) -> str:
    if isinstance(said.content, str):
        return said.content
    return "\n".join(part.text for part in said.content if isinstance(part, TextPart))


def _audio_of(said: UserMessage, task_type: str) -> dict[str, InputAudio]:
    """Return audio parts by what they are: a text2music song has no source."""
    parts = [] if isinstance(said.content, str) else said.content
    audio = [part.input_audio for part in parts if isinstance(part, AudioPart)]
    kinds = ("reference_audio",) if task_type == _TEXT_TO_MUSIC else ("src_audio", "reference_audio")
    if len(audio) > len(kinds):
        allowed = f"{len(kinds)} of type input_audio ({', '.join(kinds)})"
        raise InvalidFieldError(
            "messages", f"{len(audio)} audio parts", allowed, scope=f"with task_type {task_type}"
        )
    return dict(zip(kinds, audio, strict=False))


def _upload(kind: str, part: InputAudio) -> UploadFile:
    """Read base64, also as a `data:` link, with line breaks, or in the alphabet for links."""
    head, comma, tail = part.data.partition(",")
    text = tail if comma and head.lower().startswith("data:") else part.data
    text = text.translate(_ALPHABET).rstrip("=")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidFieldError(
            "messages", part.data, "a whole audio file in base64, or as a data: link", scope=f"as {kind}"
        ) from None
    return UploadFile(io.BytesIO(raw), size=len(raw), filename=f"{kind}.{part.format or 'audio'}")


_ALPHABET = str.maketrans("-_", "+/", " \t\r\n")
