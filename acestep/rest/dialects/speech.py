from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from acestep.errors import InvalidFieldError
from acestep.rest.dialects.chat_text import Message, understand
from acestep.rest.dialects.reading import ignored, read, wire_fields
from acestep.rest.request.schemas import find_task, parse_task
from acestep.rest.spelling import JsonObject

MAX_INPUT = 60_000  # characters: the longest caption and lyrics, and the tags around them


class AudioSpeech(BaseModel):
    """OpenAI's request for speech, which is sung here. Every field of /release_task is read as well."""

    model_config = ConfigDict(extra="allow", frozen=True)

    input: str = Field(
        max_length=MAX_INPUT, description="Lyrics if it has section tags such as `[Verse]`, else the caption."
    )
    instructions: str | None = Field(
        None, max_length=MAX_INPUT, description="The caption, where `input` is lyrics."
    )
    response_format: str | None = Field(None, description="`audio_format` of /release_task. Default: mp3.")
    stream_format: Literal["audio"] | None = Field(None, description="The answer is the file.")
    voice: object = Field(None, description="Ignored, with a warning; the caption describes the voice.")
    speed: object = Field(None, description="Ignored, with a warning; use `bpm`.")


def read_speech(body: JsonObject) -> tuple[JsonObject, tuple[str, ...]]:
    """Return the fields of `/release_task`, and warnings. Raises `InvalidFieldError`."""
    request = read(AudioSpeech, body)
    fields, unused = find_task(wire_fields(request), {"audio_format": request.response_format})
    fields.setdefault("batch_size", 1)
    task = parse_task(fields)
    if task.batch_size != 1:
        raise InvalidFieldError("batch_size", task.batch_size, "1", "Use /release_task for several songs")
    message = _understood(request.input, may_be_lyrics=not task.lyrics)
    warnings = [
        *ignored({"voice": request.voice}, ("voice",), "describe the voice in the caption"),
        *ignored({"speed": request.speed}, ("speed",) if request.speed != 1 else (), "send bpm instead"),
        *unused,
        *_apply(fields, message, request.instructions),
    ]
    return fields, tuple(warnings)


def _understood(text: str, may_be_lyrics: bool) -> Message:
    try:
        message = understand(text, may_be_lyrics)
    except InvalidFieldError as error:
        raise InvalidFieldError("input", error.value, error.allowed) from None
    if message == Message():
        raise InvalidFieldError("input", text, "a description of the song, or its lyrics")
    return message


def _apply(fields: JsonObject, message: Message, instructions: str | None) -> list[str]:
    # Add the text to `fields`; values that were sent as fields win. Returns warnings.
    caption = message.caption or message.sentence
    warnings = ["input: the text beside the tags is not used"] if message.aside else []
    if caption and instructions:
        warnings.append("instructions: input describes the song already; they are not used")
    for name, value in {"prompt": caption or instructions, "lyrics": message.lyrics}.items():
        if value and fields.get(name, "") != "":
            warnings.append(f"{name}: it was sent as a field as well; what input says is not used")
        elif value:
            fields[name] = value
    return warnings
