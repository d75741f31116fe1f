"""One song, from request to file: plan, render, decode, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from acestep.domain.analysis import Stem
from acestep.domain.latents import SongLatents, SourceLatents
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import AudioClip, Draft, DraftRequest, Song, SongPlan, SongRequest
from acestep.engine.analysis import RenderedSong, Threads, analyse
from acestep.engine.audio_inputs import load_inputs
from acestep.engine.batching import BatchingStage
from acestep.engine.idle import IdlePolicy
from acestep.engine.model_manager import ModelManager
from acestep.engine.oom_retry import BatchLimit, OomRetry, WorkItem
from acestep.engine.planner_host import PlannerHost
from acestep.engine.planning import (
    Planned,
    PlanningCallbacks,
    plan_songs,
    plan_with_retry,
    stem_plan,
    with_draft,
)
from acestep.engine.progress import JobProgress
from acestep.engine.renderer import Loaded, Renderer
from acestep.engine.tasks import all_of
from acestep.engine.threads import WatchedThread, computing_thread
from acestep.engine.write import SongWriter
from acestep.errors import JobCancelledError, PlannerUnavailableError
from acestep.jobs.worker import Cancelled, OnProgress
from acestep.limits import fit, needs_planner, uses_planner
from acestep.planner.planner import Watch

T = TypeVar("T")

# Shares of a job's time that go into planning it: with audio codes, with facts alone, without a planner.
_THINKING, _PLANNING, _PLAIN = 0.5, 0.15, 0.05


@dataclass(frozen=True, slots=True, eq=False)
class RenderTask:
    """One song on its way through the stages of `model`; `timings` fills up with seconds a stage."""

    index: int
    model: Loaded
    plan: SongPlan
    sources: SourceLatents
    progress: JobProgress
    cancelled: Cancelled
    timings: dict[str, float] = field(default_factory=dict)

    def report(self, stage: str, fraction: float) -> None:
        """Tell the job how far this song is, and stop here if nobody wants it any more."""
        if self.cancelled():
            raise JobCancelledError("The job was cancelled.")
        self.progress.report(self.index, stage, fraction)


class Engine:
    """The `Worker` of this process: models on a shelf, one thread that computes, one that writes files."""

    def __init__(
        self,
        model_manager: ModelManager,
        writer: SongWriter,
        planner_host: PlannerHost,
        idle_policy: IdlePolicy | None = None,
    ) -> None:
        idle_policy = idle_policy or IdlePolicy()
        self._model_manager = model_manager
        self._planner_host = planner_host
        self._writer = writer
        self._watchdog = idle_policy.watchdog
        self._oom_retry = OomRetry(idle_policy.free)
        self._executors = computing_thread("compute"), ThreadPoolExecutor(1, thread_name_prefix="files")
        self._compute, self._files = (WatchedThread(each, self._watchdog) for each in self._executors)
        batch_limit = BatchLimit()
        self._rendering = BatchingStage(
            self._render,
            _kind,
            lambda task: batch_limit.most(task.model, task.plan.duration),
            partial(self._compute.run, "render"),
            _model,
            lambda tasks: batch_limit.learn(tasks[0].model, tasks[0].plan.duration, len(tasks)),
        )

    def models(self) -> tuple[ModelInfo, ...]:
        return self._model_manager.infos()

    def planner(self, name: str = "") -> PlannerInfo:
        return self._planner_host.info(name)

    def planners(self) -> tuple[PlannerInfo, ...]:
        return self._planner_host.infos()

    async def draft(self, request: DraftRequest, cancelled: Cancelled) -> Draft:
        if request.audio_path:
            await self.wait_ready()
            async with self._model_manager.borrow(None) as (model, _):
                codes = await self._tokenize(Path(request.audio_path), model)
            request = replace(request, audio_codes=codes)
        return await self._planner_host.draft(
            request, self._model_manager.primary.max_duration, Watch(cancelled=cancelled)
        )

    def trouble(self) -> str:
        return self._watchdog.trouble()

    async def _tokenize(self, path: Path, model: Loaded) -> tuple[int, ...]:
        """The audio codes of a file."""
        return await self._encode(model, None, lambda renderer: renderer.tokenize(path))

    async def _encode(self, model: Loaded, seconds: float | None, work: Callable[[Renderer], T]) -> T:
        """What `work` makes of so many seconds of audio."""
        piece = WorkItem("encode", model.info.name, seconds, "audio")
        whole, pieces = partial(work, model.renderer), lambda: work(model.renderer.low_memory())
        return await self._compute.run(
            "encode", lambda: self._oom_retry.retry_with_less(piece, whole, pieces)
        )

    async def start(self) -> None:
        """Begin to load the models; returns at once."""
        await self._model_manager.start()
        await self._planner_host.start()

    async def close(self) -> None:
        """Let running work end and free the threads."""
        await self._model_manager.close()
        await self._planner_host.close()
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)

    async def wait_ready(self) -> None:
        """Return once the default model can be had and no thread is stuck; never, if it cannot be loaded."""
        await self._model_manager.wait_ready()
        await self._watchdog.wait_well()

    async def run(
        self, request: SongRequest, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        # The server may have been restarted with another model since the request was accepted.
        async with self._model_manager.borrow(request.model) as (model, notes):
            request = fit(replace(request, warnings=(*request.warnings, *notes)), model.info)
            return await self._run(request, model, on_progress, cancelled)

    async def _run(
        self, request: SongRequest, model: Loaded, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        """`run`, of a request that was fitted to `model`."""
        if request.goal in ("codes", "description"):
            return (await self._describe(request, model, cancelled),)
        stems = len(request.analysis.stems)
        progress = JobProgress(len(request.seeds), on_progress, _planning_share(request), stems)
        request, sources = await self._load_inputs(request, model)
        planned, notes = await self._plan(request, model.info, PlanningCallbacks(progress.plan, cancelled))
        request = replace(request, warnings=(*request.warnings, *notes))
        if request.goal == "metadata":
            return (_on_paper(request, planned, model.info),)
        tasks = [
            RenderTask(n, model, plan, sources, progress, cancelled, dict(planned.timings))
            for n, plan in enumerate(planned.plans)
        ]
        return tuple(await all_of(self._make(task, request, planned.planner) for task in tasks))

    async def _describe(self, request: SongRequest, model: Loaded, cancelled: Cancelled) -> Song:
        """What the source of a request is: its audio codes, and if asked for what the planner says of it."""
        codes, planner = request.audio_codes, ""
        if not codes:
            codes = await self._tokenize(Path(request.task.source), model)
        request = replace(request, audio_codes=codes, duration=None)
        if request.goal == "description":
            asked = DraftRequest(
                "understand", audio_codes=codes, options=request.planner, seed=request.seeds[0]
            )
            draft = await self.draft(asked, cancelled)
            request, planner = with_draft(request, draft), self._planner_host.info(asked.options.model).name
        return _on_paper(request, Planned(plan_songs(request, model.info), planner), model.info)

    async def _load_inputs(self, request: SongRequest, model: Loaded) -> tuple[SongRequest, SourceLatents]:
        """The request with what its audio decides, and that audio as latents."""
        if not (request.task.source or request.task.reference):
            return request, SourceLatents()
        seconds = request.task.source_seconds
        return await self._encode(model, seconds, lambda renderer: load_inputs(request, model.info, renderer))

    async def _plan(
        self, request: SongRequest, info: ModelInfo, callbacks: PlanningCallbacks
    ) -> tuple[Planned, tuple[str, ...]]:
        """The plans of a request, and what the client must hear of how they came about."""
        planner = self._planner_host.info(request.planner.model)
        if needs_planner(request):
            return await self._ask_planner(request, info, callbacks), _stand_in(request, planner)
        if planner.fills_in and planner.state != "downloading" and uses_planner(request):
            try:
                return await self._ask_planner(request, info, callbacks), _stand_in(request, planner)
            except PlannerUnavailableError as error:
                return self._plain(request, info), (f"use_cot_caption, use_cot_language: skipped. {error}",)
        return self._plain(request, info), ()

    async def _ask_planner(
        self, request: SongRequest, info: ModelInfo, callbacks: PlanningCallbacks
    ) -> Planned:
        async with self._planner_host.borrow(request.planner.model) as planner:
            return await plan_with_retry(request, info, planner, callbacks, self._planner_host.free)

    def _plain(self, request: SongRequest, info: ModelInfo) -> Planned:
        started = time.perf_counter()
        plans = plan_songs(request, info)
        return Planned(plans, timings={"plan": time.perf_counter() - started})

    async def _make(self, task: RenderTask, request: SongRequest, planner: str) -> Song:
        info = task.model.info
        latents = await self._rendering.run(task)
        clip = await self._sound(task, latents)
        rendered = RenderedSong(task.plan, task.sources, latents, clip)
        threads = Threads(partial(self._timed, self._compute, task), partial(self._timed, self._files, task))
        analysis, notes = await analyse(request.analysis, rendered, task.model.renderer, threads)
        parts = await self._parts(task, clip, request.analysis.stems)
        file = await self._write(task, clip, request)
        if parts:
            started = time.perf_counter()
            files = await all_of(self._make_part(part, request) for part in parts)
            analysis = replace(analysis, stems=tuple(map(Stem, request.analysis.stems, files)))
            task.timings["stems"] = time.perf_counter() - started
        return Song(
            file=file,
            plan=task.plan,
            audio_format=request.audio_format,
            dit_model=info.name,
            lm_model=planner,
            timings={stage: round(seconds, 3) for stage, seconds in task.timings.items()},
            # Who hears a song must know if a stand-in made it.
            warnings=tuple(filter(None, (*request.warnings, *latents.warnings, *notes, info.notice))),
            analysis=analysis,
        )

    async def _parts(self, song: RenderTask, clip: AudioClip, tracks: Sequence[str]) -> list[RenderTask]:
        """A ticket for each stem of a song, which is heard in it."""
        if not tracks:
            return []
        renderer = song.model.renderer
        encode, in_pieces = partial(renderer.encode, clip), lambda: renderer.low_memory().encode(clip)
        sources = SourceLatents(await self._timed(self._compute, song, "encode", encode, in_pieces))
        return [
            RenderTask(
                song.progress.stem(song.index, number),
                song.model,
                stem_plan(song.plan, track),
                sources,
                song.progress,
                song.cancelled,
            )
            for number, track in enumerate(tracks)
        ]

    async def _make_part(self, part: RenderTask, request: SongRequest) -> str:
        latents = await self._rendering.run(part)
        clip = await self._sound(part, latents)
        return await self._write(part, clip, request)

    async def _write(self, task: RenderTask, clip: AudioClip, request: SongRequest) -> str:
        name = task.model.info.name
        write = partial(self._writer.write, clip, task.plan, request.audio_format, name)
        file = await self._timed(self._files, task, "write", write)
        task.report("write", 1.0)
        return file

    def _render(self, tasks: Sequence[RenderTask]) -> Sequence[SongLatents]:
        def on_step(done: int, steps: int) -> None:
            self._compute.beat()
            for task in tasks:  # stops nobody: the batch is shared with jobs that go on
                task.progress.report(task.index, "render", done / steps, f"step {done} of {steps}")

        def cancelled() -> bool:
            self._compute.beat()  # this is asked, too, while the device is somebody else's
            return all(task.cancelled() for task in tasks)

        started = time.perf_counter()
        model, plans = tasks[0].model, [task.plan for task in tasks]
        render = partial(model.renderer.render, plans, on_step, cancelled, [task.sources for task in tasks])
        # Of a batch that is too large, the stage makes smaller ones.
        attempt = self._oom_retry.run if len(tasks) > 1 else self._oom_retry.retry_with_less
        songs = attempt(WorkItem("render", model.info.name, plans[0].duration), render)
        for task in tasks:
            task.timings["render"] = time.perf_counter() - started
        return songs

    async def _sound(self, task: RenderTask, latents: SongLatents) -> AudioClip:
        """The sound of a song; in smaller pieces, where memory runs out."""

        def on_fraction(fraction: float) -> None:
            self._compute.beat()
            task.report("decode", fraction)

        def decode(renderer: Renderer) -> AudioClip:
            return renderer.decode(latents, task.plan.duration, on_fraction)

        renderer = task.model.renderer
        whole, pieces = partial(decode, renderer), lambda: decode(renderer.low_memory())
        return await self._timed(self._compute, task, "decode", whole, pieces)

    async def _timed(
        self,
        thread: WatchedThread,
        task: RenderTask,
        stage: str,
        work: Callable[[], T],
        smaller: Callable[[], T] | None = None,
    ) -> T:
        """Run `work` in `thread` and note what it took, waiting not counted; `smaller` as `Thrift.twice`."""
        piece = WorkItem(stage, task.model.info.name, task.plan.duration)

        def measured() -> T:
            task.report(stage, 0.0)
            started = time.perf_counter()
            result = self._oom_retry.retry_with_less(piece, work, smaller)
            task.timings[stage] = time.perf_counter() - started
            return result

        return await thread.run(stage, measured)


def _stand_in(request: SongRequest, planner: PlannerInfo) -> tuple[str, ...]:
    """What is to be said where this is not the planner that was there when the request was accepted."""
    named = request.planner.model
    if named in ("", planner.name):
        return ()
    return (f"lm_model_path: {planner.name} is used; {named} is gone",)


def _on_paper(request: SongRequest, planned: Planned, info: ModelInfo) -> Song:
    """A plan that nobody wants to hear."""
    return Song(
        file="",
        plan=planned.plans[0],
        audio_format=request.audio_format,
        dit_model=info.name,
        lm_model=planned.planner,
        warnings=request.warnings,
    )


def _planning_share(request: SongRequest) -> float:
    """The planning's share of a job's time."""
    if request.planner.thinking:
        return _THINKING
    return _PLANNING if uses_planner(request) else _PLAIN


def _kind(task: RenderTask) -> Hashable:
    """Songs that can share a batch: of one model, as long, sampled alike, and with the same adapters."""
    return _model(task), task.plan.duration, task.plan.sampling, task.plan.adapters


def _model(task: RenderTask) -> Hashable:
    return id(task.model)  # of a name there may be two, while one takes the other's slot
