from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acestep.audio.convert import AudioConverter, tags_of
from acestep.audio.decode import read
from acestep.audio.encode import FileSpec, Tags, extension, write
from acestep.domain.song import AudioClip, AudioFormat
from acestep.errors import UnusableAudioError
from acestep.files import FileStore

FORMATS: tuple[AudioFormat, ...] = ("mp3", "wav", "wav32", "flac", "opus", "aac")
TAGS = Tags("Rain 🌧", "Rain 🌧\na calm waltz", 42, 92, "F# minor", "acestep-nano")


def kept(tags: Tags, audio_format: AudioFormat) -> Tags:
    """FFmpeg does not read the tempo of an M4A file."""
    return replace(tags, bpm=None) if audio_format == "aac" else tags


@pytest.fixture
def clip() -> AudioClip:
    seconds = np.arange(48_000) / 48_000
    sound = 0.4 * np.sin(2 * np.pi * np.array([[440.0], [660.0]]) * seconds)
    return AudioClip(sound.astype(np.float32), 48_000)


@pytest.mark.parametrize("source", FORMATS)
def test_tags_are_read_back_from_every_format(tmp_path: Path, clip: AudioClip, source: AudioFormat) -> None:
    path = tmp_path / f"song.{extension(source)}"
    for tags in (TAGS, Tags(), Tags(key_scale="C major")):
        write(clip, path, FileSpec(source, tags=tags))
        assert tags_of(path) == kept(tags, source)


@pytest.mark.parametrize("source", ["wav", "mp3"])
def test_sound_and_tags_stay(tmp_path: Path, clip: AudioClip, source: AudioFormat) -> None:
    path = tmp_path / f"song.{extension(source)}"
    write(clip, path, FileSpec(source, tags=TAGS))
    converter = AudioConverter(FileStore(tmp_path / "store"), 256)
    before = read(path)
    for wanted in FORMATS:
        made = converter.convert(path, wanted)
        after = read(made)
        assert (made.suffix, after.samples.shape, after.sample_rate) == (
            f".{extension(wanted)}",
            before.samples.shape,
            48_000,
        )
        assert np.abs(after.samples - before.samples)[:, 4000:-4000].mean() < 0.01
        assert tags_of(made) == kept(TAGS, wanted)


def test_nothing_is_left_of_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"no sound")
    store = FileStore(tmp_path / "store")
    with pytest.raises(UnusableAudioError):
        AudioConverter(store, 256).convert(broken, "wav")
    assert list((tmp_path / "store").iterdir()) == []
