from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from acestep.domain.song import PlannerOptions, SamplerOptions, Song, SongRequest
from acestep.jobs.eta import Speeds, work_of
from acestep.jobs.queue import JobQueue
from acestep.jobs.store import JobStore
from tests.jobs.conftest import Clock
from tests.jobs.fakes import request, song

ASSUMED = 5.0


def asked(duration: float | None, steps: int = 8, songs: int = 1, model: str | None = None) -> SongRequest:
    sampler = SamplerOptions(steps=steps)
    return replace(request(songs=songs), duration=duration, sampler=sampler, model=model)


def made(wanted: SongRequest, timings: dict[str, float], model: str = "nano") -> Sequence[Song]:
    """Songs as long as was asked for, each with these timings."""
    plan = replace(song("a.mp3").plan, duration=wanted.duration or 20.0)
    plan = replace(plan, sampling=replace(plan.sampling, steps=wanted.sampler.steps or 8))
    return [replace(song("a.mp3"), plan=plan, timings=timings, dit_model=model) for _ in wanted.seeds]


def taught(*jobs: tuple[SongRequest, dict[str, float], float]) -> Speeds:
    speeds = Speeds(ASSUMED)
    for wanted, timings, seconds in jobs:
        speeds.learn(wanted, made(wanted, timings), seconds)
    return speeds


def test_before_any_job_it_is_what_the_operator_assumes() -> None:
    assert Speeds(ASSUMED).seconds(work_of(asked(30))) == ASSUMED


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [
        (asked(60), 6.0),  # twice as long
        (asked(30, steps=16), 5.0),  # rendering takes 2 of 3 seconds, and twice the steps
        (asked(30, songs=2), 6.0),
        (asked(None), 3.0),  # as long as the last
        (asked(30, model="another"), 3.0),  # nothing is known of it
    ],
)
def test_one_job_tells_of_another(wanted: SongRequest, seconds: float) -> None:
    speeds = taught((asked(30), {"render": 2.0, "decode": 1.0}, 3.0))
    assert speeds.seconds(work_of(wanted)) == pytest.approx(seconds)


def test_what_a_stage_takes_beside_its_music_is_found() -> None:
    # One second and a tenth of the music.
    known = [(asked(each), {"decode": 1.0 + each / 10}, 1.0 + each / 10) for each in (10, 20, 40, 60)]
    assert taught(*known).seconds(work_of(asked(100))) == pytest.approx(11.0)


def test_one_job_that_waited_for_its_model_does_not_count() -> None:
    speeds = taught(*[(asked(30), {"render": 3.0}, seconds) for seconds in (60.0, 3.3, 3.3)])
    assert speeds.seconds(work_of(asked(30))) == pytest.approx(3.3)


def test_a_machine_that_has_become_slower_is_noticed() -> None:
    quick, slow = [(asked(30), {"render": each}, each) for each in (2.0, 6.0)]
    told = [taught(*[quick] * 20, *[slow] * count).seconds(work_of(asked(30))) for count in (0, 1, 3)]
    assert told == pytest.approx([2.0, 2.0, 6.0], rel=0.2)


def test_songs_that_share_a_batch_are_counted_together() -> None:
    speeds = taught((asked(30, songs=4), {"render": 3.0}, 3.3))
    assert speeds.seconds(work_of(asked(30, songs=4))) == pytest.approx(3.3)


def test_each_model_and_kind_has_its_speed() -> None:
    thinks = replace(asked(30), planner=PlannerOptions(thinking=True))
    speeds = taught(
        (asked(30), {"render": 2.0}, 2.0),
        (asked(30, model="base"), {"render": 50.0}, 50.0),
        (thinks, {"codes": 7.0, "render": 2.0}, 9.0),
    )
    told = [speeds.seconds(work_of(each)) for each in (asked(30), asked(30, model="base"), thinks)]
    assert told == pytest.approx([2.0, 50.0, 9.0])


def test_another_model_in_the_slot_starts_anew() -> None:
    speeds = Speeds(ASSUMED)
    for model, seconds in (("nano", 1.0), ("nano", 1.0), ("turbo", 9.0)):
        speeds.learn(asked(30), made(asked(30), {"render": seconds}, model), seconds)
    assert speeds.seconds(work_of(asked(30))) == pytest.approx(9.0)


async def test_a_job_waits_for_those_before_it(
    store: JobStore, queue: JobQueue, clock: Clock, path: Path
) -> None:
    first = await queue.submit(asked(30))
    assert first.eta == ASSUMED
    await queue.take()
    clock.now += 4.0
    await queue.finish(first.job_id, tuple(made(asked(30), {"render": 4.0})))

    etas = [(await queue.submit(asked(duration))).eta for duration in (30, 60, 15)]
    assert etas == pytest.approx([4.0, 12.0, 14.0])
    await queue.take()
    running, *waiting = (await queue.newest())[2::-1]
    assert [view.eta for view in (running, *waiting)] == pytest.approx([4.0, 12.0, 14.0])
    assert [view.position for view in (running, *waiting)] == [None, 1, 2]

    # A new server learns from what the last one has stored.
    other = JobStore(path, clock)
    again = await JobQueue(other, devices=2).submit(asked(30))
    assert again.eta == pytest.approx(14.0 / 2)
    await other.close()
