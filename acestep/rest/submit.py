"""From the body of a request to a job in the queue: choose the model, translate, fit."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.exceptions import HTTPException

from acestep.domain.models import ModelInfo, choose_model
from acestep.domain.song import (
    MAX_SEED,
    AdapterUse,
    AnalysisOptions,
    Goal,
    Morph,
    OutputOptions,
    PlannerOptions,
    Retake,
    SamplerOptions,
    SongRequest,
    TaskOptions,
    Tuning,
    WaveletCorrection,
)
from acestep.errors import InvalidFieldError
from acestep.jobs.model import Once
from acestep.jobs.worker import Worker
from acestep.limits import fit, needs_planner
from acestep.rest.adapters import ServerAdapters
from acestep.rest.deps import HttpConfig, HttpServices
from acestep.rest.idempotency import RepeatableCall
from acestep.rest.request.body import Body
from acestep.rest.request.fields_audio import STEM_SETS
from acestep.rest.request.fields_jobs import hook_of
from acestep.rest.request.fields_planner import PlannerSamplingFields
from acestep.rest.request.fields_song import DEFAULT_INSTRUCTION, MusicFields
from acestep.rest.request.schemas import GenerateTask, read_task, require_fields
from acestep.rest.request.sounds import PATHS, REFERENCE, SOURCE, Sound, look_at, permitted, stored
from acestep.rest.request.task_rules import (
    BALANCED,
    INJECTION,
    apply_rules,
    check_planner,
    check_strict,
    decide_correction,
    planner_name,
)
from acestep.rest.spelling import JsonObject

REUSED = "In the last 24 hours it was sent with another request"
UNKNOWN_LANGUAGE = "unknown"


@dataclass(frozen=True, slots=True)
class Submission:
    job_id: str
    position: int  # counts the waiting jobs including this one
    eta: float  # seconds until it is done
    request: SongRequest


async def submit(body: Body, services: HttpServices, warnings: tuple[str, ...] = ()) -> Submission:
    """Queue what `body` asks for in the fields of `/release_task`; `warnings` come first.

    Raises as `accept`, `UnusableAudioError` for a file that is no audio, and `QueueFullError`.
    """
    services.audio.check_room(services.config.disk_reserve)
    if services.call is not None:
        once = await services.call.once(body.fields, body.files)
        if earlier := await submitted(once, services.call, services):
            return earlier
        services = replace(services, once=once)
    if not body.files:
        return await _submit(body.fields, {}, services, warnings)
    async with stored(body.files, services.uploads, services.probe) as uploads:
        return await _submit(body.fields, uploads, services, warnings)


async def submitted(once: Once, call: RepeatableCall, services: HttpServices) -> Submission | None:
    """What the first request with the key of `call` has submitted; None: this is the first.

    Raises InvalidFieldError if that was another request, and 404 if its job was deleted.
    """
    found = await services.queue.submission(once.id)
    if found is None:
        return None
    call.note_replay()
    first, receipt = found
    if first != once:
        raise InvalidFieldError("Idempotency-Key", "this key", "a new key for each request", REUSED)
    (view,) = await services.queue.find([receipt.job_id])
    if view is None:
        raise HTTPException(404, f"Task {receipt.job_id}, which this key has submitted, was deleted")
    return Submission(receipt.job_id, receipt.position, receipt.eta, view.job.request)


async def _submit(
    fields: JsonObject, uploads: Mapping[str, Sound], services: HttpServices, warnings: tuple[str, ...]
) -> Submission:
    task, ignored = read_task(fields)
    if not uploads:
        require_fields({name: getattr(task, name) for name in task.model_fields_set}, ignored)
    sounds = await _sounds(task, uploads, services)
    request = accept(task, sounds, services.worker, services.config, services.lora)
    used = [sound for sound in sounds.values() if _is_used(sound, request)]
    heard = [warning for sound in used for warning in sound.warnings]
    request = replace(request, warnings=(*warnings, *ignored, *request.warnings, *heard))
    check_strict(request.warnings, services.config.strict)
    for sound in uploads.values():
        if not _is_used(sound, request):
            sound.path.unlink(missing_ok=True)
    hook = hook_of(task, services.config.hooks_private) if task.callback_url else None
    receipt = await services.queue.submit(request, services.once, hook)
    return Submission(receipt.job_id, receipt.position, receipt.eta, request)


def _is_used(sound: Sound, request: SongRequest) -> bool:
    return str(sound.path) in (request.task.source, request.task.reference)


async def _sounds(
    task: GenerateTask, uploads: Mapping[str, Sound], services: HttpServices
) -> dict[str, Sound]:
    sounds = dict(uploads)
    for kind, field in PATHS.items():
        named = getattr(task, field)
        if named and kind not in sounds:
            sounds[kind] = await named_sound(field, named, services)
    return sounds


async def named_sound(field: str, named: str, services: HttpServices) -> Sound:
    """A song that was made here, or a file of this machine that may be read."""
    _, song = services.links.open(named)
    path = song or permitted(field, named, _roots(named, services.config))
    return await look_at(field, named, path, services.probe)


def _roots(named: str, config: HttpConfig) -> tuple[Path, ...]:
    # As in the original, programs of this machine may hand over a temporary file by its absolute path.
    return (*config.audio_roots, *(config.local_roots if Path(named).is_absolute() else ()))


def accept(
    task: GenerateTask,
    sounds: Mapping[str, Sound],
    worker: Worker,
    config: HttpConfig,
    adapters: ServerAdapters,
) -> SongRequest:
    """Return the request as its model will run it.

    Raises `InvalidFieldError` for what cannot be done, `UnknownModelError` if models are strict, and
    `ModelUnavailableError` or `PlannerUnavailableError` if nothing here can run it.
    """
    models, planner = worker.models(), worker.planner(planner_name(task.lm_model_path))
    model, fallback = choose_model(models, task.model, config.strict_model)
    task, goal, sounds, warnings = apply_rules(task, sounds, planner)
    task, unused = decide_correction(task, config.dcw_on_turbo and model.is_turbo)
    request = to_request(task, goal, sounds, planner.name)
    request = fit(replace(request, warnings=(*fallback, *warnings, *unused)), model, models)
    uses, notes = _adapters(task, model, adapters)
    skipped = check_planner(task, needs_planner(request), planner)
    return replace(request, adapters=uses, warnings=(*request.warnings, *skipped, *notes))


def _adapters(
    task: GenerateTask, model: ModelInfo, adapters: ServerAdapters
) -> tuple[tuple[AdapterUse, ...], tuple[str, ...]]:
    if task.lora is None and not adapters.in_use:
        return (), ()
    return adapters.choose(task.lora, model)


def to_request(task: GenerateTask, goal: Goal, sounds: Mapping[str, Sound], own_planner: str) -> SongRequest:
    """Translate a wire request whose fields all count."""
    return SongRequest(
        caption=task.prompt,
        lyrics=task.lyrics,
        language=task.vocal_language,
        language_fixed=is_language_fixed(task),
        bpm=task.bpm,
        key_scale=task.key_scale,
        time_signature=task.time_signature,
        duration=task.audio_duration,
        batch_size=1 if goal != "song" or task.stem_count else task.batch_size,
        seeds=_seeds(task.seed),
        model=task.model,
        task_type=task.task_type,
        instruction=None if task.instruction.strip() in ("", DEFAULT_INSTRUCTION) else task.instruction,
        audio_format=task.audio_format,
        sampler=_sampler(task),
        planner=_planner(task, own_planner),
        audio_codes=task.audio_code_string,
        retakes=_retakes(task),
        output=OutputOptions(
            peak_db=task.normalization_db if task.enable_normalization else None,
            fade_in=task.fade_in_duration,
            fade_out=task.fade_out_duration,
            mp3_bitrate=task.mp3_bitrate,
            mp3_sample_rate=task.mp3_sample_rate,
        ),
        analysis=AnalysisOptions(
            lyric_times=task.lyric_timestamps or task.auto_score,
            peaks=task.waveform_peaks or 0,
            loudness=task.measure_loudness,
            stems=task.stems,
        ),
        task=_task(task, sounds.get(SOURCE), sounds.get(REFERENCE)),
        goal=goal,
    )


def _seeds(asked: tuple[int, ...]) -> tuple[int, ...]:
    if asked == (-1,):
        return ()
    return tuple(secrets.randbelow(MAX_SEED + 1) if seed == -1 else seed for seed in asked)


def _sampler(task: GenerateTask) -> SamplerOptions:
    return SamplerOptions(
        steps=task.inference_steps,
        guidance_scale=task.guidance_scale,
        shift=task.shift,
        cfg_interval_start=task.cfg_interval_start,
        cfg_interval_end=task.cfg_interval_end,
        timesteps=task.timesteps,
        infer_method=task.infer_method,
        tuning=_tuning(task),
    )


def _tuning(task: GenerateTask) -> Tuning:
    params = task.guidance_params
    correction = WaveletCorrection(task.dcw_mode, task.dcw_scaler, task.dcw_high_scaler)
    return Tuning(
        integrator=task.sampler_mode,
        guidance="adg" if task.use_adg else task.guidance_variant,
        momentum=params.get("momentum", task.momentum),
        eta=params.get("eta", task.eta),
        norm_limit=params.get("norm_threshold", Tuning().norm_limit),
        angle_limit=params.get("angle_clip"),
        velocity_limit=task.velocity_norm_threshold,
        smoothing=task.velocity_ema_factor,
        correction=correction if task.dcw_enabled else None,
        latent_scale=task.latent_rescale,
        latent_shift=task.latent_shift,
    )


def _retakes(task: GenerateTask) -> tuple[Retake, ...]:
    if not task.retake_variance:
        return ()
    seeds = _seeds(task.retake_seed) or (secrets.randbelow(MAX_SEED + 1),)
    return tuple(Retake(seed, task.retake_variance) for seed in seeds)


def _planner(task: GenerateTask, own: str) -> PlannerOptions:
    options = sampling_options(task, task.lm_temperature)
    return replace(
        options,
        model=own if options.model == own else "",
        thinking=task.thinking,
        sample_mode=task.sample_mode,
        sample_query=task.sample_query,
        use_format=task.use_format,
        use_cot_caption=task.use_cot_caption,
        use_cot_language=task.use_cot_language,
    )


def sampling_options(task: PlannerSamplingFields, temperature: float) -> PlannerOptions:
    return PlannerOptions(
        temperature=temperature,
        guidance_scale=task.lm_cfg_scale,
        top_k=task.lm_top_k or None,
        top_p=task.lm_top_p,
        repetition_penalty=task.lm_repetition_penalty,
        negative_prompt=task.lm_negative_prompt,
        model=planner_name(task.lm_model_path),
    )


def _task(task: GenerateTask, source: Sound | None, reference: Sound | None) -> TaskOptions:
    named = task.track_classes or ((task.track_name,) if task.track_name else ())
    tracks, rest = STEM_SETS[task.stem_count] if task.stem_count else (named, "")
    return TaskOptions(
        source=str(source.path) if source else "",
        reference=str(reference.path) if reference else "",
        source_seconds=source.seconds if source else None,
        start=task.repainting_start,
        end=task.repainting_end,
        cover_strength=task.audio_cover_strength,
        noise_strength=task.cover_noise_strength,
        injection=_injection(task.repaint_mode, task.repaint_strength),
        tracks=tracks,
        rest=rest,
        crossfade_frames=task.repaint_latent_crossfade_frames,
        crossfade_seconds=task.repaint_wav_crossfade_sec,
        follows_latents=task.no_fsq,
        may_change_length=task.allow_length_change,
        morph=_morph(task),
        source_caption=task.flow_edit_source_caption,
        source_lyrics=task.flow_edit_source_lyrics,
    )


def _morph(task: GenerateTask) -> Morph | None:
    """Raises `InvalidFieldError` for an interval without a step."""
    if not task.flow_edit_morph:
        return None
    if task.flow_edit_n_min >= task.flow_edit_n_max:
        allowed = f"less than flow_edit_n_max, which is {task.flow_edit_n_max:g}"
        raise InvalidFieldError("flow_edit_n_min", task.flow_edit_n_min, allowed)
    return Morph(task.flow_edit_n_max, task.flow_edit_n_min, task.flow_edit_n_avg)


def _injection(mode: str | None, strength: float | None) -> float:
    # The share of the steps after which the source is put back outside of the window.
    if mode is None and strength is None:
        return 0.0
    if mode in INJECTION:
        return INJECTION[mode]
    return 1.0 - (BALANCED if strength is None else strength)


def is_language_fixed(task: MusicFields) -> bool:
    """Whether the client named a language; otherwise a planner may choose another."""
    return "vocal_language" in task.model_fields_set and task.vocal_language != UNKNOWN_LANGUAGE
