"""What one model on this machine can do, applied to a request."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil

from acestep.catalog.checkpoints import NANO_MODEL, PUBLISHED
from acestep.domain.models import ModelInfo
from acestep.domain.song import (
    CODES_A_SECOND,
    MAX_CODES,
    MAX_SEED,
    MIN_CODES,
    MIN_DURATION,
    AnalysisOptions,
    Goal,
    Guidance,
    Retake,
    SamplerOptions,
    SongRequest,
    TaskType,
    Tuning,
    Window,
)
from acestep.errors import InvalidFieldError

DEFAULT_BATCH = 2  # what the original renders when batch_size is not sent

_PADDING_SECONDS = 0.2  # an encoder may have added so much to a source

TURBO_TASKS: tuple[TaskType, ...] = ("text2music", "cover", "repaint")
BASE_TASKS: tuple[TaskType, ...] = (*TURBO_TASKS, "extract", "lego", "complete")
STEM_TASK: TaskType = "extract"  # makes the stems of a song
SOURCE_TASKS: tuple[TaskType, ...] = BASE_TASKS[1:]  # work on audio
WINDOW_TASKS: tuple[TaskType, ...] = ("repaint", "lego")  # may leave some of the audio as it is
# Songs as long as their source, whatever duration is asked for; a cover may be told to differ.
AS_LONG_AS_SOURCE: tuple[TaskType, ...] = ("repaint", "lego", "extract", "complete")
# The other tasks leave nothing open that a planner could decide.
PLANNED_TASKS: tuple[TaskType, ...] = ("text2music", "lego", "complete")
# The wire field that asks for something else than a song.
GOAL_FIELDS: dict[Goal, str] = {
    "codes": "extract_codes_only",
    "metadata": "analysis_only",
    "description": "full_analysis_only",
}
_GOALS_WITH_SOURCE: tuple[Goal, ...] = ("codes", "description")
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


def tasks_of(is_turbo: bool) -> tuple[TaskType, ...]:
    """The turbo models were distilled for half of the tasks."""
    return TURBO_TASKS if is_turbo else BASE_TASKS


def needs_planner(request: SongRequest) -> bool:
    """Whether the request cannot be done without a planner."""
    if request.goal in ("metadata", "description"):
        return True
    return request.task_type in PLANNED_TASKS and (request.planner.thinking or request.planner.wants_draft)


def uses_planner(request: SongRequest) -> bool:
    """Whether a planner does anything for the request, if there is one."""
    asked = request.planner
    may_fill_in = asked.use_cot_caption or asked.use_cot_language
    is_open = request.task_type in PLANNED_TASKS and not request.audio_codes
    return needs_planner(request) or (is_open and may_fill_in)


def window_of(request: SongRequest) -> Window | None:
    """The part that a task writes anew; None: all, or the duration of the source is not known yet.

    A window that begins before the source, or ends after it, makes the song grow.
    """
    task = request.task
    if request.task_type not in WINDOW_TASKS or task.source_seconds is None:
        return None
    lead = max(0.0, -task.start)
    end = task.source_seconds if task.end is None else task.end
    return Window(
        start=task.start + lead,
        end=end + lead,
        source_start=lead,
        source_end=task.source_seconds + lead,
        crossfade_frames=task.crossfade_frames,
        crossfade_seconds=task.crossfade_seconds,
    )


def song_seconds(request: SongRequest) -> float:
    """The duration of a song by its source, whose duration is known."""
    assert request.task.source_seconds is not None
    window = window_of(request)
    return max(window.end, window.source_end) if window else request.task.source_seconds


def fit(request: SongRequest, model: ModelInfo, models: Sequence[ModelInfo] = ()) -> SongRequest:
    """Return `request` as `model` can run it, with a warning for every sent value that had to change.

    Fills in the model's name, batch size and seeds, and clamps what clients commonly send too large. Raises
    `InvalidFieldError` for what has no nearest allowed value. To fit a fitted request changes nothing.
    A new request comes with the `models` of this server. One that was accepted when another model was loaded
    comes without, and loses stems that cannot be made instead of being refused.
    """
    _check_task(request.task_type, model, models)
    _check_source(request)
    _check_codes(request, model)
    warnings = list(request.warnings)
    sampler = fit_sampler(request.sampler, model, warnings)
    duration = _fit_duration(_duration_asked(request, model, warnings), model, warnings)
    analysis = _fit_stems(request.analysis, model, models, warnings)
    batch = _fit_batch(request, model, warnings)
    codes = request.audio_codes
    return replace(
        request,
        model=model.name,
        sampler=sampler,
        duration=duration,
        audio_codes=codes if duration is None else codes[: ceil(duration * CODES_A_SECOND)],
        analysis=analysis,
        batch_size=batch,
        seeds=_fit_seeds(request.seeds, batch),
        retakes=_fit_retakes(request.retakes, batch),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _check_task(task_type: TaskType, model: ModelInfo, models: Sequence[ModelInfo]) -> None:
    if task_type not in model.tasks:
        allowed, remedy = ", ".join(model.tasks), _models_with(task_type, models)
        raise InvalidFieldError("task_type", task_type, allowed, remedy, scope=f"with model {model.name}")


def _models_with(task_type: TaskType, models: Sequence[ModelInfo]) -> str:
    here = [other.name for other in models if task_type in other.tasks and other.state != "failed"]
    known = [name for name, entry in PUBLISHED.items() if entry.kind == "dit" and not entry.is_turbo]
    names = ", ".join(here or (*known, NANO_MODEL))
    return f"Models that do {task_type}{'' if here else ', none of them loaded here'}: {names}"


def _check_source(request: SongRequest) -> None:
    # Refuse a task without its source audio (or codes), and an empty window.
    takes_source = request.goal in _GOALS_WITH_SOURCE or request.task_type in SOURCE_TASKS
    if takes_source and not request.task.source and not request.audio_codes:
        allowed = "an audio file, uploaded as src_audio, or named by src_audio_path"
        asker = GOAL_FIELDS.get(request.goal) or f"task_type {request.task_type}"
        raise InvalidFieldError("src_audio", None, allowed, scope=f"with {asker}")
    window, task = window_of(request), request.task
    if window is None or (window.start < window.end and window.start <= window.source_end):
        return
    if window.start > window.source_end or task.end is None:
        allowed = f"at most {task.source_seconds:.2f}, where the source ends"
        raise InvalidFieldError("repainting_start", task.start, allowed)
    raise InvalidFieldError(
        "repainting_end", task.end, f"more than repainting_start, which is {task.start:g}"
    )


def _check_codes(request: SongRequest, model: ModelInfo) -> None:
    # Refuse audio codes that the model does not have, too few and too many.
    codes = request.audio_codes
    if not codes:
        return
    if model.code_count and max(codes) >= model.code_count:
        known = f"codes from 0 to {model.code_count - 1}"
        raise InvalidFieldError("audio_code_string", max(codes), known, scope=f"with model {model.name}")
    if not MIN_CODES <= len(codes) <= MAX_CODES:
        allowed = f"{MIN_CODES} to {MAX_CODES} codes, {CODES_A_SECOND} a second"
        raise InvalidFieldError("audio_code_string", f"{len(codes)} codes", allowed)


def _fit_stems(
    analysis: AnalysisOptions, model: ModelInfo, models: Sequence[ModelInfo], warnings: list[str]
) -> AnalysisOptions:
    if not analysis.stems or STEM_TASK in model.tasks:
        return analysis
    names = ", ".join(analysis.stems)
    if models:
        remedy = _models_with(STEM_TASK, models)
        raise InvalidFieldError("stems", names, "none", remedy, scope=f"with model {model.name}")
    warnings.append(f"stems: {model.name} cannot make any; {names} are left out")
    return replace(analysis, stems=())


def _duration_asked(request: SongRequest, model: ModelInfo, warnings: list[str]) -> float | None:
    # The duration that was sent or that the codes have; None: the source or the planner decides.
    task_type, duration = request.task_type, request.duration
    if request.audio_codes:
        return _duration_of(len(request.audio_codes), duration, warnings)
    if task_type not in SOURCE_TASKS or not request.task.source or request.task.source_seconds is None:
        return duration
    seconds, most = song_seconds(request), f"at most {model.max_duration:g} s"
    is_too_long = seconds > model.max_duration + _PADDING_SECONDS
    if task_type in AS_LONG_AS_SOURCE:
        if duration is not None and abs(duration - seconds) > _PADDING_SECONDS:
            warnings.append(
                f"audio_duration: {task_type} makes a song as long as its source; {duration:g} is not used"
            )
        if is_too_long:
            scope = f"for {task_type} with model {model.name}"
            raise InvalidFieldError("src_audio", f"{seconds:.1f} s", most, "Cut it", scope)
        return None
    if duration is not None and task_type == "cover" and not request.task.may_change_length:
        if abs(duration - min(seconds, model.max_duration)) > _PADDING_SECONDS:
            warnings.append(
                f"audio_duration: a cover is as long as its source; {duration:g} is not used "
                "(allow_length_change=true keeps it)"
            )
        duration = None
    if duration is None and is_too_long:
        warnings.append(f"src_audio: {model.name} makes {most} here; the rest of the source is not covered")
    return duration


def _duration_of(codes: int, sent: float | None, warnings: list[str]) -> float:
    # A duration that is off by less than a code comes from rounding.
    seconds = codes / CODES_A_SECOND
    if sent is None or abs(sent - seconds) * CODES_A_SECOND <= 1:
        return seconds if sent is None else sent
    warnings.append(
        f"audio_duration: the {codes} codes in audio_code_string last {seconds:g} s; {sent:g} is not used"
    )
    return seconds


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


def _fit_batch(request: SongRequest, model: ModelInfo, warnings: list[str]) -> int:
    wanted = _wanted_batch(request)
    batch = min(wanted, model.max_batch)
    if batch < wanted and (request.batch_size is not None or request.seeds):
        warnings.append(
            f"batch_size: {model.name} makes at most {batch} at once here; {wanted} became {batch}"
        )
    if len(request.seeds) > wanted:
        warnings.append(f"seed: {len(request.seeds)} seeds for {wanted} songs; the last ones are not used")
    return batch


def _wanted_batch(request: SongRequest) -> int:
    if request.batch_size is None:  # several seeds mean one song each
        return len(request.seeds) if len(request.seeds) > 1 else DEFAULT_BATCH
    if request.batch_size < 1:
        raise InvalidFieldError("batch_size", request.batch_size, "1 or more")
    return request.batch_size


def _fit_seeds(seeds: tuple[int, ...], count: int) -> tuple[int, ...]:
    # One seed counts up; several are those of the first songs, and the rest is drawn.
    if len(seeds) == 1:
        return tuple((seeds[0] + index) % (MAX_SEED + 1) for index in range(count))
    drawn = (secrets.randbelow(MAX_SEED + 1) for _ in range(count - len(seeds)))
    return (*seeds[:count], *drawn)


def _fit_retakes(retakes: tuple[Retake, ...], count: int) -> tuple[Retake, ...]:
    if not retakes:
        return ()
    seeds = _fit_seeds(tuple(retake.seed for retake in retakes), count)
    return tuple(replace(retakes[0], seed=seed) for seed in seeds)


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
