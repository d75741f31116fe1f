"""A model that hums instead of making music, and short ways to requests and engines."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from acestep.audio.encode import SongWriter
from acestep.domain.analysis import LyricTimes, TimedLine
from acestep.domain.latents import SongLatents, SourceLatents
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import AudioClip, Progress, SongPlan, SongRequest, is_instrumental
from acestep.engine.engine import Engine
from acestep.engine.idle import IdlePolicy
from acestep.engine.model_entry import ModelEntry
from acestep.engine.model_manager import PRIMARY, ModelManager
from acestep.engine.planner_entry import PlannerEntry
from acestep.engine.planner_host import PlannerHost
from acestep.engine.renderer import Cancelled, Load, Loaded, LoadPlanner, OnFraction, OnStep
from acestep.errors import JobCancelledError, UntimedLyricsError
from acestep.files import AudioStore

if TYPE_CHECKING:
    from torch import Tensor

RATE = 8000
STEPS = 3
PATIENCE = 20.0  # seconds that a busy machine gets before a test gives up
INFO = ModelInfo(
    name="hum", is_turbo=False, steps=STEPS, guidance_scale=7.0, shift=1.0, max_steps=50, max_batch=4
)


class FakeRenderer:
    """Renders without torch: a plan stands for a song's latents, a clip for a source's.

    A song's samples are all `loudness(seed)`. `batches` has the plans of each call of `render`, `sources` the
    sources of each song, `threads` the threads of the calls, `aside` those that aligned lyrics. A song whose
    caption is in `broken` fails its batch; `on_decode` may raise. After `hold`, renders wait for `release`.
    """

    def __init__(self) -> None:
        self.batches: list[list[SongPlan]] = []
        self.sources: list[SourceLatents] = []
        self.decoded: list[SongPlan] = []
        self.steps = 0
        self.threads: set[int] = set()
        self.aside: set[int] = set()
        self.niceness: int | None = None
        self.broken: dict[str, Exception] = {}
        self.on_decode: Callable[[SongPlan], None] = lambda plan: None
        self.begun = threading.Event()
        self._go_on = threading.Event()
        self._go_on.set()

    def hold(self) -> None:
        self.begun.clear()
        self._go_on.clear()

    def release(self) -> None:
        self._go_on.set()

    @property
    def is_held(self) -> bool:
        return not self._go_on.is_set()

    async def wait_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, PATIENCE)

    sample_rate = RATE
    reference_seconds = 3.0
    takes_batches = True

    def encode(self, clip: AudioClip) -> Tensor:
        self.threads.add(threading.get_ident())
        assert clip.sample_rate == RATE
        return cast("Tensor", clip)

    def render(
        self,
        plans: Sequence[SongPlan],
        on_step: OnStep,
        cancelled: Cancelled,
        sources: Sequence[SourceLatents] = (),
    ) -> Sequence[SongLatents]:
        self.batches.append(list(plans))
        self.sources += sources
        self.threads.add(threading.get_ident())
        self.niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        self.begun.set()
        assert self._go_on.wait(PATIENCE)
        for step in range(STEPS):
            if cancelled():
                raise JobCancelledError("The job was cancelled while it hummed.")
            self.steps += 1
            on_step(step + 1, STEPS)
        for plan in plans:
            if plan.caption in self.broken:
                raise self.broken[plan.caption]
        return [SongLatents(cast("Tensor", plan), (f"seed {plan.seed} hums",)) for plan in plans]

    def decode(self, song: SongLatents, seconds: float, on_fraction: OnFraction) -> AudioClip:
        plan = cast(SongPlan, song.latents)
        self.decoded.append(plan)
        self.threads.add(threading.get_ident())
        self.on_decode(plan)
        on_fraction(0.5)
        samples = np.full((2, round(seconds * RATE)), loudness(plan.seed), np.float32)
        on_fraction(1.0)
        return AudioClip(samples, RATE)

    def align_lyrics(
        self, plan: SongPlan, song: SongLatents, sources: SourceLatents
    ) -> Callable[[], LyricTimes]:
        self.threads.add(threading.get_ident())
        if is_instrumental(plan.lyrics):
            raise UntimedLyricsError("a hum has no words")
        assert cast(SongPlan, song.latents) == plan
        return lambda: self._times(plan)

    def _times(self, plan: SongPlan) -> LyricTimes:
        self.aside.add(threading.get_ident())
        return LyricTimes((TimedLine(plan.lyrics, 1.0, 2.0, ()),), score=0.5)

    def tokenize(self, path: Path) -> tuple[int, ...]:
        return tuple(path.read_bytes())

    def low_memory(self) -> FakeRenderer:
        return self


def loudness(seed: int) -> float:
    return seed / 100


def request(caption: str = "a song", seeds: tuple[int, ...] = (1,), **changes: Any) -> SongRequest:
    fields: dict[str, Any] = {"duration": 10.0, "audio_format": "wav", "batch_size": len(seeds)}
    return SongRequest(caption=caption, seeds=seeds, **(fields | changes))


def loads(renderer: FakeRenderer, info: ModelInfo = INFO) -> Load:
    return lambda on_loading: Loaded(replace(info, state="ready"), renderer)


def planner_host(
    info: PlannerInfo | None = None,
    load: LoadPlanner | None = None,
    idle_policy: IdlePolicy | None = None,
) -> PlannerHost:
    info = info or PlannerInfo(detail="This test has no planner.")
    return PlannerHost(PlannerEntry(info, load), idle_policy=idle_policy)


@asynccontextmanager
async def running(
    files: AudioStore,
    load: Load,
    info: ModelInfo = INFO,
    host: PlannerHost | None = None,
    idle_policy: IdlePolicy | None = None,
):
    host = host or planner_host()
    model_manager = ModelManager({PRIMARY: ModelEntry(info, load)}, idle_policy=idle_policy)
    engine = Engine(model_manager, SongWriter(files, mp3_bitrate=128), host, idle_policy)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def unheard(progress: Progress) -> None:
    """Ignores progress."""


def wanted() -> bool:
    """Never cancels."""
    return False


def later(seconds: float, do: Callable[[], None]) -> None:
    """Call `do` in so many seconds, so that a test can await what must not come before."""
    asyncio.get_running_loop().call_later(seconds, do)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110 - what changes is a state, not an event
            await asyncio.sleep(0.002)
