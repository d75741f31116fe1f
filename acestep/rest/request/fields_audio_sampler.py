"""The wire fields of tasks that work on audio, and newer ones of the sampler.

Which task uses which is decided in `rest.request.task_rules`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from acestep.domain.song import MAX_DURATION, TRACKS, Integrator, TaskOptions, Tuning
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
NO_WAVELETS = "the published models do not include it"
_TASK, _TUNING = TaskOptions(), Tuning()
_TRACKS = ", ".join(TRACKS)


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
    extract_codes_only: Flag = wire(
        False,
        "extractCodesOnly",
        about="Return the audio codes of the source audio only, no song.",
        example=True,
    )


class NewerSamplerFields(BaseModel):
    guidance_variant: Annotated[str, WORD] = wire(
        "apg_classic",
        "guidanceVariant",
        support=UNSUPPORTED,
        instead="guidance is APG, or ADG with use_adg",
        max_length=100,
        about="Kind of guidance.",
        example="cfg",
    )
    guidance_params: Object = wire(
        {},
        "guidanceParams",
        support=UNSUPPORTED,
        instead="send guidance_scale, momentum and eta",
        about="Settings of guidance_variant.",
        example={"eta": 0.5},
        allowed="an object, or a string that holds one as JSON",
    )
    sampler_mode: Annotated[Integrator, WORD] = wire(
        _TUNING.integrator,
        "samplerMode",
        about="Integrator of ode. heun evaluates the model twice in each step but the last, and takes "
        "twice as long. sde has its own steps, and ignores it, with a warning.",
        example="heun",
    )
    velocity_norm_threshold: Number = wire(
        0.0,
        "velocityNormThreshold",
        support=UNSUPPORTED,
        instead="the published models do not define that norm",
        about="Upper limit of the velocity's norm.",
        example=1.0,
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
        about="Share of its parallel component that APG guidance keeps. Not with use_adg.",
        example=0.1,
    )
    momentum: Number = wire(
        _TUNING.momentum,
        models=Models.GUIDED,
        ge=-1,
        le=1,
        about="Weight of the guidance of earlier steps (APG); a negative one subtracts it. Not with use_adg.",
        example=-0.5,
    )
    dcw_enabled: OptionalFlag = wire(
        None,
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        neutral=(False,),
        about="Correction in the wavelet domain (DCW).",
        example=True,
    )
    dcw_mode: Annotated[Literal["low", "high", "double", "pix"], WORD] = wire(
        "double",
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        about="Bands that DCW corrects.",
        example="low",
    )
    dcw_scaler: Number = wire(
        0.05,
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        about="Strength of DCW.",
        example=0.1,
    )
    dcw_high_scaler: Number = wire(
        0.02,
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        about="Strength of DCW in the high band.",
        example=0.1,
    )
    dcw_wavelet: Annotated[str, WORD] = wire(
        "haar",
        support=UNSUPPORTED,
        instead=NO_WAVELETS,
        max_length=100,
        about="Wavelet of DCW.",
        example="db4",
    )
    wave: Text = wire(
        "", support=INERT, free_text=True, about="A key of results, accepted in requests.", example="x"
    )
