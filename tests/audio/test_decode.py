from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from acestep.audio.decode import AudioFacts, AudioLimits, probe, read
from acestep.audio.encode import FileSpec, extension, write
from acestep.domain.song import AudioClip, AudioFormat
from acestep.errors import UnusableAudioError
from tests.audio.sounds import File, encode, loudest_tone, music, tones

LIMITS = AudioLimits(max_seconds=600, max_channels=8)
# These versions free the channel order of a decoded frame twice, if it is not one of FFmpeg's own.
_PYAV = tuple(int(part) for part in av.__version__.split(".")[:2])
PYAV_CRASHES = (17, 1) <= _PYAV < (19, 1)


INPUTS = [
    File("8-bit.wav", "wav", "pcm_u8", 8000, "mono", "u8"),
    File("16-bit.wav", "wav", "pcm_s16le", 44100),
    File("24-bit.wav", "wav", "pcm_s24le", 96000, "stereo", "s32"),
    File("32-bit.wav", "wav", "pcm_s32le", 48000, "stereo", "s32"),
    File("float.wav", "wav", "pcm_f32le", 48000, "stereo", "flt"),
    File("double.wav", "wav", "pcm_f64le", 48000, "stereo", "dbl"),
    File("phone.wav", "wav", "pcm_alaw", 8000, "mono"),
    File("song.aiff", "aiff", "pcm_s16be", 22050, "mono"),
    File("song.flac", "flac", "flac", 44100, "stereo", "s32"),
    File("song.mp3", "mp3", "libmp3lame", 44100, "stereo", "flt"),
    File("voice.mp3", "mp3", "libmp3lame", 22050, "mono", "flt"),
    File("song.opus", "ogg", "libopus", 48000, "stereo", "flt"),
    File("song.ogg", "ogg", "vorbis", 44100, "stereo", "flt"),
    File("song.aac", "adts", "aac", 44100, "stereo", "flt"),
    File("song.m4a", "ipod", "aac", 44100, "stereo", "flt"),
    File("lossless.m4a", "ipod", "alac", 44100, "stereo", "s16"),
    File("song.mov", "mov", "pcm_s16le", 48000),
    File("song.webm", "webm", "libopus", 48000, "stereo", "flt"),
    File("song.mkv", "matroska", "flac", 44100, "stereo", "s32"),
    File("song.w64", "w64", "pcm_s16le", 48000),
    File("song.caf", "caf", "pcm_s16le", 44100),
    File("song.au", "au", "pcm_s16be", 44100, "mono"),
    File("song.tta", "tta", "tta", 44100),
    File("song.wv", "wv", "wavpack", 44100, "stereo", "flt"),
    File("song.wma", "asf", "wmav2", 44100, "stereo", "flt"),
    File("song.ac3", "ac3", "ac3", 48000, "stereo", "flt"),
]
SURROUNDS = [
    File("5.1.wav", "wav", "pcm_s16le", 48000, "5.1"),
    File("5.1.m4a", "ipod", "aac", 48000, "5.1", "flt"),
    File("7.1.m4a", "ipod", "aac", 48000, "7.1", "flt"),
    File("7.1.opus", "ogg", "libopus", 48000, "7.1", "flt"),
]


def song(tmp_path: Path, audio_format: AudioFormat, seconds: int = 6) -> Path:
    path = tmp_path / f"song.{extension(audio_format)}"
    write(music(seconds * 48000), path, FileSpec(audio_format))
    return path


def wav(
    path: Path, content: bytes, channels: int = 2, sample_rate: int = 48000, size: int | None = None
) -> Path:
    """A WAV by hand, with a header that need not be true."""
    size = len(content) if size is None else size
    form = struct.pack(
        "<HHIIHH", 1, channels, sample_rate, 2 * channels * sample_rate % 2**32, 2 * channels, 16
    )
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + content
    path.write_bytes(b"RIFF" + struct.pack("<I", min(size + 36, 2**32 - 1)) + chunks)
    return path


def refused(path: Path, match: str) -> None:
    """Both ways in say the same."""
    with pytest.raises(UnusableAudioError, match=match):
        probe(path, LIMITS)
    with pytest.raises(UnusableAudioError, match=match):
        read(path, 48000)


def outcome_of(path: Path) -> type:
    try:
        probe(path, LIMITS)
        return type(read(path, 48000, max_seconds=10))
    except UnusableAudioError as error:
        return type(error)


class TestRead:
    @pytest.mark.parametrize("file", INPUTS, ids=lambda file: file.name)
    def test_common_formats_become_stereo_in_tune_and_in_time(self, tmp_path: Path, file: File) -> None:
        hertz = (440.0, 1000.0) if file.layout == "stereo" else (440.0,)
        path = encode(tmp_path, file, tones(hertz, 1.0, file.sample_rate))

        clip = read(path, 48000)

        assert clip.samples.dtype == np.float32
        assert clip.sample_rate == 48000
        assert clip.duration == pytest.approx(1.0, abs=0.05)
        middle = clip.samples[:, 4800:-4800]
        assert [loudest_tone(side, 48000) for side in middle] == pytest.approx([440.0, hertz[-1]], rel=0.01)
        assert middle.std(axis=1) == pytest.approx([0.4 * 2**-0.5] * 2, rel=0.1)

    @pytest.mark.parametrize("file", SURROUNDS, ids=lambda file: file.name)
    def test_surround_is_mixed_down(self, tmp_path: Path, file: File) -> None:
        channels = 6 if file.layout == "5.1" else 8
        samples = np.zeros((channels, 48000), np.float32)
        samples[0], samples[1] = tones((440.0, 1000.0), 1.0, 48000)

        left, right = read(encode(tmp_path, file, samples)).samples

        assert loudest_tone(left, 48000) == pytest.approx(440, abs=2)
        assert loudest_tone(right, 48000) == pytest.approx(1000, abs=2)

    def test_the_sound_of_a_video(self, tmp_path: Path) -> None:
        clip = read(video(tmp_path / "film.mp4", tones((440.0, 1000.0), 1.0, 48000)))
        assert clip.duration == 1.0
        assert loudest_tone(clip.samples[1], 48000) == pytest.approx(1000, abs=2)

    @pytest.mark.xfail(PYAV_CRASHES, reason="this PyAV frees custom channel orders twice", strict=True)
    def test_a_channel_order_that_is_not_ffmpegs(self, tmp_path: Path) -> None:
        # In a process of its own: a PyAV with that fault takes the process with it.
        path = encode(
            tmp_path,
            File("3.mov", "mov", "pcm_s16le", 48000, "3.0"),
            tones((300.0, 440.0, 1000.0), 1.0, 48000),
        )
        # The layout tag in the `chan` atom: from "left, right, centre" to "centre, left, right".
        path.write_bytes(
            path.read_bytes().replace(struct.pack(">I", 0x710003), struct.pack(">I", 0x720003), 1)
        )
        program = (
            "import sys; from pathlib import Path; from acestep.audio.decode import read;"
            "from tests.audio.sounds import loudest_tone;"
            "clip = read(Path(sys.argv[1]));"
            "print(*(round(loudest_tone(side, 48000)) for side in clip.samples))"
        )

        done = subprocess.run(
            [sys.executable, "-c", program, path],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": ""},
        )

        assert (done.returncode, done.stdout.split()) == (0, ["440", "1000"])

    def test_the_rate_of_the_file_unless_another_is_asked_for(self, tmp_path: Path) -> None:
        path = encode(tmp_path, File("a.wav", "wav", "pcm_s16le", 44100), tones((440, 440), 1.0, 44100))
        assert read(path).sample_rate == 44100
        assert read(path, 32000).samples.shape == (2, 32000)

    @pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "opus", "aac"])
    def test_no_more_than_asked_for_is_read(self, tmp_path: Path, audio_format: AudioFormat) -> None:
        path = song(tmp_path, audio_format)
        start = read(path, max_seconds=2.5)
        assert start.duration == 2.5
        assert np.array_equal(start.samples, read(path).samples[:, :120000])
        assert read(path, 44100, max_seconds=2.5).duration == 2.5

    def test_more_than_the_file_has_is_no_error(self, tmp_path: Path) -> None:
        assert read(song(tmp_path, "wav"), max_seconds=1000).duration == 6.0

    def test_samples_that_are_no_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "broken.wav"
        write(AudioClip(np.full((2, 48000), np.nan, np.float32), 48000), path, FileSpec("wav32"))
        with pytest.raises(UnusableAudioError, match="not numbers"):
            read(path)

    def test_a_sound_that_changes_on_the_way(self, tmp_path: Path) -> None:
        # Stations chain Ogg streams like this.
        files = [
            encode(tmp_path, File(f"{rate}.ogg", "ogg", "flac", rate), tones((440, 440), 0.5, rate))
            for rate in (44100, 48000)
        ]
        chain = tmp_path / "chain.ogg"
        chain.write_bytes(b"".join(file.read_bytes() for file in files))
        with pytest.raises(UnusableAudioError, match=r"44100 Hz stereo .* to 48000 Hz"):
            read(chain)

    def test_a_packet_that_cannot_be_decoded_is_passed_over(self, tmp_path: Path) -> None:
        path = song(tmp_path, "flac")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        assert 5.8 < read(path).duration <= 6.0


class TestProbe:
    @pytest.mark.parametrize(("file"), INPUTS + SURROUNDS, ids=lambda file: file.name)
    def test_facts(self, tmp_path: Path, file: File) -> None:
        channels = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}[file.layout]
        path = encode(tmp_path, file, tones((440.0,) * channels, 2.0, file.sample_rate))

        facts = probe(path, LIMITS)

        assert facts == AudioFacts(
            facts.seconds,
            file.sample_rate,
            channels,
            file.codec.replace("libmp3lame", "mp3").removeprefix("lib"),
        )
        assert facts.seconds == pytest.approx(2.0, abs=0.1)

    @pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "opus", "aac"])
    def test_as_long_as_allowed_is_not_too_long(self, tmp_path: Path, audio_format: AudioFormat) -> None:
        path = song(tmp_path, audio_format)
        assert probe(path, AudioLimits(max_seconds=6)).seconds == pytest.approx(6, abs=0.1)
        with pytest.raises(UnusableAudioError, match=r"longer than 5\.5 s"):
            probe(path, AudioLimits(max_seconds=5.5))

    def test_the_length_counts_even_if_the_header_hides_it(self, tmp_path: Path) -> None:
        path = wav(tmp_path / "pipe.wav", bytes(4 * 48000 * 6), size=2**32 - 1)
        assert probe(path, LIMITS).seconds == pytest.approx(6)
        with pytest.raises(UnusableAudioError, match="longer than 5 s"):
            probe(path, AudioLimits(max_seconds=5))

    def test_too_many_channels(self, tmp_path: Path) -> None:
        path = wav(tmp_path / "many.wav", bytes(18 * 48000), channels=9)
        for most, remedy in ((8, "stereo"), (2, "stereo"), (1, "mono")):
            with pytest.raises(UnusableAudioError, match=f"9 channels, more than {most}: send {remedy}"):
                probe(path, AudioLimits(max_channels=most))


class TestRefused:
    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.wav"
        path.touch()
        refused(path, "empty.wav cannot be used: it is empty")

    @pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "m4a", "ogg", "webm", "aac", "bin"])
    def test_noise_with_any_name(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"noise.{suffix}"
        path.write_bytes(random.Random(2).randbytes(100_000))
        refused(path, r"noise\.\w+ cannot be (used|read)")

    def test_text(self, tmp_path: Path) -> None:
        path = tmp_path / "text.mp3"
        path.write_text("This is no song.\n" * 1000)
        refused(path, r"cannot be read as audio\. Send WAV, .* MP3")

    @pytest.mark.parametrize("where", ["missing.wav", "."])
    def test_what_is_no_file(self, tmp_path: Path, where: str) -> None:
        refused(tmp_path / where, "cannot be read as audio")

    @pytest.mark.parametrize(
        "text",
        [
            "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{path}\n#EXT-X-ENDLIST\n",
            "ffconcat version 1.0\nfile {path}\n",
        ],
        ids=["hls", "concat"],
    )
    @pytest.mark.parametrize("name", ["list.m3u8", "list.wav", "list.ffconcat"])
    def test_a_list_that_names_another_file(self, tmp_path: Path, text: str, name: str) -> None:
        path = tmp_path / name
        path.write_text(text.format(path=song(tmp_path, "mp3").name))
        refused(path, "cannot be read as audio")

    def test_a_video_without_sound(self, tmp_path: Path) -> None:
        refused(video(tmp_path / "silent.mp4", None), "holds no audio")

    def test_a_header_without_sound(self, tmp_path: Path) -> None:
        refused(wav(tmp_path / "header.wav", b""), "holds no audio")

    def test_a_codec_that_is_not_in_it(self, tmp_path: Path) -> None:
        path = wav(tmp_path / "song.wav", bytes(100_000))
        content = bytearray(path.read_bytes())
        content[20:22] = b"\x55\x00"  # the header now says MP3
        path.write_bytes(content)
        refused(path, "holds no audio that can be decoded")

    @pytest.mark.parametrize("sample_rate", [1, 900, 2**31 - 1])
    def test_a_sample_rate_that_cannot_be(self, tmp_path: Path, sample_rate: int) -> None:
        path = wav(tmp_path / "rate.wav", bytes(2000), sample_rate=sample_rate)
        refused(path, f"sample rate of {sample_rate} Hz")

    @pytest.mark.parametrize("audio_format", ["wav", "wav32", "flac"])
    def test_a_lossless_file_that_was_cut_off(self, tmp_path: Path, audio_format: AudioFormat) -> None:
        path = song(tmp_path, audio_format)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        refused(path, r"should (last 6.0 s but ends|have \d+ bytes but has).*send it again")

    def test_nothing_else_comes_out_of_broken_files(self, tmp_path: Path) -> None:
        dice = random.Random(7)
        outcomes: set[type] = set()
        for audio_format in ("wav", "flac", "mp3", "opus", "aac"):
            path = song(tmp_path, audio_format, seconds=1)
            whole = path.read_bytes()
            for _ in range(25):
                content = bytearray(whole)
                for _ in range(dice.choice((1, 10, 100))):
                    content[dice.randrange(dice.choice((64, 1000, len(content))))] = dice.randrange(256)
                path.write_bytes(content)
                outcomes.add(outcome_of(path))
        assert outcomes == {AudioClip, UnusableAudioError}


def test_tags_in_old_encodings_do_not_matter(tmp_path: Path) -> None:
    path = wav(tmp_path / "old.wav", bytes(4 * 48000))
    title = "夜の歌".encode("shift-jis")
    chunk = b"LIST" + struct.pack("<I", 12 + len(title)) + b"INFOINAM" + struct.pack("<I", len(title)) + title
    content = path.read_bytes()
    path.write_bytes(content[:36] + chunk + content[36:])
    assert read(path).duration == probe(path, LIMITS).seconds == 1.0


@pytest.mark.parametrize("size", [0, 2**32 - 1, 0x7FFFF000])
def test_wav_from_a_pipe_does_not_know_its_length(tmp_path: Path, size: int) -> None:
    path = wav(tmp_path / "pipe.wav", bytes(4 * 48000), size=size)
    assert read(path).duration == probe(path, LIMITS).seconds == pytest.approx(1.0)


def video(path: Path, sound: np.ndarray | None) -> Path:
    """A film of one second."""
    with av.open(str(path), "w") as file:
        picture = file.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        voice = None if sound is None else file.add_stream("aac", rate=48000, layout="stereo")
        for shade in range(10):
            image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * shade, np.uint8))
            file.mux(picture.encode(image))
        file.mux(picture.encode(None))
        if voice is not None:
            frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo")
            frame.sample_rate = 48000
            frame.pts = 0
            file.mux([*voice.encode(frame), *voice.encode(None)])
    return path
