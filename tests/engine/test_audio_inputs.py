from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from acestep.audio.encode import FileSpec, write
from acestep.domain.song import AudioClip, TaskOptions
from acestep.engine.audio_inputs import excerpt, load_inputs
from acestep.errors import UnusableAudioError
from tests.engine.fakes import INFO, RATE, FakeRenderer, request


def ramp(seconds: float) -> AudioClip:
    """Each sample says where it was, from -0.5 to 0.5."""
    line = np.linspace(-0.5, 0.5, round(seconds * RATE), dtype=np.float32)
    return AudioClip(np.stack([line, line]), RATE)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """12 s in a file."""
    write(ramp(12.0), tmp_path / "song.wav", FileSpec("wav32"))
    return tmp_path / "song.wav"


def sources(
    song: Path, task_type: str, duration: float | None = None, **task: Any
) -> tuple[float, AudioClip]:
    """How long the song becomes, and the source that the model is given."""
    asked = request(task_type=task_type, duration=duration, task=TaskOptions(source=str(song), **task))
    known, found = load_inputs(asked, INFO, FakeRenderer())
    assert known.task.source_seconds == 12.0
    assert known.duration is not None
    return known.duration, cast(AudioClip, found.source)


@pytest.mark.parametrize("task", ["cover", "repaint", "extract", "lego", "complete"])
def test_a_song_is_as_long_as_its_source(song, task):
    seconds, source = sources(song, task)
    assert seconds == 12.0
    np.testing.assert_array_equal(source.samples, ramp(12.0).samples)


def test_a_cover_may_be_shorter_or_longer(song):
    assert sources(song, "cover", duration=30.0)[0] == 30.0
    asked = request(task_type="cover", duration=None, task=TaskOptions(source=str(song)))
    known, _ = load_inputs(asked, replace(INFO, max_duration=11.0), FakeRenderer())
    assert known.duration == 11.0


def test_a_window_beyond_the_source_adds_silence_around_it(song):
    seconds, source = sources(song, "repaint", start=-1.5, end=14.0)
    assert seconds == 15.5
    samples = source.samples
    assert samples.shape[1] == round(15.5 * RATE)
    before, after = round(1.5 * RATE), round(13.5 * RATE)
    assert not samples[:, :before].any() and not samples[:, after:].any()
    np.testing.assert_array_equal(samples[:, before:after], ramp(12.0).samples)


def test_a_reference_changes_nothing_but_the_sound(song):
    asked = request(task=TaskOptions(reference=str(song)))
    known, found = load_inputs(asked, INFO, FakeRenderer())
    assert known == asked
    assert found.source is None
    assert cast(AudioClip, found.reference).duration == FakeRenderer.reference_seconds


def test_a_reference_is_a_piece_of_each_third():
    clip = ramp(30.0)
    pieces = excerpt(clip, 3.0).samples[0].reshape(3, -1)
    for number, piece in enumerate(pieces):
        middle = (number + 0.5) / 3 - 0.5
        assert piece.mean() == pytest.approx(middle, abs=1e-3)
        assert np.all(np.diff(piece) > 0)


def test_a_short_reference_is_repeated():
    short = excerpt(ramp(0.7), 3.0)
    assert short.duration == 3.0
    assert np.abs(short.samples).min(axis=0).max() > 0.3  # it is heard throughout, not filled up with silence


@pytest.mark.parametrize("kind", ["source", "reference"])
def test_a_file_that_is_gone_is_explained(tmp_path, kind):
    named: dict[str, Any] = {kind: str(tmp_path / "gone.wav")}
    task = TaskOptions(**named)
    with pytest.raises(UnusableAudioError, match="cannot be read"):
        load_inputs(request(task_type="cover", task=task), INFO, FakeRenderer())
