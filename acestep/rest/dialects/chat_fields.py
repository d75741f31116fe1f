from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

MAX_MESSAGES, MAX_PARTS, MAX_MODALITIES = 1_000, 100, 20
MAX_TEXT = 100_000  # characters of the message that describes the song; lyrics may have 50,000
GUIDANCE = 2.0  # default of lm_cfg_scale for chats, as in the original


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class InputAudio(BaseModel):
    data: str = Field(description="The file in base64, or as a `data:` link.")
    format: str = Field("", description="File extension, such as `wav`; helps to detect the format.")


class AudioPart(BaseModel):
    type: Literal["input_audio"]
    input_audio: InputAudio


def _kind_of_part(part: object) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return kind if isinstance(kind, str) else None


def _kind_of_content(content: object) -> str | None:
    if isinstance(content, str):
        return "words"
    return "parts" if isinstance(content, list) else None


def _kind_of_message(message: object) -> str:
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
    | Annotated[Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True)], Tag("parts")],
    Discriminator(
        _kind_of_content, custom_error_type="content", custom_error_message="text, or a list of parts"
    ),
]


class UserMessage(BaseModel):
    """A message of the user; the last one counts."""

    role: Literal["user"]
    content: Content


class OtherMessage(BaseModel):
    """A message of another role; it is ignored."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(json_schema_extra={"not": {"const": "user"}})


Message = Annotated[
    Annotated[UserMessage, Tag("user")] | Annotated[OtherMessage, Tag("other")],
    Discriminator(_kind_of_message),
]


class AudioConfig(BaseModel):
    """Settings of the song; every field of /release_task is read here as well."""

    model_config = ConfigDict(extra="allow")

    format: str | None = Field(None, description="`audio_format` of /release_task.", examples=["mp3"])
    instrumental: bool = Field(False, description="No vocals; lyrics are ignored.")


class OutputAudio(BaseModel):
    """OpenAI's field for the audio to generate."""

    format: str | None = Field(None, description="Used where `audio_config.format` is not sent.")
    voice: object = Field(None, description="Ignored, with a warning; the caption describes the voice.")


class StreamOptions(BaseModel):
    include_usage: bool = Field(False, description="Send one more chunk, with `usage`.")


class ChatRequest(BaseModel):
    """A chat whose last user message describes a song. Every field of /release_task is read as well.

    The message is `<prompt>a caption</prompt><lyrics>lines</lyrics>`, lyrics alone, or a sentence. The
    planner writes the song from a sentence; without a planner the sentence is the caption. The first audio
    part is the source and the second the reference; for text2music the only one is the reference.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    messages: list[Message] = Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_MESSAGES,
        json_schema_extra={"contains": {"required": ["role"], "properties": {"role": {"const": "user"}}}},
        examples=[[{"role": "user", "content": "A calm piano piece for a rainy evening"}]],
    )
    model: str | None = Field(None, max_length=200, description="A name or id from GET /v1/models.")
    stream: bool = Field(False, description="Answer with server-sent events.")
    stream_options: StreamOptions = StreamOptions()
    audio_config: AudioConfig = AudioConfig()
    audio: OutputAudio = OutputAudio()
    modalities: list[str] = Field(
        [],
        max_length=MAX_MODALITIES,
        fail_fast=True,
        description="Ignored: the answer has text and audio.",
    )
    n: int | None = Field(None, description="Used where `batch_size` is not sent. Default: 1.")
    temperature: float | None = Field(None, ge=0, le=2, description="`lm_temperature` of /release_task.")
    top_p: float | None = Field(None, description="`lm_top_p` of /release_task.")
    top_k: int | None = Field(None, description="`lm_top_k` of /release_task.")
    lm_cfg_scale: float | None = Field(
        None, description=f"As in /release_task; default where the planner runs: {GUIDANCE}."
    )
    lyrics: str | None = Field(None, description="As in /release_task; the message is then the caption.")
    task_type: str | None = Field(None, description="As in /release_task.")
    sample_mode: bool | None = Field(
        None, description="false: a sentence is the caption. true: the planner is required for a sentence."
    )
    use_format: bool | None = Field(None, description="As in /release_task; a sentence is then the caption.")
    use_cot_metas: bool = Field(True, description="Ignored: the planner always fills in missing metadata.")
    max_tokens: object = Field(None, description="Ignored, with a warning; use `duration`.")
    max_completion_tokens: object = Field(None, description="Ignored, with a warning.")
    stop: object = Field(None, description="Ignored, with a warning.")
