"""What becomes of the wire fields: each counts for the task, is neutralised with a warning, or is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from acestep.domain.models import PlannerInfo
from acestep.domain.song import PEAK_DB, Goal, TaskType
from acestep.errors import InvalidFieldError, PlannerUnavailableError
from acestep.limits import (
    AS_LONG_AS_SOURCE,
    BASE_TASKS,
    GOAL_FIELDS,
    PLANNED_TASKS,
    SOURCE_TASKS,
    WINDOW_TASKS,
)
from acestep.rest.errors import InvalidFieldsError, StrictError
from acestep.rest.request.fields_audio import MorphFields
from acestep.rest.request.fields_planner import CodeFields, PlannerFields, PlannerSamplingFields
from acestep.rest.request.fields_song import MusicFields
from acestep.rest.request.schemas import GenerateTask
from acestep.rest.request.sounds import PATHS, REFERENCE, SOURCE, Sound
from acestep.rest.request.wire_types import Support, notes_of

MAX_SHOWN = 60  # characters of a value in a warning
BALANCED = 0.5  # repaint_strength where none is sent
INJECTION = {"conservative": 1.0, "aggressive": 0.0}  # of the modes that take no repaint_strength
_NO_PLANNER = "no planner is loaded on this server"

_COVER: tuple[TaskType, ...] = ("cover",)
_WHOLE = tuple(task for task in BASE_TASKS if task not in WINDOW_TASKS)
_CODED: tuple[TaskType, ...] = ("text2music", "cover")
_SAMPLING = (
    *("lm_temperature", "lm_cfg_scale", "lm_top_k", "lm_top_p", "lm_repetition_penalty"),
    *("lm_negative_prompt", "lm_model_path"),
)
# Which tasks use a field; all of them use what is not listed. (A strength counts where codes are followed.)
_USERS: Mapping[str, tuple[TaskType, ...]] = {
    "repainting_start": WINDOW_TASKS,
    "repainting_end": WINDOW_TASKS,
    "repaint_latent_crossfade_frames": WINDOW_TASKS,
    "repaint_wav_crossfade_sec": WINDOW_TASKS,
    "chunk_mask_mode": WINDOW_TASKS,
    "repaint_mode": WINDOW_TASKS,
    "repaint_strength": WINDOW_TASKS,
    "audio_cover_strength": _CODED,
    "cover_noise_strength": _COVER,
    "enable_normalization": _WHOLE,
    "normalization_db": _WHOLE,
    **dict.fromkeys(MorphFields.model_fields, _COVER),
    "no_fsq": _COVER,
    "allow_length_change": _COVER,
    "track_name": ("extract", "lego"),
    "stem_count": ("extract",),
    "track_classes": ("complete",),
    "audio_code_string": _CODED,
    "thinking": ("text2music",),
    "sample_mode": PLANNED_TASKS,
    "sample_query": PLANNED_TASKS,
    "use_format": PLANNED_TASKS,
    "use_cot_caption": PLANNED_TASKS,
    "use_cot_language": PLANNED_TASKS,
    **dict.fromkeys(_SAMPLING, PLANNED_TASKS),
}
_GOALS: Mapping[str, Goal] = {name: goal for goal, name in GOAL_FIELDS.items()}
_ON_BY_DEFAULT = ("use_cot_caption", "use_cot_language")
_PLANNING = {*PlannerSamplingFields.model_fields, "lm_temperature", "seed", "use_random_seed"}
_ALWAYS = {*_GOALS, "model", *PATHS.values()}
# The fields that count where no song is asked for.
_COUNTS: Mapping[Goal, set[str]] = {
    "codes": set(),
    "metadata": {*MusicFields.model_fields, *PlannerFields.model_fields, *_PLANNING} - {"thinking"},
    "description": {*CodeFields.model_fields, *_PLANNING},
}


def users(name: str) -> tuple[TaskType, ...]:
    """The tasks that use a field; none if it asks for something else than a song."""
    if name in _GOALS:
        return ()
    if name == PATHS[SOURCE]:
        return SOURCE_TASKS
    if name == "audio_duration":
        return tuple(task for task in BASE_TASKS if task not in AS_LONG_AS_SOURCE)
    return _USERS.get(name, BASE_TASKS)


def apply_rules(
    task: GenerateTask, sounds: Mapping[str, Sound], planner: PlannerInfo
) -> tuple[GenerateTask, Goal, Mapping[str, Sound], list[str]]:
    """Return the request with neutral values where fields do not count, its goal, its audio, and warnings.

    Raises `InvalidFieldError` for fields that are not supported, and for several goals.
    """
    goal, warnings = _goal(task), list[str]()
    task = task.model_copy(update=_tracks_of(task))
    neutral = _unused(task, goal, warnings)
    task = task.model_copy(update=neutral)
    warnings += _assumed(task) if goal == "song" else []
    warnings += check_support(task, planner)
    sounds = _used_sounds(task, goal, sounds, warnings)
    neutral = _contradicted(task, SOURCE in sounds, warnings)
    return task.model_copy(update=neutral), goal, sounds, warnings


def check_support(task: BaseModel, planner: PlannerInfo) -> list[str]:
    """Refuse all fields that are not supported; return warnings about those that are ignored."""
    if unsupported := _sent(task, Support.UNSUPPORTED):
        raise InvalidFieldsError([_unsupported(task, name) for name in unsupported])
    ignored = {name: getattr(task, name) for name in _sent(task, Support.IGNORED)}
    warnings = [
        f"{name}: {_instead(task, name) or 'the server decides this'}; {shown(value)} is not used"
        for name, value in ignored.items()
        if (name, value) != ("lm_backend", planner.backend)
    ]
    path = getattr(task, "lm_model_path", None)
    if path and planner_name(path) != planner.name:
        instead = f"{planner.name} is used instead" if planner.is_usable else _NO_PLANNER
        warnings.append(f"lm_model_path: {path!r} is not loaded here; {instead}")
    return warnings


def check_planner(task: GenerateTask, is_needed: bool, planner: PlannerInfo) -> list[str]:
    """Return warnings about optional uses of the planner that are skipped.

    Raises `PlannerUnavailableError` that names the fields if a planner is needed and cannot be used.
    """
    if is_needed:
        names = _sent(task, Support.PLANNER)
        require_planner(planner, ", ".join(names), f"Or leave it out, or send {_default(task, names[0])}.")
    if is_needed or planner.fills_in:
        return []
    why = _NO_PLANNER
    if planner.is_usable:
        why = (
            f"{planner.name} only does what cannot be done without it (ACESTEP_INIT_LLM=true has it fill in)"
        )
    optional = [name for name in type(task).model_fields if _support(task, name) is Support.OPTIONAL]
    return [
        f"{name}: skipped, since {why}"
        for name in optional
        if name in task.model_fields_set and _asks(task, name)
    ]


def require_planner(planner: PlannerInfo, what: str, remedy: str = "") -> None:
    """Raise `PlannerUnavailableError` for `what` unless the planner can be used."""
    if not planner.is_usable:
        why = (planner.detail or "None is loaded on this server").rstrip(".")
        text = f"{what}: needs the planner (the 5 Hz language model). {why}. {remedy}"
        raise PlannerUnavailableError(text.strip())


def check_strict(warnings: tuple[str, ...], strict: bool) -> None:
    if strict and warnings:
        raise StrictError(warnings)


def planner_name(path: str | None) -> str:
    """The name at the end of `lm_model_path`, which may be a path; "": none."""
    return (path or "").strip().rstrip("/").rpartition("/")[2]


def is_neutral(task: BaseModel, name: str) -> bool:
    """Whether a field has its default, or a value that means the same."""
    info = type(task).model_fields[name]
    value = getattr(task, name)
    value = value.strip() if isinstance(value, str) else value
    return value == info.default or value in notes_of(info)["x-neutral"]


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _goal(task: GenerateTask) -> Goal:
    asked = [name for name in _GOALS if getattr(task, name)]
    if len(asked) > 1:
        raise InvalidFieldError(asked[1], True, f"false together with {asked[0]}", "Send one of the two")
    return _GOALS[asked[0]] if asked else "song"


def _unused(task: GenerateTask, goal: Goal, warnings: list[str]) -> dict[str, object]:
    # Neutral values for the fields that the task or goal does not use.
    asker = GOAL_FIELDS.get(goal, task.task_type)
    neutral: dict[str, object] = {}
    for name, info in type(task).model_fields.items():
        if _is_used(task, name) if goal == "song" else name in _COUNTS[goal] | _ALWAYS:
            continue
        value, is_on = getattr(task, name), name in _ON_BY_DEFAULT
        # A field that is on by default says nothing unless it was sent.
        if (value and name in task.model_fields_set) if is_on else not is_neutral(task, name):
            warnings.append(f"{name}: {asker} does not use it; {shown(value)} is not used")
        neutral[name] = False if is_on else info.get_default(call_default_factory=True)
    return neutral


def _tracks_of(task: GenerateTask) -> dict[str, object]:
    # Clients send one track as track_classes, and several as track_name; both mean the same.
    name, classes = task.track_name, task.track_classes
    if task.task_type in _USERS["track_classes"] and name and not classes:
        return {"track_name": "", "track_classes": (name,)}
    if task.task_type not in _USERS["track_name"] or not classes or classes == (name,):
        return {"track_classes": ()} if classes == (name,) else {}
    if name or len(classes) > 1:
        several = ", ".join(dict.fromkeys((*([name] if name else []), *classes)))
        remedy = "Send a request for each, or stems, which gives several from one song"
        raise InvalidFieldError(
            "track_classes", several, "one track", remedy, scope=f"with task_type {task.task_type}"
        )
    return {"track_name": classes[0], "track_classes": ()}


def _assumed(task: GenerateTask) -> list[str]:
    # Say what a task does that was not told on what to work.
    kind, window = task.task_type, {"repainting_start", "repainting_end"}
    if kind == "repaint" and not window & task.model_fields_set:
        return ["repainting_start: repaint was sent no window; the whole source is written anew"]
    if kind in _USERS["track_name"] and not (task.track_name or task.stem_count):
        return [f"track_name: {kind} was sent no track; which one it is, is left to the model"]
    if kind in _USERS["track_classes"] and not task.track_classes:
        return [f"track_classes: {kind} was sent no tracks; which are added is left to the model"]
    return []


def _is_used(task: GenerateTask, name: str) -> bool:
    if name == "audio_cover_strength" and task.task_type == "text2music":
        return bool(task.audio_code_string) or task.thinking
    return name not in _USERS or task.task_type in _USERS[name]


def _used_sounds(
    task: GenerateTask, goal: Goal, sounds: Mapping[str, Sound], warnings: list[str]
) -> Mapping[str, Sound]:
    for kind, path in PATHS.items():
        named = getattr(task, path)
        if named and kind in sounds and sounds[kind].name != named:
            warnings.append(f"{path}: a file was uploaded as {kind}; {named!r} is not used")
    asker = GOAL_FIELDS.get(goal) or f"task_type {task.task_type}"
    takes_source = goal in ("codes", "description") or task.task_type in SOURCE_TASKS
    reasons: dict[str, str] = {}
    if not takes_source:
        reasons[SOURCE] = f"{asker} does not use it"
    elif task.audio_code_string:
        reasons[SOURCE] = "audio_code_string stands in for it"
    if goal != "song":
        reasons[REFERENCE] = "no song is made"
    warnings += [
        f"{kind}: {why}; {sounds[kind].name!r} is not used" for kind, why in reasons.items() if kind in sounds
    ]
    return {kind: sound for kind, sound in sounds.items() if kind not in reasons}


def _contradicted(task: GenerateTask, has_source: bool, warnings: list[str]) -> dict[str, object]:
    # Neutral values for the fields that have no effect beside another one.
    neutral: dict[str, object] = {}
    if task.thinking and task.audio_code_string:
        warnings.append("thinking: audio_code_string brings the audio codes along; the planner writes none")
        neutral["thinking"] = False
    if task.cover_noise_strength and task.audio_code_string and not has_source:
        warnings.append("cover_noise_strength: there is no source to start from; it is not used")
        neutral["cover_noise_strength"] = 0.0
    if task.stem_count:
        neutral |= _contradicted_separation(task, warnings)
    neutral |= _contradicted_morph(task, has_source, warnings)
    if task.no_fsq and task.audio_code_string:
        warnings.append("no_fsq: audio_code_string says what the cover follows; it is not used")
        neutral["no_fsq"] = False
    neutral |= _contradicted_sampling(task, warnings) | _contradicted_output(task, warnings)
    mode, strength = task.repaint_mode, task.repaint_strength
    if mode in INJECTION and strength is not None:
        if strength != BALANCED:  # clients send this value beside any mode
            warnings.append(f"repaint_strength: {mode} repaints take none; {strength:g} is not used")
        neutral["repaint_strength"] = None
    if task.use_random_seed and "use_random_seed" in task.model_fields_set and task.seed != (-1,):
        if max(task.seed) >= 0:
            sent = ",".join(str(seed) for seed in task.seed)
            warnings.append(f"seed: use_random_seed=true was sent as well; {sent} is not used")
        neutral["seed"] = (-1,)
    return neutral


# What a morph has no use for: its steps are its own, and it begins with the source.
_NOT_MORPHED = ("infer_method", "sampler_mode", "cover_noise_strength", "dcw_enabled", "retake_variance")


def _contradicted_morph(task: GenerateTask, has_source: bool, warnings: list[str]) -> dict[str, object]:
    names: Sequence[str] = _NOT_MORPHED
    why = "flow_edit_morph has no use for it"
    if not task.flow_edit_morph:
        names, why = [*MorphFields.model_fields], "flow_edit_morph is not true"
    elif not has_source:
        names, why = ["flow_edit_morph"], "there is no source to begin with"
    return _without_effect(task, names, why, warnings)


def _without_effect(
    task: GenerateTask, names: Sequence[str], why: str, warnings: list[str]
) -> dict[str, object]:
    # Neutral values for those of the fields that were sent, with a warning each.
    sent = [name for name in names if not is_neutral(task, name)]
    warnings += [f"{name}: {why}; {shown(getattr(task, name))} is not used" for name in sent]
    return {name: type(task).model_fields[name].get_default() for name in sent}


# What a source that is separated has no use for: it is one, and stays as it is.
_NOT_SEPARATED = (
    *("track_name", "batch_size", "fade_in_duration", "fade_out_duration"),
    *("lyric_timestamps", "auto_score", "waveform_peaks", "measure_loudness", "stems"),
)


def _contradicted_separation(task: GenerateTask, warnings: list[str]) -> dict[str, object]:
    names = [name for name in _NOT_SEPARATED if name != "batch_size" or task.batch_size != 1]
    return _without_effect(task, names, "a source that is separated has no use for it", warnings)


def _contradicted_sampling(task: GenerateTask, warnings: list[str]) -> dict[str, object]:
    neutral: dict[str, object] = {}
    if task.use_adg and task.guidance_variant not in ("apg_classic", "adg"):
        warnings.append(f"use_adg: guidance_variant {task.guidance_variant} goes before it; it is not used")
        neutral["use_adg"] = False
    if task.retake_seed != (-1,) and not task.retake_variance:
        sent = ",".join(map(str, task.retake_seed))
        warnings.append(f"retake_seed: retake_variance 0 changes nothing; {sent} is not used")
        neutral["retake_seed"] = (-1,)
    return neutral


def _contradicted_output(task: GenerateTask, warnings: list[str]) -> dict[str, object]:
    neutral: dict[str, object] = {}
    if not task.enable_normalization and not is_neutral(task, "normalization_db"):
        warnings.append(
            f"normalization_db: enable_normalization is false; {task.normalization_db:g} is not used"
        )
        neutral["normalization_db"] = PEAK_DB
    if task.audio_format != "mp3":
        mp3 = ("mp3_bitrate", "mp3_sample_rate")
        neutral |= _without_effect(task, mp3, f"the songs are {task.audio_format}", warnings)
    return neutral


def decide_correction(task: GenerateTask, by_default: bool) -> tuple[GenerateTask, list[str]]:
    """Whether DCW is on, and warnings about settings of it that have no effect."""
    enabled = by_default if task.dcw_enabled is None else task.dcw_enabled
    settings, why = ["dcw_mode", "dcw_scaler", "dcw_high_scaler"], "dcw_enabled is not true"
    if enabled:
        settings, why = settings[2:] if task.dcw_mode != "double" else [], f"dcw_mode is {task.dcw_mode}"
    warnings = list[str]()
    neutral = _without_effect(task, settings, why, warnings)
    return task.model_copy(update={**neutral, "dcw_enabled": enabled}), warnings


def _sent(task: BaseModel, support: Support) -> list[str]:
    return [
        name
        for name in type(task).model_fields
        if _support(task, name) is support and not is_neutral(task, name)
    ]


def _asks(task: BaseModel, name: str) -> bool:
    value = getattr(task, name)
    return value if isinstance(value, bool) else not is_neutral(task, name)


def _support(task: BaseModel, name: str) -> Support:
    return Support(notes_of(type(task).model_fields[name])["x-support"])


def _instead(task: BaseModel, name: str) -> str:
    return str(notes_of(type(task).model_fields[name])["x-instead"])


def _unsupported(task: BaseModel, name: str) -> InvalidFieldError:
    instead = _instead(task, name)
    remedy = "It is not supported by this server yet" + (f"; {instead}" if instead else "")
    return InvalidFieldError(name, getattr(task, name), _default(task, name), remedy)


def _default(task: BaseModel, name: str) -> str:
    return json.dumps(type(task).model_fields[name].default)
