"""What a task is given beside words: its audio, its window, its strengths, its tracks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from acestep.domain.song import Goal, TaskOptions, TaskType
from acestep.errors import InvalidFieldError
from acestep.limits import AS_LONG_AS_SOURCE, BASE_TASKS, PLANNED_TASKS, SOURCE_TASKS, WINDOW_TASKS
from acestep.rest.request.body import Sound
from acestep.rest.request.fields_planner import CodeFields, PlannerFields, PlannerSamplingFields
from acestep.rest.request.fields_song import MusicFields
from acestep.rest.request.schemas import GenerateTask
from acestep.rest.request.support import is_neutral, shown
from acestep.rest.spelling import split_link

SOURCE, REFERENCE = "src_audio", "reference_audio"
PATHS = {SOURCE: "src_audio_path", REFERENCE: "reference_audio_path"}
ROOTS = "ACESTEP_AUDIO_ROOTS"

_COVER: tuple[TaskType, ...] = ("cover",)
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
    "track_name": ("extract", "lego"),
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
_GOALS: Mapping[str, Goal] = {
    "extract_codes_only": "codes",
    "analysis_only": "metadata",
    "full_analysis_only": "description",
}
_BALANCED = 0.5  # strength
_INJECTION = {"conservative": 1.0, "aggressive": 0.0}
_ON_BY_DEFAULT = ("use_cot_caption", "use_cot_language")
_PLANNING = {*PlannerSamplingFields.model_fields, "lm_temperature", "seed", "use_random_seed"}
_ALWAYS = {*_GOALS, "model", *PATHS.values()}
# What counts where no song is asked for.
_COUNTS: Mapping[Goal, set[str]] = {
    "codes": set(),
    "metadata": {*MusicFields.model_fields, *PlannerFields.model_fields, *_PLANNING} - {"thinking"},
    "description": {*CodeFields.model_fields, *_PLANNING},
}


def users(name: str) -> tuple[TaskType, ...]:
    """Return the tasks that use a field; none where it asks for something else than a song."""
    if name in _GOALS:
        return ()
    if name == PATHS[SOURCE]:
        return SOURCE_TASKS
    if name == "audio_duration":
        return tuple(task for task in BASE_TASKS if task not in AS_LONG_AS_SOURCE)
    return _USERS.get(name, BASE_TASKS)


def relevant(task: GenerateTask) -> tuple[GenerateTask, Goal, list[str]]:
    """Return a request with everything neutral that its task does not use, what it asks for, and warnings.

    Raises `InvalidFieldError` where it asks for several things at once.
    """
    goal, warnings = _goal(task), list[str]()
    task = _without_unused(task, goal, warnings)
    return _without_needless_thinking(task, warnings), goal, warnings


def task_options(
    task: GenerateTask, goal: Goal, sounds: Mapping[str, Sound], warnings: list[str]
) -> TaskOptions:
    """Return what a request that is `relevant` works on; `sounds` is its audio, by what it is.

    Adds to `warnings`. Raises `InvalidFieldError` where the audio that a task works on is missing, or its
    window is none.
    """
    for kind, path in PATHS.items():
        named = getattr(task, path)
        if named and kind not in sounds:
            raise path_refused(path, named)
        if named and sounds[kind].name != named:
            warnings.append(f"{path}: a file was uploaded as {kind}; {named!r} is not used")
    source, reference = _source(task, goal, sounds, warnings), sounds.get(REFERENCE)
    if reference is not None and goal != "song":
        warnings.append(f"{REFERENCE}: no song is made; {reference.name!r} is not used")
        reference = None
    if source is not None and task.task_type in WINDOW_TASKS:
        _check_window(task, source.seconds)
    return replace(_options(task, source, reference), injection=_injection(task, warnings))


def finished_song(named: str, open_token: Callable[[str], Path | None]) -> Path | None:
    """Return the file of a song that is named by its `file`, or by what that carries; None: it is no song.

    `open_token` gives the file that a token was made for. The token is the permission, as for who fetches it.
    """
    try:
        carried = parse_qs(urlsplit(named).query).get("path", [named])[0]
    except ValueError:  # what looks like an address, and is none
        return None
    return open_token(split_link(carried)[1])


def permitted(field: str, named: str, roots: Sequence[Path]) -> Path:
    """Return the file that a request names in one of `roots`; a relative path counts from each of them.

    Links are followed first, so that none leads out. Raises `InvalidFieldError` alike for what lies elsewhere
    and what is not there.
    """
    for root in roots:
        try:
            found = (root / named).resolve()
            if found.is_relative_to(root.resolve()) and found.is_file():
                return found
        except (OSError, ValueError):  # a path of a thousand characters, or with a zero byte
            continue
    raise path_refused(field, named)


def path_refused(field: str, named: str) -> InvalidFieldError:
    """Return what is told of a path that may not be read, or names no file."""
    kind = field.removesuffix("_path")
    return InvalidFieldError(
        field,
        named,
        f"the `file` of a song that is still here, or a file in a folder of {ROOTS}",
        f"Upload the file as {kind} instead, or set {ROOTS}",
    )


def _goal(task: GenerateTask) -> Goal:
    asked = [name for name in _GOALS if getattr(task, name)]
    if len(asked) > 1:
        raise InvalidFieldError(asked[1], True, f"false together with {asked[0]}", "Send one of the two")
    return _GOALS[asked[0]] if asked else "song"


def _without_unused(task: GenerateTask, goal: Goal, warnings: list[str]) -> GenerateTask:
    """Make neutral what the task, or an answer without a song, does not use; say so if it was sent."""
    asker = task.task_type if goal == "song" else _asker(goal)
    neutral: dict[str, Any] = {}
    for name, info in type(task).model_fields.items():
        if _is_used(task, name) if goal == "song" else name in _COUNTS[goal] | _ALWAYS:
            continue
        value, optional = getattr(task, name), name in _ON_BY_DEFAULT
        # What is on by default is off for such a task; nobody need be told who did not ask for it.
        told = (value and name in task.model_fields_set) if optional else not is_neutral(task, name)
        if told:
            warnings.append(f"{name}: {asker} does not take it; {shown(value)} is not used")
        neutral[name] = False if optional else info.get_default(call_default_factory=True)
    return task.model_copy(update=neutral)


def _is_used(task: GenerateTask, name: str) -> bool:
    if name == "audio_cover_strength" and task.task_type == "text2music":
        return bool(task.audio_code_string) or task.thinking
    return name not in _USERS or task.task_type in _USERS[name]


def _without_needless_thinking(task: GenerateTask, warnings: list[str]) -> GenerateTask:
    """Codes that the client brings are what thinking would write."""
    if not (task.thinking and task.audio_code_string):
        return task
    warnings.append("thinking: audio_code_string brings the audio codes along; the planner writes none")
    return task.model_copy(update={"thinking": False})


def _source(task: GenerateTask, goal: Goal, sounds: Mapping[str, Sound], warnings: list[str]) -> Sound | None:
    source, has_codes = sounds.get(SOURCE), bool(task.audio_code_string)
    asker = f"task_type {task.task_type}" if goal == "song" else _asker(goal)
    if goal in ("codes", "description") or task.task_type in SOURCE_TASKS:
        if source is None and not has_codes:
            allowed = f"an audio file, uploaded as {SOURCE}, or named by {PATHS[SOURCE]}"
            raise InvalidFieldError(SOURCE, None, allowed, scope=f"with {asker}")
        if source is None or not has_codes:
            if task.cover_noise_strength and source is None:
                warnings.append("cover_noise_strength: there is no source to start from; it is not used")
            return source
        warnings.append(f"{SOURCE}: audio_code_string stands in for it; {source.name!r} is not used")
    elif source is not None:
        warnings.append(f"{SOURCE}: {asker} does not take it; {source.name!r} is not used")
    return None


def _asker(goal: Goal) -> str:
    return next(name for name, each in _GOALS.items() if each == goal)


def _check_window(task: GenerateTask, seconds: float) -> None:
    start, end = task.repainting_start, task.repainting_end
    if start > seconds or (start == seconds and end is None):
        allowed = f"at most {seconds:.2f}, where the source ends"
        raise InvalidFieldError("repainting_start", start, allowed)
    if end is not None and end <= start:
        allowed = f"more than repainting_start, which is {start:g}"
        raise InvalidFieldError("repainting_end", end, allowed)


def _injection(task: GenerateTask, warnings: list[str]) -> float:
    """Return the share of the steps after which the source is put back outside of the window."""
    mode, strength = task.repaint_mode, task.repaint_strength
    if mode in _INJECTION:
        if strength not in (None, _BALANCED):  # which clients send beside any mode
            warnings.append(f"repaint_strength: {mode} repaints take none; {strength:g} is not used")
        return _INJECTION[mode]
    if mode is None and strength is None:
        return 0.0
    return 1.0 - (_BALANCED if strength is None else strength)


def _options(task: GenerateTask, source: Sound | None, reference: Sound | None) -> TaskOptions:
    return TaskOptions(
        source=str(source.path) if source else "",
        reference=str(reference.path) if reference else "",
        source_seconds=source.seconds if source else None,
        start=task.repainting_start,
        end=task.repainting_end,
        cover_strength=task.audio_cover_strength,
        noise_strength=task.cover_noise_strength if source else 0.0,
        tracks=task.track_classes or ((task.track_name,) if task.track_name else ()),
        crossfade_frames=task.repaint_latent_crossfade_frames,
        crossfade_seconds=task.repaint_wav_crossfade_sec,
    )
