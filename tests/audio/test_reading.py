"""What of a file is used where some of it cannot be read, or not as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from acestep.audio.decode import AudioLimits, probe, read
from acestep.audio.encode import FileSpec, write
from acestep.domain.song import AudioClip
from acestep.errors import UnusableAudioError
from tests.audio.sounds import File, encode, music

RATE = 48_000
SECONDS = 6.0
TUNE = music(round(SECONDS * RATE)).samples
PEAK = 10 ** (-1 / 20)

OPUS = File("a.opus", "ogg", "libopus", RATE, "stereo", "flt")
VORBIS = File("a.ogg", "ogg", "libvorbis", RATE, "stereo", "flt")
WEBM = File("a.webm", "webm", "libopus", RATE, "stereo", "flt")
MATROSKA = File("a.mka", "matroska", "aac", RATE, "stereo", "flt")
M4A = File("a.m4a", "ipod", "aac", RATE, "stereo", "flt")
MP3 = File("a.mp3", "mp3", "libmp3lame", RATE, "stereo", "flt")
ADTS = File("a.aac", "adts", "aac", RATE, "stereo", "flt")
AC3 = File("a.ac3", "ac3", "ac3", RATE, "stereo", "flt")
WMA = File("a.wma", "asf", "wmav2", RATE, "stereo", "flt")
FLAC = File("a.flac", "flac", "flac", RATE, "stereo", "s32")
OGG_FLAC = File("a.oga", "ogg", "flac", RATE)


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, File) else None


def zeroed(content: bytes, share: float = 0.125) -> bytes:
    start, count = len(content) // 2, round(share * len(content))
    return content[:start] + bytes(count) + content[start + count :]


def without_middle(content: bytes) -> bytes:
    start = len(content) // 2
    return content[:start] + content[start + len(content) // 8 :]


def changed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def warning_of(path: Path) -> str:
    (warning,) = probe(path, AudioLimits()).warnings
    return warning


def correlation(clip: AudioClip, part: slice, tune: NDArray[np.float32] = TUNE) -> float:
    found, sent = clip.samples[:, part].ravel(), tune[:, part].ravel()
    return float(np.corrcoef(found, sent)[0, 1])


@pytest.mark.parametrize(
    ("file", "readable"),
    [
        (OPUS, "5.00 of 6.00"),
        (VORBIS, None),
        (WEBM, None),
        (M4A, None),
        (FLAC, None),
    ],
    ids=name_of,
)
@pytest.mark.parametrize("damage", [zeroed, without_middle])
def test_silence_stands_for_what_is_lost_and_the_rest_keeps_its_time(
    tmp_path: Path, file: File, readable: str | None, damage: Callable[[bytes], bytes]
) -> None:
    if file is M4A and damage is without_middle:
        pytest.skip("its index is at its end, and no longer where the header says")
    path = changed(encode(tmp_path, file, TUNE), damage)
    clip = read(path, RATE)
    assert f"{file.name} is damaged: {readable or ''}" in warning_of(path)
    assert re.search(r" of 6\.0[01] s can be read$", warning_of(path))
    assert clip.duration == pytest.approx(6.0, abs=0.02)
    silent = np.flatnonzero(~clip.samples.any(axis=0))
    assert 0.5 * RATE < len(silent) < 2.6 * RATE
    assert correlation(clip, slice(0, 2 * RATE)) > 0.98
    assert correlation(clip, slice(round(5.5 * RATE), round(5.9 * RATE))) > 0.98


@pytest.mark.parametrize(("file", "seconds"), [(MP3, 6.0), (AC3, 6.016)], ids=name_of)
def test_frames_without_times_are_counted_by_their_bytes(tmp_path: Path, file: File, seconds: float) -> None:
    path = changed(encode(tmp_path, file, TUNE), zeroed)
    assert read(path).duration == pytest.approx(seconds, abs=0.05)
    assert f"{file.name} is damaged: 5.2" in warning_of(path)


def test_a_stream_that_hides_its_damage_tells_how_much_is_missing(tmp_path: Path) -> None:
    path = changed(encode(tmp_path, ADTS, TUNE), zeroed)
    assert warning_of(path) == "a.aac is damaged: 5.25 of 6.04 s can be read"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (MP3, r"was cut off: 4\.2\d of 6\.00 s can be read"),
        (MATROSKA, r"was cut off: 4\.2\d of 6\.02 s can be read"),
        (WEBM, r"was cut off: 4\.\d\d of 6\.01 s can be read"),
        (ADTS, r"was cut off: it ends in the middle of a frame after 4\.\d\d s"),
        (OPUS, r"was cut off: 3\.99 of 5\.00 s can be read"),  # as far as the last page says
        (VORBIS, r"was cut off: [34]\.\d\d of [45]\.\d\d s can be read"),
        (WMA, r"was cut off: it ends in the middle of a frame after 4\.\d\d s"),
    ],
    ids=name_of,
)
def test_a_lossy_file_that_was_cut_off_is_used_up_to_there(tmp_path: Path, file: File, said: str) -> None:
    path = changed(encode(tmp_path, file, TUNE), lambda content: content[: round(0.7 * len(content))])
    assert re.search(said, warning_of(path))
    assert read(path).duration == pytest.approx(float(re.findall(r"\d\.\d\d", warning_of(path))[0]), abs=0.01)


@pytest.mark.parametrize("file", [MP3, MATROSKA, WEBM], ids=name_of)
def test_less_than_half_of_a_file_is_too_little(tmp_path: Path, file: File) -> None:
    path = changed(encode(tmp_path, file, TUNE), lambda content: content[: round(0.4 * len(content))])
    for use in (lambda: probe(path, AudioLimits()), lambda: read(path)):
        with pytest.raises(UnusableAudioError, match=r"only 2\.\d\d of 6\.\d\d s can be read.*send it again"):
            use()


@pytest.mark.parametrize("file", [OPUS, VORBIS], ids=name_of)
def test_a_last_page_that_is_damaged_still_counts(tmp_path: Path, file: File) -> None:
    path = encode(tmp_path, file, TUNE)
    changed(path, lambda content: content[:-2000] + bytes(1000) + content[-1000:])
    readable, whole = re.findall(r"\d\.\d\d", warning_of(path))
    assert float(whole) == pytest.approx(6.0, abs=0.02)
    assert float(readable) == pytest.approx(read(path).duration, abs=0.01)
    assert 4.0 < read(path).duration < 5.9


def test_a_cut_that_costs_little_is_seen(tmp_path: Path) -> None:
    path = encode(tmp_path, WEBM, TUNE[:, : RATE // 2])
    changed(path, lambda content: content[: round(0.7 * len(content))])
    assert "a.webm was cut off: 0.3" in warning_of(path)


@pytest.mark.parametrize("layout", ["stereo", "5.1"])
@pytest.mark.parametrize("container", ["wav", "w64"])
def test_padding_behind_the_sound_costs_none_of_it(tmp_path: Path, container: str, layout: str) -> None:
    channels, samples = (2, 7095) if layout == "stereo" else (6, 7095)
    sound = np.resize(TUNE, (channels, samples))
    path = encode(tmp_path, File(f"a.{container}", container, "pcm_s16le", 8000, layout), sound)
    changed(path, lambda content: content + bytes(5))
    assert probe(path, AudioLimits()).seconds == pytest.approx(
        samples / 8000, abs=0.0005
    )  # padded to 8 bytes
    assert probe(path, AudioLimits()).warnings == ()


def test_nor_is_a_file_that_is_damaged_for_the_most_part(tmp_path: Path) -> None:
    path = encode(tmp_path, WEBM, TUNE)
    changed(path, lambda content: content[:5000] + bytes(round(0.7 * len(content))) + content[-8000:])
    with pytest.raises(UnusableAudioError, match=r"only \d\.\d\d of 6\.\d\d s can be read"):
        probe(path, AudioLimits())


@pytest.mark.parametrize(
    "file", [OPUS, VORBIS, WEBM, MATROSKA, M4A, MP3, ADTS, AC3, WMA, FLAC, OGG_FLAC], ids=name_of
)
def test_a_whole_file_has_no_warning(tmp_path: Path, file: File) -> None:
    assert probe(encode(tmp_path, file, TUNE), AudioLimits()).warnings == ()


def test_a_tag_behind_the_music_is_no_damage(tmp_path: Path) -> None:
    for file in (MP3, ADTS):
        path = changed(encode(tmp_path, file, TUNE), lambda content: content + b"TAG" + bytes(125))
        assert probe(path, AudioLimits()).warnings == ()


def clicks(seconds: float) -> NDArray[np.float32]:
    """Music with a transient every 0.37 s, where Vorbis changes its block size."""
    samples = music(round(seconds * RATE)).samples * np.float32(0.3)
    dice = np.random.default_rng(1)
    for start in range(0, samples.shape[1] - 400, round(0.37 * RATE)):
        samples[:, start : start + 400] += 0.2 * dice.standard_normal((2, 400)).clip(-1, 1).astype(np.float32)
    return samples


def test_vorbis_is_as_long_as_its_sound_whatever_its_blocks(tmp_path: Path) -> None:
    path = encode(tmp_path, VORBIS, clicks(20.0))
    assert probe(path, AudioLimits()).seconds == read(path).duration == 20.0
    assert probe(path, AudioLimits(max_seconds=20.0)).warnings == ()
    with pytest.raises(UnusableAudioError, match=r"longer than 19\.7 s"):
        probe(path, AudioLimits(max_seconds=19.7))


@pytest.mark.parametrize(
    ("file", "louder"),
    [
        (File("a.wav", "wav", "pcm_f32le", RATE, "stereo", "flt"), "9.5"),
        (File("b.wav", "wav", "pcm_f64le", RATE, "stereo", "dbl"), "9.5"),
        (File("a.aiff", "aiff", "pcm_f32be", RATE, "stereo", "flt"), "9.5"),
        (M4A, ""),
        (VORBIS, ""),
    ],
    ids=name_of,
)
def test_what_is_too_loud_is_softened_as_a_whole(tmp_path: Path, file: File, louder: str) -> None:
    loud = TUNE * np.float32(3 / np.abs(TUNE).max())
    path = encode(tmp_path, file, loud)
    clip, warning = read(path), warning_of(path)
    assert warning.startswith(f"{file.name} is {louder}")
    assert " dB louder than full scale; it is used " in warning and warning.endswith(" dB softer")
    assert np.abs(clip.samples).max() == pytest.approx(PEAK, abs=1e-6)
    if louder:
        np.testing.assert_allclose(clip.samples, loud * PEAK / 3, atol=1e-6)
    assert correlation(clip, slice(0, 5 * RATE), loud) > 0.95  # so much the codecs lose at this level


def test_full_scale_is_not_too_loud(tmp_path: Path) -> None:
    full = TUNE / np.abs(TUNE).max()
    path = tmp_path / "a.wav"
    write(AudioClip(-full, RATE), path, FileSpec("wav32"))
    assert probe(path, AudioLimits()).warnings == ()
    np.testing.assert_array_equal(read(path).samples, -full)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("codec", "kind"), [("pcm_f32le", "flt"), ("pcm_f64le", "dbl")])
def test_samples_that_are_no_numbers_are_found_at_once(
    tmp_path: Path, value: float, codec: str, kind: str
) -> None:
    samples = TUNE.copy()
    samples[1, 250_000] = value
    path = encode(tmp_path, File("a.wav", "wav", codec, RATE, "stereo", kind), samples)
    for use in (lambda: probe(path, AudioLimits()), lambda: read(path)):
        with pytest.raises(UnusableAudioError, match=r"a\.wav cannot be used: some .* not numbers"):
            use()


@pytest.mark.parametrize(("samples", "rate"), [(1, RATE), (4700, RATE), (799, 8000), (9, 8000)])
def test_a_moment_is_too_short(tmp_path: Path, samples: int, rate: int) -> None:
    path = encode(tmp_path, File("a.wav", "wav", "pcm_s16le", rate), TUNE[:, :samples])
    with pytest.raises(UnusableAudioError, match=r"lasts 0\.\d+ s, too short to work on: send 0\.1 s"):
        probe(path, AudioLimits())


def test_a_tenth_of_a_second_is_not(tmp_path: Path) -> None:
    path = encode(tmp_path, File("a.wav", "wav", "pcm_s16le", RATE), TUNE[:, :4800])
    assert probe(path, AudioLimits()).seconds == 0.1
