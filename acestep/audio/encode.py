"""Samples to files in the store: peak level, format, tags."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from acestep.domain.song import PEAK_DB, AudioClip, AudioFormat, SongPlan, SongRequest
from acestep.errors import AceStepError, DataFolderError
from acestep.files import AudioStore

PEAK = 10 ** (PEAK_DB / 20)
SILENCE = 1e-6  # below it there is nothing to raise but noise
_TITLE_LENGTH = 60  # characters
_LIMITER_BLOCK = 0.05  # seconds: shorter ones distort the bass, longer ones are heard as a dip


def normalise_peak(clip: AudioClip, peak_db: float | None = PEAK_DB) -> AudioClip:
    """`clip` with its peak at `peak_db` dBFS; silence stays. Raises `AceStepError` if a sample is not finite.

    None: `clip` as it is, limited where it is above the usual peak.
    """
    if peak_db is None:
        return limit_peak(clip)
    peak = _peak(clip.samples)
    if peak < SILENCE:
        return clip
    gain = np.float32(10 ** (peak_db / 20) / peak)
    return AudioClip(clip.samples * gain, clip.sample_rate)


def fade(clip: AudioClip, fade_in: float, fade_out: float) -> AudioClip:
    """`clip` that rises from silence in `fade_in` seconds and falls to it in `fade_out`, along a cosine."""
    samples, length = clip.samples.copy(), clip.samples.shape[1]
    for seconds, end in ((fade_in, samples), (fade_out, samples[:, ::-1])):
        count = min(length, round(seconds * clip.sample_rate))
        end[:, :count] *= (0.5 - 0.5 * np.cos(np.pi * np.arange(count) / max(count, 1))).astype(np.float32)
    return AudioClip(samples, clip.sample_rate)


def limit_peak(clip: AudioClip) -> AudioClip:
    """`clip`, softer where it exceeds -1 dBFS. Raises as `normalise_peak`."""
    loud = clip.samples
    length = loud.shape[1]
    if _peak(loud) <= PEAK:
        return clip
    # The gain of a block at most; at its edges also that of its neighbours, and straight between them.
    starts = np.arange(0, length, max(1, round(_LIMITER_BLOCK * clip.sample_rate)))
    peaks = np.maximum.reduceat(np.abs(loud).max(axis=0), starts)
    gains = PEAK / np.maximum(peaks, PEAK)
    edges = np.minimum(np.append(gains, 1.0), np.append(1.0, gains))
    gain = np.interp(np.arange(length), [*starts, length], edges)
    softer = np.clip(loud * gain.astype(np.float32), -PEAK, PEAK)  # what rounding leaves
    return AudioClip(softer, clip.sample_rate)


def _peak(samples: NDArray[np.float32]) -> float:
    # Without a copy of its absolute values: songs of 600 s take 230 MB.
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if not np.isfinite(peak):
        raise AceStepError("The model computed samples that are not numbers. Try again with another seed.")
    return peak


@dataclass(frozen=True, slots=True)
class Tags:
    """Facts about one song; what is empty or None is not written."""

    title: str = ""
    caption: str = ""
    seed: int | None = None
    bpm: int | None = None
    key_scale: str | None = None
    model: str = ""
    software: str = "ACE-Step"


@dataclass(frozen=True, slots=True)
class FileSpec:
    """How to write one song. `mp3_bitrate` is constant, in kbit/s; `mp3_sample_rate` in Hz, None: kept."""

    audio_format: AudioFormat
    mp3_bitrate: int = 256
    mp3_sample_rate: int | None = None
    tags: Tags = field(default_factory=Tags)


@dataclass(frozen=True, slots=True)
class _Encoding:
    # `rates` are the sample rates in Hz that may be kept (none listed: all); others become 48 kHz.
    extension: str
    container: str
    codec: str
    sample_format: str
    bitrate: int | None = None
    rates: tuple[int, ...] = ()
    codec_options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)


_ENCODINGS: Mapping[AudioFormat, _Encoding] = {
    "wav": _Encoding("wav", "wav", "pcm_s16le", "s16"),
    "wav32": _Encoding("wav", "wav", "pcm_f32le", "flt"),
    # 24 bits: a lossless file is for further work on the sound.
    "flac": _Encoding("flac", "flac", "flac", "s32"),
    # Level 7 leaves LAME's noise shaping out: a third faster than its default, and at these bit rates the
    # noise of the worst bands was no higher (measured per critical band on chords with drums).
    # Lower sample rates would be MPEG-2, which ends at 160 kbit/s. The ID3 tag is ours, see `tags`.
    "mp3": _Encoding(
        "mp3",
        "mp3",
        "libmp3lame",
        "fltp",
        rates=(32000, 44100, 48000),
        codec_options={"compression_level": "7"},
        container_options={"id3v2_version": "0"},
    ),
    # Transparent for stereo music according to the format's own recommendations (128 to 160 kbit/s).
    "opus": _Encoding("opus", "ogg", "libopus", "flt", bitrate=160, rates=(48000,)),
    # The fast coder takes a third less time and loses less of quiet bands; files get 12 % larger (measured).
    # The index first, so that playing can start before the download ends.
    "aac": _Encoding(
        "m4a",
        "ipod",
        "aac",
        "fltp",
        bitrate=256,
        rates=(22050, 24000, 32000, 44100, 48000, 88200, 96000),
        codec_options={"aac_coder": "fast"},
        container_options={"movflags": "+faststart"},
    ),
}
_LAYOUTS = {1: "mono", 2: "stereo"}


def extension(audio_format: AudioFormat) -> str:
    return _ENCODINGS[audio_format].extension


_LOSSY = ("mp3", "opus", "aac")


def write(
    clip: AudioClip, path: Path, spec: FileSpec, on_fraction: Callable[[float], None] = lambda done: None
) -> None:
    """Encode `clip` (one or two channels) into the file `path`, which `decode.read` reads at the same length.

    The clip's sample rate is kept where the format has it. Raises `OSError` if the file cannot be written,
    and what `on_fraction` raises, which is called after each second of audio.
    """
    encoding = _ENCODINGS[spec.audio_format]
    clip = _at_rate(clip, _rate_of(clip, encoding, spec))
    if spec.audio_format in _LOSSY:  # LAME ends the process at what is far too loud
        clip = AudioClip(np.clip(clip.samples, -1.0, 1.0), clip.sample_rate)
    options = dict(encoding.container_options)
    if encoding.container == "ipod":
        # Edit lists count in this clock; the default of 1/1000 s would round the song's end.
        options["movie_timescale"] = str(clip.sample_rate)
    with av.open(f"file:{path}", "w", format=encoding.container, options=options) as container:
        stream = container.add_stream(
            encoding.codec, rate=clip.sample_rate, options=dict(encoding.codec_options)
        )
        stream.codec_context.layout = _LAYOUTS[len(clip.samples)]
        stream.codec_context.format = encoding.sample_format
        if bitrate := spec.mp3_bitrate if spec.audio_format == "mp3" else encoding.bitrate:
            stream.codec_context.bit_rate = bitrate * 1000
        if spec.audio_format != "mp3":
            container.metadata.update(metadata(spec.tags, encoding.container))
        for frame in _frames(clip, encoding.sample_format):
            container.mux(_with_sound(stream.encode(frame)))
            on_fraction(min(1.0, (frame.pts + frame.samples) / clip.samples.shape[1]))
        container.mux(_with_sound(stream.encode(None)))
    if spec.audio_format == "mp3":
        path.write_bytes(id3(spec.tags) + path.read_bytes())


def _rate_of(clip: AudioClip, encoding: _Encoding, spec: FileSpec) -> int:
    if spec.audio_format == "mp3" and spec.mp3_sample_rate is not None:
        return spec.mp3_sample_rate
    return clip.sample_rate if not encoding.rates or clip.sample_rate in encoding.rates else 48000


def _at_rate(clip: AudioClip, rate: int) -> AudioClip:
    if clip.sample_rate == rate:
        return clip
    samples = soxr.resample(clip.samples.T, clip.sample_rate, rate, quality="HQ").T
    return AudioClip(samples, rate)


def _frames(clip: AudioClip, sample_format: str) -> Iterator[av.AudioFrame]:
    second = clip.sample_rate
    for start in range(0, clip.samples.shape[1], second):
        block = _as_format(clip.samples[:, start : start + second], sample_format)
        frame = av.AudioFrame.from_ndarray(block, format=sample_format, layout=_LAYOUTS[len(clip.samples)])
        frame.sample_rate = clip.sample_rate
        frame.pts = start
        yield frame


def _as_format(samples: NDArray[np.float32], sample_format: str) -> NDArray[np.generic]:
    # `[channels, n]` to FFmpeg's `sample_format`: integers are clipped, FLAC's 24 bits stand in 32.
    if sample_format == "fltp":
        return np.ascontiguousarray(samples)
    interleaved = np.ascontiguousarray(samples.T).reshape(1, -1)
    if sample_format == "flt":
        return interleaved
    bits = 16 if sample_format == "s16" else 24
    full = 2.0 ** (bits - 1)
    integers: NDArray[np.int32] = np.clip(np.rint(interleaved * full), -full, full - 1).astype(np.int32)
    return integers.astype(np.int16) if bits == 16 else np.left_shift(integers, 8)


def _with_sound(packets: list[av.Packet]) -> list[av.Packet]:
    # Drop the packets that hold padding and nothing else. LAME may flush one more frame than the song
    # needs. FFmpeg would then write that frame's padding alone into the gapless header, and the song would
    # grow by the padding of the frame before. FLAC's last packet has no duration either, but no content: it
    # carries the song's length and must stay.
    return [packet for packet in packets if packet.duration or not packet.size]


# The names under which FFmpeg fills each container's own fields. It writes the `encoder` field of all of
# them itself, so the software is named where people look next.
_RIFF_INFO = {"title": "title", "software": "encoded_by"}
_VORBIS_COMMENT = {
    "title": "title",
    "seed": "seed",
    "bpm": "bpm",
    "key": "initialkey",
    "model": "model",
    "software": "encoded_by",
}
_MP4_ATOMS = {"title": "title", "bpm": "tmpo"}
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "wav": _RIFF_INFO,
    "flac": _VORBIS_COMMENT,
    "ogg": _VORBIS_COMMENT,
    "ipod": _MP4_ATOMS,
}


def metadata(tags: Tags, container: str) -> dict[str, str]:
    """The metadata to hand to FFmpeg's muxer `container` (wav, flac, ogg or ipod)."""
    fields = _FIELDS[container]
    facts = _facts(tags)
    homeless = [f"{name}: {value}" for name, value in facts.items() if name not in fields]
    comment = "\n".join(line for line in (tag_text(tags.caption), *homeless) if line)
    return {fields[name]: value for name, value in facts.items() if name in fields} | {"comment": comment}


def id3(tags: Tags) -> bytes:
    """An ID3v2.3 tag, to stand before the first MP3 frame.

    FFmpeg would write the comment as a TXXX frame, which players do not show; they read COMM.
    Version 2.3 with UTF-16 text is what all of them understand.
    """
    facts = _facts(tags)
    frames = [
        _frame(name, _utf16(facts[fact]))
        for name, fact in (("TIT2", "title"), ("TBPM", "bpm"), ("TSSE", "software"))
        if fact in facts
    ]
    if "key" in facts:  # ID3 spells keys C, C#, Cm
        frames.append(_frame("TKEY", _utf16(facts["key"].replace(" major", "").replace(" minor", "m"))))
    if tags.caption:  # language unknown, no short description
        frames.append(_frame("COMM", b"und" + _utf16("", end=True) + _utf16(tag_text(tags.caption))))
    frames += [
        _frame("TXXX", _utf16(fact, end=True) + _utf16(facts[fact]))
        for fact in ("seed", "model")
        if fact in facts
    ]
    body = b"".join(frames)
    # The tag's size has seven bits in each byte, so that it never looks like the start of an MP3 frame.
    size = bytes(len(body) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + body


def _facts(tags: Tags) -> dict[str, str]:
    # All facts but the caption, in the order in which people read them.
    facts = {
        "title": tags.title,
        "bpm": tags.bpm,
        "key": tags.key_scale,
        "seed": tags.seed,
        "model": tags.model,
        "software": tags.software,
    }
    return {name: tag_text(str(value)) for name, value in facts.items() if value not in (None, "")}


# ECMA-48: control sequences, control strings up to their end, and escapes of a single character.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x9c|\x1b\\)"
    r"|\x1b[ -/]*[0-~]"
)
_CONTROLS = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f]")


def tag_text(value: str) -> str:
    """`value` without control characters, which steer terminals; line ends and tabs stay."""
    # No container can hold half surrogate pairs, which JSON allows.
    value = _CONTROLS.sub("", _ESCAPES.sub("", value.replace("\r\n", "\n").replace("\r", "\n")))
    return value.encode("utf-8", "replace").decode("utf-8")


def _utf16(text: str, end: bool = False) -> bytes:
    return b"\xff\xfe" + text.encode("utf-16-le") + (b"\0\0" if end else b"")


def _frame(name: str, content: bytes) -> bytes:
    content = b"\x01" + content  # 1: what follows is UTF-16
    return name.encode("ascii") + len(content).to_bytes(4, "big") + b"\0\0" + content


class SongWriter:
    def __init__(self, store: AudioStore, mp3_bitrate: int) -> None:
        self._store = store
        self._mp3_bitrate = mp3_bitrate

    def write(
        self,
        clip: AudioClip,
        plan: SongPlan,
        request: SongRequest,
        model: str,
        on_fraction: Callable[[float], None] = lambda done: None,
    ) -> str:
        """The name of the file in the store. Raises DataFolderError where it cannot be written."""
        audio_format, output = request.audio_format, request.output
        bitrate = output.mp3_bitrate or self._mp3_bitrate
        tags = Tags(title(plan.caption), plan.caption, plan.seed, plan.bpm, plan.key_scale, model)
        try:
            with self._store.new_file(extension(audio_format)) as file:
                spec = FileSpec(audio_format, bitrate, output.mp3_sample_rate, tags)
                write(clip, file.path, spec, on_fraction)
        except OSError as error:
            raise DataFolderError(
                f"The song cannot be written: {error.strerror or error}. Make room in the data folder "
                "(ACESTEP_DATA_DIR), and see that the server may write there."
            ) from error
        return file.name


def title(caption: str) -> str:
    """The caption's first line, cut at a word where it is long."""
    line = next(iter(tag_text(caption).strip().splitlines()), "")
    if len(line) <= _TITLE_LENGTH:
        return line
    head = line[:_TITLE_LENGTH]
    return (head.rpartition(" ")[0] or head) + "…"
