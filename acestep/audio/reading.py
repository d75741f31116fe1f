"""One pass over the sound of a file, which counts what cannot be read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from acestep.audio.headers import (
    MATROSKA,
    UNKNOWN_SIZE,
    PatchedFile,
    id3_size,
    is_cut_off,
    ogg_samples,
    read_wave_header,
)
from acestep.audio.stereo import stereo_matrix
from acestep.domain.song import MAX_DURATION
from acestep.errors import UnusableAudioError

# FFmpeg also opens playlists, which name other files and hosts: only formats that hold the sound themselves.
_FORMATS = "wav,w64,aiff,caf,au,flac,mp3,ogg,aac,ac3,eac3,asf,wv,tta,mov,matroska"
_FORMATS_IN_WORDS = "WAV, AIFF, FLAC, MP3, Ogg (Opus or Vorbis), AAC, M4A, MP4, WebM, WMA or CAF"
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
# They state their length exactly: what is missing at their end was lost on the way.
_EXACT = ("wav", "w64", "aiff", "au", "caf", "flac", "tta", "wv")
# Frames without times: FFmpeg makes one packet of all that it passes over up to the next good one.
_RAW = ("mp3", "aac", "ac3", "eac3")
_SYNC = 0xFFE0  # the first bits of a frame of MP3 or AAC
_MIN_RATE, _MAX_RATE = 1000, 768000  # in Hz; anything else is a broken header
_PADDING = 0.2  # seconds that encoders add to the music at most
# Seconds by which a header may exceed the sound: an MP3's counts whole frames, an MP4's what it cuts away.
_EXCESS = {"mp3": 0.06, _MP4: 0.1, "caf": _PADDING}
_GAP = 0.05  # seconds between packets; the times of codecs with several block lengths jitter by 0.01
_STRANGE = 0.25  # share of sound with another rate or layout; more is no damage, the file was joined
_AGAIN = "It is damaged or was cut off on the way: send it again"


class Reading:
    """`rate`, `channels`, `seconds` and `peak` are those of the sound that `blocks` has yielded so far."""

    def __init__(self, path: Path, container: av.container.InputContainer, stream: av.AudioStream) -> None:
        self.path = path
        self.rate = self.channels = 0
        self.peak = 0.0
        self._container, self._stream = container, stream
        self._format = container.format.name
        self._kind = self._change = ""
        self._matrix = stereo_matrix(("mono",))
        self._samples = self._silent = 0  # yielded; of these, in place of what is lost
        self._good_bytes = self._failed_bytes = self._bytes = 0  # of packets
        self._end: float | None = None  # of the last sound, by the times in the file
        self._failed = 0.0  # seconds of packets after that which cannot be decoded
        self._spoiled = self._strange = 0.0  # seconds decoded with errors; of another rate or layout
        self._is_cut = False

    @property
    def seconds(self) -> float:
        return self._samples / self.rate if self.rate else 0.0

    @property
    def codec(self) -> str:
        return str(self._stream.codec_context.codec.canonical_name)

    @property
    def is_damaged(self) -> bool:
        return bool(self._silent or self._spoiled)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """The sound as `[samples, 2]`, with silence for what is lost between two sounds.

        Raises UnusableAudioError for samples that are not finite, and an impossible rate.
        """
        # Interleaved floats: PyAV reads past the end of frames with eight planes or more.
        to_float = av.AudioResampler(format="flt")
        for packet in self._container.demux(self._stream):
            for frame in self._frames(packet):
                yield from self._silence_before(frame)
                for floats in to_float.resample(frame):
                    sound = floats.to_ndarray().reshape(-1, self.channels)[: self._music_in(packet)]
                    with np.errstate(invalid="ignore"):  # infinite samples are refused below
                        mixed = sound @ self._matrix
                    yield self._counted(mixed)
                self._end = None if frame.time is None else frame.time + frame.samples / self.rate
                self._spoiled += frame.samples / self.rate if frame.is_corrupt else 0.0

    def _frames(self, packet: av.Packet) -> list[av.AudioFrame]:
        # The frames of a packet that fit the first one of the file. What fails is counted.
        if packet.size:
            self._is_cut = packet.is_corrupt
            self._bytes += packet.size
        try:
            decoded = list(packet.decode())
        except av.FFmpegError:
            self._failed += float((packet.duration or 0) * packet.time_base)
            self._failed_bytes += packet.size
            is_sync = int.from_bytes(bytes(packet)[:2], "big") & _SYNC == _SYNC
            self._is_cut |= self._format in _RAW and is_sync
            return []
        fitting = [frame for frame in decoded if self._fits(frame)]
        self._good_bytes += packet.size if fitting else 0
        return fitting

    def _fits(self, frame: av.AudioFrame) -> bool:
        if not _MIN_RATE <= frame.sample_rate <= _MAX_RATE:
            raise unusable(self.path, f"a sample rate of {frame.sample_rate} Hz is no sound")
        kind = f"{frame.sample_rate} Hz {frame.layout.name} ({frame.format.name})"
        if not self._kind:
            self._kind, self.rate, self.channels = kind, frame.sample_rate, frame.layout.nb_channels
            self._matrix = stereo_matrix([channel.name for channel in frame.layout.channels])
        if kind == self._kind:
            return True
        self._change = f"from {self._kind} to {kind}"
        self._strange += frame.samples / frame.sample_rate
        self._failed += frame.samples / frame.sample_rate
        return False

    def _silence_before(self, frame: av.AudioFrame) -> Iterator[NDArray[np.float32]]:
        missing = self._missing_before(frame)
        if missing > MAX_DURATION:
            raise unusable(self.path, f"its time jumps by {missing:.0f} s. {_AGAIN}")
        self._failed, self._failed_bytes = 0.0, 0
        count = round(missing * self.rate)
        self._silent += count
        for start in range(0, count, self.rate):
            yield self._counted(np.zeros((min(self.rate, count - start), 2), np.float32))

    def _missing_before(self, frame: av.AudioFrame) -> float:
        # Seconds. A file of raw frames may begin with some that need those before them.
        is_raw = self._format in _RAW
        if self._end is None or frame.time is None:
            at_start = not self._samples and not is_raw
            return max(0.0, frame.time or 0.0) if at_start and self._failed else 0.0
        if is_raw and self._failed:
            return self._failed_seconds()
        jump = frame.time - self._end
        return max(0.0, jump) if self._failed or jump > _GAP else 0.0

    def _failed_seconds(self) -> float:
        # Raw frames have no times: as long as so many bytes last elsewhere.
        if self._format not in _RAW or not self._good_bytes:
            return self._failed
        sound = (self._samples - self._silent) / self.rate
        return max(self._failed, self._failed_bytes / self._good_bytes * sound)

    def _skipped_seconds(self) -> float:
        # Of an AAC stream FFmpeg passes over what does not begin like a frame, and does not say so.
        if self._format != "aac" or not self._good_bytes:
            return 0.0
        skipped = self.path.stat().st_size - id3_size(self.path) - self._bytes
        seconds = skipped / self._good_bytes * (self._samples - self._silent) / self.rate
        return seconds if seconds > _GAP else 0.0

    def _counted(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        peak = max(float(block.max(initial=0.0)), -float(block.min(initial=0.0)))
        if not math.isfinite(peak):
            raise unusable(self.path, "some of its samples are not numbers")
        self.peak = max(self.peak, peak)
        self._samples += len(block)
        return block

    def _music_in(self, packet: av.Packet) -> int | None:
        # The samples of `packet` that count: FFmpeg decodes more of the last packet of an MP4.
        if self._format == _MP4 and packet.duration:
            return round(float(packet.duration * packet.time_base) * self.rate)
        return None

    def _stated_seconds(self) -> float | None:
        # The length in the header. Of other formats FFmpeg finds the end of the file, or guesses.
        stream = self._stream
        if self._format == MATROSKA and len(self._container.streams) == 1:
            return (self._container.duration or 0) / av.time_base or None
        if self._format == "ogg" and not stream.start_time:
            return ogg_samples(self.path) / stream.codec_context.sample_rate or None
        # An MP3 that begins with an encoder delay has the header that holds its length as well.
        if self._format not in (*_EXACT, _MP4) and not (self._format == "mp3" and stream.start_time):
            return None
        stated = float((stream.duration or 0) * stream.time_base)
        is_possible = stated * (stream.bit_rate or 0) / 8 < UNKNOWN_SIZE
        return stated if stated and is_possible else None

    def check_limit(self, most: float) -> None:
        if self.seconds > most + _PADDING:
            raise unusable(self.path, f"it lasts longer than {most:g} s, the most that is taken: cut it")

    def check_whole(self) -> tuple[str, ...]:
        """At the end: sentences about what was lost. Raises UnusableAudioError where that is too much."""
        if not self._samples:
            raise unusable(self.path, "it holds no audio that can be decoded")
        if self._strange > _STRANGE * self.seconds:
            raise unusable(self.path, f"it is damaged or joined: its sound changes {self._change}")
        stated, is_exact = self._stated_seconds(), self._format in _EXACT
        short = (stated or 0.0) - self.seconds
        self._is_cut |= is_cut_off(self.path, self._format)
        tail = 0.0 if self._format in _RAW and not self._is_cut else self._failed_seconds()
        is_short = short > (0.0 if self._is_cut else _EXCESS.get(self._format, _GAP))
        tail = short if is_short else tail + self._skipped_seconds()
        if is_exact and (tail > _GAP or self._is_cut):
            whole = f"it should last {stated:.1f} s but ends" if is_short else "its sound ends"
            raise unusable(self.path, f"{whole} after {self.seconds:.1f} s. {_AGAIN}")
        lost = self._silent / self.rate + self._spoiled
        readable = self.seconds - lost
        total = readable + lost + tail
        if readable < total / 2:
            raise unusable(self.path, f"only {readable:.2f} of {total:.2f} s can be read. {_AGAIN}")
        if lost or (tail and not self._is_cut and not is_short):
            return (f"{self.path.name} is damaged: {readable:.2f} of {total:.2f} s can be read",)
        if tail > _GAP:
            return (f"{self.path.name} was cut off: {readable:.2f} of {total:.2f} s can be read",)
        if self._is_cut:
            return (f"{self.path.name} was cut off: it ends in the middle of a frame after {readable:.2f} s",)
        return ()


@contextmanager
def open_audio(path: Path) -> Iterator[Reading]:
    """Raises UnusableAudioError for what is no audio, and for a WAV file that ends before its header says."""
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        size = path.stat().st_size
        if size == 0:
            raise unusable(path, "it is empty")
        header = read_wave_header(path)
        if header.missing:
            raise unusable(
                path,
                f"it should have {size + header.missing} bytes but has {size}. "
                "It was cut off on the way: send it again",
            )
        with path.open("rb") as file:
            source = PatchedFile(file, header.patches) if header.patches else f"file:{path}"
            # Tags are not needed here, and old ones come in any encoding.
            with av.open(source, options=options, metadata_errors="replace") as container:
                stream = container.streams.best("audio")
                if stream is None or stream.codec_context is None:
                    raise unusable(path, "it holds no audio that can be decoded")
                yield Reading(path, container, stream)
    except (av.FFmpegError, OSError) as error:
        raise UnusableAudioError(
            f"{path.name} cannot be read as audio. Send {_FORMATS_IN_WORDS}, whole and undamaged."
        ) from error


def unusable(path: Path, why: str) -> UnusableAudioError:
    return UnusableAudioError(f"{path.name} cannot be used: {why}.")
