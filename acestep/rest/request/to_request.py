"""From a wire request to a `SongRequest` that can be queued, or a refusal that names the field."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from acestep.catalog.adapters import AdapterFolder
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import (
    CODES_A_SECOND,
    MAX_SEED,
    MIN_DURATION,
    PlannerOptions,
    SamplerOptions,
    SongRequest,
    Tuning,
)
from acestep.errors import InvalidFieldError, ModelUnavailableError
from acestep.limits import check_stems, check_task, choose_model, default_model, fit
from acestep.rest.adapters import ServerAdapters
from acestep.rest.request.body import Sound
from acestep.rest.request.fields_planner import PlannerSamplingFields
from acestep.rest.request.fields_song import DEFAULT_INSTRUCTION, MusicFields, analysis_of
from acestep.rest.request.schemas import GenerateTask
from acestep.rest.request.support import check_strict, check_support, planner_name
from acestep.rest.request.task_rules import relevant, task_options
from acestep.rest.request.wire_types import MAX_CODES

MIN_CODES = int(MIN_DURATION) * CODES_A_SECOND
UNKNOWN_LANGUAGE = "unknown"


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a request has beside its fields: the adapters of the server, and audio by what it is."""

    lora: ServerAdapters = field(default_factory=lambda: ServerAdapters(AdapterFolder(None)))
    sounds: Mapping[str, Sound] = field(default_factory=dict)


def accept_task(
    read: tuple[GenerateTask, Sequence[str]],
    models: Sequence[ModelInfo],
    planner: PlannerInfo,
    strict: bool = False,
    strict_model: bool = False,
    context: RequestContext | None = None,
) -> SongRequest:
    """Return the request in what `read_task` read, fitted to the model that will run it.

    Raises `InvalidFieldError` for what cannot be done (and, if `strict`, for what would be changed),
    `UnknownModelError` if `strict_model`, and `ModelUnavailableError` or `PlannerUnavailableError` for what
    nothing here can run.
    """
    task, ignored = read
    if models and (default := default_model(models)).state == "failed":
        raise ModelUnavailableError(f"{default.name} could not be loaded: {default.detail}")
    context = context or RequestContext()
    model, fallback = choose_model(models, task.model, strict_model)
    check_task(task.task_type, model, models)
    check_stems(task.stems, model, models)
    request = _cut_codes(fit(to_request(task, model, planner, context.sounds), model))
    adapters, skipped = context.lora.choose(task.lora, model)
    warnings = (*ignored, *fallback, *request.warnings, *skipped)
    request = replace(request, adapters=adapters, warnings=warnings)
    check_strict(request.warnings, strict)
    return request


def to_request(
    task: GenerateTask, model: ModelInfo, planner: PlannerInfo, sounds: Mapping[str, Sound]
) -> SongRequest:
    """Translate a wire request that `model` will run into the words of the program.

    Raises `InvalidFieldError` for fields that are not supported and audio that is missing,
    `PlannerUnavailableError` for what needs the planner.
    """
    task, goal, warnings = relevant(task)
    warnings += check_support(task, planner)
    options = task_options(task, goal, sounds, warnings)
    return SongRequest(
        caption=task.prompt,
        lyrics=task.lyrics,
        language=task.vocal_language,
        language_fixed=is_language_fixed(task),
        bpm=task.bpm,
        key_scale=task.key_scale,
        time_signature=task.time_signature,
        duration=_duration(task, model),
        batch_size=task.batch_size if goal == "song" else 1,
        seeds=_seeds(task, warnings),
        model=task.model,
        task_type=task.task_type,
        instruction=None if task.instruction.strip() in ("", DEFAULT_INSTRUCTION) else task.instruction,
        audio_format=task.audio_format,
        sampler=_sampler(task),
        planner=_planner(task, planner.name),
        audio_codes=task.audio_code_string,
        analysis=analysis_of(task),
        warnings=tuple(warnings),
        task=options,
        goal=goal,
    )


def _duration(task: GenerateTask, model: ModelInfo) -> float | None:
    """The duration that was sent, or that the codes have. Raises `InvalidFieldError` where these disagree."""
    codes = task.audio_code_string
    if not codes:
        return task.audio_duration
    if model.code_count and max(codes) >= model.code_count:
        known = f"codes from 0 to {model.code_count - 1}"
        raise InvalidFieldError("audio_code_string", max(codes), known, scope=f"with model {model.name}")
    if not MIN_CODES <= len(codes) <= MAX_CODES:
        allowed = f"{MIN_CODES} to {MAX_CODES} codes, {CODES_A_SECOND} a second"
        raise InvalidFieldError("audio_code_string", f"{len(codes)} codes", allowed)
    if task.audio_duration is None:
        return len(codes) / CODES_A_SECOND
    if abs(task.audio_duration * CODES_A_SECOND - len(codes)) > 1:
        raise InvalidFieldError(
            "audio_duration",
            task.audio_duration,
            f"{len(codes) / CODES_A_SECOND:g}, the seconds of the {len(codes)} codes in audio_code_string",
            f"Leave it out, or send {CODES_A_SECOND} codes a second",
        )
    return task.audio_duration


def _cut_codes(request: SongRequest) -> SongRequest:
    """Drop the codes after the end of a song that had to be shortened."""
    if request.duration is None:
        return request
    return replace(request, audio_codes=request.audio_codes[: ceil(request.duration * CODES_A_SECOND)])


def _seeds(task: GenerateTask, warnings: list[str]) -> tuple[int, ...]:
    """Return the seeds that count, random ones drawn; none if nothing but randomness is asked for."""
    if task.seed == (-1,):
        return ()
    if "use_random_seed" in task.model_fields_set and task.use_random_seed:
        if max(task.seed) >= 0:
            sent = ",".join(str(seed) for seed in task.seed)
            warnings.append(f"seed: use_random_seed=true was sent as well; {sent} is not used")
        return ()
    return tuple(secrets.randbelow(MAX_SEED + 1) if seed == -1 else seed for seed in task.seed)


def _sampler(task: GenerateTask) -> SamplerOptions:
    return SamplerOptions(
        steps=task.inference_steps,
        guidance_scale=task.guidance_scale,
        shift=task.shift,
        cfg_interval_start=task.cfg_interval_start,
        cfg_interval_end=task.cfg_interval_end,
        timesteps=task.timesteps,
        infer_method=task.infer_method,
        use_adg=task.use_adg,
        tuning=Tuning(
            integrator=task.sampler_mode,
            momentum=task.momentum,
            eta=task.eta,
            smoothing=task.velocity_ema_factor,
            latent_scale=task.latent_rescale,
            latent_shift=task.latent_shift,
        ),
    )


def _planner(task: GenerateTask, there: str) -> PlannerOptions:
    """What is asked of a planner, and of which: the one that is `there`, if that is who was named."""
    options = sampling_options(task, task.lm_temperature)
    return replace(
        options,
        model=there if options.model == there else "",
        thinking=task.thinking,
        sample_mode=task.sample_mode,
        sample_query=task.sample_query,
        use_format=task.use_format,
        use_cot_caption=task.use_cot_caption,
        use_cot_language=task.use_cot_language,
    )


def sampling_options(task: PlannerSamplingFields, temperature: float) -> PlannerOptions:
    """Return how the planner samples, in the words of the program."""
    return PlannerOptions(
        temperature=temperature,
        guidance_scale=task.lm_cfg_scale,
        top_k=task.lm_top_k or None,
        top_p=task.lm_top_p,
        repetition_penalty=task.lm_repetition_penalty,
        negative_prompt=task.lm_negative_prompt,
        model=planner_name(task.lm_model_path),
    )


def is_language_fixed(task: MusicFields) -> bool:
    """Whether the client named a language; the default only holds where nobody decides."""
    return "vocal_language" in task.model_fields_set and task.vocal_language != UNKNOWN_LANGUAGE
