"""From a wire request to a `SongRequest` that can be queued, or a refusal that names the field.

Owns what becomes of each field by its `Support`, the seed rules, and strictness. Knows nothing of bodies,
statuses or jobs.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from acestep.domain import MAX_SEED, ModelInfo, PlannerOptions, SamplerOptions, SongRequest
from acestep.errors import InvalidFieldError, ModelUnavailableError
from acestep.http.errors import InvalidFieldsError, StrictError
from acestep.http.fields import Support, notes_of
from acestep.http.schemas import GenerateTask, read_task
from acestep.http.song_fields import DEFAULT_INSTRUCTION
from acestep.limits import check_task, choose_model, default_model, fit


def accept(
    body: Mapping[str, Any], models: Sequence[ModelInfo], strict: bool = False, strict_model: bool = False
) -> SongRequest:
    """Return the request in a body, fitted to the model that will run it.

    Raises `InvalidFieldError` for what cannot be done (and, if `strict`, for what would be changed),
    `UnknownModelError` if `strict_model`, and `ModelUnavailableError` for what nothing here can run.
    """
    task, ignored = read_task(body)
    if models and (default := default_model(models)).state == "failed":
        raise ModelUnavailableError(f"{default.name} could not be loaded: {default.detail}")
    model, fallback = choose_model(models, task.model, strict_model)
    request = fit(to_request(task, model), model)
    request = replace(request, warnings=(*ignored, *fallback, *request.warnings))
    if strict and request.warnings:
        raise StrictError(request.warnings)
    return request


def to_request(task: GenerateTask, model: ModelInfo) -> SongRequest:
    """Translate a wire request that `model` will run into the words of the program.

    Raises `InvalidFieldError` for tasks and fields that are not supported, `ModelUnavailableError` for what
    needs the planner.
    """
    check_task(task.task_type, model)
    warnings = _check_support(task)
    return SongRequest(
        caption=task.prompt,
        lyrics=task.lyrics,
        language=task.vocal_language,
        bpm=task.bpm,
        key_scale=task.key_scale,
        time_signature=task.time_signature,
        duration=task.audio_duration,
        batch_size=task.batch_size,
        seeds=_seeds(task, warnings),
        model=task.model,
        task_type=task.task_type,
        instruction=None if task.instruction.strip() in ("", DEFAULT_INSTRUCTION) else task.instruction,
        audio_format=task.audio_format,
        sampler=_sampler(task),
        planner=_planner(task),
        warnings=tuple(warnings),
    )


def _check_support(task: GenerateTask) -> list[str]:
    """Refuse what is not supported or needs the planner; return warnings about what is ignored."""
    sent = {name: getattr(task, name) for name in type(task).model_fields if not _is_neutral(task, name)}
    by_support: dict[Support, list[str]] = {support: [] for support in Support}
    for name in sent:
        by_support[_support(name)].append(name)
    if unsupported := by_support[Support.UNSUPPORTED]:
        raise InvalidFieldsError([_unsupported(name, sent[name]) for name in unsupported])
    if planned := by_support[Support.PLANNER]:
        raise ModelUnavailableError(
            f"{', '.join(planned)}: needs the planner (the 5 Hz language model), and none is loaded on this "
            f"server. Leave it out, or send {_default(planned[0])}"
        )
    warnings = [
        f"{name}: the server decides this; {sent[name]!r} is not used" for name in by_support[Support.IGNORED]
    ]
    warnings += [
        f"{name}: skipped, since no planner is loaded on this server"
        for name in type(task).model_fields
        if _support(name) is Support.OPTIONAL and name in task.model_fields_set and getattr(task, name)
    ]
    return warnings


def _support(name: str) -> Support:
    return Support(notes_of(GenerateTask.model_fields[name])["x-support"])


def _is_neutral(task: GenerateTask, name: str) -> bool:
    info = GenerateTask.model_fields[name]
    value = getattr(task, name)
    value = value.strip() if isinstance(value, str) else value
    return value == info.default or value in notes_of(info)["x-neutral"]


def _unsupported(name: str, value: object) -> InvalidFieldError:
    return InvalidFieldError(name, value, _default(name), "It is not supported by this server yet")


def _default(name: str) -> str:
    return json.dumps(GenerateTask.model_fields[name].default)


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
    )


def _planner(task: GenerateTask) -> PlannerOptions:
    return PlannerOptions(
        thinking=task.thinking,
        sample_mode=task.sample_mode,
        sample_query=task.sample_query,
        use_format=task.use_format,
        use_cot_caption=task.use_cot_caption,
        use_cot_language=task.use_cot_language,
        temperature=task.lm_temperature,
        guidance_scale=task.lm_cfg_scale,
        top_k=task.lm_top_k or None,
        top_p=task.lm_top_p,
        repetition_penalty=task.lm_repetition_penalty,
        negative_prompt=task.lm_negative_prompt,
    )
