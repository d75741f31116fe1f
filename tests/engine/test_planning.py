from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import (
    INSTRUMENTAL,
    MIN_DURATION,
    PlannerOptions,
    Progress,
    SamplerOptions,
    Sampling,
    Song,
    SongRequest,
    TaskOptions,
    Tuning,
    Window,
    is_instrumental,
)
from acestep.engine.engine import Engine
from acestep.engine.planner_entry import LoadedPlanner
from acestep.engine.planner_host import PlannerHost
from acestep.engine.planning import guess_duration, plan_songs, stem_plan
from acestep.errors import CheckpointError, JobCancelledError, PlannerError, PlannerUnavailableError
from acestep.files import AudioStore
from acestep.limits import BASE_TASKS
from acestep.synthesizer.prompts import HINTED_INSTRUCTION, TEXT2MUSIC_INSTRUCTION
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


BASE = ModelInfo("base", is_turbo=False, steps=50, guidance_scale=7.0, shift=1.0, max_steps=200)

TURBO = ModelInfo("turbo", is_turbo=True, steps=8, guidance_scale=1.0, shift=3.0, max_steps=8)


def asked(**changes: Any) -> SongRequest:
    return SongRequest(**({"caption": "piano", "seeds": (1,)} | changes))


def test_there_is_one_plan_a_seed_and_they_differ_in_nothing_else():
    first, second = plan_songs(asked(seeds=(7, 3), lyrics="la", bpm=90), BASE)
    assert (first.seed, second.seed) == (7, 3)
    assert first.bpm == second.bpm == 90
    assert {field for field in first.__slots__ if getattr(first, field) != getattr(second, field)} == {"seed"}


def test_what_was_asked_is_planned():
    request = asked(
        caption="a waltz",
        lyrics="[Verse]\nla",
        language="fr",
        bpm=90,
        key_scale="C minor",
        time_signature="3",
        duration=42.5,
        instruction="Do it:",
    )
    (plan,) = plan_songs(request, BASE)
    for field in ("caption", "lyrics", "language", "bpm", "key_scale", "time_signature", "duration"):
        assert getattr(plan, field) == getattr(request, field)
    assert plan.instruction == "Do it:"


def test_metadata_that_is_not_given_stays_open():
    (plan,) = plan_songs(asked(), BASE)
    assert (plan.bpm, plan.key_scale, plan.time_signature) == (None, None, None)
    assert plan.instruction == TEXT2MUSIC_INSTRUCTION


def test_codes_decide_the_length_and_the_instruction():
    (plan,) = plan_songs(asked(audio_codes=(1, 2) * 30), BASE)
    assert plan.audio_codes == (1, 2) * 30
    assert (plan.duration, plan.instruction) == (12.0, HINTED_INSTRUCTION)
    (plan,) = plan_songs(asked(audio_codes=(1,) * 60, duration=11.9, instruction="Do it:"), BASE)
    assert (plan.duration, plan.instruction) == (11.9, "Do it:")


@pytest.mark.parametrize("lyrics", ["", "  \n", "[inst]", "[Instrumental]", " [INSTRUMENTAL]\n"])
def test_lyrics_that_mean_instrumental(lyrics):
    assert is_instrumental(lyrics)
    (plan,) = plan_songs(asked(lyrics=lyrics), BASE)
    assert plan.lyrics == INSTRUMENTAL


@pytest.mark.parametrize("lyrics", ["la", "instrumental", "[Instrumental]\nla la"])
def test_lyrics_that_are_sung(lyrics):
    assert not is_instrumental(lyrics)
    (plan,) = plan_songs(asked(lyrics=lyrics), BASE)
    assert plan.lyrics == lyrics


def test_more_lines_make_a_longer_song_within_what_the_model_takes():
    lengths = [guess_duration("la la\n" * lines, longest=240.0) for lines in range(1, 100)]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 20
    assert lengths[0] >= MIN_DURATION
    assert lengths[-1] == 240.0


def test_tags_and_empty_lines_do_not_count():
    lines = ["one", "two", "three", "four", "five", "six"]
    tagged = "[Verse 1]\n" + "\n\n".join(lines) + "\n  [Outro]"
    assert guess_duration(tagged, 600.0) == guess_duration("\n".join(lines), 600.0)


@pytest.mark.parametrize("lyrics", ["", "la\n" * 50])
def test_no_guess_exceeds_a_model_of_short_songs(lyrics):
    assert guess_duration(lyrics, longest=20.0) == 20.0


@pytest.mark.parametrize("model", [BASE, TURBO], ids=["base", "turbo"])
def test_the_model_decides_where_nothing_was_asked(model):
    (plan,) = plan_songs(asked(), model)
    assert plan.sampling == Sampling(model.steps, model.guidance_scale, model.shift)


def test_what_was_asked_of_the_sampler_holds():
    sampler = SamplerOptions(
        steps=12,
        guidance_scale=3.5,
        shift=2.0,
        cfg_interval_start=0.1,
        cfg_interval_end=0.9,
        timesteps=(1.0, 0.5),
        infer_method="sde",
        tuning=Tuning(guidance="adg"),
    )
    (plan,) = plan_songs(asked(sampler=sampler), BASE)
    assert plan.sampling == Sampling(
        steps=12,
        guidance_scale=3.5,
        shift=2.0,
        cfg_interval=(0.1, 0.9),
        timesteps=(1.0, 0.5),
        infer_method="sde",
        tuning=Tuning(guidance="adg"),
    )


def on_source(task_type: str, seconds: float | None = 20.0, **changes: Any) -> SongRequest:
    task = {key: changes.pop(key) for key in list(changes) if key in TaskOptions.__slots__}
    options = TaskOptions(source="song.wav", source_seconds=seconds, **task)
    return asked(task_type=task_type, duration=20.0, task=options, **changes)


@pytest.mark.parametrize(
    ("task", "tracks", "told"),
    [
        ("cover", (), "Generate audio semantic tokens based on the given conditions:"),
        ("extract", ("vocals",), "Extract the VOCALS track from the audio:"),
        ("complete", ("drums", "bass"), "Complete the input track with DRUMS | BASS:"),
    ],
)
def test_a_task_decides_the_instruction_unless_the_user_does(task, tracks, told):
    (plan,) = plan_songs(on_source(task, tracks=tracks), BASE)
    assert (plan.task_type, plan.instruction) == (task, told)
    (plan,) = plan_songs(on_source(task, tracks=tracks, instruction="Mine:"), BASE)
    assert plan.instruction == "Mine:"


@pytest.mark.parametrize(
    ("edges", "window"),
    [
        ({}, (0.0, 20.0, 0.0, 20.0)),
        ({"start": 5.0, "end": 8.0}, (5.0, 8.0, 0.0, 20.0)),
        ({"start": -4.0, "end": 8.0}, (0.0, 12.0, 4.0, 24.0)),
        ({"start": 18.0, "end": 25.0}, (18.0, 25.0, 0.0, 20.0)),
    ],
)
@pytest.mark.parametrize("task", ["repaint", "lego"])
def test_a_window_lies_in_the_song(task, edges, window):
    (plan,) = plan_songs(on_source(task, crossfade_frames=3, crossfade_seconds=0.5, **edges), BASE)
    assert plan.window == replace(Window(*window), crossfade_frames=3, crossfade_seconds=0.5)


@pytest.mark.parametrize("task", ["text2music", "cover", "extract", "complete"])
def test_other_tasks_have_no_window(task):
    (plan,) = plan_songs(on_source(task, start=5.0, end=8.0), BASE)
    assert plan.window is None


def test_injection_acts_only_where_a_window_leaves_something():
    led = [plan_songs(on_source(task, injection=0.5), BASE)[0] for task in BASE_TASKS[1:]]
    assert {plan.task_type: plan.sampling.injection for plan in led} == {
        "cover": 0.0,
        "repaint": 0.5,
        "lego": 0.5,
        "extract": 0.0,
        "complete": 0.0,
    }
    assert stem_plan(led[1], "drums").sampling.injection == 0.0


def test_strengths_act_only_where_a_song_follows_something():
    strong: dict[str, Any] = {"cover_strength": 0.5, "noise_strength": 0.2}
    (cover,) = plan_songs(on_source("cover", **strong), BASE)
    (codes,) = plan_songs(asked(audio_codes=(1,) * 60, task=TaskOptions(**strong)), BASE)
    (words,) = plan_songs(asked(task=TaskOptions(**strong)), BASE)
    (painted,) = plan_songs(on_source("repaint", **strong), BASE)
    found = [(p.sampling.cover_strength, p.sampling.noise_strength) for p in (cover, codes, words, painted)]
    assert found == [(0.5, 0.2), (0.5, 0.0), (1.0, 0.0), (1.0, 0.0)]
