"""The wire fields of the sampler that later versions of the original added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, WithJsonSchema

from acestep.domain.song import (
    TRACKS,
    Bands,
    Guidance,
    Integrator,
    Morph,
    TaskOptions,
    Tuning,
    WaveletCorrection,
)
from acestep.rest.request.wire_types import (
    MAX_LIST_TEXT,
    WORD,
    Models,
    Number,
    OptionalFlag,
    Support,
    Text,
    read_number,
    read_object,
    reader,
    wire,
)

UNSUPPORTED, INERT = Support.UNSUPPORTED, Support.INERT
_TASK, _MORPH, _TUNING, _CORRECTION = TaskOptions(), Morph(), Tuning(), WaveletCorrection()
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
    sent = read_object(value)
    if not sent.keys() <= GUIDANCE_PARAMS.keys():
        raise ValueError
    found = {name: read_number(setting) for name, setting in sent.items() if setting is not None}
    for name, setting in found.items():
        low, high = GUIDANCE_PARAMS[name]
        if not low <= setting <= high:
            raise ValueError
    return found


_SETTINGS = {
    name: {
        "anyOf": [{"type": "number", "minimum": low, "maximum": high}, {"type": "string"}, {"type": "null"}]
    }
    for name, (low, high) in GUIDANCE_PARAMS.items()
}
GuidanceParams = Annotated[
    dict[str, float],
    reader(_read_guidance_params, MAX_LIST_TEXT),
    WithJsonSchema({"type": "object", "properties": _SETTINGS, "additionalProperties": False}),
]


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
    wave: Text = wire(
        "", support=INERT, free_text=True, about="A key of results, accepted in requests.", example="x"
    )
