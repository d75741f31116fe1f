"""Extras as jobs get them: what is asked for, from which thread, and what else becomes of the song."""

from __future__ import annotations

import pytest

from acestep.audio.decode import read
from acestep.domain import Extras, Findings, LyricTimes, Progress, Song, TimedLine
from acestep.engine.engine import Engine
from acestep.errors import JobCancelledError
from tests.engine.fakes import FakeRenderer, loudness, request, unheard, wanted

ALL = Extras(lyric_times=True, peaks=20, loudness=True)


async def make(engine: Engine, extras: Extras, **changes) -> Song:
    (song,) = await engine.run(
        request(seeds=(50,), lyrics="la la", extras=extras, **changes), unheard, wanted
    )
    return song


async def test_nothing_unless_it_is_asked_for(engine, renderer):
    song = await make(engine, Extras())
    assert song.findings == Findings()
    assert list(song.timings) == ["plan", "render", "decode", "write"]
    assert renderer.aside == set()


@pytest.mark.parametrize(
    ("extras", "stages"),
    [
        (Extras(lyric_times=True), ["listen", "align"]),
        (Extras(peaks=20), ["peaks"]),
        (Extras(loudness=True), ["loudness"]),
        (ALL, ["listen", "align", "peaks", "loudness"]),
    ],
    ids=["words", "peaks", "loudness", "all"],
)
async def test_only_what_is_asked_for_and_how_long_it_took(engine, extras, stages):
    song = await make(engine, extras)
    assert list(song.timings) == ["plan", "render", "decode", *stages, "write"]
    found = song.findings
    assert (found.lyric_times is not None) == extras.lyric_times
    assert len(found.peaks) == extras.peaks
    assert (found.loudness is not None) == extras.loudness


async def test_what_is_found_is_of_the_sound_in_the_file(engine, files):
    song = await make(engine, ALL)
    clip = read(files.path(song.file))
    assert song.findings.peaks == ((loudness(50), loudness(50)),) * 20
    assert clip.samples.max() == pytest.approx(loudness(50), abs=1e-4)
    assert song.findings.loudness is not None
    assert song.findings.loudness.true_peak == pytest.approx(-6.02, abs=1.5)  # it begins at once: it rings
    assert song.findings.lyric_times == LyricTimes((TimedLine("la la", 1.0, 2.0, ()),), 0.5)


async def test_only_the_look_at_the_model_takes_its_thread(engine, renderer):
    await make(engine, ALL)
    assert len(renderer.threads) == 1
    assert len(renderer.aside) == 1
    assert not renderer.aside & renderer.threads


async def test_a_song_without_words_is_a_song_with_a_warning(engine, files):
    (song,) = await engine.run(request(lyrics="[inst]", extras=ALL), unheard, wanted)
    assert song.findings.lyric_times is None
    assert "lyric_timestamps: nobody hums words" in song.warnings
    assert len(song.findings.peaks) == 20
    assert files.path(song.file) is not None


async def test_a_job_is_cancelled_before_an_extra(engine: Engine, renderer: FakeRenderer, tmp_path):
    told: list[Progress] = []

    def is_listening() -> bool:
        return bool(told) and told[-1].stage == "listen"

    with pytest.raises(JobCancelledError):
        await engine.run(request(lyrics="la", extras=ALL), told.append, is_listening)
    assert renderer.aside == set()
    assert list((tmp_path / "audio").iterdir()) == []


async def test_progress_goes_one_way(engine):
    told: list[Progress] = []
    await engine.run(request(lyrics="la", extras=ALL), told.append, wanted)
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)
    assert {"listen", "align", "peaks", "loudness"} <= {progress.stage for progress in told}
