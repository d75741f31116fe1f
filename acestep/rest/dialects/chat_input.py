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
from acestep.rest.dialects.reading import ignored, read, wire_fields
from acestep.rest.request.schemas import GenerateTask, find_task, parse_task

_TEXT_TO_MUSIC = "text2music"


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat that has been read: its wire `fields` by their own names, and the same as a `task`."""

    request: ChatRequest
    said: UserMessage
    fields: Mapping[str, Any]
    task: GenerateTask
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChatSong:
    """What a chat asks for: the wire `fields`, the `audio` that comes along by what it is, and `warnings`."""

    fields: dict[str, Any]
    audio: dict[str, InputAudio]
    warnings: tuple[str, ...]


def read_chat(body: Mapping[str, Any]) -> Chat:
    """Read all fields of a chat. Raises `InvalidFieldError` that names the wrong ones."""
    request = read(ChatRequest, body)
    said = next((said for said in reversed(request.messages) if isinstance(said, UserMessage)), None)
    if said is None:
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
    return Chat(request, said, fields, parse_task(fields), (*_without_meaning(request), *unused))


def song_of(chat: Chat, planner: PlannerInfo) -> ChatSong:
    """Say what a chat asks for. Raises `InvalidFieldError` where it does not say what the song is."""
    audio = _audio_of(chat.said, chat.task.task_type)
    fields = dict(chat.fields)
    warnings = [*chat.warnings, *_say(_text_of(chat.said), fields, chat, planner)]
    if planner.is_usable and chat.task.task_type in PLANNED_TASKS:
        fields.setdefault("lm_cfg_scale", GUIDANCE)
    warnings += _silence(fields) if chat.request.audio_config.instrumental else []
    if not (audio or _says_something(parse_task(fields))):
        raise InvalidFieldError("messages", "", "a user message that says what the song is, or brings audio")
    return ChatSong(fields, audio, tuple(warnings))


def decode(audio: Mapping[str, InputAudio]) -> dict[str, UploadFile]:
    """Return audio parts as uploads. Raises `InvalidFieldError` for what is not base64."""
    return {kind: _upload(kind, part) for kind, part in audio.items()}


def _without_meaning(request: ChatRequest) -> list[str]:
    """Warn of fields of other models' chats."""
    output = request.audio
    sent = request.model_dump(include={"max_tokens", "max_completion_tokens", "stop"})
    warnings = ignored(sent, tuple(sent), "a song has a duration, not tokens")
    warnings += ignored({"audio.voice": output.voice}, ("audio.voice",), "the caption says who sings")
    if not request.use_cot_metas:
        warnings.append("use_cot_metas: a planner always fills in what nobody decided; false is not used")
    if request.modalities and "audio" not in request.modalities:
        warnings.append("modalities: the answer always carries text and audio")
    return warnings


def _say(text: str, fields: dict[str, Any], chat: Chat, planner: PlannerInfo) -> list[str]:
    """Put what a message says into `fields`; what was sent as a field of its own wins."""
    task = chat.task
    message = understand(text, not (task.lyrics or chat.request.audio_config.instrumental))
    said = {"prompt": message.caption, "lyrics": message.lyrics}
    warnings = ["messages: the text beside the tags is not used"] if message.aside else []
    if message.sentence is not None:
        for_planner = task.sample_mode or _leaves_it_to_a_planner(task)
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


def _leaves_it_to_a_planner(task: GenerateTask) -> bool:
    """Whether a sentence is all there is, so that a planner has to write the song."""
    refused = "sample_mode" in task.model_fields_set and not task.sample_mode
    decided = refused or task.use_format or task.lyrics or task.prompt
    return not decided and task.task_type == _TEXT_TO_MUSIC


def _says_something(task: GenerateTask) -> bool:
    return bool(task.prompt or task.lyrics or task.sample_query or task.sample_mode or task.audio_code_string)


def _silence(fields: dict[str, Any]) -> list[str]:
    lyrics = str(fields.get("lyrics", ""))
    fields["lyrics"] = INSTRUMENTAL
    if is_instrumental(lyrics):
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
