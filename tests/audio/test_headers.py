"""WAV and Wave64 files whose headers are not true."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from acestep.audio.decode import AudioLimits, probe, read
from acestep.errors import UnusableAudioError
from tests.audio.sounds import File, encode, music

RATE = 48_000
SECONDS = 0.25
TUNE = music(round(SECONDS * RATE)).samples
SUBTYPE = bytes.fromhex("000000001000800000aa00389b71")  # after the format's own two bytes


def pcm(samples: NDArray[np.float32], valid: int, container: int) -> bytes:
    """Whole numbers of `valid` bits in the upper bits of `container`."""
    numbers = np.rint(samples.T.astype(np.float64) * (2 ** (valid - 1) - 1)).astype("<i8") << (
        container - valid
    )
    return bytes(numbers.reshape(-1, 1).view(np.uint8)[:, : container // 8].tobytes())


def form(bits: int, container: int, tag: int = 1, channels: int = 2) -> bytes:
    frame = channels * container // 8
    return struct.pack("<HHIIHH", tag, channels, RATE, RATE * frame, frame, bits)


def extensible(valid: int, container: int, tag: int = 1, channels: int = 2) -> bytes:
    extra = struct.pack("<HHIH", 22, valid, 0, tag) + SUBTYPE
    return form(container, container, 0xFFFE, channels) + extra


def riff(path: Path, form: bytes, data: bytes, stated: int | None = None, whole: int | None = None) -> Path:
    stated = len(data) if stated is None else stated
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", stated) + data
    whole = len(chunks) if whole is None else whole
    path.write_bytes(b"RIFF" + struct.pack("<I", whole) + chunks)
    return path


def wave64(path: Path, form: bytes, data: bytes, stated: int | None = None) -> Path:
    rest = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    riff_rest = bytes.fromhex("2e91cf11a5d628db04c10000")
    padded = form + bytes(-len(form) % 8)
    stated = len(data) + 24 if stated is None else stated
    chunks = b"wave" + rest + b"fmt " + rest + struct.pack("<Q", len(form) + 24) + padded
    chunks += b"data" + rest + struct.pack("<Q", stated) + data
    path.write_bytes(b"riff" + riff_rest + struct.pack("<Q", len(chunks) + 24) + chunks)
    return path


def assert_is_tune(path: Path, samples: NDArray[np.float32] = TUNE) -> None:
    facts, clip = probe(path, AudioLimits()), read(path)
    assert facts.seconds == clip.duration == SECONDS
    assert facts.warnings == ()
    for found, sent in zip(clip.samples, np.broadcast_to(samples, clip.samples.shape), strict=True):
        assert np.corrcoef(found, sent)[0, 1] > 0.999


@pytest.mark.parametrize(
    ("valid", "container"), [(24, 32), (20, 32), (20, 24), (18, 24), (12, 16), (16, 32), (24, 24), (32, 32)]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_as_wide_as_their_container(
    tmp_path: Path, valid: int, container: int, channels: int
) -> None:
    samples = TUNE[:channels]
    data = pcm(samples, valid, container)
    assert_is_tune(riff(tmp_path / "a.wav", extensible(valid, container, channels=channels), data), samples)
    assert_is_tune(wave64(tmp_path / "a.w64", extensible(valid, container, channels=channels), data), samples)


@pytest.mark.parametrize(("bits", "container"), [(24, 32), (20, 32), (20, 24), (12, 16)])
def test_a_plain_header_may_count_the_bits_that_matter(tmp_path: Path, bits: int, container: int) -> None:
    assert_is_tune(riff(tmp_path / "a.wav", form(bits, container), pcm(TUNE, bits, container)))


def test_floats_in_an_extensible_header(tmp_path: Path) -> None:
    assert_is_tune(riff(tmp_path / "a.wav", extensible(32, 32, tag=3), TUNE.T.astype("<f4").tobytes()))
    assert_is_tune(riff(tmp_path / "b.wav", extensible(64, 64, tag=3), TUNE.T.astype("<f8").tobytes()))


@pytest.mark.parametrize(
    ("align", "byte_rate"), [(0, 0), (4, 7), (1, RATE * 4), (8, RATE * 4), (3, 3)], ids=str
)
def test_the_bits_count_where_the_rest_contradicts_itself(tmp_path: Path, align: int, byte_rate: int) -> None:
    lying = struct.pack("<HHIIHH", 1, 2, RATE, byte_rate, align, 16)
    assert_is_tune(riff(tmp_path / "a.wav", lying, pcm(TUNE, 16, 16)))


SIZES = [0, 1_000_000_000, 2_000_000_000, 2**30, 2**31 - 1, 2**32 - 1, 2**32 - 256, 0x7FFFF000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tail", [0, 1, 3])
def test_a_size_that_cannot_be_says_nothing(tmp_path: Path, size: int, tail: int) -> None:
    path = riff(
        tmp_path / "pipe.wav", form(16, 16), pcm(TUNE, 16, 16) + bytes(tail), size, min(size + 36, 2**32 - 1)
    )
    assert_is_tune(path)


@pytest.mark.parametrize("size", [0, 2_000_000_000, 2**63 - 1])
def test_nor_does_one_of_a_wave64(tmp_path: Path, size: int) -> None:
    assert_is_tune(wave64(tmp_path / "pipe.w64", form(16, 16), pcm(TUNE, 16, 16), size))


@pytest.mark.parametrize("size", [0, 36, 2**32 - 1])
def test_the_size_of_the_whole_does_not_matter(tmp_path: Path, size: int) -> None:
    assert_is_tune(riff(tmp_path / "a.wav", form(16, 16), pcm(TUNE, 16, 16), whole=size))


def test_a_few_bytes_may_be_missing(tmp_path: Path) -> None:
    data = pcm(TUNE, 16, 16)
    assert_is_tune(riff(tmp_path / "a.wav", form(16, 16), data, len(data) + 1))


def test_an_au_file_from_a_pipe(tmp_path: Path) -> None:
    path = encode(tmp_path, File("a.au", "au", "pcm_s16be", RATE), TUNE)
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"\xff\xff\xff\xff" + content[12:])
    assert_is_tune(path)


@pytest.mark.parametrize("stated", [100_000, 900_000_000])
def test_a_size_that_can_be_is_believed(tmp_path: Path, stated: int) -> None:
    path = riff(tmp_path / "cut.wav", form(16, 16), pcm(TUNE, 16, 16), stated)
    said = f"it should have {stated + 44} bytes but has {path.stat().st_size}. It was cut off on the way"
    with pytest.raises(UnusableAudioError, match=said):
        probe(path, AudioLimits())


def test_a_list_before_the_sound_does_not_hide_it(tmp_path: Path) -> None:
    path = riff(tmp_path / "a.wav", extensible(20, 32), pcm(TUNE, 20, 32))
    content = path.read_bytes()
    path.write_bytes(content[:12] + b"LIST" + struct.pack("<I", 5) + b"INFO\0\0" + content[12:])
    assert_is_tune(path)


@pytest.mark.parametrize("length", [12, 19, 20, 27, 36, 44, 58, 60, 67, 68, 70, 100])
def test_half_a_header_is_no_sound(tmp_path: Path, length: int) -> None:
    path = riff(tmp_path / "a.wav", extensible(20, 32), bytes(1000))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UnusableAudioError):
        probe(path, AudioLimits())
