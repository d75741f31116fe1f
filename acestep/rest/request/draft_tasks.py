"""The requests for drafts and examples, beside `GenerateTask`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from acestep.rest.request.fields_planner import CodeFields, DraftFields
from acestep.rest.request.fields_song import MAX_CAPTION, MusicFields
from acestep.rest.request.music_values import OptionalLanguage
from acestep.rest.request.wire_types import OptionalFlag, OptionalText, Text, wire


class FormatTask(DraftFields, MusicFields):
    """A request for a better caption and lyrics. What it says of the music stays as it is."""

    model_config = ConfigDict(frozen=True)


class WriteTask(DraftFields, MusicFields):
    """A request for a song on paper. What it says of the music stays as it is."""

    model_config = ConfigDict(frozen=True)

    query: Text = wire(
        "",
        *("sample_query", "sampleQuery", "description", "desc"),
        free_text=True,
        max_length=MAX_CAPTION,
        example="a quiet song about rain",
        about="A sentence that says what the song is about. Without one, prompt is that sentence.",
    )
    instrumental: OptionalFlag = wire(
        None, example=True, about="Whether it is without vocals; null: the sentence decides."
    )


class UnderstandTask(DraftFields, CodeFields):
    """A question what a song is; its audio comes as a file or as codes."""

    model_config = ConfigDict(frozen=True)

    src_audio_path: OptionalText = wire(
        None,
        max_length=1_000,
        example="song.wav",
        about="Audio on the server: the `file` of a song, or a file in a folder of ACESTEP_AUDIO_ROOTS. Or "
        "upload it as src_audio.",
    )


class SampleTask(BaseModel):
    """A request for an example."""

    sample_type: OptionalText = wire(
        "simple_mode",
        max_length=100,
        example="custom_mode",
        about="`simple_mode`: a sentence to invent a song from. Anything else: a whole song, to be rendered.",
    )


class TranscribeTask(BaseModel):
    """A question what is sung; the audio may also come as a file."""

    audio_path: OptionalText = wire(
        None,
        "src_audio_path",
        max_length=1_000,
        example="song.wav",
        about="Audio on the server: the `file` of a song, or a file in a folder of ACESTEP_AUDIO_ROOTS. Or "
        "upload it as audio.",
    )
    language: OptionalLanguage = wire(
        None,
        "vocal_language",
        about="Language of the vocals: an ISO 639 code. null or `unknown`: it is detected.",
        example="ja",
    )
