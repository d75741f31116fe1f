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
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import AudioClip, Draft, DraftRequest, Song, SongPlan, SongRequest
from acestep.engine.analysis import Made, Threads, find_out
from acestep.engine.audio_inputs import hear
from acestep.engine.batching import BatchingStage
from acestep.engine.idle import Upkeep
from acestep.engine.model_manager import ModelShelf
from acestep.engine.oom_retry import Bounds, Piece, Thrift
from acestep.engine.planner_pool import PlannerDesks
from acestep.engine.planning import (
    Onlooker,
    Thought,
    needs_planner,
    plan_songs,
    stem_plan,
    think_thriftily,
    uses_planner,
    with_draft,
)
from acestep.engine.progress import JobProgress
from acestep.engine.renderer import Heard, Loaded, Renderer, Rendering
from acestep.engine.tasks import all_of
from acestep.engine.threads import WatchedThread, computing_thread
from acestep.engine.write import SongWriter
from acestep.errors import JobCancelledError, PlannerUnavailableError
from acestep.jobs.worker import Cancelled, OnProgress
from acestep.limits import fit
from acestep.planner.planner import Watch

T = TypeVar("T")

# Shares of a job's time that go into planning it: with audio codes, with facts alone, without a planner.
_THINKING, _PLANNING, _PLAIN = 0.5, 0.15, 0.05


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    """One song on its way through the stages of `model`; `timings` fills up with seconds a stage."""

    index: int
    model: Loaded
    plan: SongPlan
    heard: Heard
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
        self, shelf: ModelShelf, writer: SongWriter, desks: PlannerDesks, upkeep: Upkeep | None = None
    ) -> None:
        upkeep = upkeep or Upkeep()
        self._shelf = shelf
        self._desks = desks
        self._writer = writer
        self._watchdog = upkeep.watchdog
        self._thrift = Thrift(upkeep.free)
        self._executors = computing_thread("compute"), ThreadPoolExecutor(1, thread_name_prefix="files")
        self._compute, self._files = (WatchedThread(each, self._watchdog) for each in self._executors)
        bounds = Bounds()
        self._rendering = BatchingStage(
            self._render,
            _kind,
            lambda ticket: bounds.most(ticket.model, ticket.plan.duration),
            partial(self._compute.run, "render"),
            _model,
            lambda tickets: bounds.learn(tickets[0].model, tickets[0].plan.duration, len(tickets)),
        )

    def models(self) -> tuple[ModelInfo, ...]:
        return self._shelf.infos()

    def planner(self, name: str = "") -> PlannerInfo:
        return self._desks.info(name)

    def planners(self) -> tuple[PlannerInfo, ...]:
        return self._desks.infos()

    async def draft(self, request: DraftRequest, cancelled: Cancelled) -> Draft:
        if request.audio_path:
            await self.wait_ready()
            async with self._shelf.borrow(None) as (model, _):
                codes = await self._listen(Path(request.audio_path), model)
            request = replace(request, audio_codes=codes)
        return await self._desks.draft(request, self._shelf.primary.max_duration, Watch(cancelled=cancelled))

    def trouble(self) -> str:
        return self._watchdog.trouble()

    async def _listen(self, path: Path, model: Loaded) -> tuple[int, ...]:
        """The audio codes of a file."""
        return await self._encode(model, None, lambda renderer: renderer.listen(path))

    async def _encode(self, model: Loaded, seconds: float | None, work: Callable[[Renderer], T]) -> T:
        """What `work` makes of so many seconds of audio."""
        piece = Piece("encode", model.info.name, seconds, "audio")
        whole, pieces = partial(work, model.renderer), lambda: work(model.renderer.thrifty())
        return await self._compute.run("encode", lambda: self._thrift.twice(piece, whole, pieces))

    async def start(self) -> None:
        """Begin to load the models; returns at once."""
        await self._shelf.start()
        await self._desks.start()

    async def close(self) -> None:
        """Let running work end and free the threads."""
        await self._shelf.close()
        await self._desks.close()
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)

    async def wait_ready(self) -> None:
        """Return once the default model can be had and no thread is stuck; never, if it cannot be loaded."""
        await self._shelf.wait_ready()
        await self._watchdog.wait_well()

    async def run(
        self, request: SongRequest, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        # The server may have been restarted with another model since the request was accepted.
        async with self._shelf.borrow(request.model) as (model, notes):
            request = fit(replace(request, warnings=(*request.warnings, *notes)), model.info)
            return await self._run(request, model, on_progress, cancelled)

    async def _run(
        self, request: SongRequest, model: Loaded, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        """`run`, of a request that was fitted to `model`."""
        if request.goal in ("codes", "description"):
            return (await self._describe(request, model, cancelled),)
        stems = len(request.extras.stems)
        progress = JobProgress(len(request.seeds), on_progress, _planning_share(request), stems)
        request, heard = await self._hear(request, model)
        thought, notes = await self._think(request, model.info, Onlooker(progress.plan, cancelled))
        request = replace(request, warnings=(*request.warnings, *notes))
        if request.goal == "metadata":
            return (_on_paper(request, thought, model.info),)
        tickets = [
            _Ticket(n, model, plan, heard, progress, cancelled, dict(thought.timings))
            for n, plan in enumerate(thought.plans)
        ]
        return tuple(await all_of(self._make(ticket, request, thought.planner) for ticket in tickets))

    async def _describe(self, request: SongRequest, model: Loaded, cancelled: Cancelled) -> Song:
        """What the source of a request is: its audio codes, and if asked for what the planner says of it."""
        codes, planner = request.audio_codes, ""
        if not codes:
            codes = await self._listen(Path(request.task.source), model)
        request = replace(request, audio_codes=codes, duration=None)
        if request.goal == "description":
            asked = DraftRequest(
                "understand", audio_codes=codes, options=request.planner, seed=request.seeds[0]
            )
            draft = await self.draft(asked, cancelled)
            request, planner = with_draft(request, draft), self._desks.info(asked.options.model).name
        return _on_paper(request, Thought(plan_songs(request, model.info), planner), model.info)

    async def _hear(self, request: SongRequest, model: Loaded) -> tuple[SongRequest, Heard]:
        """The request with what its audio decides, and that audio as latents."""
        if not (request.task.source or request.task.reference):
            return request, Heard()
        seconds = request.task.source_seconds
        return await self._encode(model, seconds, lambda renderer: hear(request, model.info, renderer))

    async def _think(
        self, request: SongRequest, info: ModelInfo, onlooker: Onlooker
    ) -> tuple[Thought, tuple[str, ...]]:
        """The plans of a request, and what the client must hear of how they came about."""
        planner = self._desks.info(request.planner.model)
        if needs_planner(request):
            return await self._ask_planner(request, info, onlooker), _stand_in(request, planner)
        if planner.fills_in and planner.state != "downloading" and uses_planner(request):
            try:
                return await self._ask_planner(request, info, onlooker), _stand_in(request, planner)
            except PlannerUnavailableError as error:
                return self._plain(request, info), (f"use_cot_caption, use_cot_language: skipped. {error}",)
        return self._plain(request, info), ()

    async def _ask_planner(self, request: SongRequest, info: ModelInfo, onlooker: Onlooker) -> Thought:
        async with self._desks.borrow(request.planner.model) as planner:
            return await think_thriftily(request, info, planner, onlooker, self._desks.free)

    def _plain(self, request: SongRequest, info: ModelInfo) -> Thought:
        started = time.perf_counter()
        plans = plan_songs(request, info)
        return Thought(plans, timings={"plan": time.perf_counter() - started})

    async def _make(self, ticket: _Ticket, request: SongRequest, planner: str) -> Song:
        info = ticket.model.info
        rendering = await self._rendering.run(ticket)
        clip = await self._sound(ticket, rendering)
        made = Made(ticket.plan, ticket.heard, rendering, clip)
        threads = Threads(
            partial(self._timed, self._compute, ticket), partial(self._timed, self._files, ticket)
        )
        findings, notes = await find_out(request.extras, made, ticket.model.renderer, threads)
        parts = await self._parts(ticket, clip, request.extras.stems)
        file = await self._write(ticket, clip, request)
        if parts:
            started = time.perf_counter()
            files = await all_of(self._make_part(part, request) for part in parts)
            findings = replace(findings, stems=tuple(map(Stem, request.extras.stems, files)))
            ticket.timings["stems"] = time.perf_counter() - started
        return Song(
            file=file,
            plan=ticket.plan,
            audio_format=request.audio_format,
            dit_model=info.name,
            lm_model=planner,
            timings={stage: round(seconds, 3) for stage, seconds in ticket.timings.items()},
            # Who hears a song must know if a stand-in made it.
            warnings=tuple(filter(None, (*request.warnings, *rendering.warnings, *notes, info.notice))),
            findings=findings,
        )

    async def _parts(self, song: _Ticket, clip: AudioClip, tracks: Sequence[str]) -> list[_Ticket]:
        """A ticket for each stem of a song, which is heard in it."""
        if not tracks:
            return []
        renderer = song.model.renderer
        encode, in_pieces = partial(renderer.encode, clip), lambda: renderer.thrifty().encode(clip)
        heard = Heard(await self._timed(self._compute, song, "encode", encode, in_pieces))
        return [
            _Ticket(
                song.progress.stem(song.index, number),
                song.model,
                stem_plan(song.plan, track),
                heard,
                song.progress,
                song.cancelled,
            )
            for number, track in enumerate(tracks)
        ]

    async def _make_part(self, part: _Ticket, request: SongRequest) -> str:
        rendering = await self._rendering.run(part)
        clip = await self._sound(part, rendering)
        return await self._write(part, clip, request)

    async def _write(self, ticket: _Ticket, clip: AudioClip, request: SongRequest) -> str:
        name = ticket.model.info.name
        write = partial(self._writer.write, clip, ticket.plan, request.audio_format, name)
        file = await self._timed(self._files, ticket, "write", write)
        ticket.report("write", 1.0)
        return file

    def _render(self, tickets: Sequence[_Ticket]) -> Sequence[Rendering]:
        def on_step(done: int, steps: int) -> None:
            self._compute.beat()
            for ticket in tickets:  # stops nobody: the batch is shared with jobs that go on
                ticket.progress.report(ticket.index, "render", done / steps, f"step {done} of {steps}")

        def cancelled() -> bool:
            self._compute.beat()  # this is asked, too, while the device is somebody else's
            return all(ticket.cancelled() for ticket in tickets)

        started = time.perf_counter()
        model, plans = tickets[0].model, [ticket.plan for ticket in tickets]
        render = partial(
            model.renderer.render, plans, on_step, cancelled, [ticket.heard for ticket in tickets]
        )
        # Of a batch that is too large, the stage makes smaller ones.
        attempt = self._thrift.once if len(tickets) > 1 else self._thrift.twice
        renderings = attempt(Piece("render", model.info.name, plans[0].duration), render)
        for ticket in tickets:
            ticket.timings["render"] = time.perf_counter() - started
        return renderings

    async def _sound(self, ticket: _Ticket, rendering: Rendering) -> AudioClip:
        """The sound of a song; in smaller pieces, where memory runs out."""

        def on_fraction(fraction: float) -> None:
            self._compute.beat()
            ticket.report("decode", fraction)

        def decode(renderer: Renderer) -> AudioClip:
            return renderer.decode(rendering, ticket.plan.duration, on_fraction)

        renderer = ticket.model.renderer
        whole, pieces = partial(decode, renderer), lambda: decode(renderer.thrifty())
        return await self._timed(self._compute, ticket, "decode", whole, pieces)

    async def _timed(
        self,
        thread: WatchedThread,
        ticket: _Ticket,
        stage: str,
        work: Callable[[], T],
        smaller: Callable[[], T] | None = None,
    ) -> T:
        """Run `work` in `thread` and note what it took, waiting not counted; `smaller` as `Thrift.twice`."""
        piece = Piece(stage, ticket.model.info.name, ticket.plan.duration)

        def measured() -> T:
            ticket.report(stage, 0.0)
            started = time.perf_counter()
            result = self._thrift.twice(piece, work, smaller)
            ticket.timings[stage] = time.perf_counter() - started
            return result

        return await thread.run(stage, measured)


def _stand_in(request: SongRequest, planner: PlannerInfo) -> tuple[str, ...]:
    """What is to be said where this is not the planner that was there when the request was accepted."""
    named = request.planner.model
    if named in ("", planner.name):
        return ()
    return (f"lm_model_path: {planner.name} is used; {named} is gone",)


def _on_paper(request: SongRequest, thought: Thought, info: ModelInfo) -> Song:
    """A plan that nobody wants to hear."""
    return Song(
        file="",
        plan=thought.plans[0],
        audio_format=request.audio_format,
        dit_model=info.name,
        lm_model=thought.planner,
        warnings=request.warnings,
    )


def _planning_share(request: SongRequest) -> float:
    """The planning's share of a job's time."""
    if request.planner.thinking:
        return _THINKING
    return _PLANNING if uses_planner(request) else _PLAIN


def _kind(ticket: _Ticket) -> Hashable:
    """Songs that can share a batch: of one model, as long, sampled alike, and with the same adapters."""
    return _model(ticket), ticket.plan.duration, ticket.plan.sampling, ticket.plan.adapters


def _model(ticket: _Ticket) -> Hashable:
    return id(ticket.model)  # of a name there may be two, while one takes the other's slot
