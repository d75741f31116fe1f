"""What else is found out about a song once it is decoded: when its words are sung, its outline, its
loudness.

How each is found out is the synthesizer's affair, or audio's.
"""

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
    """Runs blocking work away from the event loop, as a stage of the song whose seconds are noted."""

    async def __call__(self, stage: str, work: Callable[[], T], /) -> T:
        """What `work` returns. Raises JobCancelledError where nobody wants the song any more."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RenderedSong:
    """A song that is not a file yet: what it was made from, and its latents and sound."""

    plan: SongPlan
    sources: SourceLatents
    latents: SongLatents
    clip: AudioClip


@dataclass(frozen=True, slots=True)
class Threads:
    """Where work runs: `compute` is the one thread that the model belongs to, `aside` any other."""

    compute: Run
    aside: Run


async def analyse(
    wanted: AnalysisOptions, rendered: RenderedSong, renderer: Renderer, threads: Threads
) -> tuple[Analysis, tuple[str, ...]]:
    """What is `wanted` of a song, and sentences for the client about what cannot be found out."""
    peaks: tuple[tuple[float, float], ...] = ()
    loudness = lyric_times = None
    notes: tuple[str, ...] = ()
    if wanted.lyric_times:
        lyric_times, notes = await _time_lyrics(rendered, renderer, threads)
    if wanted.peaks:
        try:
            peaks = await threads.aside("peaks", partial(waveform_peaks, rendered.clip, wanted.peaks))
        except NotEnoughMemoryError as error:
            notes += (f"waveform_peaks: left out. {error}",)
    if wanted.loudness:
        try:
            loudness = await threads.aside("loudness", partial(measure_loudness, rendered.clip))
        except NotEnoughMemoryError as error:
            notes += (f"measure_loudness: left out. {error}",)
    return Analysis(lyric_times, peaks, loudness), notes


async def _time_lyrics(
    rendered: RenderedSong, renderer: Renderer, threads: Threads
) -> tuple[LyricTimes | None, tuple[str, ...]]:
    look = partial(renderer.align_lyrics, rendered.plan, rendered.latents, rendered.sources)
    try:
        work_out = await threads.compute("listen", look)
        return await threads.aside("align", work_out), ()
    except UntimedLyricsError as error:
        return None, (f"lyric_timestamps: {error}",)
    except NotEnoughMemoryError as error:
        return None, (f"lyric_timestamps: left out. {error}",)
