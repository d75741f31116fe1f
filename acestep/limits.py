"""What one model on this machine can do, applied to a request: choose the model, fit the request to it.

Owns the rules that depend on the model (steps, guidance, shift, duration, batch, seeds); whether a value
is readable and within the documented range is decided in `http.schemas`. Knows nothing of HTTP or torch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from acestep.domain import MAX_SEED, MIN_DURATION, ModelInfo, SamplerOptions, SongRequest
from acestep.errors import InvalidFieldError, ModelUnavailableError, UnknownModelError

DEFAULT_BATCH = 2  # what the original renders when batch_size is not sent
TURBO_SHIFTS = (1.0, 2.0, 3.0)  # the timestep tables that the turbo models were distilled on
_UNSHIFTED = 1.0
MAX_TURBO_TIMESTEPS = 20  # distinct values in those tables
NAME_PREFIX = "acestep/"  # OpenAI-style model lists put it before every name


def choose_model(
    models: Sequence[ModelInfo], name: str | None, strict: bool
) -> tuple[ModelInfo, tuple[str, ...]]:
    """Return the model that runs a request for `name`, and sentences about a fallback.

    No name means the default. A name that is not loaded runs the default with a warning, or raises
    `UnknownModelError` when `strict`. Raises `ModelUnavailableError` when there is no model at all.
    """
    if not models:
        raise ModelUnavailableError("No model is set up on this server: set ACESTEP_CONFIG_PATH.")
    default = default_model(models)
    if name is None or name.removeprefix(NAME_PREFIX) == default.name:
        return default, ()
    usable = {model.name: model for model in models if model.state not in ("failed", "absent")}
    found = usable.get(name.removeprefix(NAME_PREFIX))
    if found is not None:
        return found, ()
    error = UnknownModelError(name, tuple(usable))
    if strict:
        raise error
    return default, (f"{error}. {default.name} is used instead",)


def default_model(models: Sequence[ModelInfo]) -> ModelInfo:
    """Return the model that runs when none is named; `models` must not be empty."""
    return next((model for model in models if model.is_default), models[0])


def check_task(task_type: str, model: ModelInfo) -> None:
    """Raise `InvalidFieldError` if `model` does not do `task_type`."""
    if task_type not in model.tasks:
        raise InvalidFieldError(
            "task_type", task_type, ", ".join(model.tasks), scope=f"with model {model.name}"
        )


def fit(request: SongRequest, model: ModelInfo) -> SongRequest:
    """Return `request` as `model` can run it, with a warning for every sent value that had to change.

    Fills the model's name, batch size and seeds, and clamps what clients commonly send too large. Raises
    `InvalidFieldError` for what has no nearest allowed value. Fitting a fitted request changes nothing.
    """
    check_task(request.task_type, model)
    warnings = list(request.warnings)
    sampler = _fit_sampler(request.sampler, model, warnings)
    duration = _fit_duration(request.duration, model, warnings)
    wanted = _wanted_batch(request)
    batch = min(wanted, model.max_batch)
    if batch < wanted and (request.batch_size is not None or request.seeds):
        warnings.append(
            f"batch_size: {model.name} makes at most {batch} at once here; {wanted} became {batch}"
        )
    if len(request.seeds) > wanted:
        warnings.append(f"seed: {len(request.seeds)} seeds for {wanted} songs; the last ones are not used")
    return replace(
        request,
        model=model.name,
        sampler=sampler,
        duration=duration,
        batch_size=batch,
        seeds=_fit_seeds(request.seeds, batch),
        warnings=tuple(warnings),
    )


def _fit_sampler(options: SamplerOptions, model: ModelInfo, warnings: list[str]) -> SamplerOptions:
    start, end = options.cfg_interval_start, options.cfg_interval_end
    if start > end:
        raise InvalidFieldError("cfg_interval_start", start, f"at most cfg_interval_end, which is {end}")
    options = _fit_timesteps(options, model, warnings)
    return _fit_turbo(options, model, warnings) if model.is_turbo else _fit_base(options, model, warnings)


def _fit_timesteps(options: SamplerOptions, model: ModelInfo, warnings: list[str]) -> SamplerOptions:
    """Drop trailing zeros (every schedule ends there anyway); a given schedule decides steps and shift."""
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
        return replace(options, shift=_UNSHIFTED)
    return options


def _fit_turbo(options: SamplerOptions, model: ModelInfo, warnings: list[str]) -> SamplerOptions:
    """Clamp steps, snap the shift, and drop guidance, which distillation has built into the weights."""
    steps, shift = options.steps, options.shift
    if steps is not None and steps > model.max_steps:
        warnings.append(
            f"inference_steps: {model.name} runs at most {model.max_steps}; {steps} became {model.max_steps}"
        )
        steps = model.max_steps
    if shift is not None and shift not in TURBO_SHIFTS:
        _, nearest = min((abs(known - shift), known) for known in TURBO_SHIFTS)
        warnings.append(f"shift: {model.name} knows 1, 2 and 3; {shift:g} became {nearest:g}")
        shift = nearest
    # Scale 1 is "no guidance", which is what a turbo model does.
    if options.guidance_scale not in (None, 1.0):
        warnings.append(
            f"guidance_scale: {model.name} runs without guidance; {options.guidance_scale:g} is not used"
        )
    if options.use_adg:
        warnings.append(f"use_adg: {model.name} runs without guidance; it is not used")
    if (options.cfg_interval_start, options.cfg_interval_end) != (0.0, 1.0):
        warnings.append(f"cfg_interval_start: {model.name} runs without guidance; its interval is not used")
    return replace(
        options,
        steps=steps,
        shift=shift,
        guidance_scale=None,
        use_adg=False,
        cfg_interval_start=0.0,
        cfg_interval_end=1.0,
    )


def _fit_duration(duration: float | None, model: ModelInfo, warnings: list[str]) -> float | None:
    if duration is None:
        return None
    if duration < MIN_DURATION:
        raise InvalidFieldError(
            "audio_duration", duration, f"{MIN_DURATION:g} to {model.max_duration:g} seconds"
        )
    if duration <= model.max_duration:
        return duration
    warnings.append(
        f"audio_duration: {model.name} makes at most {model.max_duration:g} s here; "
        f"{duration:g} became {model.max_duration:g}"
    )
    return model.max_duration


def _wanted_batch(request: SongRequest) -> int:
    """Several seeds without a batch size mean one song each."""
    if request.batch_size is None:
        return len(request.seeds) if len(request.seeds) > 1 else DEFAULT_BATCH
    if request.batch_size < 1:
        raise InvalidFieldError("batch_size", request.batch_size, "1 or more")
    return request.batch_size


def _fit_seeds(seeds: tuple[int, ...], count: int) -> tuple[int, ...]:
    """One seed counts up, several stand for the first songs; what is missing is drawn."""
    if len(seeds) == 1:
        return tuple((seeds[0] + index) % (MAX_SEED + 1) for index in range(count))
    drawn = (secrets.randbelow(MAX_SEED + 1) for _ in range(count - len(seeds)))
    return (*seeds[:count], *drawn)
