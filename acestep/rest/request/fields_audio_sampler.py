"""The wire fields of tasks that work on audio, and newer ones of the sampler.

Which task uses which is decided in `rest.request.task_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, WithJsonSchema

from acestep.domain.song import (
    MAX_DURATION,
    TRACKS,
    Bands,
    Guidance,
    Integrator,
    TaskOptions,
    Tuning,
    WaveletCorrection,
)
from acestep.rest.request.fields_song import MAX_CAPTION, MAX_LYRICS
from acestep.rest.request.music_values import Seconds
from acestep.rest.request.wire_types import (
    MAX_LIST_TEXT,
    WORD,
    Flag,
    Models,
    Number,
    OptionalFlag,
    OptionalNumber,
    OptionalText,
    Support,
    Text,
    Track,
    Tracks,
    Whole,
    read_number,
    read_object,
    read_whole,
    reader,
    wire,
)

UNSUPPORTED, INERT = Support.UNSUPPORTED, Support.INERT
NO_FLOW_EDIT = "send task_type cover with cover_noise_strength"
_TASK, _TUNING, _CORRECTION = TaskOptions(), Tuning(), WaveletCorrection()
_TRACKS = ", ".join(TRACKS)


# Settings of guidance_variant, and from where to where each may go.
GUIDANCE_PARAMS: Mapping[str, tuple[float, float]] = {
    "eta": (0.0, 1.0),
    "momentum": (-1.0, 1.0),
    "norm_threshold": (0.0, 100.0),
    "angle_clip": (0.0, 3.15),
}
_PARAMS = ", ".join(f"{name} ({low:g} to {high:g})" for name, (low, high) in GUIDANCE_PARAMS.items())


def _read_guidance_params(value: object) -> dict[str, float]:
    found = {
        name: read_number(setting) for name, setting in read_object(value).items() if setting is not None
    }
    for name, setting in found.items():
        low, high = GUIDANCE_PARAMS.get(name, (math.inf, math.inf))
        if not low <= setting <= high:
            raise ValueError
    return found


GuidanceParams = Annotated[dict[str, float], reader(_read_guidance_params, MAX_LIST_TEXT)]


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
        about="For extract and lego: the track.",
        example="drums",
        allowed=_TRACKS,
    )
    track_classes: Tracks = wire(
        _TASK.tracks,
        "trackClasses",
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


class NewerSamplerFields(BaseModel):
    guidance_variant: Annotated[Guidance, WORD] = wire(
        _TUNING.guidance,
        "guidanceVariant",
        models=Models.GUIDED,
        about="Kind of guidance. apg_classic: adaptive projected guidance (APG). cfg: classifier-free "
        "guidance. adg: angle-based guidance; adg_w_norm keeps the loudness of each latent channel, "
        "adg_wo_clip has no largest angle. Another variant than apg_classic goes before use_adg.",
        example="cfg",
    )
    guidance_params: GuidanceParams = wire(
        {},
        "guidanceParams",
        models=Models.GUIDED,
        about="Settings of guidance_variant: of apg_classic eta and momentum (as the fields of these names, "
        "which they replace) and norm_threshold, the largest norm of the guidance (2.5; 0: none); of adg and "
        "adg_w_norm angle_clip, the largest angle in radians.",
        example={"norm_threshold": 5},
        allowed=f"an object, or a string that holds one as JSON, with {_PARAMS}",
    )
    sampler_mode: Annotated[Integrator, WORD] = wire(
        _TUNING.integrator,
        "samplerMode",
        about="Integrator of ode. heun evaluates the model twice in each step but the last, and takes "
        "twice as long. sde has its own steps, and ignores it, with a warning.",
        example="heun",
    )
    velocity_norm_threshold: Number = wire(
        _TUNING.velocity_limit,
        "velocityNormThreshold",
        ge=0,
        le=100,
        about="Largest norm of the velocity, as a multiple of the norm of the latents. 0: no limit.",
        example=2.0,
    )
    velocity_ema_factor: Number = wire(
        _TUNING.smoothing,
        "velocityEmaFactor",
        ge=0,
        le=0.9,
        about="Share of the previous velocity in the velocity of each step (moving average).",
        example=0.1,
    )
    latent_shift: Number = wire(
        _TUNING.latent_shift,
        "latentShift",
        ge=-1,
        le=1,
        about="Added to the latents before decoding.",
        example=0.1,
    )
    latent_rescale: Number = wire(
        _TUNING.latent_scale,
        "latentRescale",
        ge=0.1,
        le=2,
        about="Multiplies the latents before latent_shift is added.",
        example=0.9,
    )
    eta: Number = wire(
        _TUNING.eta,
        models=Models.GUIDED,
        ge=0,
        le=1,
        about="Share of its parallel component that APG guidance keeps. Not with other guidance.",
        example=0.1,
    )
    momentum: Number = wire(
        _TUNING.momentum,
        models=Models.GUIDED,
        ge=-1,
        le=1,
        about="Weight of the guidance of earlier steps (APG); a negative one subtracts it. Not with other "
        "guidance.",
        example=-0.5,
    )
    dcw_enabled: OptionalFlag = wire(
        None,
        about="Correction in the wavelet domain (DCW) after each step. Null: off, or with ACESTEP_DCW=auto "
        "on for turbo models.",
        example=True,
    )
    dcw_mode: Annotated[Bands, WORD] = wire(
        _CORRECTION.bands,
        about="Bands that DCW corrects: low, high, or both (double); pix: all at once, without wavelets.",
        example="low",
    )
    dcw_scaler: Number = wire(
        _CORRECTION.scale,
        ge=-1,
        le=1,
        about="Strength of DCW; with dcw_mode double, that of the low band.",
        example=0.1,
    )
    dcw_high_scaler: Number = wire(
        _CORRECTION.high_scale,
        ge=-1,
        le=1,
        about="Strength of DCW in the high band, with dcw_mode double.",
        example=0.06,
    )
    dcw_wavelet: Annotated[str, WORD] = wire(
        "haar",
        support=UNSUPPORTED,
        instead="haar is the only wavelet here",
        max_length=100,
        about="Wavelet of DCW.",
        example="db4",
    )
    flow_edit_morph: Flag = wire(
        False,
        "flowEditMorph",
        support=UNSUPPORTED,
        instead=NO_FLOW_EDIT,
        about="Change a source from one caption to another (FlowEdit).",
        example=True,
    )
    flow_edit_source_caption: Text = wire(
        "",
        support=UNSUPPORTED,
        instead=NO_FLOW_EDIT,
        free_text=True,
        max_length=MAX_CAPTION,
        about="Caption of the source for flow_edit_morph.",
        example="a rock song",
    )
    flow_edit_source_lyrics: Text = wire(
        "",
        support=UNSUPPORTED,
        instead=NO_FLOW_EDIT,
        free_text=True,
        max_length=MAX_LYRICS,
        about="Lyrics of the source for flow_edit_morph.",
        example="[Verse]\nla la",
    )
    flow_edit_n_min: Number = wire(
        0.0, support=UNSUPPORTED, instead=NO_FLOW_EDIT, about="Where flow_edit_morph ends.", example=0.1
    )
    flow_edit_n_max: Number = wire(
        1.0, support=UNSUPPORTED, instead=NO_FLOW_EDIT, about="Where flow_edit_morph begins.", example=0.9
    )
    flow_edit_n_avg: Whole = wire(
        1, support=UNSUPPORTED, instead=NO_FLOW_EDIT, about="Noises a step of flow_edit_morph.", example=2
    )
    wave: Text = wire(
        "", support=INERT, free_text=True, about="A key of results, accepted in requests.", example="x"
    )
