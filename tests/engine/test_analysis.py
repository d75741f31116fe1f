from __future__ import annotations

from dataclasses import replace

import av
import numpy as np
import pytest

from acestep.audio.decode import read
from acestep.audio.encode import FileSpec, write
from acestep.domain.analysis import Analysis, LyricTimes, TimedLine
from acestep.domain.song import AnalysisOptions, AudioClip, Progress, Song, TaskOptions
from acestep.engine.engine import Engine
from acestep.errors import JobCancelledError
from acestep.limits import BASE_TASKS
from tests.engine.fakes import INFO, RATE, FakeRenderer, loads, loudness, request, running, unheard, wanted

ALL = AnalysisOptions(lyric_times=True, peaks=20, loudness=True)


async def make(engine: Engine, analysis: AnalysisOptions, **changes) -> Song:
    (song,) = await engine.run(
        request(seeds=(50,), lyrics="la la", analysis=analysis, **changes), unheard, wanted
    )
    return song


async def test_nothing_unless_it_is_asked_for(engine, renderer):
    song = await make(engine, AnalysisOptions())
    assert song.analysis == Analysis()
    assert list(song.timings) == ["plan", "render", "decode", "write"]
    assert renderer.aside == set()


@pytest.mark.parametrize(
    ("analysis", "stages"),
    [
        (AnalysisOptions(lyric_times=True), ["listen", "align"]),
        (AnalysisOptions(peaks=20), ["peaks"]),
        (AnalysisOptions(loudness=True), ["loudness"]),
        (ALL, ["listen", "align", "peaks", "loudness"]),
    ],
    ids=["words", "peaks", "loudness", "all"],
)
async def test_only_what_is_asked_for_and_how_long_it_took(engine, analysis, stages):
    song = await make(engine, analysis)
    assert list(song.timings) == ["plan", "render", "decode", *stages, "write"]
    found = song.analysis
    assert (found.lyric_times is not None) == analysis.lyric_times
    assert len(found.peaks) == analysis.peaks
    assert (found.loudness is not None) == analysis.loudness


async def test_what_is_found_is_of_the_sound_in_the_file(engine, files):
    song = await make(engine, ALL)
    clip = read(files.path(song.file))
    assert song.analysis.peaks == ((loudness(50), loudness(50)),) * 20
    assert clip.samples.max() == pytest.approx(loudness(50), abs=1e-4)
    assert song.analysis.loudness is not None
    assert song.analysis.loudness.true_peak == pytest.approx(-6.02, abs=1.5)  # it begins at once: it rings
    assert song.analysis.lyric_times == LyricTimes((TimedLine("la la", 1.0, 2.0, ()),), 0.5)


async def test_only_the_look_at_the_model_takes_its_thread(engine, renderer):
    await make(engine, ALL)
    assert len(renderer.threads) == 1
    assert len(renderer.aside) == 1
    assert not renderer.aside & renderer.threads


async def test_a_song_without_words_is_a_song_with_a_warning(engine, files):
    (song,) = await engine.run(request(lyrics="[inst]", analysis=ALL), unheard, wanted)
    assert song.analysis.lyric_times is None
    assert "lyric_timestamps: a hum has no words" in song.warnings
    assert len(song.analysis.peaks) == 20
    assert files.path(song.file) is not None


class TestStems:
    STEMS = AnalysisOptions(stems=("drums", "backing_vocals"))

    @pytest.fixture
    async def extracting(self, files, renderer):
        info = replace(INFO, tasks=BASE_TASKS)
        async with running(files, loads(renderer, info), info) as engine:
            await engine.wait_ready()
            yield engine

    async def test_each_is_a_file_as_long_as_the_song(self, extracting, files):
        song = await make(extracting, self.STEMS)
        assert [stem.track for stem in song.analysis.stems] == ["drums", "backing_vocals"]
        paths = [files.path(name) for name in (song.file, *(stem.file for stem in song.analysis.stems))]
        assert len(set(paths)) == 3
        assert [read(path).duration for path in paths] == [10.0] * 3
        with av.open(str(paths[1])) as file:
            assert file.metadata["title"] == "a song (drums)"

    async def test_they_are_taken_out_of_the_song_itself_together(self, extracting, renderer):
        song = await make(extracting, self.STEMS, audio_codes=tuple(range(50)), bpm=90)
        whole, stems = renderer.batches
        assert len(whole) == 1
        assert [plan.task_type for plan in stems] == ["extract", "extract"]
        assert [plan.instruction for plan in stems] == [
            "Extract the DRUMS track from the audio:",
            "Extract the BACKING_VOCALS track from the audio:",
        ]
        for plan in stems:
            assert plan.audio_codes == ()
            kept = ("lyrics", "language", "duration", "seed", "bpm")
            assert [getattr(plan, name) for name in kept] == [getattr(song.plan, name) for name in kept]
        assert renderer.sources[0].source is None
        for sources in renderer.sources[1:]:  # what is heard is the sound, in this test
            assert sources.source.samples.max() == pytest.approx(loudness(50))

    async def test_a_source_is_separated_into_tracks_and_what_they_leave(
        self, extracting, files, renderer, tmp_path
    ):
        source = AudioClip(np.full((2, 10 * RATE), 0.25, np.float32), RATE)
        write(source, tmp_path / "song.wav", FileSpec("wav32"))
        task = TaskOptions(str(tmp_path / "song.wav"), tracks=("vocals", "keyboard"), rest="other")
        asked = request(seeds=(50,), task_type="extract", task=task, audio_format="wav32")
        (song,) = await extracting.run(asked, unheard, wanted)
        assert [stem.track for stem in song.analysis.stems] == ["vocals", "keyboard", "other"]
        whole, vocals, keyboard, other = (
            read(files.path(name)).samples
            for name in (song.file, *(each.file for each in song.analysis.stems))
        )
        assert np.array_equal(whole, source.samples)
        assert np.allclose(vocals, loudness(50)) and np.allclose(keyboard, loudness(50))
        assert np.abs(other).max() < 1e-6  # the first track is all that is in the source
        assert [plan.instruction for batch in renderer.batches for plan in batch] == [
            "Extract the VOCALS track from the audio:",
            "Extract the KEYBOARD track from the audio:",
        ]
        assert all(sources.source.samples is not None for sources in renderer.sources)

    async def test_how_long_it_took(self, extracting):
        song = await make(extracting, self.STEMS)
        assert list(song.timings) == ["plan", "render", "decode", "encode", "write", "stems"]

    async def test_progress_goes_one_way_to_the_end(self, extracting):
        told: list[Progress] = []
        asked = request(seeds=(1, 2), analysis=self.STEMS)
        await extracting.run(asked, told.append, wanted)
        fractions = [progress.fraction for progress in told]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0
        begun = next(number for number, progress in enumerate(told) if progress.fraction > 0.4)
        assert {"render", "decode", "write"} <= {progress.stage for progress in told[begun:]}

    async def test_a_job_is_cancelled_between_song_and_stems(self, extracting, renderer):
        told: list[Progress] = []
        with pytest.raises(JobCancelledError):
            await extracting.run(
                request(analysis=self.STEMS), told.append, lambda: bool(told) and told[-1].fraction > 0.34
            )
        assert all(plan.task_type == "text2music" for plan in renderer.decoded)

    async def test_a_model_that_was_loaded_since_may_not_make_any(self, engine):
        song = await make(engine, self.STEMS)
        assert song.analysis.stems == ()
        assert "stems: hum cannot make any; drums, backing_vocals are left out" in song.warnings


async def test_a_job_is_cancelled_before_an_extra(engine: Engine, renderer: FakeRenderer, tmp_path):
    told: list[Progress] = []

    def is_listening() -> bool:
        return bool(told) and told[-1].stage == "listen"

    with pytest.raises(JobCancelledError):
        await engine.run(request(lyrics="la", analysis=ALL), told.append, is_listening)
    assert renderer.aside == set()
    assert list((tmp_path / "audio").iterdir()) == []


async def test_progress_goes_one_way(engine):
    told: list[Progress] = []
    await engine.run(request(lyrics="la", analysis=ALL), told.append, wanted)
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)
    assert {"listen", "align", "peaks", "loudness"} <= {progress.stage for progress in told}
