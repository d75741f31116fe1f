"""From a request to the plan of each song, without a planner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from acestep.domain.models import ModelInfo
from acestep.domain.song import (
    HINTED_INSTRUCTION,
    INSTRUMENTAL,
    MIN_DURATION,
    TEXT2MUSIC_INSTRUCTION,
    SamplerOptions,
    Sampling,
    SongRequest,
    TaskOptions,
    Tuning,
    Window,
    is_instrumental,
)
from acestep.engine.planning import guess_duration, plan_songs, stem_plan
from acestep.limits import BASE_TASKS

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
