"""What one model on this machine can do, applied to a request: choose the model, fit the request to it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from acestep.catalog.checkpoints import NANO_MODEL, PUBLISHED
from acestep.domain.models import ModelInfo
from acestep.domain.song import (
    MAX_SEED,
    MIN_DURATION,
    AnalysisOptions,
    SamplerOptions,
    SongRequest,
    TaskOptions,
    TaskType,
    Tuning,
)
from acestep.errors import InvalidFieldError, ModelUnavailableError, UnknownModelError

DEFAULT_BATCH = 2  # what the original renders when batch_size is not sent
TURBO_SHIFTS = (1.0, 2.0, 3.0)  # the timestep tables that the turbo models were distilled on
_UNSHIFTED = 1.0
_AS_PUBLISHED = Tuning()
_PADDING_SECONDS = 0.2  # that an encoder may have added to a source
MAX_TURBO_TIMESTEPS = 20  # distinct values in those tables
_OUT_OF_REACH = ("absent", "downloading", "failed")
NAME_PREFIX = "acestep/"  # OpenAI-style model lists put it before every name

TURBO_TASKS: tuple[TaskType, ...] = ("text2music", "cover", "repaint")
BASE_TASKS: tuple[TaskType, ...] = (*TURBO_TASKS, "extract", "lego", "complete")
STEM_TASK: TaskType = "extract"  # what makes the stems of a song
SOURCE_TASKS: tuple[TaskType, ...] = BASE_TASKS[1:]  # that work on audio
WINDOW_TASKS: tuple[TaskType, ...] = ("repaint", "lego")  # that may leave some of it as it is
# Songs as long as their source, whatever duration is asked for; a cover may be shorter or longer.
AS_LONG_AS_SOURCE: tuple[TaskType, ...] = ("repaint", "lego", "extract", "complete")
# The planner has nothing to say where audio says all: what others leave open it decides.
PLANNED_TASKS: tuple[TaskType, ...] = ("text2music", "lego", "complete")


def choose_model(
    models: Sequence[ModelInfo], name: str | None, strict: bool
) -> tuple[ModelInfo, tuple[str, ...]]:
    """Return the model that runs a request for `name`, and sentences about a fallback.

    No name means the default. A name that is not loaded, and will not be soon (it is being downloaded), runs
    the default with a warning, or raises `UnknownModelError` when `strict`. Raises `ModelUnavailableError`
    when there is no model at all.
    """
    if not models:
        raise ModelUnavailableError("No model is set up on this server: set ACESTEP_CONFIG_PATH.")
    default = default_model(models)
    if name is None or name.removeprefix(NAME_PREFIX) == default.name:
        return default, ()
    usable = {model.name: model for model in models if model.state not in _OUT_OF_REACH}
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


def tasks_of(is_turbo: bool) -> tuple[TaskType, ...]:
    """Return what a model does: the turbo models were distilled for half of the tasks."""
    return TURBO_TASKS if is_turbo else BASE_TASKS


def check_task(task_type: TaskType, model: ModelInfo, models: Sequence[ModelInfo] = ()) -> None:
    """Raise `InvalidFieldError` if `model` does not do `task_type`; it names the models that do.

    `models` are those of this server. Where none of them does, published ones are named.
    """
    if task_type in model.tasks:
        return
    allowed, remedy = ", ".join(model.tasks), _who_does(task_type, models)
    raise InvalidFieldError("task_type", task_type, allowed, remedy, scope=f"with model {model.name}")


def check_stems(stems: Sequence[str], model: ModelInfo, models: Sequence[ModelInfo] = ()) -> None:
    """Raise `InvalidFieldError` if `stems` are wanted of a model that makes none; else as `check_task`."""
    if stems and STEM_TASK not in model.tasks:
        remedy = _who_does(STEM_TASK, models)
        raise InvalidFieldError("stems", ", ".join(stems), "none", remedy, scope=f"with model {model.name}")


def _who_does(task_type: TaskType, models: Sequence[ModelInfo]) -> str:
    here = [other.name for other in models if task_type in other.tasks and other.state != "failed"]
    known = [name for name, entry in PUBLISHED.items() if entry.kind == "dit" and not entry.is_turbo]
    names = ", ".join(here or (*known, NANO_MODEL))
    return f"Models that do {task_type}{'' if here else ', none of them loaded here'}: {names}"


def song_seconds(task_type: TaskType, task: TaskOptions) -> float:
    """Return how long a task makes its song, by a source whose length is known.

    A window that begins before the source, or ends after it, makes the song grow.
    """
    assert task.source_seconds is not None
    if task_type not in WINDOW_TASKS:
        return task.source_seconds
    end = task.source_seconds if task.end is None else task.end
    return max(0.0, -task.start) + max(task.source_seconds, end)


def fit(request: SongRequest, model: ModelInfo) -> SongRequest:
    """Return `request` as `model` can run it, with a warning for every sent value that had to change.

    Fills the model's name, batch size and seeds, and clamps what clients commonly send too large. Raises
    `InvalidFieldError` for what has no nearest allowed value. Fitting a fitted request changes nothing.
    """
    check_task(request.task_type, model)
    warnings = list(request.warnings)
    sampler = _fit_sampler(request.sampler, model, warnings)
    duration = _fit_to_source(request, model, warnings)
    duration = _fit_duration(duration, model, warnings)
    analysis = _fit_analysis(request.analysis, model, warnings)
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
        analysis=analysis,
        batch_size=batch,
        seeds=_fit_seeds(request.seeds, batch),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _fit_analysis(analysis: AnalysisOptions, model: ModelInfo, warnings: list[str]) -> AnalysisOptions:
    """Drop stems that the model cannot make: another one was loaded when the request was accepted."""
    if not analysis.stems or STEM_TASK in model.tasks:
        return analysis
    warnings.append(f"stems: {model.name} cannot make any; {', '.join(analysis.stems)} are left out")
    return replace(analysis, stems=())


def _fit_sampler(options: SamplerOptions, model: ModelInfo, warnings: list[str]) -> SamplerOptions:
    start, end = options.cfg_interval_start, options.cfg_interval_end
    if start > end:
        raise InvalidFieldError("cfg_interval_start", start, f"at most cfg_interval_end, which is {end}")
    options = _fit_timesteps(options, model, warnings)
    if options.infer_method == "sde" and options.tuning.integrator != _AS_PUBLISHED.integrator:
        warnings.append(f"sampler_mode: sde has steps of its own; {options.tuning.integrator} is not used")
        options = replace(options, tuning=replace(options.tuning, integrator=_AS_PUBLISHED.integrator))
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
        options = replace(options, shift=_UNSHIFTED)
    scale = model.guidance_scale if options.guidance_scale is None else options.guidance_scale
    if scale <= 1.0:
        return _without_guidance(options, f"guidance_scale {scale:g} is none", warnings)
    return _without_projection(options, "use_adg is without it", warnings) if options.use_adg else options


def _without_guidance(options: SamplerOptions, why: str, warnings: list[str]) -> SamplerOptions:
    """Make neutral what only matters under guidance."""
    if options.use_adg:
        warnings.append(f"use_adg: {why}; it is not used")
    if (options.cfg_interval_start, options.cfg_interval_end) != (0.0, 1.0):
        warnings.append(f"cfg_interval_start: {why}; its interval is not used")
    options = _without_projection(options, why, warnings)
    return replace(options, use_adg=False, cfg_interval_start=0.0, cfg_interval_end=1.0)


def _without_projection(options: SamplerOptions, why: str, warnings: list[str]) -> SamplerOptions:
    """Make neutral what only matters to adaptive projected guidance."""
    asked = options.tuning
    for name, value, usual in (
        ("momentum", asked.momentum, _AS_PUBLISHED.momentum),
        ("eta", asked.eta, _AS_PUBLISHED.eta),
    ):
        if value != usual:
            warnings.append(f"{name}: {why}; {value:g} is not used")
    kept = replace(asked, momentum=_AS_PUBLISHED.momentum, eta=_AS_PUBLISHED.eta)
    return replace(options, tuning=kept)


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
    options = _without_guidance(options, f"{model.name} runs without guidance", warnings)
    return replace(options, steps=steps, shift=shift, guidance_scale=None)


def _fit_to_source(request: SongRequest, model: ModelInfo, warnings: list[str]) -> float | None:
    """Return the duration that counts: for most tasks with a source none, since that decides.

    Raises `InvalidFieldError` for a song that `model` cannot make as long as it would have to be.
    """
    task_type, duration = request.task_type, request.duration
    if task_type not in SOURCE_TASKS or not request.task.source or request.task.source_seconds is None:
        return duration
    seconds = song_seconds(task_type, request.task)
    most = f"at most {model.max_duration:g} s"
    if task_type in AS_LONG_AS_SOURCE:
        if duration is not None and abs(duration - seconds) > _PADDING_SECONDS:
            warnings.append(
                f"audio_duration: {task_type} makes a song as long as its source; {duration:g} is not used"
            )
        if seconds > model.max_duration + _PADDING_SECONDS:
            raise InvalidFieldError(
                "src_audio", f"{seconds:.1f} s", most, "Cut it", f"for {task_type} with model {model.name}"
            )
        return None
    if duration is None and seconds > model.max_duration + _PADDING_SECONDS:
        warnings.append(f"src_audio: {model.name} makes {most} here; what comes after in it is not covered")
    return duration


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
