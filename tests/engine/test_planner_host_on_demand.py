"""On-demand planners of a host: loaded because a request names them, one at a time in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from acestep.domain.draft import DraftRequest, Metadata
from acestep.domain.models import PlannerInfo
from acestep.domain.song import PlannerOptions
from acestep.engine.idle import IdlePolicy, as_on_demand
from acestep.engine.planner_entry import PlannerEntry
from acestep.engine.planner_host import PlannerHost
from acestep.engine.renderer import LoadedPlanner, OnLoading
from acestep.engine.threads import Watchdog
from acestep.errors import CheckpointError, PlannerUnavailableError
from acestep.planner.planner import PlannerCallbacks
from tests.engine.fakes import PATIENCE, until
from tests.planner.fakes import WalkingModel

ASKED = DraftRequest("format", caption="a song", metadata=Metadata(bpm=90), seed=3)


class SlowToClose(WalkingModel):
    """A model that is unloaded once `may_close` is set."""

    def __init__(self, may_close: threading.Event) -> None:
        super().__init__()
        self._may_close = may_close

    def close(self) -> None:
        assert self._may_close.wait(PATIENCE)
        super().close()


class House:
    """A host with planners by name; `loads` has each load, and `broken` planners cannot be loaded."""

    def __init__(self, own: str = "own", is_alone: bool = False) -> None:
        self.loads: list[str] = []
        self.broken = {"broken"}
        self.may_close = threading.Event()
        self.may_close.set()
        self.host = PlannerHost(
            self._entry(own) if own else PlannerEntry(PlannerInfo()),
            None if is_alone else self,
            idle_policy=IdlePolicy(Watchdog(60.0)),
        )

    def names(self) -> tuple[str, ...]:
        return ("own", "guest")

    def find(self, name: str) -> PlannerEntry | None:
        if name not in ("own", "guest", "broken"):
            return None
        entry = self._entry(name)
        entry.info = as_on_demand(entry.info)
        return entry

    def _entry(self, name: str) -> PlannerEntry:
        def load(_: OnLoading) -> LoadedPlanner:
            self.loads.append(name)
            if name in self.broken:
                raise CheckpointError("Its weights are cut short.")
            model = SlowToClose(self.may_close)
            model.name = name
            return LoadedPlanner(model, "toy")

        return PlannerEntry(PlannerInfo(name, "loading"), load)

    def states(self) -> dict[str, str]:
        return {info.name: info.state for info in self.host.known.infos()}

    async def planner(self, name: str = "") -> str:
        async with self.host.borrow(name) as planner:
            return planner.name


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    await house.host.start()
    yield house
    await house.host.close()


async def test_the_named_planner_is_loaded_and_the_other_evicted(house: House) -> None:
    assert await house.planner() == "own"
    assert house.states() == {"own": "ready", "guest": "on_disk"}
    assert await house.planner("guest") == "guest"
    assert house.states() == {"own": "on_disk", "guest": "ready"}
    own = house.host.known.info()
    assert own.loads_on_demand, "clients that wait for a ready planner must not wait for ever"
    assert await house.planner("own") == "own"
    assert house.states() == {"own": "ready", "guest": "on_disk"}
    assert house.loads == ["own", "guest", "own"]


@pytest.mark.parametrize("name", ["", "own", "nobody"])
async def test_the_own_planner_serves_other_names(house: House, name: str) -> None:
    assert house.host.known.info(name).name == "own"
    assert await house.planner(name) == "own"


async def test_requests_take_turns_and_a_borrowed_planner_stays(house: House) -> None:
    order: list[str] = []

    async def work(name: str) -> None:
        async with house.host.borrow(name) as planner:
            order.append(planner.name)

    async with house.host.borrow():
        waiting = []
        for name in ("guest", "own"):  # the planner of the second is in memory
            waiting.append(asyncio.create_task(work(name)))
            await asyncio.sleep(0.02)
        assert order == []
    await asyncio.gather(*waiting)
    assert order == ["guest", "own"]


async def test_a_planner_is_loaded_after_the_other_is_unloaded(house: House) -> None:
    assert await house.planner() == "own"
    house.may_close.clear()
    leaving = asyncio.create_task(house.host._leave())  # it is idle
    coming = asyncio.create_task(house.planner("guest"))
    await asyncio.sleep(0.05)
    assert house.loads == ["own"], "both would be in memory"
    house.may_close.set()
    await leaving
    assert await coming == "guest"


async def test_a_draft_is_written_by_the_named_planner(house: House) -> None:
    named = replace(ASKED, options=PlannerOptions(model="guest"))
    draft = await house.host.draft(named, 600.0, PlannerCallbacks())
    assert draft.metadata.bpm == 90
    assert house.states() == {"own": "on_disk", "guest": "ready"}


async def test_a_planner_that_cannot_be_loaded_is_tried_with_each_request(house: House) -> None:
    for _ in range(2):
        with pytest.raises(PlannerUnavailableError, match="Its weights are cut short"):
            await house.planner("broken")
    house.broken.clear()
    assert await house.planner("broken") == "broken"
    assert house.loads.count("broken") == 3
    assert await house.planner() == "own"


async def test_a_server_without_a_planner_has_on_demand_planners() -> None:
    house = House(own="")
    await house.host.start()
    assert not house.host.known.info().is_usable
    assert house.host.known.info("guest").is_usable
    assert await house.planner("guest") == "guest"
    with pytest.raises(PlannerUnavailableError):
        await house.planner()
    await house.host.close()


async def test_an_on_demand_planner_becomes_the_own_one(house: House) -> None:
    async with house.host.borrow("guest"):
        other = PlannerEntry(
            PlannerInfo("guest", "loading"), lambda _: LoadedPlanner(WalkingModel(), "other")
        )
        putting = asyncio.create_task(house.host.put(other))
        await asyncio.sleep(0.02)
        assert house.host.known.info().name == "own"
    assert (await putting).info.name == "own"
    assert house.host.known.info("guest").backend == "other"
    assert house.states() == {"guest": "ready", "own": "on_disk"}


async def test_a_cancelled_request_does_not_stop_loading_or_unloading(house: House) -> None:
    assert await house.planner() == "own"
    house.may_close.clear()
    gone = asyncio.create_task(house.planner("guest"))
    await until(lambda: house.states()["own"] == "on_disk")
    gone.cancel()
    await asyncio.wait([gone])
    later = asyncio.create_task(house.planner())
    await asyncio.sleep(0.02)
    assert house.loads == ["own"], "the other has not left memory"
    house.may_close.set()
    assert await later == "own"
    assert house.loads == ["own", "own"]


async def test_without_on_demand_planners_the_own_one_serves_all() -> None:
    house = House(is_alone=True)
    await house.host.start()
    assert await house.planner("guest") == "own"
    assert (house.host.known.info("guest").name, len(house.host.known.infos())) == ("own", 1)
    await house.host.close()
