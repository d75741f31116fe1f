from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acestep.audio.encode import FileSpec, write
from acestep.domain.song import PlannerOptions, TaskOptions
from acestep.errors import PlannerUnavailableError
from acestep.files import AudioStore
from acestep.limits import BASE_TASKS
from tests.engine.fakes import INFO, FakeRenderer, loads, request, running, unheard, wanted
from tests.engine.test_audio_inputs import ramp
from tests.engine.test_planning import MODEL, PLAIN, host, planning
from tests.planner.fakes import CODES, WalkingModel


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten seconds whose codes are 0 to 49, by the fake renderer."""
    path = tmp_path / "song.wav"
    path.write_bytes(bytes(range(CODES)))
    return path


async def test_the_codes_of_a_source(files: AudioStore, source: Path, tmp_path: Path) -> None:
    renderer = FakeRenderer()
    async with running(files, loads(renderer)) as engine:
        await engine.wait_ready()
        asked = request(goal="codes", task=TaskOptions(source=str(source)), duration=None, seeds=(3,))
        (song,) = await engine.run(asked, unheard, wanted)
    assert (song.file, song.lm_model, song.dit_model) == ("", "", INFO.name)
    assert song.plan.audio_codes == tuple(range(CODES))
    assert renderer.batches == []
    assert list((tmp_path / "audio").iterdir()) == []


async def test_the_planner_describes_the_codes(files: AudioStore, source: Path) -> None:
    asked = request(
        "", goal="description", task=TaskOptions(source=str(source)), duration=None, planner=PLAIN
    )
    async with planning(files) as engine:
        await engine.wait_ready()
        (song,) = await engine.run(asked, unheard, wanted)
        (again,) = await engine.run(asked, unheard, wanted)
    assert song.file == ""
    assert song.lm_model == "acestep-5Hz-lm-toy"
    plan = song.plan
    assert plan.audio_codes == tuple(range(CODES))
    assert plan.caption and plan.lyrics and plan.bpm and plan.key_scale
    assert plan.duration == CODES / 5
    assert again.plan == plan


async def test_given_codes_are_described(files: AudioStore) -> None:
    asked = request("", goal="description", audio_codes=(1, 2) * 30, duration=None, planner=PLAIN)
    async with planning(files) as engine:
        await engine.wait_ready()
        (song,) = await engine.run(asked, unheard, wanted)
    assert song.plan.audio_codes == (1, 2) * 30
    assert song.plan.caption


async def test_metadata_without_a_song(files: AudioStore) -> None:
    asked = request(goal="metadata", bpm=71, duration=None, planner=PlannerOptions(), seeds=(3, 4))
    async with planning(files) as engine:
        await engine.wait_ready()
        (song,) = await engine.run(asked, unheard, wanted)
    assert song.file == ""
    assert (song.plan.bpm, song.lm_model) == (71, "acestep-5Hz-lm-toy")
    assert song.plan.key_scale is not None


@pytest.mark.parametrize("goal", ["metadata", "description"])
async def test_these_goals_need_a_planner(files: AudioStore, source: Path, goal: str) -> None:
    task = TaskOptions(source=str(source) if goal == "description" else "")
    asked = request(goal=goal, task=task, planner=PLAIN)
    async with running(files, loads(FakeRenderer(), MODEL), MODEL) as engine:
        await engine.wait_ready()
        with pytest.raises(PlannerUnavailableError, match="no planner"):
            await engine.run(asked, unheard, wanted)


@pytest.mark.parametrize("task", ["cover", "repaint", "extract"])
async def test_tasks_on_a_source_do_not_use_the_planner(files: AudioStore, tmp_path: Path, task: str) -> None:
    write(ramp(12.0), tmp_path / "song.wav", FileSpec("wav32"))
    options = TaskOptions(source=str(tmp_path / "song.wav"))
    asked = request(task_type=task, task=options, duration=None, planner=PlannerOptions())
    model = replace(MODEL, tasks=BASE_TASKS)
    async with running(files, loads(FakeRenderer(), model), model, host(WalkingModel())) as engine:
        await engine.wait_ready()
        (song,) = await engine.run(asked, unheard, wanted)
    assert (song.lm_model, song.plan.duration, song.plan.bpm) == ("", 12.0, None)
