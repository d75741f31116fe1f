from __future__ import annotations

import threading
from itertools import pairwise

from acestep.domain.song import Progress
from acestep.engine.pipeline import JobProgress


def test_a_job_is_as_far_as_its_songs_on_average():
    told: list[Progress] = []
    job = JobProgress(2, told.append)
    job.report(0, "write", 1.0)
    job.report(1, "write", 1.0)
    assert [progress.fraction for progress in told] == [0.5, 1.0]


def test_it_names_the_stage_of_the_song_that_is_least_far():
    told: list[Progress] = []
    job = JobProgress(2, told.append)
    job.report(0, "render", 0.5, "step 1 of 2")
    job.report(1, "render", 1.0, "step 2 of 2")
    job.report(0, "decode", 0.0)  # as far as the other, and a stage later
    job.report(1, "decode", 0.0)
    job.report(1, "write", 0.0)
    said = [(progress.stage, progress.text) for progress in told]
    assert said == [
        ("plan", "Preparing"),
        ("render", "Generating music (step 1 of 2)"),
        ("render", "Generating music (step 2 of 2)"),
        ("decode", "Decoding audio"),
        ("decode", "Decoding audio"),
    ]


def test_a_stage_begins_where_the_one_before_ends():
    told: list[Progress] = []
    job = JobProgress(1, told.append)
    for stage in ("render", "decode", "write"):
        job.report(0, stage, 0.0)
        job.report(0, stage, 1.0)
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)
    assert fractions[1:-1:2] == fractions[2::2]
    assert fractions[-1] == 1.0


def test_stems_count_like_songs_and_are_named_once_they_begin():
    told: list[Progress] = []
    job = JobProgress(2, told.append, planning=0.0, stems=1)
    job.plan(1.0, "Thinking")
    job.report(0, "write", 1.0)
    job.report(1, "write", 1.0)
    job.report(job.stem(0, 0), "render", 1.0)
    job.report(job.stem(0, 0), "write", 1.0)
    job.report(job.stem(1, 0), "write", 1.0)
    assert [progress.fraction for progress in told] == [0.0, 0.25, 0.5, 0.685, 0.75, 1.0]
    assert [progress.stage for progress in told] == ["plan", "plan", "write", "render", "write", "write"]


def test_every_stem_has_its_own_index():
    job = JobProgress(3, lambda progress: None, stems=2)
    indices = [job.stem(song, number) for song in range(3) for number in range(2)]
    assert indices == [3, 4, 5, 6, 7, 8]


def test_reports_of_two_threads_are_ordered():
    told: list[float] = []
    first_is_told, second_reported = threading.Event(), threading.Event()

    def tokenize(progress: Progress) -> None:
        if not first_is_told.is_set():
            first_is_told.set()
            second_reported.wait(0.1)  # long enough for the other to get ahead, if it could
        told.append(progress.fraction)

    def report_second() -> None:
        first_is_told.wait(20)
        job.report(1, "write", 1.0)
        second_reported.set()

    job = JobProgress(2, tokenize)
    other = threading.Thread(target=report_second)
    other.start()
    job.report(0, "render", 0.5)
    other.join(20)
    assert len(told) == 2
    assert all(earlier <= later for earlier, later in pairwise(told))
