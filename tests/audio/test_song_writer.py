from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from acestep.audio.decode import read
from acestep.audio.encode import SongWriter, title
from acestep.domain.song import AudioClip, AudioFormat, OutputOptions, Sampling, SongPlan, SongRequest
from acestep.errors import DataFolderError, JobCancelledError
from acestep.files import AudioStore
from tests.audio.sounds import music


@pytest.fixture
def files(tmp_path: Path) -> AudioStore:
    return AudioStore(tmp_path / "audio", bytes(32))


PLAN = SongPlan(
    caption="slow piano\nin the rain",
    lyrics="",
    language="en",
    duration=0.5,
    seed=41,
    instruction="Do it:",
    sampling=Sampling(8, 1.0, 3.0),
    bpm=96,
    key_scale="C# minor",
)
EXTENSIONS = {"mp3": "mp3", "wav": "wav", "wav32": "wav", "flac": "flac", "opus": "opus", "aac": "m4a"}


@pytest.mark.parametrize("audio_format", EXTENSIONS)
def test_a_song_is_a_tagged_file_in_the_store(files: AudioStore, audio_format: AudioFormat) -> None:
    clip = music(24_001)
    name = SongWriter(files, mp3_bitrate=128).write(clip, PLAN, SongRequest(audio_format=audio_format), "hum")
    path = files.path(name)
    assert path is not None
    assert path.suffix == f".{EXTENSIONS[audio_format]}"
    assert read(path).samples.shape == clip.samples.shape
    with av.open(str(path)) as file:
        tags = {**file.streams.audio[0].metadata, **file.metadata}
    assert tags["title"] == "slow piano"
    said = " ".join(tags.values())
    assert all(fact in said for fact in ("in the rain", "41", "hum", "C#"))


def test_the_bit_rate_of_mp3_is_the_setting(files: AudioStore) -> None:
    sizes = []
    for bitrate in (64, 256):
        name = SongWriter(files, mp3_bitrate=bitrate).write(music(48_000), PLAN, SongRequest(), "hum")
        path = files.path(name)
        assert path is not None
        sizes.append(path.stat().st_size)
    assert sizes[1] > 2 * sizes[0]


@pytest.mark.parametrize(("bitrate", "rate"), [(128, 44_100), (320, 48_000), (192, 32_000)])
def test_a_request_may_decide_on_bit_rate_and_sample_rate(files: AudioStore, bitrate: int, rate: int) -> None:
    request = SongRequest(output=OutputOptions(mp3_bitrate=bitrate, mp3_sample_rate=rate))
    path = files.path(SongWriter(files, mp3_bitrate=256).write(music(48_000), PLAN, request, "hum"))
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        assert (stream.codec_context.sample_rate, stream.codec_context.bit_rate) == (rate, bitrate * 1000)
        assert float(stream.duration * stream.time_base) == pytest.approx(
            48_000 / music(48_000).sample_rate, abs=0.05
        )


@pytest.mark.parametrize("audio_format", ["mp3", "wav", "flac"])
def test_a_song_that_is_cancelled_is_written_no_further(
    files: AudioStore, tmp_path: Path, audio_format: AudioFormat
) -> None:
    seen: list[float] = []

    def on_fraction(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == 3:
            raise JobCancelledError("The job was cancelled.")

    clip = AudioClip(np.zeros((2, 80_000), dtype=np.float32), 8_000)
    with pytest.raises(JobCancelledError):
        SongWriter(files, 128).write(clip, PLAN, SongRequest(audio_format=audio_format), "hum", on_fraction)
    assert seen[-1] == pytest.approx(0.3, abs=0.05)
    assert list((tmp_path / "audio").iterdir()) == []


def test_a_folder_that_is_gone_is_explained(files: AudioStore, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "audio")
    (tmp_path / "audio").write_text("in its place")  # a folder that is only gone is made anew
    with pytest.raises(DataFolderError, match="ACESTEP_DATA_DIR"):
        SongWriter(files, mp3_bitrate=128).write(music(8_000), PLAN, SongRequest(audio_format="wav"), "hum")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("slow piano", "slow piano"),
        ("\n slow piano\nand rain", "slow piano"),
        ("", ""),
        ("word " * 30, "word " * 11 + "word…"),
        ("x" * 61, "x" * 60 + "…"),
        ("静" * 60, "静" * 60),
    ],
)
def test_titles_are_the_first_line_cut_at_a_word(caption: str, expected: str) -> None:
    assert title(caption) == expected


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("\x1b[31m\nslow piano\nin the rain", "slow piano"),
        ("\x1b]0;a window\x07slow\x07 piano", "slow piano"),
        ("\x1b[1m" * 30 + "slow piano", "slow piano"),  # cut first, half an escape would stay
    ],
    ids=ascii,
)
def test_a_title_has_no_control_characters(caption: str, found: str) -> None:
    assert title(caption) == found
