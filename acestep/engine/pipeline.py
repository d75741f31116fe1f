"""One song through its stages: plan, render, decode, encode."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from acestep.audio.encode import SongWriter, fade, normalise_peak
from acestep.audio.separate import without
from acestep.domain.analysis import Analysis, Stem
from acestep.domain.draft import DraftRequest
from acestep.domain.latents import SongLatents, SourceLatents
from acestep.domain.models import ModelInfo
from acestep.domain.song import AnalysisOptions, AudioClip, Progress, Song, SongPlan, SongRequest
from acestep.engine.analysis import RenderedSong, analyse
from acestep.engine.audio_inputs import load_inputs
from acestep.engine.batching import BatchingStage, BatchLimit
from acestep.engine.planner_host import PlannerHost
from acestep.engine.planning import (
    Planned,
    PlanningCallbacks,
    plan_job,
    plan_songs,
    planning_share,
    stem_plan,
    with_draft,
)
from acestep.engine.renderer import Loaded, Renderer
from acestep.engine.threads import (
    Free,
    OomRetry,
    Watchdog,
    WatchedThread,
    WatchedThreads,
    WorkItem,
    all_of,
    computing_thread,
)
from acestep.errors import JobCancelledError
from acestep.jobs.worker import Cancelled, OnProgress
from acestep.planner.planner import PlannerCallbacks

T = TypeVar("T")

_MOST_WRITERS = 4

# Where each stage starts and ends once the plan is made, measured on turbo: diffusion and decoding dominate.
# The analysis takes a moment, and most requests ask for none.
_SPAN = {"render": (0.0, 0.74), "decode": (0.74, 0.95), "write": (0.95, 1.0)}
_SPAN |= dict.fromkeys(("listen", "align", "peaks", "loudness", "encode"), (0.95, 0.95))
_TEXT = {
    "plan": "Preparing",
    "render": "Generating music",
    "decode": "Decoding audio",
    "listen": "Finding the words",
    "align": "Finding the words",
    "peaks": "Drawing the outline",
    "loudness": "Measuring the loudness",
    "encode": "Preparing the stems",
    "write": "Writing files",
}


class JobProgress:
    """The mean progress of a job's songs, with the stage of the song that is least far. Thread-safe."""

    def __init__(self, songs: int, on_progress: OnProgress, planning: float = 0.05, stems: int = 0) -> None:
        """`planning` is the plan's share of the whole. Each song has `stems`, which are rendered after it."""
        self._on_progress = on_progress
        self._planning = planning
        self._count, self._stems = songs, stems
        self._lock = threading.Lock()
        # Of each song: its fraction, where its stage starts, the stage, the text.
        self._songs: list[tuple[float, float, str, str]] = [(0.0, 0.0, "plan", _TEXT["plan"])] * songs
        self._begun_stems: dict[int, tuple[float, float, str, str]] = {}

    def stem(self, song: int, number: int) -> int:
        """The index under which stem `number` (from 0) of `song` reports."""
        return self._count + song * self._stems + number

    def plan(self, fraction: float, text: str) -> None:
        with self._lock:
            done = max(self._songs[0][0], self._planning * fraction)
            self._songs = [(done, 0.0, "plan", text)] * self._count
            self._report_mean()

    def report(self, song: int, stage: str, fraction: float, detail: str = "") -> None:
        """Report that `song` (an index) has done `fraction` (0..1) of `stage`."""
        start, end = (self._planning + (1 - self._planning) * edge for edge in _SPAN[stage])
        text = f"{_TEXT[stage]} ({detail})" if detail else _TEXT[stage]
        # Reported under the lock: songs report from two threads, and a job must not seem to go back.
        with self._lock:
            now = (start + (end - start) * fraction, start, stage, text)
            if song < self._count:
                self._songs[song] = now
            else:
                self._begun_stems[song] = now
            self._report_mean()

    def song(self, number: int, song: Song) -> None:
        """Report a finished song, unless it ends the job."""
        if self._count > 1:
            with self._lock:
                self._report_mean((number, song))

    def _report_mean(self, made: tuple[int, Song] | None = None) -> None:
        begun = [*self._songs, *self._begun_stems.values()]
        mean = sum(done for done, *_ in begun) / (self._count * (1 + self._stems))
        *_, stage, text = min(begun)
        self._on_progress(Progress(mean, stage, text, made))


@dataclass(frozen=True, slots=True, eq=False)
class RenderTask:
    """A song, or a stem of one, on its way through the stages; `timings` fills with seconds by stage."""

    index: int
    request: SongRequest
    model: Loaded
    plan: SongPlan
    sources: SourceLatents
    progress: JobProgress
    cancelled: Cancelled
    timings: dict[str, float] = field(default_factory=dict)

    def report(self, stage: str, fraction: float) -> None:
        """Raises JobCancelledError where the job was cancelled."""
        if self.cancelled():
            raise JobCancelledError("The job was cancelled.")
        self.progress.report(self.index, stage, fraction)

    def stem(self, number: int, track: str, sources: SourceLatents) -> RenderTask:
        return replace(
            self,
            index=self.progress.stem(self.index, number),
            plan=stem_plan(self.plan, track),
            sources=sources,
            timings={},
        )

    def song(self, file: str, warnings: Sequence[str] = ()) -> Song:
        info = self.model.info
        return Song(
            file=file,
            plan=self.plan,
            audio_format=self.request.audio_format,
            dit_model=info.name,
            dtype=info.dtype,
            timings={stage: round(seconds, 3) for stage, seconds in self.timings.items()},
            warnings=tuple(filter(None, (*self.request.warnings, *warnings, info.notice))),
        )


class SongPipeline:
    """Makes the songs of requests. Songs that wait at the same time are rendered in batches."""

    def __init__(self, planner_host: PlannerHost, writer: SongWriter, watchdog: Watchdog, free: Free) -> None:
        self._planner_host = planner_host
        self._writer = writer
        self._oom_retry = OomRetry(free)
        self._compute = WatchedThread(computing_thread("compute"), watchdog)
        self._files = WatchedThreads(
            [WatchedThread(ThreadPoolExecutor(1, f"files-{n}"), watchdog) for n in range(_writers())]
        )
        limit = BatchLimit()
        self._render = BatchingStage(
            self._render_batch,
            _group_key,
            lambda task: limit.most(task.model, task.plan.duration),
            partial(self._compute.run, "render"),
            _model_key,
            lambda tasks: limit.learn(tasks[0].model, tasks[0].plan.duration, len(tasks)),
        )

    async def run(
        self, request: SongRequest, model: Loaded, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        """The songs of a request that was fitted to `model`."""
        if request.goal in ("codes", "description"):
            return (await self._describe(request, model, cancelled),)
        stems = len(request.task.tracks if request.task.rest else request.analysis.stems)
        progress = JobProgress(len(request.seeds), on_progress, planning_share(request), stems)
        request, sources = await self._load_inputs(request, model)
        planned = await plan_job(
            request, model.info, self._planner_host, PlanningCallbacks(progress.plan, cancelled)
        )
        request = replace(request, warnings=(*request.warnings, *planned.warnings))
        if request.goal == "metadata":
            return (_without_audio(request, planned, model.info),)
        tasks = [
            RenderTask(n, request, model, plan, sources, progress, cancelled, dict(planned.timings))
            for n, plan in enumerate(planned.plans)
        ]
        if sources.clip is not None and request.task.rest:
            return (await self._separated(tasks[0], sources.clip),)
        return tuple(await all_of(self._song(task, planned.planner) for task in tasks))

    async def _song(self, task: RenderTask, planner: str) -> Song:
        latents = await self._render.run(task)
        clip = await self._decode(task, latents)
        analysis, notes = await self._analyse(task, latents, clip)
        stems = await self._stem_tasks(task, clip)
        file = await self._encode(task, clip)
        if stems:
            analysis = replace(analysis, stems=await self._stems(task, stems))
        song = replace(task.song(file, (*latents.warnings, *notes)), lm_model=planner, analysis=analysis)
        task.progress.song(task.index, song)
        return song

    def _render_batch(self, tasks: Sequence[RenderTask]) -> Sequence[SongLatents]:
        def on_step(done: int, steps: int) -> None:
            self._compute.beat()
            for task in tasks:  # not `task.report`: one cancelled job must not stop the others of its batch
                task.progress.report(task.index, "render", done / steps, f"step {done} of {steps}")

        def cancelled() -> bool:
            self._compute.beat()  # also called while another model has the device
            return all(task.cancelled() for task in tasks)

        started = time.perf_counter()
        model, plans = tasks[0].model, [task.plan for task in tasks]
        render = partial(model.renderer.render, plans, on_step, cancelled, [task.sources for task in tasks])
        # BatchingStage splits a batch that is too large.
        attempt = self._oom_retry.run if len(tasks) > 1 else self._oom_retry.retry_with_less
        latents = attempt(WorkItem("render", model.info.name, plans[0].duration), render)
        for task in tasks:
            task.timings["render"] = time.perf_counter() - started
        return latents

    async def _decode(self, task: RenderTask, latents: SongLatents) -> AudioClip:
        def on_fraction(fraction: float) -> None:
            self._compute.beat()
            task.report("decode", fraction)

        def decode(renderer: Renderer) -> AudioClip:
            clip = renderer.decode(latents, task.plan.duration, on_fraction)
            output = task.request.output
            return fade(clip, output.fade_in, output.fade_out) if output.fade_in or output.fade_out else clip

        renderer = task.model.renderer
        return await self._timed(
            self._compute, task, "decode", lambda: decode(renderer), lambda: decode(renderer.low_memory())
        )

    async def _encode(self, task: RenderTask, clip: AudioClip) -> str:
        def on_fraction(fraction: float) -> None:
            self._files.beat()
            task.report("write", fraction)

        name = task.model.info.name
        work = partial(self._writer.write, clip, task.plan, task.request, name, on_fraction)
        file = await self._timed(self._files, task, "write", work)
        task.report("write", 1.0)
        return file

    async def _analyse(
        self, task: RenderTask, latents: SongLatents, clip: AudioClip
    ) -> tuple[Analysis, tuple[str, ...]]:
        options = replace(task.request.analysis, stems=())
        if options == AnalysisOptions():
            return Analysis(), ()
        song = RenderedSong(task.plan, task.sources, latents, clip)
        compute, aside = (partial(self._timed, thread, task) for thread in (self._compute, self._files))
        return await analyse(options, song, task.model.renderer, compute, aside)

    async def _separated(self, task: RenderTask, clip: AudioClip) -> Song:
        # The source of an extract, the tracks in it, and what they leave of it.
        file, rest, stems = await self._encode(task, clip), clip, list[Stem]()
        tracks = task.request.task.tracks
        for number, track in enumerate(tracks):
            stem = task.stem(number, track, task.sources)
            sound = await self._decode(stem, await self._render.run(stem))
            stems.append(Stem(track, await self._encode(stem, sound)))
            rest = await self._files.run("write", partial(without, rest, sound))
        rest = await self._files.run("write", partial(normalise_peak, rest, task.plan.peak_db))
        stems.append(Stem(task.request.task.rest, await self._encode(task, rest)))
        return replace(task.song(file), analysis=Analysis(stems=tuple(stems)))

    async def _stem_tasks(self, task: RenderTask, clip: AudioClip) -> list[RenderTask]:
        tracks, renderer = task.request.analysis.stems, task.model.renderer
        if not tracks:
            return []
        source = await self._timed(
            self._compute,
            task,
            "encode",
            lambda: renderer.encode(clip),
            lambda: renderer.low_memory().encode(clip),
        )
        return [task.stem(number, track, SourceLatents(source)) for number, track in enumerate(tracks)]

    async def _stems(self, task: RenderTask, stems: Sequence[RenderTask]) -> tuple[Stem, ...]:
        async def file(stem: RenderTask) -> str:
            latents = await self._render.run(stem)
            return await self._encode(stem, await self._decode(stem, latents))

        started = time.perf_counter()
        files = await all_of(file(stem) for stem in stems)
        task.timings["stems"] = time.perf_counter() - started
        return tuple(map(Stem, task.request.analysis.stems, files))

    async def _describe(self, request: SongRequest, model: Loaded, cancelled: Cancelled) -> Song:
        # The audio codes of a request's source, and if it asks for them, its metadata by the planner.
        codes = request.audio_codes or await self.tokenize(Path(request.task.source), model)
        request, planner = replace(request, audio_codes=codes, duration=None), ""
        if request.goal == "description":
            asked = DraftRequest(
                "understand", audio_codes=codes, options=request.planner, seed=request.seeds[0]
            )
            callbacks = PlannerCallbacks(cancelled=cancelled)
            draft = await self._planner_host.draft(asked, model.info.max_duration, callbacks)
            request, planner = (
                with_draft(request, draft),
                self._planner_host.known.info(asked.options.model).name,
            )
        return _without_audio(request, Planned(plan_songs(request, model.info), planner), model.info)

    async def tokenize(self, path: Path, model: Loaded) -> tuple[int, ...]:
        """The audio codes of a file. Raises UnusableAudioError where it is none."""
        return await self._from_audio(model, None, lambda renderer: renderer.tokenize(path))

    async def _load_inputs(self, request: SongRequest, model: Loaded) -> tuple[SongRequest, SourceLatents]:
        task = request.task
        if not (task.source or task.reference):
            return request, SourceLatents()
        load = partial(load_inputs, request, model.info)
        return await self._from_audio(model, task.source_seconds, load)

    async def _from_audio(self, model: Loaded, seconds: float | None, work: Callable[[Renderer], T]) -> T:
        item = WorkItem("encode", model.info.name, seconds, "audio")
        whole, pieces = partial(work, model.renderer), lambda: work(model.renderer.low_memory())
        return await self._compute.run("encode", lambda: self._oom_retry.retry_with_less(item, whole, pieces))

    async def _timed(
        self,
        thread: WatchedThread | WatchedThreads,
        task: RenderTask,
        stage: str,
        work: Callable[[], T],
        smaller: Callable[[], T] | None = None,
    ) -> T:
        # Run `work` on `thread` and note its seconds, without those that it waited.
        item = WorkItem(stage, task.model.info.name, task.plan.duration)

        def measured() -> T:
            task.report(stage, 0.0)
            started = time.perf_counter()
            result = self._oom_retry.retry_with_less(item, work, smaller)
            task.timings[stage] = time.perf_counter() - started
            return result

        return await thread.run(stage, measured)

    def close(self) -> None:
        self._compute.close()
        self._files.close()


def _writers() -> int:
    # An encoder takes one core; half of them are left to the rest. More than four wait for the device.
    return max(1, min(_MOST_WRITERS, (os.cpu_count() or 1) // 2))


def _without_audio(request: SongRequest, planned: Planned, info: ModelInfo) -> Song:
    return Song(
        file="",
        plan=planned.plans[0],
        audio_format=request.audio_format,
        dit_model=info.name,
        lm_model=planned.planner,
        warnings=request.warnings,
    )


def _group_key(task: RenderTask) -> Hashable:
    # Songs of one batch share their model, length, sampling and adapters.
    return _model_key(task), task.plan.duration, task.plan.sampling, task.plan.adapters


def _model_key(task: RenderTask) -> Hashable:
    return id(task.model)  # while a model is replaced, two may have its name
