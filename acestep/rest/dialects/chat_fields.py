"""The fields of `/v1/chat/completions` that are its own, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

MAX_MESSAGES, MAX_PARTS = 1_000, 100
GUIDANCE = 2.0  # lm_cfg_scale where a chat does not say; as in the original


class TextPart(BaseModel):
    """Text of a message."""

    type: Literal["text"]
    text: str


class InputAudio(BaseModel):
    """A whole audio file."""

    data: str = Field(description="The file in base64, or as a `data:` link.")
    format: str = Field("", description="File extension, `wav` for example; helps to recognise the format.")


class AudioPart(BaseModel):
    """Audio of a message."""

    type: Literal["input_audio"]
    input_audio: InputAudio


def _kind_of_part(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return kind if isinstance(kind, str) else None


def _kind_of_content(content: Any) -> str | None:
    if isinstance(content, str):
        return "words"
    return "parts" if isinstance(content, list) else None


def _kind_of_message(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else getattr(message, "role", None)
    return "user" if role == "user" else "other"


Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[AudioPart, Tag("input_audio")],
    Discriminator(
        _kind_of_part,
        custom_error_type="part",
        custom_error_message="a part whose type is text or input_audio",
    ),
]
Content = Annotated[
    Annotated[str, Tag("words")]
    | Annotated[Annotated[list[Part], Field(max_length=MAX_PARTS)], Tag("parts")],
    Discriminator(
        _kind_of_content, custom_error_type="content", custom_error_message="text, or a list of parts"
    ),
]


class UserMessage(BaseModel):
    """What a person says; of these the last one counts."""

    role: Literal["user"]
    content: Content


class OtherMessage(BaseModel):
    """What anybody else says; it is not read."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(json_schema_extra={"not": {"const": "user"}})


Message = Annotated[
    Annotated[UserMessage, Tag("user")] | Annotated[OtherMessage, Tag("other")],
    Discriminator(_kind_of_message),
]


class AudioConfig(BaseModel):
    """What the song is; fields of /release_task may stand here as well."""

    model_config = ConfigDict(extra="allow")

    format: str | None = Field(None, description="`audio_format` of /release_task.", examples=["mp3"])
    instrumental: bool = Field(False, description="Nobody sings, whatever else says so.")


class OutputAudio(BaseModel):
    """OpenAI's own way to say what audio is wanted."""

    format: str | None = Field(None, description="As `audio_config.format`, where that is not sent.")
    voice: Any = Field(None, description="A song has no such voices; ignored, with a warning.")


class StreamOptions(BaseModel):
    """How to stream."""

    include_usage: bool = Field(False, description="Send one more chunk, with `usage`.")


class ChatRequest(BaseModel):
    """A chat whose last user message asks for a song. Further fields are those of /release_task.

    The message is `<prompt>a caption</prompt><lyrics>lines</lyrics>`, bare lyrics, or a sentence, which the
    planner makes a song of; without a planner it is the caption. Of two audio parts the first is the source
    and the second the reference; for text2music the only one is the reference.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    messages: list[Message] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        json_schema_extra={"contains": {"required": ["role"], "properties": {"role": {"const": "user"}}}},
        examples=[[{"role": "user", "content": "A calm piano piece for a rainy evening"}]],
    )
    model: str | None = Field(None, max_length=200, description="As in a model list.")
    stream: bool = Field(False, description="Answer with server-sent events.")
    stream_options: StreamOptions = StreamOptions()
    audio_config: AudioConfig = AudioConfig()
    audio: OutputAudio = OutputAudio()
    modalities: list[str] = Field([], description="The answer always carries text and audio.")
    n: int | None = Field(None, description="`batch_size`, where that is not sent. Default: 1.")
    temperature: float | None = Field(None, ge=0, le=2, description="`lm_temperature` of /release_task.")
    top_p: float | None = Field(None, gt=0, le=1, description="`lm_top_p` of /release_task.")
    top_k: int | None = Field(None, ge=0, le=10_000, description="`lm_top_k` of /release_task.")
    lm_cfg_scale: float | None = Field(
        None, description=f"As in /release_task; where a planner has a say, {GUIDANCE} if it is not sent."
    )
    lyrics: str | None = Field(None, description="As in /release_task; then the message is the caption.")
    task_type: str | None = Field(None, description="As in /release_task.")
    sample_mode: bool | None = Field(
        None, description="false: a sentence is a caption. true: only a planner can make a song of it."
    )
    use_format: bool | None = Field(None, description="As in /release_task; then a sentence is a caption.")
    use_cot_metas: bool = Field(True, description="Ignored: a planner fills in what nobody decided.")
    max_tokens: Any = Field(None, description="Ignored, with a warning; a song has a duration.")
    max_completion_tokens: Any = Field(None, description="Ignored, with a warning.")
    stop: Any = Field(None, description="Ignored, with a warning.")
