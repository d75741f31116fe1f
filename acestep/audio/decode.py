"""Reads audio of any format: checks of uploads, and stereo samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from acestep.audio.stereo import stereo_matrix
from acestep.domain.song import MAX_DURATION, AudioClip
from acestep.errors import UnusableAudioError

# FFmpeg also opens playlists, which name other files and hosts: only formats that hold the sound themselves.
_FORMATS = "wav,w64,aiff,caf,au,flac,mp3,ogg,aac,ac3,eac3,asf,wv,tta,mov,matroska"
_FORMATS_IN_WORDS = "WAV, AIFF, FLAC, MP3, Ogg (Opus or Vorbis), AAC, M4A, MP4, WebM, WMA or CAF"
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
# Of these FFmpeg takes the length from the header; of others it finds the end of the file, or guesses.
_STATES_LENGTH = ("wav", "aiff", "flac", _MP4)
# A file may begin with a few packets that cannot be decoded, such as an MP3 that was cut.
_FIRST_PACKETS = 50
_MIN_RATE, _MAX_RATE = 1000, 768000  # in Hz; anything else is a broken header
_PADDING = 0.2  # seconds that encoders add to the music at most
_NO_SOUND = "it holds no audio that can be decoded"


@dataclass(frozen=True, slots=True)
class AudioLimits:
    max_seconds: float = MAX_DURATION
    max_channels: int = 8


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What a file holds. `seconds` may count an encoder's padding; `codec` is FFmpeg's name for it."""

    seconds: float
    sample_rate: int
    channels: int
    codec: str


def probe(path: Path, limits: AudioLimits) -> AudioFacts:
    """Check the file `path`: its first sound is decoded, and the length of the rest counted.

    Raises `UnusableAudioError` if there is no sound, the file ends before its header says, or it exceeds
    `limits`.
    """
    with _open(path) as source:
        source.check_limit(source.stated_seconds or 0.0, limits.max_seconds)
        tick = float(source.stream.time_base)
        ticks, seconds = 0, 0.0
        first: av.AudioFrame | None = None
        for number, packet in enumerate(source.container.demux(source.stream)):
            if first is None and number < _FIRST_PACKETS:
                first = next(iter(_decoded(packet)), None)
            ticks += packet.duration or 0
            seconds = ticks * tick
            source.check_limit(seconds, limits.max_seconds)
        if first is None:
            raise _unusable(path, _NO_SOUND)
        source.check_rate(first.sample_rate)
        source.check_end(seconds)
        channels = first.layout.nb_channels
        if channels > limits.max_channels:
            most, remedy = limits.max_channels, "mono" if limits.max_channels == 1 else "stereo"
            raise _unusable(path, f"it has {channels} channels, more than {most}: send {remedy}")
        codec = source.stream.codec_context.codec.canonical_name
        return AudioFacts(seconds, first.sample_rate, channels, codec)


def read(path: Path, sample_rate: int | None = None, max_seconds: float | None = None) -> AudioClip:
    """The sound in the file `path`, in stereo at `sample_rate` Hz (None: the file's own).

    Mono is doubled, more channels are mixed down, and what exceeds -1..1 is clipped. No more than
    `max_seconds` is decoded. Raises `UnusableAudioError` if there is no sound or the file ends before its
    header says.
    """
    with _open(path) as source:
        blocks: list[NDArray[np.float32]] = []
        rate = count = 0
        for rate, block in source.blocks():
            blocks.append(block)
            count += len(block)
            if max_seconds is not None and count >= max_seconds * rate:
                break
        else:
            if not count:
                raise _unusable(path, _NO_SOUND)
            source.check_end(count / rate)
        samples = np.concatenate(blocks)[: None if max_seconds is None else round(max_seconds * rate)]
        if not np.isfinite(samples).all():
            raise _unusable(path, "some of its samples are not numbers")
    np.clip(samples, -1.0, 1.0, out=samples)
    if sample_rate not in (None, rate):
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    return AudioClip(np.ascontiguousarray(samples.T), sample_rate or rate)


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    container: av.container.InputContainer
    stream: av.AudioStream

    @property
    def stated_seconds(self) -> float | None:
        """The length that the header states, if it states one."""
        # An MP3 that begins with an encoder delay has the header that holds its length as well.
        name = self.container.format.name
        if name in _STATES_LENGTH or (name == "mp3" and self.stream.start_time):
            return float((self.stream.duration or 0) * self.stream.time_base) or None
        return None

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The sound as sample rate, the same throughout, and `[samples, 2]`."""
        # Interleaved floats: PyAV reads past the end of frames with eight planes or more.
        to_float = av.AudioResampler(format="flt")
        kind = ""
        for packet in self.container.demux(self.stream):
            for frame in _decoded(packet):
                self.check_rate(frame.sample_rate)
                kind = kind or _kind(frame)
                if _kind(frame) != kind:
                    change = f"from {kind} to {_kind(frame)}"
                    raise _unusable(self.path, f"it is damaged or joined: its sound changes {change}")
                matrix = stereo_matrix([channel.name for channel in frame.layout.channels])
                for floats in to_float.resample(frame):
                    block = floats.to_ndarray().reshape(-1, len(matrix))
                    yield frame.sample_rate, block[: self._music_in(packet, frame.sample_rate)] @ matrix

    def _music_in(self, packet: av.Packet, rate: int) -> int | None:
        # The samples of `packet` that count: FFmpeg decodes more of the last packet of an MP4.
        if self.container.format.name == _MP4 and packet.duration:
            return round(float(packet.duration * packet.time_base) * rate)
        return None

    def check_rate(self, rate: int) -> None:
        if not _MIN_RATE <= rate <= _MAX_RATE:
            raise _unusable(self.path, f"a sample rate of {rate} Hz is no sound")

    def check_limit(self, seconds: float, most: float) -> None:
        if seconds > most + _PADDING:
            raise _unusable(self.path, f"it lasts longer than {most:g} s, the most that is taken: cut it")

    def check_end(self, seconds: float) -> None:
        """Compare the length found with the length stated; a hundredth may be missing."""
        stated = self.stated_seconds
        if stated is not None and seconds < 0.99 * stated - _PADDING:
            raise _unusable(
                self.path,
                f"it should last {stated:.1f} s but ends after {seconds:.1f} s. "
                "It is damaged or was cut off on the way: send it again",
            )


@contextmanager
def _open(path: Path) -> Iterator[_Source]:
    # Raises `UnusableAudioError` with FFmpeg's error.
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        _check_size(path)
        # Tags are not needed here, and old ones come in any encoding.
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            stream = container.streams.best("audio")
            if stream is None or stream.codec_context is None:
                raise _unusable(path, _NO_SOUND)
            yield _Source(path, container, stream)
    except (av.FFmpegError, OSError) as error:
        raise UnusableAudioError(
            f"{path.name} cannot be read as audio. Send {_FORMATS_IN_WORDS}, whole and undamaged."
        ) from error


def _kind(frame: av.AudioFrame) -> str:
    return f"{frame.sample_rate} Hz {frame.layout.name} ({frame.format.name})"


def _check_size(path: Path) -> None:
    # Refuse an empty file, and a WAV shorter than its header says, which FFmpeg reads without an error.
    size = path.stat().st_size
    if size == 0:
        raise _unusable(path, "it is empty")
    with path.open("rb") as file:
        kind, stated = file.read(4), int.from_bytes(file.read(4), "little")
    # Programs that write to a pipe do not know the length and put in 0 or the largest they can think of.
    if kind == b"RIFF" and stated < 2**31 - 2**16 and size < 0.99 * stated:
        raise _unusable(
            path,
            f"it should have {stated + 8} bytes but has {size}. It was cut off on the way: send it again",
        )


def _decoded(packet: av.Packet) -> list[av.AudioFrame]:
    # The frames of a packet; a damaged one has none.
    try:
        return list(packet.decode())
    except av.FFmpegError:
        return []


def _unusable(path: Path, why: str) -> UnusableAudioError:
    return UnusableAudioError(f"{path.name} cannot be used: {why}.")
