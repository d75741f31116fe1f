"""Planners that get stuck or fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from acestep.domain.draft import Draft, DraftRequest, Metadata
from acestep.domain.models import PlannerInfo
from acestep.engine.idle import IdlePolicy
from acestep.engine.planner_entry import PlannerEntry
from acestep.engine.planner_host import HostState, PlannerHost
from acestep.engine.renderer import LoadedPlanner, OnLoading
from acestep.engine.threads import Watchdog
from acestep.errors import (
    ModelUnavailableError,
    NotEnoughMemoryError,
    PlannerError,
    PlannerUnavailableError,
    StageStuckError,
)
from acestep.files import AudioStore
from acestep.planner.language_model import StepOutput
from acestep.planner.planner import PlannerCallbacks
from tests.engine.clock import LIMIT, Clock, while_nothing_happens
from tests.engine.fakes import (
    PATIENCE,
    FakeRenderer,
    loads,
    planner_host,
    request,
    running,
    unheard,
    until,
    wanted,
)
from tests.engine.test_planner_host import named
from tests.engine.test_planning import MODEL, PLAIN, THINKING
from tests.planner.fakes import WalkingModel
from tests.planner.test_loop import GatedModel

FORMAT = DraftRequest("format", caption="a song", metadata=Metadata(bpm=90))


class Stuck:
    """A host whose planner takes no step until the test lets it, and that loads while `go_on` is set."""

    def __init__(self) -> None:
        self.model = GatedModel()
        self.go_on = threading.Event()
        self.go_on.set()
        self.loads: list[str] = []
        self.watchdog = Watchdog(LIMIT)
        self.host = PlannerHost(self.planner("first", self.model), idle_policy=IdlePolicy(self.watchdog))

    def planner(self, name: str, model: WalkingModel | None = None) -> PlannerEntry:
        there = model or WalkingModel()
        there.name = name

        def load(on_loading: OnLoading) -> LoadedPlanner:
            self.loads.append(name)
            assert self.go_on.wait(PATIENCE)
            return LoadedPlanner(there, "toy")

        return PlannerEntry(PlannerInfo(name, "loading"), load)

    async def draft(self) -> Draft:
        return await self.host.draft(FORMAT, 600.0, PlannerCallbacks())


@pytest.fixture
async def stuck(clock: Clock) -> AsyncIterator[Stuck]:
    there = Stuck()
    await there.host.start()
    yield there
    there.go_on.set()
    there.model.let(10_000)
    await until(lambda: not there.watchdog.trouble())
    await there.host.close()


class TestStuck:
    async def test_a_request_fails_if_loading_is_stuck(self, stuck: Stuck, clock: Clock) -> None:
        assert await named(stuck.host) == "first"
        await stuck.host._leave()
        stuck.go_on.clear()
        await clock.until_stuck(
            named(stuck.host), lambda: len(stuck.loads) == 2, "Stage load first made no progress"
        )
        assert "Stage load first" in stuck.watchdog.trouble()
        stuck.go_on.set()
        await until(lambda: not stuck.watchdog.trouble())
        assert await named(stuck.host) == "first"
        assert stuck.loads == ["first", "first"], "it came late, and is used"

    async def test_a_planner_whose_thread_is_stuck_is_not_replaced(self, stuck: Stuck, clock: Clock) -> None:
        await clock.until_stuck(stuck.draft(), lambda: stuck.model.entered > 0, "Stage plan")
        with pytest.raises(StageStuckError, match=r"Stage plan .* restart the server"):
            async with asyncio.timeout(PATIENCE / 2):
                await stuck.host.put(stuck.planner("other"))
        assert (stuck.host.known.info().name, stuck.host.known.info().state) == ("first", "ready")
        stuck.model.let(10_000)
        await until(lambda: not stuck.watchdog.trouble())
        assert (await stuck.draft()).metadata.bpm == 90
        assert stuck.loads == ["first"]
        await stuck.host.put(stuck.planner("other"))
        assert await named(stuck.host) == "other"

    @pytest.mark.parametrize("left", [False, True], ids=["request waits", "request cancelled"])
    async def test_a_planner_that_gets_stuck_first_is_not_replaced(
        self, stuck: Stuck, left: bool, clock: Clock
    ) -> None:
        writing = asyncio.create_task(stuck.draft())
        await until(lambda: stuck.model.entered > 0)
        if left:
            writing.cancel()
        putting = asyncio.create_task(stuck.host.put(stuck.planner("other")))
        await while_nothing_happens(putting)
        clock.forward(LIMIT)
        with pytest.raises(StageStuckError, match="Stage plan"):
            async with asyncio.timeout(PATIENCE / 2):
                await putting
        await asyncio.wait([writing])
        assert await named(stuck.host) == "first"
        assert stuck.loads == ["first"]

    async def test_a_replacement_waits_for_the_step_of_a_cancelled_request(self, stuck: Stuck) -> None:
        writing = asyncio.create_task(stuck.draft())
        await until(lambda: stuck.model.entered > 0)
        writing.cancel()
        putting = asyncio.create_task(stuck.host.put(stuck.planner("other")))
        await asyncio.sleep(0.1)
        assert not putting.done() and stuck.host.known.info().name == "first"
        stuck.model.let(10_000)
        await putting
        assert await named(stuck.host) == "other"

    async def test_if_loading_is_stuck_the_first_is_queued_again(self, stuck: Stuck, clock: Clock) -> None:
        assert await named(stuck.host) == "first"
        stuck.go_on.clear()
        putting = stuck.host.put(stuck.planner("other"))
        await clock.until_stuck(putting, lambda: "other" in stuck.loads, "Stage load other")
        waiting = asyncio.create_task(named(stuck.host))
        clock.forward(LIMIT)
        await while_nothing_happens(waiting)  # a request behind the stuck load does not fail
        stuck.go_on.set()
        assert await waiting == "first"
        assert stuck.loads == ["first", "other", "first"]

    async def test_an_idle_planner_stays_until_no_thread_is_stuck(self, clock: Clock) -> None:
        watchdog, other = CountingWatchdog(LIMIT), OtherThread()
        watchdog.add(other)
        host = planner_host(
            PlannerInfo("toy", "loading"),
            lambda _: LoadedPlanner(WalkingModel(), "toy"),
            IdlePolicy(watchdog, idle_seconds=0.01),
        )
        await host.start()
        await until(lambda: watchdog.waits > 0)
        assert (host.known.info().state, watchdog.checks) == ("ready", 0), "it does not try again and again"
        other.silent = 0.0
        await until(lambda: host.state is HostState.EMPTY)
        await host.close()


class OtherThread:
    """A stuck thread of the device, such as the one that renders."""

    stage = "render"
    silent = 2 * LIMIT

    def silence(self) -> float:
        return self.silent


class CountingWatchdog(Watchdog):
    checks = 0
    waits = 0

    def check(self) -> None:
        self.checks += 1
        super().check()

    async def wait_healthy(self) -> None:
        self.waits += 1
        await super().wait_healthy()


class FragileModel(WalkingModel):
    """Raises `broken` at every step from the one on that it is set at."""

    broken: Exception | None = None

    def step(self) -> Sequence[StepOutput]:
        if self.broken is not None and self.generations:
            raise self.broken
        return super().step()


class Fragile:
    """A host whose planner may break. `models` are those that were loaded."""

    def __init__(self) -> None:
        self.models: list[FragileModel] = []
        self.reason = ""
        self.host = planner_host(PlannerInfo("fragile", "loading"), self._load)

    async def draft(self) -> Draft:
        asked = DraftRequest("format", caption="a song", metadata=Metadata(bpm=90), seed=3)
        return await self.host.draft(asked, 60.0, PlannerCallbacks(cancelled=wanted))

    async def until_dropped(self) -> None:
        await until(lambda: self.host.state is HostState.EMPTY)
        assert self.host.known.info().state == "on_disk"

    def _load(self, _: OnLoading) -> LoadedPlanner:
        if self.reason:
            raise ModelUnavailableError(self.reason)
        self.models.append(FragileModel())
        return LoadedPlanner(self.models[-1], "toy")


@pytest.fixture
async def fragile() -> AsyncIterator[Fragile]:
    there = Fragile()
    await there.host.start()
    await named(there.host)
    yield there
    await there.host.close()


class TestFailed:
    """A step of the language model raises, as the steps of a dead vLLM engine do."""

    async def test_a_planner_that_failed_is_loaded_again_for_the_next_request(self, fragile: Fragile) -> None:
        first = await fragile.draft()
        fragile.models[0].broken = RuntimeError("the engine is dead")
        with pytest.raises(PlannerError, match=r"failed: the engine is dead\. .* Send the request once more"):
            await fragile.draft()
        await fragile.until_dropped()
        await until(lambda: fragile.models[0].closed == 1)
        assert fragile.host.known.info().is_usable
        assert fragile.host.known.info().detail == (
            "The language model failed: the engine is dead. It is loaded again when a request needs it."
        )
        assert (fragile.models[0].closed, len(fragile.models)) == (1, 1), "no request needs it yet"
        assert await fragile.draft() == first
        assert (len(fragile.models), fragile.host.known.info().detail) == (2, "")

    async def test_all_texts_fail_at_once_and_later_requests_wait(self, fragile: Fragile) -> None:
        async with fragile.host.borrow() as planner:
            fragile.models[0].broken = RuntimeError("the engine is dead")
            failed = await asyncio.gather(*(fragile.draft() for _ in range(3)), return_exceptions=True)
            assert {type(each) for each in failed} == {PlannerError}
            with pytest.raises(PlannerError, match="the engine is dead"):  # again, for a borrower
                await planner.draft(DraftRequest("format", caption="a song"))
            later = asyncio.create_task(fragile.draft())
            await asyncio.sleep(0.01)
            assert not later.done() and len(fragile.models) == 1
        assert (await later).metadata.bpm == 90
        assert len(fragile.models) == 2

    async def test_if_it_cannot_be_loaded_again_each_request_tries(self, fragile: Fragile) -> None:
        fragile.models[0].broken = RuntimeError("the engine is dead")
        fragile.reason = "the driver is gone"
        with pytest.raises(PlannerError):
            await fragile.draft()
        await fragile.until_dropped()
        with pytest.raises(PlannerUnavailableError, match="the driver is gone"):
            await fragile.draft()
        fragile.reason = ""
        assert (await fragile.draft()).metadata.bpm == 90

    async def test_out_of_memory_does_not_reload_it(self, fragile: Fragile) -> None:
        fragile.models[0].broken = MemoryError()
        with pytest.raises(NotEnoughMemoryError):
            await fragile.draft()
        fragile.models[0].broken = None
        assert (await fragile.draft()).metadata.bpm == 90
        assert len(fragile.models) == 1

    async def test_songs_without_a_planner_go_on(self, files: AudioStore, fragile: Fragile) -> None:
        fragile.models[0].broken = RuntimeError("the engine is dead")
        async with running(files, loads(FakeRenderer(), MODEL), MODEL, fragile.host) as engine:
            planned = asyncio.create_task(engine.run(request(planner=THINKING), unheard, wanted))
            plain = await engine.run(request(planner=PLAIN), unheard, wanted)
            assert len(plain) == 1
            with pytest.raises(PlannerError, match="the engine is dead"):
                await planned
            assert len(await engine.run(request(planner=THINKING), unheard, wanted)) == 1
