"""The wire fields of tasks that work on audio.

Which task uses which is decided in `rest.request.task_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, WithJsonSchema

from acestep.domain.song import (
    MAX_DURATION,
    TRACKS,
    Morph,
    TaskOptions,
    Tuning,
    WaveletCorrection,
)
from acestep.rest.request.fields_song import MAX_CAPTION, MAX_LYRICS
from acestep.rest.request.wire_types import (
    WORD,
    Flag,
    Models,
    Number,
    OptionalNumber,
    OptionalText,
    Seconds,
    Support,
    Text,
    Track,
    Tracks,
    Whole,
    read_whole,
    reader,
    wire,
)

UNSUPPORTED, INERT = Support.UNSUPPORTED, Support.INERT
_TASK, _MORPH, _TUNING, _CORRECTION = TaskOptions(), Morph(), Tuning(), WaveletCorrection()
_TRACKS = ", ".join(TRACKS)


# How clients divide a song: by number, the tracks to extract and the name of the rest.
STEM_SETS: Mapping[int, tuple[tuple[str, ...], str]] = {
    2: (("vocals",), "instrumental"),
    4: (("vocals", "drums", "bass"), "other"),
    6: (("vocals", "drums", "bass", "guitar", "keyboard"), "other"),
}


def _read_stem_count(value: object) -> int:
    count = read_whole(value)
    if count not in STEM_SETS:
        raise ValueError
    return count


StemCount = Annotated[
    int | None,
    reader(_read_stem_count),
    WithJsonSchema({"anyOf": [{"type": "integer", "enum": [*STEM_SETS]}, {"type": "null"}]}),
]


class SourceFields(BaseModel):
    reference_audio_path: OptionalText = wire(
        None,
        "ref_audio_path",
        "referenceAudioPath",
        "refAudioPath",
        max_length=1_000,
        example="reference.wav",
        about="Reference audio for the timbre: the `file` of an earlier song, or a file on the server in a "
        "folder of ACESTEP_AUDIO_ROOTS. Or upload it as reference_audio.",
    )
    src_audio_path: OptionalText = wire(
        None,
        "ctx_audio_path",
        "sourceAudioPath",
        "srcAudioPath",
        "ctxAudioPath",
        max_length=1_000,
        example="source.wav",
        about="Source audio: the `file` of an earlier song, or a file on the server in a folder of "
        "ACESTEP_AUDIO_ROOTS. Or upload it as src_audio.",
    )
    repainting_start: Number = wire(
        _TASK.start,
        ge=-MAX_DURATION,
        le=MAX_DURATION,
        about="For repaint and lego: start of the window, in seconds. Below 0 the song is extended at its "
        "beginning.",
        example=5.0,
    )
    repainting_end: Seconds = wire(
        _TASK.end,
        ge=0.01,
        le=MAX_DURATION,
        neutral=(0, -1),
        about="For repaint and lego: end of the window, in seconds; null, 0 or -1: the end of the source. "
        "Past the source the song is extended.",
        example=15.0,
    )
    audio_cover_strength: Number = wire(
        _TASK.cover_strength,
        "audioCoverStrength",
        "cover_strength",
        "coverStrength",
        ge=0,
        le=1,
        about="For cover, and songs from audio codes: share of the steps that follow the source.",
        example=0.5,
    )
    cover_noise_strength: Number = wire(
        _TASK.noise_strength,
        "coverNoiseStrength",
        ge=0,
        le=1,
        example=0.5,
        about="For cover: where sampling starts, from noise (0) to the source (1).",
    )
    global_caption: Text = wire(
        "",
        support=Support.IGNORED,
        instead="no published model was trained with it; use prompt",
        free_text=True,
        max_length=MAX_CAPTION,
        about="Caption of the whole song; some workstations send it beside the one of the track.",
        example="a rock song",
    )
    track_name: Track = wire(
        "",
        "trackName",
        about="For extract and lego: the track. (track_names with one name does as well.)",
        example="drums",
        allowed=_TRACKS,
    )
    track_classes: Tracks = wire(
        _TASK.tracks,
        "trackClasses",
        "track_names",
        "trackNames",
        "instruments",
        about="For complete: the tracks to add.",
        example=["drums"],
        allowed=f"one or more of {_TRACKS}, as a list or separated by commas",
    )
    stem_count: StemCount = wire(
        None,
        "stemCount",
        models=Models.EXTRACTING,
        about="For extract: separate the whole source. 2: vocals and instrumental; 4: vocals, drums, bass "
        "and other; 6: also guitar and piano. instrumental and other are what the extracted tracks leave. "
        "They come as `stems`; the song itself is the source. task_type stem_separation means "
        "an extract with 4.",
        example=4,
        allowed="2, 4 or 6",
    )
    chunk_mask_mode: Annotated[Literal["auto", "explicit"], WORD] = wire(
        "auto",
        about="For repaint and lego: the mask is the window with either value.",
        example="explicit",
    )
    repaint_mode: Annotated[Literal["conservative", "balanced", "aggressive"] | None, WORD] = wire(
        None,
        about="For repaint and lego: whether the source outside the window guides the inside; the outside "
        "itself stays. conservative: it is restored after each step. aggressive: it is not. balanced: see "
        "repaint_strength. Null: aggressive, unless repaint_strength is sent.",
        example="conservative",
    )
    repaint_strength: OptionalNumber = wire(
        None,
        ge=0,
        le=1,
        about="For a balanced repaint or lego: share of the steps, the last ones, in which the source "
        "outside the window is not restored. 0: conservative. 1: aggressive. Null: 0.5.",
        example=0.7,
    )
    repaint_latent_crossfade_frames: Whole = wire(
        _TASK.crossfade_frames,
        ge=0,
        le=1_000,
        about="For repaint and lego: crossfade inside the edges of the window, in latent frames (25 a "
        "second).",
        example=5,
    )
    repaint_wav_crossfade_sec: Number = wire(
        _TASK.crossfade_seconds,
        ge=0,
        le=20,
        about="For repaint and lego: crossfade of the audio inside the edges of the window, in seconds. "
        "Less than 0.01 becomes 0.01.",
        example=0.5,
    )
    no_fsq: Flag = wire(
        _TASK.follows_latents,
        "noFsq",
        about="For cover: follow the latents of the source, not its audio codes; the song stays closer to "
        "its source. task_type cover-nofsq means the same.",
        example=True,
    )
    allow_length_change: Flag = wire(
        _TASK.may_change_length,
        "allowLengthChange",
        about="For cover: audio_duration counts, and the song may be longer or shorter than its source.",
        example=True,
    )
    extract_codes_only: Flag = wire(
        False,
        "extractCodesOnly",
        about="Return the audio codes of the source audio only, no song.",
        example=True,
    )


class MorphFields(BaseModel):
    flow_edit_morph: Flag = wire(
        False,
        "flowEditMorph",
        about="For cover: lead the source from its own words (flow_edit_source_caption and "
        "flow_edit_source_lyrics) to "
        "prompt and lyrics (FlowEdit). Steps are ode and euler, and each evaluates the model twice.",
        example=True,
    )
    flow_edit_source_caption: Text = wire(
        _TASK.source_caption,
        free_text=True,
        max_length=MAX_CAPTION,
        about="Caption of the source, for flow_edit_morph.",
        example="a rock song",
    )
    flow_edit_source_lyrics: Text = wire(
        _TASK.source_lyrics,
        free_text=True,
        max_length=MAX_LYRICS,
        about="Lyrics of the source, for flow_edit_morph.",
        example="[Verse]\nla la",
    )
    flow_edit_n_min: Number = wire(
        _MORPH.end,
        ge=0,
        le=1,
        about="Time, which runs from 1 to 0, at which flow_edit_morph ends; the rest is sampled as any song.",
        example=0.2,
    )
    flow_edit_n_max: Number = wire(
        _MORPH.start,
        ge=0,
        le=1,
        about="Time at which flow_edit_morph begins. The lower, the more of the source stays.",
        example=0.8,
    )
    flow_edit_n_avg: Whole = wire(
        _MORPH.averages,
        ge=1,
        le=16,
        about="Noises that each step of flow_edit_morph averages over; each takes two more evaluations.",
        example=2,
    )
