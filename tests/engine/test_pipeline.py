from __future__ import annotations

import asyncio
import os
import sys
import threading
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any

import av
import numpy as np
import pytest

from acestep.audio.decode import read
from acestep.domain.song import OutputOptions, Progress, SamplerOptions, Song, SongPlan, SongRequest
from acestep.engine.engine import Engine
from acestep.errors import AceStepError, InvalidFieldError, JobCancelledError
from tests.engine.fakes import (
    INFO,
    PATIENCE,
    RATE,
    STEPS,
    FakeRenderer,
    loads,
    loudness,
    request,
    running,
    unheard,
    wanted,
)


async def make(engine: Engine, asked: SongRequest) -> tuple[Song, ...]:
    return await engine.run(asked, unheard, wanted)


async def make_all(engine: Engine, *asked: SongRequest) -> list[Any]:
    """All jobs at once, as the runner has them in flight; what a job raises stands for its songs."""
    return await asyncio.gather(*(make(engine, one) for one in asked), return_exceptions=True)


def seeds(renderer: FakeRenderer) -> list[list[int]]:
    return [[plan.seed for plan in batch] for batch in renderer.batches]


class TestOneJob:
    async def test_its_songs_are_files_in_the_order_of_their_seeds(self, engine, files):
        songs = await make(engine, request(seeds=(30, 7, 21), duration=10.03))
        assert [song.plan.seed for song in songs] == [30, 7, 21]
        for song in songs:
            path = files.path(song.file)
            assert path is not None
            clip = read(path)
            assert clip.samples.shape == (2, round(10.03 * RATE))
            np.testing.assert_allclose(clip.samples, loudness(song.plan.seed), atol=1e-4)

    async def test_a_song_may_fade_in_and_out(self, engine, files):
        asked = replace(request(seeds=(30,)), output=OutputOptions(fade_in=2.0, fade_out=1.0))
        (song,) = await make(engine, asked)
        samples = read(files.path(song.file)).samples[0] / loudness(30)
        assert samples[[0, RATE, 2 * RATE, -RATE, -1]] == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.0], abs=2e-2)

    async def test_a_file_says_what_it_is(self, engine, files):
        asked = request("slow piano\nin the rain", seeds=(5,), bpm=90, key_scale="C# minor")
        (song,) = await make(engine, asked)
        with av.open(str(files.path(song.file))) as file:
            tags = file.metadata
        assert tags["title"] == "slow piano"
        for fact in ("in the rain", "bpm: 90", "key: C# minor", "seed: 5", "model: hum"):
            assert fact in tags["comment"]

    @pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own here")
    async def test_computing_stands_back_behind_the_event_loop(self, engine, renderer):
        await make(engine, request())
        assert renderer.niceness > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def test_a_song_says_what_was_used(self, engine):
        (song,) = await make(engine, request(seeds=(5,), warnings=("said before",)))
        assert (song.dit_model, song.audio_format, song.lm_model) == ("hum", "wav", "")
        assert song.warnings == ("said before", "seed 5 hums")
        assert song.plan.sampling.steps == STEPS

    async def test_a_song_says_what_people_must_know_of_its_model(self, files, renderer):
        info = replace(INFO, notice="This is only a hum.")
        async with running(files, loads(renderer, info), info) as engine:
            await engine.wait_ready()
            (song,) = await make(engine, request(seeds=(5,)))
        assert song.warnings[-1] == "This is only a hum."

    async def test_every_stage_is_timed(self, engine):
        (song,) = await make(engine, request())
        assert list(song.timings) == ["plan", "render", "decode", "write"]
        assert all(seconds >= 0 for seconds in song.timings.values())

    async def test_progress_goes_one_way_and_names_the_slowest_song(self, files, renderer):
        told: list[Progress] = []
        # Two batches: the third song waits while the first two are rendered, decoded and written.
        async with running(files, loads(renderer, replace(INFO, max_batch=2))) as engine:
            await engine.wait_ready()
            jobs = (
                engine.run(request(seeds=(1, 2)), told.append, wanted),
                make(engine, request(seeds=(3,))),
            )
            await asyncio.gather(*jobs)
        fractions = [progress.fraction for progress in told]
        assert all(0.0 <= fraction <= 1.0 for fraction in fractions)
        assert all(earlier <= later for earlier, later in pairwise(fractions))
        assert fractions[-1] == 1.0
        stages = [stage for stage, _ in groupby(progress.stage for progress in told)]
        assert stages == ["plan", "render", "decode", "write"]
        assert any(f"step {STEPS} of {STEPS}" in progress.text for progress in told)

    @pytest.mark.parametrize(("seeds", "numbers"), [((1, 2, 3), [0, 1, 2]), ((1,), [])])
    async def test_each_song_of_several_is_reported_when_it_is_done(self, engine, seeds, numbers):
        told: list[Progress] = []
        songs = await engine.run(request(seeds=seeds), told.append, wanted)
        made = [progress.made for progress in told if progress.made]
        assert sorted(made) == [(number, songs[number]) for number in numbers]

    async def test_the_model_is_called_from_one_thread(self, engine, renderer):
        await make_all(engine, *(request(seeds=(seed,), duration=10.0 + seed) for seed in range(1, 4)))
        assert len(renderer.threads) == 1

    async def test_it_is_fitted_to_the_model_that_runs_now(self, files, renderer):
        now = replace(INFO, max_duration=20.0, max_batch=1)
        async with running(files, loads(renderer, now)) as engine:
            await engine.wait_ready()
            songs = await make(engine, request(seeds=(1, 2), model="another", duration=30.0))
        assert [song.plan.duration for song in songs] == [20.0]
        assert len(songs[0].warnings) == 4  # model, duration, batch size, and what the renderer says
        assert "'another' is not loaded here" in songs[0].warnings[0]

    async def test_what_the_model_cannot_do_fails_by_name(self, engine, renderer):
        with pytest.raises(InvalidFieldError) as refused:
            await make(engine, request(sampler=SamplerOptions(steps=1000)))
        assert refused.value.field == "inference_steps"
        assert renderer.batches == []


class TestBatches:
    async def test_songs_of_one_job_share_a_batch(self, engine, renderer):
        await make(engine, request(seeds=(1, 2, 3)))
        assert seeds(renderer) == [[1, 2, 3]]

    async def test_songs_of_two_jobs_share_a_batch(self, engine, renderer):
        first, second = await make_all(engine, request(seeds=(1, 2)), request("another song", seeds=(3,)))
        assert seeds(renderer) == [[1, 2, 3]]
        assert [song.plan.seed for song in (*first, *second)] == [1, 2, 3]
        assert [song.plan.caption for song in (*first, *second)] == ["a song", "a song", "another song"]

    async def test_songs_are_rendered_one_by_one_by_a_model_that_takes_no_batches(self, engine, renderer):
        renderer.takes_batches = False
        songs = await make_all(engine, request(seeds=(1, 2)), request("another song", seeds=(3,)))
        assert seeds(renderer) == [[1], [2], [3]]
        assert [[song.plan.seed for song in job] for job in songs] == [[1, 2], [3]]

    @pytest.mark.parametrize(
        "unlike", [{"duration": 11.0}, {"sampler": SamplerOptions(steps=5)}], ids=["length", "sampling"]
    )
    async def test_songs_that_differ_do_not(self, engine, renderer, unlike):
        await make_all(engine, request(seeds=(1,)), request(seeds=(2,), **unlike))
        assert seeds(renderer) == [[1], [2]]

    async def test_no_batch_is_larger_than_the_model_takes(self, engine, renderer):
        await make_all(engine, *(request(seeds=(n, n + 1, n + 2)) for n in (1, 4, 7)))
        assert seeds(renderer) == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]

    async def test_the_oldest_song_decides_which_batch_is_next(self, engine, renderer):
        renderer.hold()
        jobs = []
        for seed, duration in ((1, 10.0), (2, 20.0), (3, 10.0), (4, 20.0)):
            jobs.append(asyncio.create_task(make(engine, request(seeds=(seed,), duration=duration))))
            await renderer.wait_begun()
        renderer.release()
        await asyncio.gather(*jobs)
        assert seeds(renderer) == [[1], [2, 4], [3]]


class TestFailures:
    @pytest.mark.parametrize("error", [AceStepError("Out of tune."), RuntimeError("out of breath")])
    async def test_a_batch_that_fails_fails_its_jobs_and_no_other(self, engine, renderer, error):
        renderer.broken["bad"] = error
        failed, with_it, apart = await make_all(
            engine, request("bad"), request("good"), request("good", duration=11.0)
        )
        assert failed is error and with_it is error
        assert len(apart) == 1
        assert len(await make(engine, request("good"))) == 1

    async def test_a_song_that_cannot_be_decoded_fails_its_job_alone(self, engine, renderer):
        def fail(plan: SongPlan) -> None:
            if plan.caption == "bad":
                raise AceStepError("No sound.")

        renderer.on_decode = fail
        failed, neighbour = await make_all(engine, request("bad"), request("good"))
        assert str(failed) == "No sound."
        assert len(neighbour) == 1

    async def test_no_song_outlives_its_job(self, engine, renderer, tmp_path):
        job_failed = threading.Event()

        def fail_the_first(plan: SongPlan) -> None:
            if plan.seed == 1:
                raise AceStepError("No sound.")
            assert job_failed.wait(PATIENCE)

        renderer.on_decode = fail_the_first
        with pytest.raises(AceStepError, match="No sound"):
            await make(engine, request(seeds=(1, 2)))
        job_failed.set()
        (later,) = await make(engine, request(seeds=(3,)))
        assert [path.name for path in (tmp_path / "audio").iterdir()] == [later.file]

    async def test_a_file_that_cannot_be_written_is_explained(self, engine, files, tmp_path):
        (tmp_path / "audio").rmdir()
        (tmp_path / "audio").write_text("in its place")
        with pytest.raises(AceStepError, match=r"File exists.*ACESTEP_DATA_DIR"):
            await make(engine, request())


class TestCancelling:
    async def test_a_cancelled_job_stops_at_the_next_step(self, engine, renderer):
        told: list[Progress] = []
        with pytest.raises(JobCancelledError):
            await engine.run(request(), told.append, lambda: len(told) == 1)
        assert renderer.steps == 1
        assert renderer.decoded == []

    async def test_a_cancelled_job_stops_while_it_is_decoded(self, engine, tmp_path):
        told: list[Progress] = []
        with pytest.raises(JobCancelledError):
            await engine.run(request(), told.append, lambda: bool(told) and told[-1].stage == "decode")
        assert list((tmp_path / "audio").iterdir()) == []

    @pytest.mark.parametrize("looks", range(10))
    async def test_its_neighbours_go_on_whenever_it_is_cancelled(self, engine, renderer, looks):
        looked = iter(range(100))
        cancelled: object
        neighbour: object
        cancelled, neighbour = await asyncio.gather(
            engine.run(request("unwanted", seeds=(1,)), unheard, lambda: next(looked) >= looks),
            make(engine, request("wanted", seeds=(2,))),
            return_exceptions=True,
        )
        assert seeds(renderer) == [[1, 2]]
        assert renderer.steps == STEPS
        assert isinstance(neighbour, tuple) and len(neighbour) == 1
        told_in_time = next(looked) > looks
        assert isinstance(cancelled, JobCancelledError if told_in_time else tuple)

    async def test_a_caller_that_leaves_takes_its_songs_out_of_the_queue(self, engine, renderer):
        renderer.hold()
        jobs = [asyncio.create_task(make(engine, request(seeds=(1,))))]
        await renderer.wait_begun()
        jobs += [asyncio.create_task(make(engine, request(seeds=(n,), duration=10.0 + n))) for n in (2, 3)]
        await asyncio.sleep(0)
        jobs[0].cancel()
        jobs[1].cancel()
        renderer.release()
        await asyncio.wait(jobs)
        assert jobs[0].cancelled() and jobs[1].cancelled()
        assert len(jobs[2].result()) == 1
        assert seeds(renderer) == [[1], [3]]
