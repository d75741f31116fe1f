"""The wire fields of what this server reads but does not serve yet: other tasks', and newer ones.

Owns their names, aliases, ranges and neutral values; `Support` says by which rule each is refused. A field
moves out of here when something serves it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from acestep.http.fields import (
    WORD,
    Flag,
    Names,
    Number,
    Object,
    OptionalFlag,
    OptionalNumber,
    OptionalText,
    Support,
    Text,
    Whole,
    wire,
)
from acestep.http.song_fields import MAX_CAPTION

UNSUPPORTED, INERT = Support.UNSUPPORTED, Support.INERT


class SourceFields(BaseModel):
    """Audio that goes in, and what other tasks do with it."""

    reference_audio_path: OptionalText = wire(
        None,
        "ref_audio_path",
        "referenceAudioPath",
        "refAudioPath",
        support=UNSUPPORTED,
        max_length=1_000,
        example="reference.wav",
        about="Audio whose timbre is taken.",
    )
    src_audio_path: OptionalText = wire(
        None,
        "ctx_audio_path",
        "sourceAudioPath",
        "srcAudioPath",
        "ctxAudioPath",
        support=UNSUPPORTED,
        max_length=1_000,
        example="source.wav",
        about="Audio that is worked on.",
    )
    repainting_start: Number = wire(0.0, support=UNSUPPORTED, about="Seconds.", example=5.0)
    repainting_end: OptionalNumber = wire(
        None,
        support=UNSUPPORTED,
        neutral=(0.0, -1.0),
        about="Seconds; null, 0 or -1: the end.",
        example=15.0,
    )
    audio_cover_strength: Number = wire(
        1.0,
        "audioCoverStrength",
        "cover_strength",
        "coverStrength",
        support=UNSUPPORTED,
        ge=0,
        le=1,
        about="How close a cover stays to its source.",
        example=0.5,
    )
    cover_noise_strength: Number = wire(
        0.0,
        "coverNoiseStrength",
        support=UNSUPPORTED,
        ge=0,
        le=1,
        example=0.5,
        about="How much of the source's sound a cover starts from.",
    )
    global_caption: Text = wire(
        "",
        support=UNSUPPORTED,
        free_text=True,
        max_length=MAX_CAPTION,
        about="Caption of the whole for lego.",
        example="a rock song",
    )
    track_name: Text = wire(
        "",
        "trackName",
        support=UNSUPPORTED,
        max_length=100,
        about="Track for extract and lego.",
        example="drums",
    )
    track_classes: Names = wire(
        (),
        "trackClasses",
        "instruments",
        support=UNSUPPORTED,
        about="Tracks for complete.",
        example=["drums"],
        allowed="a name or a list of names",
    )
    chunk_mask_mode: Annotated[Literal["auto", "explicit"], WORD] = wire(
        "auto",
        support=UNSUPPORTED,
        about="How the mask is made.",
        example="explicit",
    )
    repaint_mode: Annotated[Literal["conservative", "balanced", "aggressive"], WORD] = wire(
        "balanced",
        support=UNSUPPORTED,
        about="How freely a repaint may move.",
        example="aggressive",
    )
    repaint_strength: Number = wire(
        0.5,
        support=UNSUPPORTED,
        ge=0,
        le=1,
        about="How strongly a repaint may move.",
        example=0.7,
    )
    repaint_latent_crossfade_frames: Whole = wire(
        10,
        support=UNSUPPORTED,
        ge=0,
        about="Frames of cross-fade.",
        example=5,
    )
    repaint_wav_crossfade_sec: Number = wire(
        0.0,
        support=UNSUPPORTED,
        ge=0,
        about="Seconds of cross-fade.",
        example=0.5,
    )
    extract_codes_only: Flag = wire(
        False,
        "extractCodesOnly",
        support=UNSUPPORTED,
        about="Codes of the source audio only.",
        example=True,
    )


class NewerSamplerFields(BaseModel):
    """Sampler settings that later versions of the original added."""

    guidance_variant: Annotated[str, WORD] = wire(
        "apg_classic",
        "guidanceVariant",
        support=UNSUPPORTED,
        max_length=100,
        about="Kind of guidance.",
        example="cfg",
    )
    guidance_params: Object = wire(
        {},
        "guidanceParams",
        support=UNSUPPORTED,
        about="Settings of that kind.",
        example={"eta": 0.5},
        allowed="an object, or a string that holds one as JSON",
    )
    sampler_mode: Annotated[Literal["euler", "heun"], WORD] = wire(
        "euler",
        "samplerMode",
        support=UNSUPPORTED,
        about="Integrator.",
        example="heun",
    )
    velocity_norm_threshold: Number = wire(
        0.0,
        "velocityNormThreshold",
        support=UNSUPPORTED,
        about="Cap on the velocity's norm.",
        example=1.0,
    )
    velocity_ema_factor: Number = wire(
        0.0,
        "velocityEmaFactor",
        support=UNSUPPORTED,
        about="Smoothing of the velocity.",
        example=0.1,
    )
    latent_shift: Number = wire(
        0.0,
        "latentShift",
        support=UNSUPPORTED,
        about="Added to the latents before decoding.",
        example=0.1,
    )
    latent_rescale: Number = wire(
        1.0,
        "latentRescale",
        support=UNSUPPORTED,
        about="Multiplies the latents before decoding.",
        example=0.9,
    )
    eta: Number = wire(0.0, support=UNSUPPORTED, about="Parallel part kept by the guidance.", example=0.1)
    momentum: Number = wire(-0.75, support=UNSUPPORTED, about="Momentum of the guidance.", example=-0.5)
    dcw_enabled: OptionalFlag = wire(
        None,
        support=UNSUPPORTED,
        neutral=(False,),
        about="Correction in the wavelet domain.",
        example=True,
    )
    dcw_mode: Annotated[Literal["low", "high", "double", "pix"], WORD] = wire(
        "double",
        support=UNSUPPORTED,
        about="Bands that are corrected.",
        example="low",
    )
    dcw_scaler: Number = wire(0.05, support=UNSUPPORTED, about="Strength.", example=0.1)
    dcw_high_scaler: Number = wire(0.02, support=UNSUPPORTED, about="Strength in the high band.", example=0.1)
    dcw_wavelet: Annotated[str, WORD] = wire(
        "haar",
        support=UNSUPPORTED,
        max_length=100,
        about="Wavelet.",
        example="db4",
    )
    wave: Text = wire(
        "", support=INERT, free_text=True, about="A key of the answers, sent back.", example="x"
    )
