"""Planners that come because a request names them, one at a time in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from acestep.domain.models import PlannerInfo
from acestep.domain.song import DraftRequest, Metadata, PlannerOptions
from acestep.engine.idle import IdlePolicy, as_on_demand
from acestep.engine.planner_host import LoadedPlanner, PlannerHost
from acestep.engine.planner_pool import PlannerPool
from acestep.engine.renderer import OnLoading
from acestep.engine.threads import Watchdog
from acestep.errors import CheckpointError, PlannerUnavailableError
from acestep.planner.planner import Watch
from tests.engine.fakes import PATIENCE, until
from tests.planner.fakes import WalkingModel

ASKED = DraftRequest("format", caption="a song", metadata=Metadata(bpm=90), seed=3)


class SlowToGo(WalkingModel):
    """A model that leaves memory when it may."""

    def __init__(self, may_go: threading.Event) -> None:
        super().__init__()
        self._may_go = may_go

    def close(self) -> None:
        assert self._may_go.wait(PATIENCE)
        super().close()


class House:
    """Planners by name, how often each was loaded, and who is in memory; `broken` ones do not load."""

    def __init__(self, own: str = "own") -> None:
        self.loads: list[str] = []
        self.broken = {"broken"}
        self.may_go = threading.Event()
        self.may_go.set()
        self.watchdog = Watchdog(60.0)
        idle_policy = IdlePolicy(self.watchdog)
        own_desk = (
            self._host(own, idle_policy) if own else PlannerHost(PlannerInfo(), idle_policy=idle_policy)
        )
        self.planner_pool = PlannerPool(own_desk, self)

    def names(self) -> tuple[str, ...]:
        return ("own", "guest")

    def host(self, name: str) -> PlannerHost | None:
        if name not in ("own", "guest", "broken"):
            return None
        return self._host(name, IdlePolicy(self.watchdog, is_lazy=True))

    def _host(self, name: str, idle_policy: IdlePolicy) -> PlannerHost:
        def load(_: OnLoading) -> LoadedPlanner:
            self.loads.append(name)
            if name in self.broken:
                raise CheckpointError("Its weights are cut short.")
            model = SlowToGo(self.may_go)
            model.name = name
            return LoadedPlanner(model, "toy")

        info = PlannerInfo(name, "loading")
        return PlannerHost(as_on_demand(info) if idle_policy.is_lazy else info, load, idle_policy=idle_policy)

    def states(self) -> dict[str, str]:
        return {info.name: info.state for info in self.planner_pool.infos()}

    async def who(self, name: str = "") -> str:
        async with self.planner_pool.borrow(name) as planner:
            return planner.name


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    await house.planner_pool.start()
    yield house
    await house.planner_pool.close()


async def test_who_is_named_comes_and_the_others_leave(house: House) -> None:
    assert await house.who() == "own"
    assert house.states() == {"own": "ready", "guest": "on_disk"}
    assert await house.who("guest") == "guest"
    assert house.states() == {"own": "on_disk", "guest": "ready"}
    own = house.planner_pool.info()
    assert own.loads_on_demand, "a client that waits for a planner need not wait for ever"
    assert await house.who("own") == "own"
    assert house.states() == {"own": "ready", "guest": "on_disk"}
    assert house.loads == ["own", "guest", "own"]


@pytest.mark.parametrize("name", ["", "own", "nobody"])
async def test_who_cannot_be_had_is_stood_in_for(house: House, name: str) -> None:
    assert house.planner_pool.info(name).name == "own"
    assert await house.who(name) == "own"


async def test_nobody_leaves_before_the_work_is_done_nor_is_anybody_overtaken(house: House) -> None:
    order: list[str] = []

    async def work(name: str) -> None:
        async with house.planner_pool.borrow(name) as planner:
            order.append(planner.name)

    async with house.planner_pool.borrow():
        waiting = []
        for name in ("guest", "own"):  # the second would have its planner at once
            waiting.append(asyncio.create_task(work(name)))
            await asyncio.sleep(0.02)
        assert order == []
    await asyncio.gather(*waiting)
    assert order == ["guest", "own"]


async def test_nobody_comes_before_the_other_has_gone(house: House) -> None:
    assert await house.who() == "own"
    house.may_go.clear()
    leaving = asyncio.create_task(house.planner_pool._own.leave())  # as when it was idle
    coming = asyncio.create_task(house.who("guest"))
    await asyncio.sleep(0.05)
    assert house.loads == ["own"], "both would be in memory"
    house.may_go.set()
    await leaving
    assert await coming == "guest"


async def test_a_draft_is_written_by_who_is_named(house: House) -> None:
    named = replace(ASKED, options=PlannerOptions(model="guest"))
    draft = await house.planner_pool.draft(named, 600.0, Watch())
    assert draft.metadata.bpm == 90
    assert house.states() == {"own": "on_disk", "guest": "ready"}


async def test_who_does_not_load_says_why_and_is_tried_again(house: House) -> None:
    for _ in range(2):
        with pytest.raises(PlannerUnavailableError, match="Its weights are cut short"):
            await house.who("broken")
    assert len(house.watchdog._pulses) == 2, "who has gone is not watched any more"
    house.broken.clear()
    assert await house.who("broken") == "broken"
    assert house.loads.count("broken") == 3
    assert await house.who() == "own"


async def test_a_server_without_a_planner_has_guests() -> None:
    house = House(own="")
    await house.planner_pool.start()
    assert not house.planner_pool.info().is_usable
    assert house.planner_pool.info("guest").is_usable
    assert await house.who("guest") == "guest"
    with pytest.raises(PlannerUnavailableError):
        await house.who()
    await house.planner_pool.close()


async def test_another_own_one_comes_when_guests_have_left(house: House) -> None:
    assert await house.who("guest") == "guest"
    async with house.planner_pool.borrow("guest"):
        putting = asyncio.create_task(
            house.planner_pool.put(
                PlannerInfo("guest", "loading"), lambda _: LoadedPlanner(WalkingModel(), "own")
            )
        )
        await asyncio.sleep(0.02)
        assert house.planner_pool.info().name == "own"
    assert (await putting).name == "guest"
    assert house.planner_pool.info("guest").backend == "own", "it is no guest any more"
    assert house.states() == {"guest": "ready", "own": "on_disk"}


async def test_where_nobody_may_come_the_own_one_answers() -> None:
    house = House()
    alone = PlannerPool(house._host("own", IdlePolicy()))
    await alone.start()
    await until(lambda: alone.info().state == "ready")
    assert (alone.info("guest").name, len(alone.infos())) == ("own", 1)
    await alone.close()
