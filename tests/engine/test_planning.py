from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from acestep.domain.models import PlannerInfo
from acestep.domain.song import (
    HINTED_INSTRUCTION,
    INSTRUMENTAL,
    TEXT2MUSIC_INSTRUCTION,
    PlannerOptions,
    Progress,
    Song,
    SongRequest,
)
from acestep.engine.engine import Engine
from acestep.engine.planner_host import PlannerHost
from acestep.engine.renderer import LoadedPlanner
from acestep.errors import CheckpointError, JobCancelledError, PlannerError, PlannerUnavailableError
from acestep.files import AudioStore
from tests.engine.fakes import (
    INFO,
    PATIENCE,
    FakeRenderer,
    later,
    loads,
    planner_host,
    request,
    running,
    unheard,
    wanted,
)
from tests.planner.fakes import CODES, WalkingModel

MODEL = replace(INFO, code_count=CODES)

PLAIN = PlannerOptions(use_cot_caption=False, use_cot_language=False)

THINKING = replace(PLAIN, thinking=True)

GIVEN: dict[str, Any] = {"bpm": 90, "key_scale": "C major", "time_signature": "3", "duration": 10.0}


def host(model: WalkingModel) -> PlannerHost:
    def load(on_loading: Any) -> LoadedPlanner:
        return LoadedPlanner(model, "toy", "runs on a toy")

    return planner_host(PlannerInfo("acestep-5Hz-lm-toy", "loading"), load)


@asynccontextmanager
async def planning(files: AudioStore, model: WalkingModel | None = None) -> AsyncIterator[Engine]:
    async with running(files, loads(FakeRenderer(), MODEL), MODEL, host(model or WalkingModel())) as engine:
        yield engine


async def make(files: AudioStore, asked: SongRequest, model: WalkingModel | None = None) -> tuple[Song, ...]:
    async with planning(files, model) as engine:
        return await engine.run(asked, unheard, wanted)


async def test_thinking_writes_codes_for_each_song(files: AudioStore) -> None:
    model = WalkingModel()
    songs = await make(files, request(seeds=(3, 4), planner=THINKING, **GIVEN), model)
    first, second = (song.plan.audio_codes for song in songs)
    assert len(first) == len(second) == 50
    assert first != second
    assert max(model.together) == 2  # both were written at once
    for song in songs:
        assert song.lm_model == model.name
        assert song.plan.instruction == HINTED_INSTRUCTION
        assert {"metadata", "codes", "render", "decode", "write"} <= song.timings.keys()


async def test_a_plan_does_not_depend_on_other_jobs(files: AudioStore) -> None:
    asked = request("mine", seeds=(5,), planner=THINKING, duration=None)
    (alone,) = await make(files, asked)
    async with planning(files) as engine:
        (beside,), *_ = await asyncio.gather(
            *(
                engine.run(each, unheard, wanted)
                for each in (asked, request("other", seeds=(6, 7), planner=THINKING))
            )
        )
    assert beside.plan == alone.plan


async def test_a_planner_fills_in_what_the_user_left_open(files: AudioStore) -> None:
    asked = request(bpm=71, duration=None, language="fr", language_fixed=True, planner=PlannerOptions())
    (song,) = await make(files, asked)
    assert (song.plan.bpm, song.plan.language) == (71, "fr")
    assert song.plan.key_scale is not None
    assert song.plan.time_signature in ("2", "3", "4", "6")
    assert 10 <= song.plan.duration <= 600
    assert song.plan.caption not in ("", "a song")  # rewritten, as use_cot_caption allows
    assert song.plan.audio_codes == ()
    assert song.plan.instruction == TEXT2MUSIC_INSTRUCTION


async def test_a_complete_request_is_not_planned(files: AudioStore) -> None:
    model = WalkingModel()
    (song,) = await make(files, request(planner=PlannerOptions(), **GIVEN), model)
    assert model.generations == []
    assert song.plan.caption == "a song"
    (song,) = await make(files, request(planner=PLAIN), model)
    assert model.generations == []
    assert (song.plan.bpm, song.lm_model) == (None, "")


async def test_a_song_from_one_sentence(files: AudioStore) -> None:
    asked = request("", planner=replace(PLAIN, sample_query="a sad song, instrumental"), bpm=71)
    (song,) = await make(files, asked)
    assert song.plan.bpm == 71
    assert song.plan.caption
    assert song.plan.lyrics == INSTRUMENTAL
    assert song.timings["draft"] > 0


async def test_what_the_user_wrote_stays_in_a_sample(files: AudioStore) -> None:
    asked = request("my caption", lyrics="my words", planner=replace(PLAIN, sample_query="a sad song"))
    (song,) = await make(files, asked)
    assert (song.plan.caption, song.plan.lyrics) == ("my caption", "my words")


async def test_a_format_rewrites_the_caption_and_keeps_sung_words_and_metadata(files: AudioStore) -> None:
    asked = request(
        "my caption", lyrics="my words", planner=replace(PLAIN, use_format=True), key_scale="A minor"
    )
    (song,) = await make(files, asked)
    assert song.plan.caption not in ("", "my caption")
    assert song.plan.lyrics == "my words"
    assert "lyrics: left as they are; acestep-5Hz-lm-toy dropped my, words" in song.warnings
    assert song.plan.key_scale == "A minor"


async def test_given_codes_need_no_planner(files: AudioStore) -> None:
    model = WalkingModel()
    asked = request(audio_codes=(1, 2) * 30, planner=PlannerOptions(), duration=12.0)
    (song,) = await make(files, asked, model)
    assert model.generations == []
    assert song.plan.audio_codes == (1, 2) * 30


async def test_progress_rises_through_planning_and_rendering(files: AudioStore) -> None:
    sources: list[Progress] = []
    async with planning(files) as engine:
        await engine.run(request(planner=THINKING), sources.append, wanted)
    fractions = [each.fraction for each in sources]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    stages = list(dict.fromkeys(each.stage for each in sources))
    assert stages == ["plan", "render", "decode", "write"]
    codes = [each.fraction for each in sources if "audio codes" in each.text]
    assert len(set(codes)) > 10
    assert max(codes) == pytest.approx(0.5)


async def test_a_job_is_cancelled_while_it_is_planned(files: AudioStore) -> None:
    model = WalkingModel()
    async with planning(files, model) as engine:
        with pytest.raises(JobCancelledError):
            await engine.run(request(planner=THINKING), unheard, lambda: bool(model.together))
    assert len(model.together) <= 2


async def test_a_planner_of_another_model_cannot_think(files: AudioStore) -> None:
    other = replace(MODEL, code_count=64_000)
    async with running(files, loads(FakeRenderer(), other), other, host(WalkingModel())) as engine:
        await engine.wait_ready()
        with pytest.raises(
            PlannerError, match="thinking: acestep-5Hz-lm-toy knows 50 audio codes, but hum has 64000"
        ):
            await engine.run(request(planner=THINKING), unheard, wanted)


async def test_without_a_planner_what_needs_one_fails_and_the_rest_goes_on(files: AudioStore) -> None:
    async with running(files, loads(FakeRenderer(), MODEL), MODEL) as engine:
        with pytest.raises(PlannerUnavailableError, match="This test has no planner"):
            await engine.run(request(planner=THINKING), unheard, wanted)
        (song,) = await engine.run(request(planner=PlannerOptions()), unheard, wanted)
    assert song.lm_model == ""


async def test_a_planner_only_if_needed_fills_in_nothing(files: AudioStore) -> None:
    model = WalkingModel()
    aside = planner_host(
        PlannerInfo("toy", "loading", only_if_needed=True), lambda _: LoadedPlanner(model, "toy")
    )
    async with running(files, loads(FakeRenderer(), MODEL), MODEL, aside) as engine:
        (song,) = await engine.run(request(planner=PlannerOptions()), unheard, wanted)
        assert (song.lm_model, engine.planner().state) == ("", "on_disk")
        assert not any("skipped" in warning for warning in song.warnings), "nothing was asked of it"
        (song,) = await engine.run(request(planner=THINKING, **GIVEN), unheard, wanted)
        assert (song.lm_model, engine.planner().state) == (model.name, "ready")


async def test_another_planner_is_used_with_a_warning_where_the_named_one_is_gone(files: AudioStore) -> None:
    gone = replace(THINKING, model="acestep-5Hz-lm-4B")
    (song,) = await make(files, request(planner=gone, **GIVEN))
    assert song.lm_model == "acestep-5Hz-lm-toy"
    assert "lm_model_path: acestep-5Hz-lm-toy is used; acestep-5Hz-lm-4B is gone" in song.warnings


async def test_a_planner_that_cannot_be_loaded_says_why(files: AudioStore) -> None:
    go_on = threading.Event()

    def load(on_loading: Any) -> LoadedPlanner:
        assert go_on.wait(PATIENCE)
        raise CheckpointError("Its weights are cut short.")

    failing = planner_host(PlannerInfo("acestep-5Hz-lm-toy", "loading"), load)
    async with running(files, loads(FakeRenderer(), MODEL), MODEL, failing) as engine:
        await engine.wait_ready()
        later(0.05, go_on.set)  # the job waits for the planner meanwhile
        (song,) = await engine.run(request(planner=PlannerOptions()), unheard, wanted)
        assert any("skipped" in warning and "cut short" in warning for warning in song.warnings)
        assert (engine.planner().state, engine.planner().detail) == ("failed", "Its weights are cut short.")
        with pytest.raises(PlannerUnavailableError, match="cut short"):
            await engine.run(request(planner=THINKING), unheard, wanted)
