"""Which tasks and models use which field is declared; another one that is sent is warned of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.catalog.adapters import AdapterFolder
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import AdapterUse, SongRequest
from acestep.errors import InvalidFieldError, PlannerUnavailableError
from acestep.limits import BASE_TASKS
from acestep.rest.adapters import ServerAdapters
from acestep.rest.request.body import PATHS, SOURCE, Sound
from acestep.rest.request.schemas import GenerateTask
from acestep.rest.request.task_rules import users
from acestep.rest.request.wire_types import Models, Support, notes_of
from tests.rest.conftest import BASE, NO_PLANNER, PLANNER, TURBO
from tests.rest.request.accepting import accept
from tests.rest.values import FIELDS, example

ONLY_BASE = replace(BASE, is_default=True)
SERVED = (Support.SERVED, Support.OPTIONAL, Support.PLANNER)
# Fields that say nothing of a song by themselves, or the same as is done without them.
WITHOUT_EFFECT = ("task_type", "model", "use_random_seed", "chunk_mask_mode", "lm_model_path")
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


def song_for(name: str, task: str) -> dict[str, Any]:
    """A song that a field could say something of."""
    coded = (name, task) == ("audio_cover_strength", "text2music")  # the strength of what it follows
    return {"task_type": task, "seed": 7, "batch_size": 1} | ({"audio_code_string": CODES} if coded else {})


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
    # A path is told of as the audio that it names, an interval by its start.
    warned |= {path for kind, path in PATHS.items() if kind in warned}
    warned |= {"cfg_interval_end"} if "cfg_interval_start" in warned else set()
    return request, warned


@pytest.mark.parametrize("name", SONG_FIELDS)
def test_a_field_that_a_task_does_not_use_is_warned_of(name: str):
    for task, model in COMBINATIONS:
        used = task in users(name) and support_of(name) in SERVED
        used &= models_of(name) is Models.ALL or not model.is_turbo
        song = song_for(name, task)
        without, _ = ask(song, model)
        try:
            asked, warned = ask(song | {name: value_of(name)}, model)
        except InvalidFieldError as refused:
            assert refused.field == name
            assert not used, f"{task} on {model.name} refused it"
            continue
        same = replace(asked, warnings=()) == replace(without, warnings=())
        if used:
            assert name not in warned or name == "lm_model_path", f"{task} on {model.name} warned"
            assert not same or name in WITHOUT_EFFECT, f"{task} on {model.name} took no notice"
        else:
            silent = support_of(name) is Support.INERT or value_of(name) is False
            assert silent or name in warned, f"{task} on {model.name} did not say that it is not used"
            assert same, f"{task} on {model.name} used it"


@pytest.mark.parametrize("name", [name for name in FIELDS if not users(name)])
def test_what_asks_for_no_song_is_done_whatever_the_task(name: str):
    for task, model in COMBINATIONS:
        source = {"src_audio_path": "song.wav"}
        assert ask({"task_type": task, name: True} | source, model)[0].goal != "song"


NEEDING_A_PLANNER = [name for name in FIELDS if support_of(name) in (Support.PLANNER, Support.OPTIONAL)]


@pytest.mark.parametrize("name", NEEDING_A_PLANNER)
def test_what_needs_a_planner_says_so_where_there_is_none(name: str):
    value = value_of(name) or True
    song = song_for(name, "text2music") | {"src_audio_path": "song.wav", name: value}
    if support_of(name) is Support.PLANNER:
        with pytest.raises(PlannerUnavailableError, match=name):
            ask(song, TURBO, NO_PLANNER)
    else:
        assert name in ask(song, TURBO, NO_PLANNER)[1]
