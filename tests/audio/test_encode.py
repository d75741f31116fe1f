from __future__ import annotations

from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import soundfile

from acestep.audio.decode import read
from acestep.audio.encode import FileSpec, extension, write
from acestep.domain.song import AudioClip, AudioFormat
from tests.audio.sounds import music

FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)
# Lengths around the borders of a codec's frames. 48385 nearly fills the last MP3 frame: LAME then
# flushes one frame more than FFmpeg knows of.
LENGTHS = (48000, 48001, 48385, 49151, 61441)


def written(tmp_path: Path, clip: AudioClip, audio_format: AudioFormat, mp3_bitrate: int = 256) -> Path:
    path = tmp_path / f"song.{extension(audio_format)}"
    write(clip, path, FileSpec(audio_format, mp3_bitrate))
    return path


def samples_in(path: Path) -> int:
    """What FFmpeg decodes, without our trimming."""
    with av.open(str(path)) as file:
        return sum(frame.samples for frame in file.decode(audio=0))


def snr(clean: np.ndarray, coded: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(clean**2) / (np.sum((clean - coded) ** 2) + 1e-20)))


@pytest.mark.parametrize(
    ("audio_format", "decibels"),
    [("wav", 80), ("wav32", 150), ("flac", 125), ("mp3", 20), ("opus", 15), ("aac", 20)],
)
def test_each_channel_comes_back_on_its_own_side(
    tmp_path: Path, audio_format: AudioFormat, decibels: float
) -> None:
    clip = music(3 * 48000)

    again = read(written(tmp_path, clip, audio_format))

    for side in (0, 1):
        assert snr(clip.samples[side], again.samples[side]) > decibels
        assert np.corrcoef(clip.samples[side], again.samples[side])[0, 1] > 0.98
        assert abs(np.corrcoef(clip.samples[side], again.samples[1 - side])[0, 1]) < 0.2


@pytest.mark.parametrize("audio_format", FORMATS)
def test_thirty_seconds_stay_thirty_seconds(tmp_path: Path, audio_format: AudioFormat) -> None:
    assert read(written(tmp_path, music(30 * 48000), audio_format)).duration == 30.0


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("audio_format", FORMATS)
def test_the_length_is_exact(tmp_path: Path, audio_format: AudioFormat, samples: int) -> None:
    path = written(tmp_path, music(samples), audio_format)

    assert read(path).samples.shape == (2, samples)
    if audio_format == "aac":  # FFmpeg plays the last AAC frame (1024 samples) to its end
        assert samples <= samples_in(path) < samples + 1024
    else:
        assert samples_in(path) == samples


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("audio_format", ["wav", "wav32", "flac", "mp3", "opus"])
def test_another_decoder_finds_the_same_length(
    tmp_path: Path, audio_format: AudioFormat, samples: int
) -> None:
    clip = music(samples)

    sound, sample_rate = soundfile.read(written(tmp_path, clip, audio_format))

    assert (sound.shape, sample_rate) == ((samples, 2), 48000)
    assert snr(clip.samples.T, sound) > 10  # in time, and with the sides as they were


@pytest.mark.parametrize("mp3_bitrate", [128, 320])
def test_mp3_has_the_constant_bit_rate_asked_for(tmp_path: Path, mp3_bitrate: int) -> None:
    path = written(tmp_path, music(48000), "mp3", mp3_bitrate)

    with av.open(str(path)) as file:
        sizes = [packet.size for packet in file.demux(audio=0) if packet.size]
    assert set(sizes) == {mp3_bitrate * 1000 // 8 * 1152 // 48000}


@pytest.mark.parametrize(
    ("audio_format", "codec"),
    [
        ("wav", "pcm_s16le"),
        ("wav32", "pcm_f32le"),
        ("flac", "flac"),
        ("mp3", "mp3"),
        ("opus", "opus"),
        ("aac", "aac"),
    ],
)
def test_files_hold_what_their_format_says(tmp_path: Path, audio_format: AudioFormat, codec: str) -> None:
    with av.open(str(written(tmp_path, music(48000), audio_format))) as file:
        context = file.streams.audio[0].codec_context
        assert (context.codec.canonical_name, context.sample_rate, context.channels) == (codec, 48000, 2)


def test_flac_keeps_24_bits(tmp_path: Path) -> None:
    assert soundfile.info(written(tmp_path, music(48000), "flac")).subtype == "PCM_24"


@pytest.mark.parametrize(
    ("audio_format", "sample_rate", "kept"),
    [
        ("wav", 22050, True),
        ("wav32", 22050, True),
        ("flac", 22050, True),
        ("mp3", 44100, True),
        ("mp3", 24000, False),
        ("opus", 44100, False),
        ("aac", 22050, True),
    ],
)
def test_other_sample_rates_are_kept_where_the_format_has_them(
    tmp_path: Path, audio_format: AudioFormat, sample_rate: int, kept: bool
) -> None:
    clip = music(sample_rate, sample_rate)

    again = read(written(tmp_path, clip, audio_format))

    assert again.sample_rate == (sample_rate if kept else 48000)
    assert again.duration == 1.0
    assert snr(music(again.samples.shape[1], again.sample_rate).samples[0], again.samples[0]) > 10


@pytest.mark.parametrize("audio_format", FORMATS)
def test_mono_stays_mono(tmp_path: Path, audio_format: AudioFormat) -> None:
    left = AudioClip(music(48000).samples[:1], 48000)

    path = written(tmp_path, left, audio_format)

    with av.open(str(path)) as file:
        assert file.streams.audio[0].codec_context.channels == 1
    again = read(path).samples
    assert np.array_equal(again[0], again[1])
    assert snr(left.samples[0], again[0]) > 15


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_what_is_too_loud_for_integers_is_clipped(tmp_path: Path, audio_format: AudioFormat) -> None:
    clip = AudioClip(np.tile(np.array([1.5, -1.5, 0.5], np.float32), (2, 16000)), 48000)

    again = read(written(tmp_path, clip, audio_format))

    assert np.allclose(again.samples[:, :3], [1.0, -1.0, 0.5], atol=1e-4)


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac"])
def test_what_is_far_too_loud_is_clipped_too(tmp_path: Path, audio_format: AudioFormat) -> None:
    loud, full = music(48000), music(48000)
    loud.samples[:] = 1e7 * np.sign(full.samples)
    full.samples[:] = np.sign(full.samples)
    clipped, as_loud_as_can_be = (read(written(tmp_path, clip, audio_format)) for clip in (loud, full))
    assert np.array_equal(clipped.samples, as_loud_as_can_be.samples)


def test_wav32_keeps_every_bit(tmp_path: Path) -> None:
    clip = music(48000)
    assert np.array_equal(read(written(tmp_path, clip, "wav32")).samples, clip.samples)


def test_aac_can_start_to_play_before_it_is_there(tmp_path: Path) -> None:
    content = written(tmp_path, music(48000), "aac").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write(music(48000), tmp_path / "missing" / "song.mp3", FileSpec("mp3"))


def test_extensions() -> None:
    assert {name: extension(name) for name in FORMATS} == {
        "mp3": "mp3",
        "wav": "wav",
        "wav32": "wav",
        "flac": "flac",
        "opus": "opus",
        "aac": "m4a",
    }
