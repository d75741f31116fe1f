from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import UploadFile

from acestep.domain.models import PlannerInfo
from acestep.domain.song import INSTRUMENTAL, is_instrumental
from acestep.errors import InvalidFieldError
from acestep.limits import PLANNED_TASKS
from acestep.rest.dialects.chat_fields import (
    GUIDANCE,
    MAX_TEXT,
    AudioPart,
    ChatRequest,
    InputAudio,
    TextPart,
    UserMessage,
)
from acestep.rest.dialects.chat_text import understand
from acestep.rest.dialects.reading import ignored, read, wire_fields
from acestep.rest.request.schemas import GenerateTask, find_task, parse_task
from acestep.rest.spelling import JsonObject

_TEXT_TO_MUSIC = "text2music"


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat as it was read; `fields` and `task` hold the same values, raw and read."""

    request: ChatRequest
    message: UserMessage
    fields: JsonObject
    task: GenerateTask
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChatSong:
    """A chat as a request: fields of `/release_task`, and audio parts by the names of uploads."""

    fields: JsonObject
    audio: dict[str, InputAudio]
    warnings: tuple[str, ...]


def read_chat(body: JsonObject) -> Chat:
    """Raises `InvalidFieldError` that names the fields that cannot be used."""
    request = read(ChatRequest, body)
    message = next((each for each in reversed(request.messages) if isinstance(each, UserMessage)), None)
    if message is None:
        raise InvalidFieldError("messages", None, "at least one message whose role is user")
    config = request.audio_config
    own = {
        "batch_size": request.n or None,
        "audio_format": config.format or request.audio.format,
        "lm_temperature": request.temperature,
        "lm_top_p": request.top_p,
        "lm_top_k": request.top_k,
    }
    fields, unused = find_task(wire_fields(request), config.model_extra or {}, own)
    fields.setdefault("batch_size", 1)
    return Chat(request, message, fields, parse_task(fields), (*_ignored_fields(request), *unused))


def song_of(chat: Chat, planner: PlannerInfo) -> ChatSong:
    """Raises `InvalidFieldError` for a chat without any description of the song."""
    audio = _audio_of(chat.message, chat.task.task_type)
    fields = dict(chat.fields)
    warnings = [*chat.warnings, *_apply_message(fields, chat, planner)]
    if planner.is_usable and chat.task.task_type in PLANNED_TASKS:
        fields.setdefault("lm_cfg_scale", GUIDANCE)
    warnings += _make_instrumental(fields) if chat.request.audio_config.instrumental else []
    if not (audio or _describes_song(parse_task(fields))):
        raise InvalidFieldError(
            "messages", "", "a user message with a description of the song, lyrics or audio"
        )
    return ChatSong(fields, audio, tuple(warnings))


def decode(audio: Mapping[str, InputAudio]) -> dict[str, UploadFile]:
    """Raises `InvalidFieldError` for data that is not base64."""
    return {kind: _upload(kind, part) for kind, part in audio.items()}


def _ignored_fields(request: ChatRequest) -> list[str]:
    output = request.audio
    sent = {name: getattr(request, name) for name in ("max_tokens", "max_completion_tokens", "stop")}
    warnings = ignored(sent, tuple(sent), "a song has a duration, not tokens")
    warnings += ignored({"audio.voice": output.voice}, ("audio.voice",), "describe the voice in the caption")
    if not request.use_cot_metas:
        warnings.append("use_cot_metas: the planner always fills in missing metadata; false is not used")
    if request.modalities and "audio" not in request.modalities:
        warnings.append("modalities: the answer always has text and audio")
    return warnings


def _apply_message(fields: JsonObject, chat: Chat, planner: PlannerInfo) -> list[str]:
    # Add the text of the message to `fields`; values that were sent as fields win. Returns warnings.
    task = chat.task
    may_be_lyrics = not (task.lyrics or chat.request.audio_config.instrumental)
    text = _text_of(chat.message)
    if len(text) > MAX_TEXT:
        raise InvalidFieldError("messages", text, f"a last user message of at most {MAX_TEXT} characters")
    message = understand(text, may_be_lyrics)
    said = {"prompt": message.caption, "lyrics": message.lyrics}
    warnings = ["messages: the text beside the tags is not used"] if message.aside else []
    if message.sentence is not None:
        for_planner = task.sample_mode or _needs_planner(task)
        name = "sample_query" if for_planner and (planner.is_usable or task.sample_mode) else "prompt"
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


def _needs_planner(task: GenerateTask) -> bool:
    # Whether the planner has to write the song, since there is nothing but a sentence.
    refused = "sample_mode" in task.model_fields_set and not task.sample_mode
    decided = refused or task.use_format or task.lyrics or task.prompt
    return not decided and task.task_type == _TEXT_TO_MUSIC


def _describes_song(task: GenerateTask) -> bool:
    return bool(task.prompt or task.lyrics or task.sample_query or task.sample_mode or task.audio_code_string)


def _make_instrumental(fields: JsonObject) -> list[str]:
    lyrics = str(fields.get("lyrics", ""))
    fields["lyrics"] = INSTRUMENTAL
    if is_instrumental(lyrics):
        return []
    return ["lyrics: instrumental=true was sent as well; they are not used"]


def _text_of(message: UserMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content if isinstance(part, TextPart))


def _audio_of(message: UserMessage, task_type: str) -> dict[str, InputAudio]:
    parts = [] if isinstance(message.content, str) else message.content
    audio = [part.input_audio for part in parts if isinstance(part, AudioPart)]
    kinds = ("reference_audio",) if task_type == _TEXT_TO_MUSIC else ("src_audio", "reference_audio")
    if len(audio) > len(kinds):
        allowed = f"{len(kinds)} of type input_audio ({', '.join(kinds)})"
        raise InvalidFieldError(
            "messages", f"{len(audio)} audio parts", allowed, scope=f"with task_type {task_type}"
        )
    return dict(zip(kinds, audio, strict=False))


def _upload(kind: str, part: InputAudio) -> UploadFile:
    # Read base64, also as a `data:` link, with line breaks, or in the URL-safe alphabet.
    head, comma, tail = part.data.partition(",")
    text = tail if comma and head.lower().startswith("data:") else part.data
    try:
        code = text.encode("ascii").translate(_ALPHABET, b" \t\r\n").rstrip(b"=")
        raw = base64.b64decode(code + b"=" * (-len(code) % 4), validate=True)
    except (binascii.Error, ValueError):  # also UnicodeEncodeError
        raise InvalidFieldError(
            "messages", part.data, "a whole audio file in base64, or as a data: link", scope=f"as {kind}"
        ) from None
    return UploadFile(io.BytesIO(raw), size=len(raw), filename=f"{kind}.{part.format or 'audio'}")


_ALPHABET = bytes.maketrans(b"-_", b"+/")
