"""The wire fields of tasks that work on audio, and newer ones of the sampler.

Which task uses which is decided in `rest.request.task_rules`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from acestep.domain.song import CROSSFADE_FRAMES, MAX_DURATION, TRACKS, Integrator
from acestep.rest.request.fields_song import MAX_CAPTION
from acestep.rest.request.wire_types import (
    WORD,
    Flag,
    Models,
    Number,
    Object,
    OptionalFlag,
    OptionalNumber,
    OptionalText,
    Seconds,
    Support,
    Text,
    Track,
    Tracks,
    Whole,
    wire,
)

UNSUPPORTED, INERT = Support.UNSUPPORTED, Support.INERT
NO_WAVELETS = "it is no part of how the models were published"
_TRACKS = ", ".join(TRACKS)


class SourceFields(BaseModel):
    """Audio that goes in, and what tasks do with it. Tasks that do not use a field warn of it."""

    reference_audio_path: OptionalText = wire(
        None,
        "ref_audio_path",
        "referenceAudioPath",
        "refAudioPath",
        max_length=1_000,
        example="reference.wav",
        about="Audio on the server whose timbre is taken: the `file` of an earlier song, or a file in a "
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
        about="Audio on the server that is worked on: the `file` of an earlier song, or a file in a folder "
        "of ACESTEP_AUDIO_ROOTS. Or upload it as src_audio.",
    )
    repainting_start: Number = wire(
        0.0,
        ge=-MAX_DURATION,
        le=MAX_DURATION,
        about="For repaint and lego: from which second of the source on it is written anew. Below 0 the "
        "song grows at its beginning.",
        example=5.0,
    )
    repainting_end: Seconds = wire(
        None,
        ge=0.01,
        le=MAX_DURATION,
        neutral=(0, -1),
        about="For repaint and lego: up to which second; null, 0 or -1: the end. Past the end of the source "
        "the song grows.",
        example=15.0,
    )
    audio_cover_strength: Number = wire(
        1.0,
        "audioCoverStrength",
        "cover_strength",
        "coverStrength",
        ge=0,
        le=1,
        about="For covers, and songs by audio codes: the share of the steps that follow the source.",
        example=0.5,
    )
    cover_noise_strength: Number = wire(
        0.0,
        "coverNoiseStrength",
        ge=0,
        le=1,
        example=0.5,
        about="For covers: how far on the way from noise to the source it starts.",
    )
    global_caption: Text = wire(
        "",
        support=Support.IGNORED,
        instead="no published model was trained with one: put it into prompt",
        free_text=True,
        max_length=MAX_CAPTION,
        about="Caption of the whole song, which some workstations send beside the one of the track.",
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
        (),
        "trackClasses",
        "instruments",
        about="For complete: the tracks to add.",
        example=["drums"],
        allowed=f"one or more of {_TRACKS}, as a list or between commas",
    )
    chunk_mask_mode: Annotated[Literal["auto", "explicit"], WORD] = wire(
        "auto",
        about="For repaint and lego: either way the mask is explicit, since it is the window.",
        example="explicit",
    )
    repaint_mode: Annotated[Literal["conservative", "balanced", "aggressive"] | None, WORD] = wire(
        None,
        about="For repaint and lego: whether what lies outside of the window, which stays anyway, also leads "
        "what is written inside. conservative: it is put back after each step. aggressive: it is not. "
        "balanced: as repaint_strength says. Null: aggressive, unless a strength is sent.",
        example="conservative",
    )
    repaint_strength: OptionalNumber = wire(
        None,
        ge=0,
        le=1,
        about="For a balanced repaint or lego: the share of the steps, the last ones, in which it is free. "
        "0: conservative. 1: aggressive. Null: 0.5.",
        example=0.7,
    )
    repaint_latent_crossfade_frames: Whole = wire(
        CROSSFADE_FRAMES,
        ge=0,
        le=1_000,
        about="For repaint and lego: latent frames (25 a second) over which the window's edges fade, inside.",
        example=5,
    )
    repaint_wav_crossfade_sec: Number = wire(
        0.0,
        ge=0,
        le=20,
        about="For repaint and lego: seconds over which the sound fades at the window's edges, inside.",
        example=0.5,
    )
    extract_codes_only: Flag = wire(
        False,
        "extractCodesOnly",
        about="The audio codes of the source audio only, no song.",
        example=True,
    )


class NewerSamplerFields(BaseModel):
    """Sampler settings that later versions of the original added."""

    guidance_variant: Annotated[str, WORD] = wire(
        "apg_classic",
        "guidanceVariant",
        support=UNSUPPORTED,
        instead="guidance is adaptive and projected (APG), or by angles with use_adg",
        max_length=100,
        about="Kind of guidance.",
        example="cfg",
    )
    guidance_params: Object = wire(
        {},
        "guidanceParams",
        support=UNSUPPORTED,
        instead="send guidance_scale, momentum and eta",
        about="Settings of that kind.",
        example={"eta": 0.5},
        allowed="an object, or a string that holds one as JSON",
    )
    sampler_mode: Annotated[Integrator, WORD] = wire(
        "euler",
        "samplerMode",
        about="How ode integrates: heun looks ahead at each step but the last, and takes twice as long. sde "
        "has steps of its own, and ignores it, with a warning.",
        example="heun",
    )
    velocity_norm_threshold: Number = wire(
        0.0,
        "velocityNormThreshold",
        support=UNSUPPORTED,
        instead="nothing that came with the models says which norm that is",
        about="Cap on the velocity's norm.",
        example=1.0,
    )
    velocity_ema_factor: Number = wire(
        0.0,
        "velocityEmaFactor",
        ge=0,
        le=0.9,
        about="The share of each step's velocity that is the one before (a running average).",
        example=0.1,
    )
    latent_shift: Number = wire(
        0.0,
        "latentShift",
        ge=-1,
        le=1,
        about="Added to what was written, before it is decoded.",
        example=0.1,
    )
    latent_rescale: Number = wire(
        1.0,
        "latentRescale",
        ge=0.1,
        le=2,
        about="Multiplies what was written, before latent_shift is added.",
        example=0.9,
    )
    eta: Number = wire(
        0.0,
        models=Models.GUIDED,
        ge=0,
        le=1,
        about="How much of itself the guidance keeps where it only makes the song louder. Not with use_adg.",
        example=0.1,
    )
    momentum: Number = wire(
        -0.75,
        models=Models.GUIDED,
        ge=-1,
        le=1,
        about="How much the guidance of the steps before weighs; below 0 it is taken off. Not with use_adg.",
        example=-0.5,
    )
    dcw_enabled: OptionalFlag = wire(
        None,
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        neutral=(False,),
        about="Correction in the wavelet domain.",
        example=True,
    )
    dcw_mode: Annotated[Literal["low", "high", "double", "pix"], WORD] = wire(
        "double",
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        about="Bands that are corrected.",
        example="low",
    )
    dcw_scaler: Number = wire(
        0.05,
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        about="Strength.",
        example=0.1,
    )
    dcw_high_scaler: Number = wire(
        0.02,
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        about="Strength in the high band.",
        example=0.1,
    )
    dcw_wavelet: Annotated[str, WORD] = wire(
        "haar",
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        max_length=100,
        about="Wavelet.",
        example="db4",
    )
    wave: Text = wire(
        "", support=INERT, free_text=True, about="A key of the answers, sent back.", example="x"
    )
