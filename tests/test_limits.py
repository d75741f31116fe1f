from dataclasses import replace
from typing import Any

import pytest

from acestep.domain.models import ModelInfo
from acestep.domain.song import (
    MAX_SEED,
    AnalysisOptions,
    PlannerOptions,
    SamplerOptions,
    SongRequest,
    TaskOptions,
    TaskType,
    Tuning,
)
from acestep.errors import InvalidFieldError
from acestep.limits import (
    BASE_TASKS,
    TURBO_TASKS,
    fit,
    needs_planner,
    song_seconds,
    tasks_of,
    uses_planner,
    window_of,
)

TURBO = ModelInfo(
    name="turbo",
    is_turbo=True,
    steps=8,
    guidance_scale=1.0,
    shift=3.0,
    max_steps=8,
    max_duration=240.0,
    max_batch=4,
    is_default=True,
    state="ready",
)
BASE = replace(TURBO, name="base", is_turbo=False, steps=50, max_steps=100, is_default=False)


def asked(**sampler: Any) -> SongRequest:
    return SongRequest(batch_size=1, seeds=(1,), sampler=SamplerOptions(**sampler))


class TestFit:
    def test_fills_what_was_not_sent_without_a_word(self):
        fitted = fit(SongRequest(), TURBO)
        assert (fitted.model, fitted.batch_size, len(fitted.seeds), fitted.warnings) == ("turbo", 2, 2, ())

    def test_the_default_batch_shrinks_silently_on_a_small_machine(self):
        fitted = fit(SongRequest(), replace(TURBO, max_batch=1))
        assert (fitted.batch_size, len(fitted.seeds), fitted.warnings) == (1, 1, ())

    @pytest.mark.parametrize("model", [TURBO, BASE, replace(TURBO, max_batch=1)])
    @pytest.mark.parametrize(
        "request_",
        [
            SongRequest(),
            SongRequest(batch_size=8, seeds=(7,), duration=600.0, warnings=("earlier",)),
            SongRequest(seeds=(1, 2, 3), sampler=SamplerOptions(steps=60, guidance_scale=3.0, shift=2.4)),
            SongRequest(sampler=SamplerOptions(timesteps=(1.0, 0.5, 0.0), steps=4, shift=2.0)),
            SongRequest(sampler=SamplerOptions(tuning=Tuning(guidance="adg"), cfg_interval_start=0.2)),
        ],
    )
    def test_is_idempotent(self, request_, model):
        once = fit(request_, model)
        assert fit(once, model) == once

    def test_keeps_earlier_warnings_in_front(self):
        fitted = fit(SongRequest(batch_size=8, warnings=("earlier",)), TURBO)
        assert fitted.warnings[0] == "earlier"
        assert len(fitted.warnings) == 2

    def test_a_task_that_the_model_does_not_do(self):
        with pytest.raises(
            InvalidFieldError, match="task_type: 'cover' cannot be used with model turbo; allowed: text2music"
        ):
            fit(SongRequest(task_type="cover"), TURBO)


class TestDuration:
    def test_within_the_limit(self):
        assert fit(SongRequest(duration=240.0), TURBO).warnings == ()

    def test_above_the_limit_is_clamped(self):
        fitted = fit(SongRequest(duration=240.5), TURBO)
        assert fitted.duration == 240.0
        assert fitted.warnings == ("audio_duration: turbo makes at most 240 s here; 240.5 became 240",)

    def test_automatic_stays_automatic(self):
        assert fit(SongRequest(), TURBO).duration is None

    def test_too_short(self):
        with pytest.raises(InvalidFieldError, match=r"audio_duration: 9\.9"):
            fit(SongRequest(duration=9.9), TURBO)


class TestBatchAndSeeds:
    def test_a_batch_above_the_limit_is_clamped(self):
        fitted = fit(SongRequest(batch_size=8), TURBO)
        assert (fitted.batch_size, len(fitted.seeds)) == (4, 4)
        assert fitted.warnings == ("batch_size: turbo makes at most 4 at once here; 8 became 4",)

    def test_no_songs(self):
        with pytest.raises(InvalidFieldError, match="batch_size: 0"):
            fit(SongRequest(batch_size=0), TURBO)

    def test_one_seed_counts_up(self):
        assert fit(SongRequest(batch_size=3, seeds=(42,)), TURBO).seeds == (42, 43, 44)

    def test_counting_starts_again_after_the_last_seed(self):
        assert fit(SongRequest(batch_size=2, seeds=(MAX_SEED,)), TURBO).seeds == (MAX_SEED, 0)

    def test_several_seeds_are_one_song_each(self):
        fitted = fit(SongRequest(seeds=(5, 6, 9)), TURBO)
        assert (fitted.batch_size, fitted.seeds, fitted.warnings) == (3, (5, 6, 9), ())

    def test_missing_seeds_are_drawn(self):
        fitted = fit(SongRequest(batch_size=4, seeds=(5, 6)), TURBO)
        assert fitted.seeds[:2] == (5, 6)
        assert all(0 <= seed <= MAX_SEED for seed in fitted.seeds)

    def test_drawn_seeds_differ(self):
        drawn = {fit(SongRequest(batch_size=4), TURBO).seeds for _ in range(5)}
        assert len(drawn) == 5

    def test_seeds_without_a_song_are_said(self):
        fitted = fit(SongRequest(batch_size=2, seeds=(1, 2, 3)), TURBO)
        assert fitted.seeds == (1, 2)
        assert fitted.warnings == ("seed: 3 seeds for 2 songs; the last ones are not used",)

    def test_more_seeds_than_the_machine_makes_at_once(self):
        fitted = fit(SongRequest(seeds=(1, 2, 3, 4, 5)), TURBO)
        assert fitted.seeds == (1, 2, 3, 4)
        assert fitted.warnings == ("batch_size: turbo makes at most 4 at once here; 5 became 4",)


ALL_TASKS = replace(BASE, tasks=BASE_TASKS)


class TestTasks:
    def test_turbo_models_do_half_of_what_base_models_do(self):
        assert tasks_of(is_turbo=True) == ("text2music", "cover", "repaint")
        assert set(tasks_of(is_turbo=False)) - set(tasks_of(is_turbo=True)) == {"extract", "lego", "complete"}

    def test_a_refused_task_names_the_models_here_that_do_it(self):
        turbo = replace(TURBO, tasks=TURBO_TASKS)
        fit(on_source("repaint", 20.0), turbo)
        with pytest.raises(InvalidFieldError) as refused:
            fit(on_source("lego", 20.0), turbo, [turbo, ALL_TASKS])
        assert refused.value.allowed == "text2music, cover, repaint"
        assert str(refused.value).endswith("Models that do lego: base")

    def test_or_published_ones_where_none_here_does(self):
        turbo = replace(TURBO, tasks=TURBO_TASKS)
        broken = replace(ALL_TASKS, state="failed")
        with pytest.raises(InvalidFieldError, match="none of them loaded here: acestep-v15-base") as refused:
            fit(on_source("extract", 20.0), turbo, [turbo, broken])
        assert "turbo-shift3" not in str(refused.value)
        assert "acestep-nano" in str(refused.value)


class TestStems:
    def test_a_model_that_extracts_makes_them(self):
        wanted = SongRequest(analysis=AnalysisOptions(stems=("drums",)))
        assert fit(wanted, ALL_TASKS, [ALL_TASKS]).analysis == wanted.analysis

    def test_another_is_refused_with_the_names_of_those_that_do(self):
        turbo = replace(TURBO, tasks=TURBO_TASKS)
        wanted = SongRequest(analysis=AnalysisOptions(stems=("drums", "bass")))
        with pytest.raises(InvalidFieldError, match=f"Models that do extract: {ALL_TASKS.name}") as refused:
            fit(wanted, turbo, [turbo, ALL_TASKS])
        assert (refused.value.field, refused.value.value) == ("stems", "drums, bass")
        with pytest.raises(InvalidFieldError, match="none of them loaded here: acestep-v15-base"):
            fit(wanted, turbo, [turbo])

    def test_a_model_that_came_later_leaves_them_out_with_a_warning(self):
        turbo = replace(TURBO, tasks=TURBO_TASKS)
        fitted = fit(SongRequest(analysis=AnalysisOptions(peaks=20, stems=("drums", "bass"))), turbo)
        assert fitted.analysis == AnalysisOptions(peaks=20)
        assert fitted.warnings == (f"stems: {turbo.name} cannot make any; drums, bass are left out",)
        assert fit(fitted, turbo) == fitted


def on_source(task_type: TaskType, seconds: float, **changes: Any) -> SongRequest:
    task = {key: changes.pop(key) for key in ("start", "end", "may_change_length") if key in changes}
    options = TaskOptions(source="song.wav", source_seconds=seconds, **task)
    return SongRequest(batch_size=1, seeds=(1,), task_type=task_type, task=options, **changes)


class TestSources:
    @pytest.mark.parametrize("task", ["repaint", "lego", "extract", "complete"])
    def test_a_source_decides_the_length_whatever_is_asked(self, task):
        fitted = fit(on_source(task, 20.0, duration=60.0), ALL_TASKS)
        assert fitted.duration is None
        (warning,) = fitted.warnings
        assert warning.startswith("audio_duration: ") and "60 is not used" in warning
        assert fit(on_source(task, 20.0, duration=20.1), ALL_TASKS).warnings == ()  # it is as long anyway
        assert fit(fitted, ALL_TASKS) == fitted

    def test_so_does_that_of_a_cover(self):
        fitted = fit(on_source("cover", 20.0, duration=60.0), ALL_TASKS)
        assert fitted.duration is None
        assert fitted.warnings == (
            "audio_duration: a cover is as long as its source; 60 is not used "
            "(allow_length_change=true keeps it)",
        )
        assert fit(on_source("cover", 20.0, duration=19.9), ALL_TASKS).warnings == ()

    @pytest.mark.parametrize("seconds", [12.0, 60.0])
    def test_unless_its_length_may_change(self, seconds):
        fitted = fit(on_source("cover", 20.0, duration=seconds, may_change_length=True), ALL_TASKS)
        assert (fitted.duration, fitted.warnings) == (seconds, ())

    def test_a_source_may_be_shorter_than_any_song_that_is_asked_for(self):
        assert fit(on_source("cover", 3.0), ALL_TASKS).warnings == ()

    def test_a_source_that_is_too_long_for_the_model_is_refused(self):
        with pytest.raises(InvalidFieldError, match=r"src_audio: '300.0 s' .* at most 240 s. Cut it"):
            fit(on_source("extract", 300.0), ALL_TASKS)

    def test_so_is_a_window_that_makes_the_song_too_long(self):
        fit(on_source("repaint", 200.0, end=240.0), ALL_TASKS)
        for window in ({"end": 250.0}, {"start": -50.0, "end": 10.0}):
            with pytest.raises(InvalidFieldError, match=r"250\.0 s"):
                fit(on_source("repaint", 200.0, **window), ALL_TASKS)

    def test_a_cover_of_it_is_made_as_long_as_the_model_can(self):
        fitted = fit(on_source("cover", 300.0), ALL_TASKS)
        (warning,) = fitted.warnings
        assert warning.startswith("src_audio: ") and "240 s" in warning
        assert fit(fitted, ALL_TASKS) == fitted


class TestWindow:
    @pytest.mark.parametrize(
        ("sent", "window", "seconds"),
        [
            ({}, (0.0, 20.0, 0.0, 20.0), 20.0),
            ({"start": 5.0, "end": 8.0}, (5.0, 8.0, 0.0, 20.0), 20.0),
            ({"start": -3.0, "end": 8.0}, (0.0, 11.0, 3.0, 23.0), 23.0),
            ({"start": 18.0, "end": 25.0}, (18.0, 25.0, 0.0, 20.0), 25.0),
            ({"start": -3.0, "end": 25.0}, (0.0, 28.0, 3.0, 23.0), 28.0),
            ({"start": 20.0, "end": 30.0}, (20.0, 30.0, 0.0, 20.0), 30.0),
        ],
    )
    def test_a_window_beyond_its_source_makes_the_song_grow(self, sent, window, seconds):
        request = on_source("lego", 20.0, **sent)
        found = window_of(request)
        assert found is not None
        assert (found.start, found.end, found.source_start, found.source_end) == window
        assert song_seconds(request) == seconds

    def test_other_tasks_write_everything(self):
        assert window_of(on_source("cover", 20.0)) is None
        assert song_seconds(on_source("cover", 20.0)) == 20.0

    def test_none_is_known_before_the_source_is(self):
        assert window_of(SongRequest(task_type="repaint")) is None

    @pytest.mark.parametrize(
        ("sent", "message"),
        [
            ({"start": 20.5, "end": 30.0}, "repainting_start: 20.5 cannot be used; allowed: at most 20.00"),
            ({"start": 20.0}, "repainting_start: 20.0 cannot be used; allowed: at most 20.00"),
            ({"start": 8.0, "end": 8.0}, "repainting_end: 8.0 cannot be used; allowed: more than repaint"),
            ({"start": 8.0, "end": 5.0}, "repainting_end: 5.0 cannot be used; allowed: more than repaint"),
        ],
    )
    def test_an_empty_window_is_refused(self, sent, message):
        with pytest.raises(InvalidFieldError) as refused:
            fit(on_source("repaint", 20.0, **sent), ALL_TASKS)
        assert str(refused.value).startswith(message)


def coded(count: int, **changes: Any) -> SongRequest:
    return SongRequest(batch_size=1, seeds=(1,), audio_codes=tuple(range(count)), **changes)


class TestCodes:
    def test_they_say_how_long_the_song_is(self):
        fitted = fit(coded(60), TURBO)
        assert (fitted.duration, len(fitted.audio_codes)) == (12.0, 60)
        assert fit(fitted, TURBO) == fitted

    def test_those_after_the_end_of_a_shortened_song_go(self):
        fitted = fit(coded(300), replace(TURBO, max_duration=30.5))
        assert (fitted.duration, len(fitted.audio_codes)) == (30.5, 153)

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (coded(49), "audio_code_string"),
            (coded(3001), "audio_code_string"),
        ],
    )
    def test_what_is_no_song(self, request_, field):
        with pytest.raises(InvalidFieldError) as refused:
            fit(request_, TURBO)
        assert refused.value.field == field

    @pytest.mark.parametrize("duration", [10.0, 12.4, 20.0, 600.0])
    def test_codes_win_over_another_duration(self, duration: float):
        fitted = fit(coded(60, duration=duration), TURBO)
        assert (fitted.duration, len(fitted.audio_codes)) == (12.0, 60)
        assert fitted.warnings == (
            f"audio_duration: the 60 codes in audio_code_string last 12 s; {duration:g} is not used",
        )
        assert fit(fitted, TURBO) == fitted

    @pytest.mark.parametrize("duration", [11.8, 11.9, 12.2])
    def test_a_duration_that_is_rounded_stays(self, duration: float):
        fitted = fit(coded(60, duration=duration), TURBO)
        assert (fitted.duration, fitted.warnings) == (duration, ())

    def test_codes_and_a_longer_duration_than_is_possible(self):
        fitted = fit(coded(300, duration=600.0), replace(TURBO, max_duration=30.0))
        assert (fitted.duration, len(fitted.audio_codes)) == (30.0, 150)
        assert [warning.partition(":")[0] for warning in fitted.warnings] == ["audio_duration"] * 2

    def test_one_that_the_model_does_not_have(self):
        with pytest.raises(InvalidFieldError, match="59 cannot be used with model turbo; allowed: codes fro"):
            fit(coded(60), replace(TURBO, code_count=59))


class TestPlanner:
    @pytest.mark.parametrize(
        ("request_", "needed"),
        [
            (SongRequest(), False),
            (SongRequest(planner=PlannerOptions(thinking=True)), True),
            (SongRequest(planner=PlannerOptions(sample_mode=True)), True),
            (SongRequest(planner=PlannerOptions(sample_query="rain")), True),
            (SongRequest(planner=PlannerOptions(sample_query="  ")), False),
            (SongRequest(planner=PlannerOptions(use_format=True)), True),
            (SongRequest(goal="metadata"), True),
            (SongRequest(goal="description"), True),
            (SongRequest(goal="codes"), False),
            (SongRequest(task_type="cover", planner=PlannerOptions(thinking=True)), False),
            (SongRequest(task_type="lego", planner=PlannerOptions(use_format=True)), True),
        ],
    )
    def test_what_needs_one(self, request_, needed):
        assert needs_planner(request_) is needed

    @pytest.mark.parametrize(
        ("request_", "used"),
        [
            (SongRequest(), True),
            (SongRequest(audio_codes=(1,)), False),
            (SongRequest(planner=PlannerOptions(use_cot_caption=False)), True),
            (SongRequest(planner=PlannerOptions(use_cot_caption=False, use_cot_language=False)), False),
            (SongRequest(task_type="repaint"), False),
        ],
    )
    def test_what_one_may_add_to(self, request_, used):
        assert uses_planner(request_) is used
