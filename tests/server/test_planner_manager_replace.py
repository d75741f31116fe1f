"""Replacements whose client leaves, or that fail on a device: what is loaded and the memory plan agree."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from acestep.catalog.planner_choice import PlannerChoice
from acestep.domain.models import PlannerInfo
from acestep.engine.planner_host import HostState
from acestep.engine.renderer import LoadedPlanner
from acestep.errors import (
    CheckpointError,
    ModelUnavailableError,
)
from tests.engine.fakes import PATIENCE, until
from tests.planner.fakes import WalkingModel
from tests.server.test_planner_manager import NONE, Server, at

pytestmark = pytest.mark.usefixtures("bare_environment")


class Loads:
    """Stands for `load_planner`: models that walk their grammars, by the name of the folder.

    `held` names are loaded once `go_on` is set; `failing` are the loads of a name that fail, the first is 1.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.held: set[str] = set()
        self.failing: set[tuple[str, int]] = set()
        self.go_on = threading.Event()

    def __call__(self, folder: Path, *_: object) -> LoadedPlanner:
        name = folder.name
        self.begun.append(name)
        times = self.begun.count(name)
        if name in self.held:
            assert self.go_on.wait(PATIENCE)
        if (name, times) in self.failing:
            raise CheckpointError("A tensor is missing.")
        model = WalkingModel()
        model.name = name
        return LoadedPlanner(model, "toy")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    loads = Loads()
    monkeypatch.setattr("acestep.engine.torch_models.load_planner", loads)
    return loads


@pytest.fixture(params=[1, 2], ids=["one device", "two devices"])
async def server(folder: Path, loads: Loads, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with Server(at(folder), PlannerChoice("one", folder / "one"), request.param) as server:
        assert await server.planners_and_plans() == [("one", "one")] * request.param
        yield server


class TestCancelled:
    """The client leaves during a replacement: what is loaded and the memory plan agree on every device."""

    async def test_before_it_began(self, server: Server, loads: Loads) -> None:
        putting = asyncio.create_task(server.planners.put("two"))
        await cancelled(putting)
        assert await server.planners_and_plans() == [("one", "one")] * len(server.devices)

    async def test_while_it_waits_for_another(self, server: Server, loads: Loads) -> None:
        loads.held.add("two")
        first = asyncio.create_task(server.planners.put("two"))
        await until(lambda: "two" in loads.begun)
        second = asyncio.create_task(server.planners.put("one"))
        await asyncio.sleep(0)
        await cancelled(second)
        loads.go_on.set()
        await first
        await replaced(server)
        assert await server.planners_and_plans() == [("one", "one")] * len(server.devices)

    @pytest.mark.parametrize("is_last", [False, True], ids=["first device", "last device"])
    async def test_while_requests_end(self, server: Server, loads: Loads, is_last: bool) -> None:
        busy = server.devices[-1 if is_last else 0]
        async with busy.host.borrow() as planner:
            putting = asyncio.create_task(server.planners.put("two"))
            await until(lambda: busy.host.state is HostState.DRAINING)
            await cancelled(putting)
            assert planner.name == "one"
        await replaced(server)
        assert await server.planners_and_plans() == [("two", "two")] * len(server.devices)

    @pytest.mark.parametrize("failing", [None, 1, 2], ids=["loads", "first load fails", "second load fails"])
    async def test_while_it_is_loaded(self, server: Server, loads: Loads, failing: int | None) -> None:
        loads.held.add("two")
        if failing:
            loads.failing.add(("two", failing))
        putting = asyncio.create_task(server.planners.put("two"))
        await until(lambda: "two" in loads.begun)
        await cancelled(putting)
        loads.go_on.set()
        await replaced(server)
        number = len(server.devices)
        name = "one" if failing in range(1, number + 1) else "two"
        assert await server.planners_and_plans() == [(name, name)] * number
        assert [memory.plan.planner for memory in server.told if memory] == ["two"] * number * (name == "two")
        assert (await server.planners.put("one")).name == "one"
        assert await server.planners_and_plans() == [("one", "one")] * number

    async def test_afterwards(self, server: Server, loads: Loads) -> None:
        putting = asyncio.create_task(server.planners.put("two"))
        await replaced(server, begun=putting)
        putting.cancel()
        await asyncio.wait([putting])
        assert await server.planners_and_plans() == [("two", "two")] * len(server.devices)


async def test_if_the_second_device_fails_the_first_is_restored(folder: Path, loads: Loads) -> None:
    loads.failing.add(("two", 2))
    async with Server(at(folder), NONE, devices=2) as server:
        with pytest.raises(ModelUnavailableError, match=r"two could not be loaded: A tensor is missing\."):
            await server.planners.put("two")
        assert server.states() == [("", "absent")] * 2
        assert [device.memory and device.memory.plan.planner for device in server.devices] == ["", ""]
        assert server.told == []
        assert (await server.planners.put("two")).state == "ready"
        assert await server.planners_and_plans() == [("two", "two")] * 2


async def test_replacements_of_two_clients_do_not_mix(server: Server, loads: Loads) -> None:
    await asyncio.gather(*(server.planners.put(name) for name in ("two", "one", "two")))
    assert await server.planners_and_plans() == [("two", "two")] * len(server.devices)


async def test_a_server_that_closes_ends_a_replacement(folder: Path, loads: Loads) -> None:
    loads.held.add("two")
    async with asyncio.timeout(PATIENCE), Server(at(folder)) as server:
        putting = asyncio.create_task(server.planners.put("two"))
        await until(lambda: "two" in loads.begun)
    await asyncio.wait([putting])
    assert putting.cancelled()
    loads.go_on.set()


async def cancelled(putting: asyncio.Task[PlannerInfo]) -> None:
    putting.cancel()
    await asyncio.wait([putting])
    assert putting.cancelled()


async def replaced(server: Server, begun: asyncio.Task[PlannerInfo] | None = None) -> None:
    """Return once no replacement is under way."""
    if begun:
        await until(lambda: bool(server.planners._replacements))
    await until(lambda: not server.planners._replacements)
