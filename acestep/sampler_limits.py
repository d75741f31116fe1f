"""What the sampler of one model can do, applied to the options of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from acestep.domain.models import ModelInfo
from acestep.domain.song import Guidance, SamplerOptions, Tuning
from acestep.errors import InvalidFieldError

TURBO_SHIFTS = (1.0, 2.0, 3.0)  # the timestep tables that the turbo models were distilled on
MAX_TURBO_TIMESTEPS = 20  # distinct values in those tables
_UNSHIFTED = 1.0
_AS_PUBLISHED = Tuning()

# The settings of guidance, by the fields that carry them, and those that each variant has.
_GUIDANCE_SETTINGS = {
    "momentum": ("momentum", ""),
    "eta": ("eta", ""),
    "norm_limit": ("guidance_params", "norm_threshold "),
    "angle_limit": ("guidance_params", "angle_clip "),
}
_SETTINGS_OF: Mapping[Guidance, tuple[str, ...]] = {
    "apg_classic": ("momentum", "eta", "norm_limit"),
    "cfg": (),
    "adg": ("angle_limit",),
    "adg_w_norm": ("angle_limit",),
    "adg_wo_clip": (),
}


def fit_sampler(options: SamplerOptions, model: ModelInfo, warnings: list[str]) -> SamplerOptions:
    """`options` as `model` can run them; adds to `warnings`. Raises `InvalidFieldError`."""
    start, end = options.cfg_interval_start, options.cfg_interval_end
    if start > end:
        raise InvalidFieldError("cfg_interval_start", start, f"at most cfg_interval_end, which is {end}")
    options = _fit_timesteps(options, model, warnings)
    if options.infer_method == "sde" and options.tuning.integrator != _AS_PUBLISHED.integrator:
        warnings.append(f"sampler_mode: sde has steps of its own; {options.tuning.integrator} is not used")
        options = replace(options, tuning=replace(options.tuning, integrator=_AS_PUBLISHED.integrator))
    return _fit_turbo(options, model, warnings) if model.is_turbo else _fit_base(options, model, warnings)


def _fit_timesteps(options: SamplerOptions, model: ModelInfo, warnings: list[str]) -> SamplerOptions:
    # Drop trailing zeros (every schedule ends there anyway); a given schedule decides steps and shift.
    if options.timesteps is None:
        return options
    times = options.timesteps
    while times and times[-1] == 0.0:
        times = times[:-1]
    limit = MAX_TURBO_TIMESTEPS if model.is_turbo else model.max_steps
    falling = all(later < earlier for earlier, later in pairwise(times))
    if not 1 <= len(times) <= limit or not falling or not all(0.0 < time <= 1.0 for time in times):
        sent = ",".join(f"{time:g}" for time in options.timesteps)
        raise InvalidFieldError(
            "timesteps",
            sent,
            f"1 to {limit} falling values above 0 and up to 1",
            scope=f"with model {model.name}",
        )
    for field, value in (("inference_steps", options.steps), ("shift", options.shift)):
        if value is not None:
            warnings.append(f"{field}: timesteps give the whole schedule; {value:g} is not used")
    return replace(options, timesteps=times, steps=None, shift=None)


def _fit_base(options: SamplerOptions, model: ModelInfo, warnings: list[str]) -> SamplerOptions:
    if options.steps is not None and options.steps > model.max_steps:
        raise InvalidFieldError(
            "inference_steps", options.steps, f"1 to {model.max_steps}", scope=f"with model {model.name}"
        )
    if options.infer_method == "sde" and options.timesteps is None:
        if options.shift not in (None, _UNSHIFTED):
            warnings.append(f"shift: sde steps over equal times; {options.shift:g} became {_UNSHIFTED:g}")
        options = replace(options, shift=_UNSHIFTED)
    scale = model.guidance_scale if options.guidance_scale is None else options.guidance_scale
    if scale <= 1.0:
        return _without_guidance(options, f"guidance_scale {scale:g} means no guidance", warnings)
    guidance = options.tuning.guidance
    others = [name for name in _GUIDANCE_SETTINGS if name not in _SETTINGS_OF[guidance]]
    return _without_settings(options, others, f"{guidance} has no such setting", warnings)


def _without_guidance(options: SamplerOptions, why: str, warnings: list[str]) -> SamplerOptions:
    # Make neutral what only matters under guidance.
    guidance = options.tuning.guidance
    if guidance != _AS_PUBLISHED.guidance:
        warnings.append(f"guidance_variant: {why}; {guidance} is not used")
    if (options.cfg_interval_start, options.cfg_interval_end) != (0.0, 1.0):
        warnings.append(f"cfg_interval_start: {why}; its interval is not used")
    options = _without_settings(options, [*_GUIDANCE_SETTINGS], why, warnings)
    tuning = replace(options.tuning, guidance=_AS_PUBLISHED.guidance)
    return replace(options, tuning=tuning, cfg_interval_start=0.0, cfg_interval_end=1.0)


def _without_settings(
    options: SamplerOptions, settings: Sequence[str], why: str, warnings: list[str]
) -> SamplerOptions:
    # Make the settings of a guidance that is not used neutral.
    asked = options.tuning
    for setting in settings:
        value, usual = getattr(asked, setting), getattr(_AS_PUBLISHED, setting)
        if value != usual:
            field, key = _GUIDANCE_SETTINGS[setting]
            warnings.append(f"{field}: {why}; {key}{value:g} is not used")
            asked = replace(asked, **{setting: usual})
    return replace(options, tuning=asked)


def _fit_turbo(options: SamplerOptions, model: ModelInfo, warnings: list[str]) -> SamplerOptions:
    # Clamp steps, take the nearest shift, and drop guidance, which distillation built into the weights.
    steps, shift = options.steps, options.shift
    if steps is not None and steps > model.max_steps:
        warnings.append(
            f"inference_steps: {model.name} runs at most {model.max_steps}; {steps} became {model.max_steps}"
        )
        steps = model.max_steps
    if shift is not None and shift not in TURBO_SHIFTS:
        _, nearest = min((abs(known - shift), known) for known in TURBO_SHIFTS)
        warnings.append(f"shift: {model.name} has schedules for 1, 2 and 3; {shift:g} became {nearest:g}")
        shift = nearest
    # Scale 1 is no guidance, as turbo models run.
    if options.guidance_scale not in (None, 1.0):
        warnings.append(
            f"guidance_scale: {model.name} runs without guidance; {options.guidance_scale:g} is not used"
        )
    options = _without_guidance(options, f"{model.name} runs without guidance", warnings)
    return replace(options, steps=steps, shift=shift, guidance_scale=None)
