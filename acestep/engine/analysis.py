"""What a request wants to know of a finished song: when its words are sung, its outline, its loudness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from acestep.audio.loudness import measure_loudness
from acestep.audio.peaks import waveform_peaks
from acestep.domain.analysis import Analysis, LyricTimes
from acestep.domain.latents import SongLatents, SourceLatents
from acestep.domain.song import AnalysisOptions, AudioClip, SongPlan
from acestep.engine.renderer import Renderer
from acestep.errors import NotEnoughMemoryError, UntimedLyricsError

T = TypeVar("T")


class Run(Protocol):
    """Runs blocking work on a thread, as a stage of the song whose seconds are noted."""

    async def __call__(self, stage: str, work: Callable[[], T], /) -> T:
        """The result of `work`. Raises JobCancelledError where the job was cancelled."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RenderedSong:
    """A decoded song before it is a file."""

    plan: SongPlan
    sources: SourceLatents
    latents: SongLatents
    clip: AudioClip


async def analyse(
    options: AnalysisOptions, song: RenderedSong, renderer: Renderer, compute: Run, aside: Run
) -> tuple[Analysis, tuple[str, ...]]:
    """The analysis of a song, and warnings about what is left out.

    `compute` runs work on the model's thread, `aside` on another.
    """
    peaks: tuple[tuple[float, float], ...] = ()
    loudness = lyric_times = None
    notes: tuple[str, ...] = ()
    if options.lyric_times:
        lyric_times, notes = await _time_lyrics(song, renderer, compute, aside)
    if options.peaks:
        try:
            peaks = await aside("peaks", partial(waveform_peaks, song.clip, options.peaks))
        except NotEnoughMemoryError as error:
            notes += (f"waveform_peaks: left out. {error}",)
    if options.loudness:
        try:
            loudness = await aside("loudness", partial(measure_loudness, song.clip))
        except NotEnoughMemoryError as error:
            notes += (f"measure_loudness: left out. {error}",)
    return Analysis(lyric_times, peaks, loudness), notes


async def _time_lyrics(
    song: RenderedSong, renderer: Renderer, compute: Run, aside: Run
) -> tuple[LyricTimes | None, tuple[str, ...]]:
    try:
        align = await compute("listen", partial(renderer.align_lyrics, song.plan, song.latents, song.sources))
        return await aside("align", align), ()
    except UntimedLyricsError as error:
        return None, (f"lyric_timestamps: {error}",)
    except NotEnoughMemoryError as error:
        return None, (f"lyric_timestamps: left out. {error}",)
