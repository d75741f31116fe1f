"""From the fields of a body to the request in it, as submitting does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from acestep.catalog.adapters import AdapterFolder
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import AdapterUse, SongRequest
from acestep.limits import BASE_TASKS
from acestep.rest.adapters import ServerAdapters
from acestep.rest.deps import HttpConfig
from acestep.rest.request.fields_audio import MorphFields
from acestep.rest.request.fields_jobs import JobFields
from acestep.rest.request.schemas import GenerateTask, read_task
from acestep.rest.request.sounds import PATHS, SOURCE, Sound
from acestep.rest.request.task_rules import check_strict, users
from acestep.rest.request.wire_types import Models, Support, notes_of
from acestep.rest.submit import accept as accept_task
from tests.rest.conftest import BASE, CONFIG, PLANNER, TURBO, FakeWorker
from tests.rest.values import FIELDS, example

NO_ADAPTERS = ServerAdapters(AdapterFolder(None))


def accept(
    body: Mapping[str, Any],
    models: Sequence[ModelInfo],
    planner: PlannerInfo,
    strict: bool = False,
    sounds: Mapping[str, Sound] | None = None,
    adapters: ServerAdapters = NO_ADAPTERS,
    config: HttpConfig = CONFIG,
) -> SongRequest:
    """What is queued for a body."""
    worker = FakeWorker(tuple(models), planner)
    task, ignored = read_task(body)
    request = accept_task(task, sounds or {}, worker, config, adapters)
    request = replace(request, warnings=(*ignored, *request.warnings))
    check_strict(request.warnings, strict)
    return request


ONLY_BASE = replace(BASE, is_default=True)
SERVED = (Support.SERVED, Support.OPTIONAL, Support.PLANNER)
# Fields that say nothing of a song by themselves, or the same as is done without them.
WITHOUT_EFFECT = (
    *("task_type", "model", "use_random_seed", "chunk_mask_mode", "lm_model_path"),
    *JobFields.model_fields,
)
# What a field has an effect beside.
COMPANIONS: dict[str, dict[str, Any]] = {
    "dcw_mode": {"dcw_enabled": True},
    "dcw_scaler": {"dcw_enabled": True},
    "dcw_high_scaler": {"dcw_enabled": True},
    "retake_seed": {"retake_variance": 0.5},
    **{name: {"flow_edit_morph": True} for name in MorphFields.model_fields if name != "flow_edit_morph"},
}
COVER_COMPANIONS: dict[str, dict[str, Any]] = {
    "audio_duration": {"allow_length_change": True},
    "allow_length_change": {"audio_duration": 60},
}
CODES = list(range(100))  # of a song as long as its source
COMBINATIONS = [(task, model) for model in (TURBO, ONLY_BASE) for task in BASE_TASKS if task in model.tasks]
SONG_FIELDS = [name for name in FIELDS if users(name) and name not in ("task_type", "model")]


class AnyAdapter(ServerAdapters):
    """A server that has every adapter that is asked for."""

    def __init__(self) -> None:
        super().__init__(AdapterFolder(None))

    def choose(self, asked: Any, model: ModelInfo) -> tuple[tuple[AdapterUse, ...], tuple[str, ...]]:
        return tuple(asked or ()), ()


def support_of(name: str) -> Support:
    return Support(notes_of(GenerateTask.model_fields[name])["x-support"])


def models_of(name: str) -> Models:
    return Models(notes_of(GenerateTask.model_fields[name])["x-models"])


def value_of(name: str) -> Any:
    """Something else than what is done anyway, on a server as the ones here."""
    others = {"lm_model_path": "another", "lm_backend": "mlx", "audio_code_string": CODES}
    return others.get(name, example(name))


# On what a task works, so that nothing is assumed; under names that any other name of the field goes before.
NATURAL: dict[str, dict[str, Any]] = {
    "repaint": {"repainting_start": 0},
    "extract": {"trackName": "brass"},
    "lego": {"trackName": "brass"},
    "complete": {"instruments": ["brass"]},
}


def song_for(name: str, task: str) -> dict[str, Any]:
    """A song that a field could say something of."""
    coded = (name, task) == ("audio_cover_strength", "text2music")  # the strength of what it follows
    body = {"task_type": task, "seed": 7, "batch_size": 1} | ({"audio_code_string": CODES} if coded else {})
    return (
        body
        | NATURAL.get(task, {})
        | COMPANIONS.get(name, {})
        | (COVER_COMPANIONS.get(name, {}) if task == "cover" else {})
    )


def ask(
    body: dict[str, Any], model: ModelInfo, planner: PlannerInfo = PLANNER
) -> tuple[SongRequest, set[str]]:
    """Ask for a song; returns the request, and the fields that it warns of."""
    on_audio = body["task_type"] != "text2music"
    sounds = {SOURCE: Sound(Path("/source.wav"), "source.wav", 20.0)} if on_audio else {}
    sounds |= {
        kind: Sound(Path("/other.wav"), body[path], 20.0) for kind, path in PATHS.items() if path in body
    }
    request = accept(body, (model,), planner, sounds=sounds, adapters=AnyAdapter())
    warned = {warning.partition(":")[0] for warning in request.warnings}
    # Warnings name a path by its audio field, and an interval by its start.
    warned |= {path for kind, path in PATHS.items() if kind in warned}
    warned |= {"cfg_interval_end"} if "cfg_interval_start" in warned else set()
    warned |= {"use_adg"} if "guidance_variant" in warned else set()  # which it is one of
    return request, warned
