"""The wire fields of the finished file, and of what else is wanted of a song."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, WithJsonSchema

from acestep.domain.song import MP3_BITRATES, MP3_SAMPLE_RATES, PEAK_DB, TRACKS, SongRequest
from acestep.rest.request.wire_types import (
    Flag,
    Models,
    Number,
    Tracks,
    read_flag,
    read_whole,
    reader,
    wire,
)
from acestep.rest.spelling import JsonObject

MAX_FADE = 60  # seconds

_DEFAULT = SongRequest()


def read_bitrate(value: object) -> int | None:
    """192, "192", "192k" or 192000."""
    if isinstance(value, str):
        value = value.strip().lower().removesuffix("bps").removesuffix("k")
    bitrate = read_whole(value)
    bitrate = bitrate // 1000 if bitrate >= 1000 else bitrate
    if bitrate not in MP3_BITRATES:
        raise ValueError
    return bitrate


def read_sample_rate(value: object) -> int:
    rate = read_whole(value)
    if rate not in MP3_SAMPLE_RATES:
        raise ValueError
    return rate


def _one_of(*schemas: JsonObject) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*schemas, {"type": "null"}]})


Mp3Bitrate = Annotated[
    int | None,
    reader(read_bitrate),
    _one_of({"type": "integer", "enum": [*MP3_BITRATES]}, {"type": "string"}),
]

Mp3SampleRate = Annotated[
    int | None, reader(read_sample_rate), _one_of({"type": "integer", "enum": [*MP3_SAMPLE_RATES]})
]


class FileFields(BaseModel):
    fade_in_duration: Number = wire(
        _DEFAULT.output.fade_in,
        "fadeInDuration",
        ge=0,
        le=MAX_FADE,
        about="Seconds in which the song rises from silence.",
        example=2.0,
    )
    fade_out_duration: Number = wire(
        _DEFAULT.output.fade_out,
        "fadeOutDuration",
        ge=0,
        le=MAX_FADE,
        about="Seconds in which the song falls to silence at its end.",
        example=4.0,
    )
    enable_normalization: Flag = wire(
        True,
        "enableNormalization",
        about="Bring the loudest sample to normalization_db. false: the song is as loud as the model "
        "made it.",
        example=False,
    )
    normalization_db: Number = wire(
        PEAK_DB,
        "normalizationDb",
        ge=-60,
        le=0,
        about="Level of the loudest sample in dBFS. A repaint and a lego are as loud as their source.",
        example=-3.0,
    )
    mp3_bitrate: Mp3Bitrate = wire(
        _DEFAULT.output.mp3_bitrate,
        "mp3Bitrate",
        about="Bit rate of mp3 files in kbit/s, also written 192k. Null: as the server is set up.",
        example=192,
        allowed=f"{', '.join(map(str, MP3_BITRATES))} (kbit/s)",
    )
    mp3_sample_rate: Mp3SampleRate = wire(
        _DEFAULT.output.mp3_sample_rate,
        "mp3SampleRate",
        about="Sample rate of mp3 files in Hz. Null: that of the model, 48,000.",
        example=44_100,
        allowed=f"{', '.join(map(str, MP3_SAMPLE_RATES))} (Hz)",
    )


DEFAULT_POINTS = 1_000  # a point for each pixel of a wide page

MIN_POINTS, MAX_POINTS = 10, 10_000


def read_points(value: object) -> int | None:
    """Read a number of points; true is the usual number, false and 0 are none."""
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().isalpha()):
        return DEFAULT_POINTS if read_flag(value) else None
    points = read_whole(value)
    if points and not MIN_POINTS <= points <= MAX_POINTS:
        raise ValueError
    return points or None


Points = Annotated[
    int | None,
    reader(read_points),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": MIN_POINTS, "maximum": MAX_POINTS},
                {"type": "boolean"},
                {"type": "null"},
            ]
        }
    ),
]


class AnalysisFields(BaseModel):
    lyric_timestamps: Flag = wire(
        _DEFAULT.analysis.lyric_times,
        "lyricTimestamps",
        "lrc",
        "auto_lrc",
        about="Measure when each line and word is sung (`lrc`, `lyric_timestamps`) and how closely the "
        "vocals follow the lyrics (`alignment_score`). Only the published 2 B models can; other models, and "
        "songs without lyrics, give a warning.",
        example=True,
    )
    auto_score: Flag = wire(
        False,
        "autoScore",
        about="Measure how closely the vocals follow the lyrics (`alignment_score`), as "
        "lyric_timestamps does.",
        example=True,
    )
    waveform_peaks: Points = wire(
        None,
        "waveformPeaks",
        "peaks",
        neutral=(0,),
        about=f"Waveform overview: this many pairs of lowest and highest sample. true: {DEFAULT_POINTS}. "
        "Null, false or 0: none.",
        example=800,
        allowed=f"true ({DEFAULT_POINTS} points), a whole number from {MIN_POINTS} to {MAX_POINTS}, or false",
    )
    measure_loudness: Flag = wire(
        _DEFAULT.analysis.loudness,
        "measureLoudness",
        about="Integrated loudness (LUFS) and true peak (dBTP), measured before the file is encoded.",
        example=True,
    )
    stems: Tracks = wire(
        _DEFAULT.analysis.stems,
        "stem_tracks",
        "stemTracks",
        models=Models.EXTRACTING,
        about="Tracks to extract from each finished song, each into its own file. Each takes as long as a "
        "song. Only for models with the task `extract`.",
        example=["drums", "vocals"],
        allowed=f"names out of {', '.join(TRACKS)}, as a list or with commas between them",
    )
