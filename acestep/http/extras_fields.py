"""The wire fields of what else is wanted of each song: everything is off unless it is asked for.

Owns names, aliases, ranges and descriptions of these fields, and how a number of points is read. Knows
nothing of how anything is found out.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, WithJsonSchema

from acestep.domain import TRACKS, Extras
from acestep.http.fields import Flag, Models, Tracks, read_flag, read_whole, reader, wire

DEFAULT_POINTS = 1_000  # a point for each pixel of a wide page
MIN_POINTS, MAX_POINTS = 10, 10_000


def read_points(value: Any) -> int | None:
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


class ExtrasFields(BaseModel):
    """What else is found out about each song; it takes time, and makes results longer."""

    lyric_timestamps: Flag = wire(
        False,
        "lyricTimestamps",
        "lrc",
        about="When each line and word is sung (`lrc`, `lyric_timestamps`), and how well the song sings its "
        "lyrics (`alignment_score`). The published 2 B models can tell; others, and songs without words, get "
        "a warning instead.",
        example=True,
    )
    waveform_peaks: Points = wire(
        None,
        "waveformPeaks",
        "peaks",
        neutral=(0,),
        about="An outline to draw the song by: so many pairs of lowest and highest sample. true: "
        f"{DEFAULT_POINTS} of them. Null, false or 0: none.",
        example=800,
        allowed=f"true ({DEFAULT_POINTS} points), a whole number from {MIN_POINTS} to {MAX_POINTS}, or false",
    )
    measure_loudness: Flag = wire(
        False,
        "measureLoudness",
        about="Integrated loudness (LUFS) and true peak (dBTP), measured before the file is encoded.",
        example=True,
    )
    stems: Tracks = wire(
        (),
        "stem_tracks",
        "stemTracks",
        models=Models.EXTRACTING,
        about="Tracks that are taken out of each finished song, each as a file of its own. Each takes as "
        "long as a song. Only models that do the task `extract` can.",
        example=["drums", "vocals"],
        allowed=f"names out of {', '.join(TRACKS)}, as a list or with commas between them",
    )


def extras_of(task: ExtrasFields) -> Extras:
    """What is asked for, in the words of the program."""
    return Extras(
        lyric_times=task.lyric_timestamps,
        peaks=task.waveform_peaks or 0,
        loudness=task.measure_loudness,
        stems=task.stems,
    )
