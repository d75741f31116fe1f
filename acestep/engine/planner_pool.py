"""The planners of an engine: its own, and guests, which come because a request names them.

How a planner comes and goes is its desk's affair; which ones there are is the supply's. Lives on one event
loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from acestep.domain.models import PlannerInfo
from acestep.domain.song import Draft, DraftRequest
from acestep.engine.planner_host import LoadPlanner, PlannerHost
from acestep.errors import PlannerUnavailableError
from acestep.planner.planner import Planner, Watch


class OnDemandPlanners(Protocol):
    """The planners that may come because a request names them."""

    def names(self) -> tuple[str, ...]:
        """Those that are known beforehand; cheap."""
        ...

    def host(self, name: str) -> PlannerHost | None:
        """A desk for the planner of this name, which is yet to be loaded; None where it cannot be had."""
        ...


class PlannerPool:
    """The planners that requests can be answered by; "" as a name, or one that cannot be had: the own one.

    Requests for different planners have their turns in the order in which they come.
    """

    def __init__(self, own: PlannerHost, on_demand_planners: OnDemandPlanners | None = None) -> None:
        """Without a list nobody comes."""
        self._own = own
        self._on_demand_planners = on_demand_planners
        self._on_demand: dict[str, PlannerHost] = {}
        self._admission = asyncio.Lock()

    def info(self, name: str = "") -> PlannerInfo:
        """The planner that answers a request for this one, as far as it is known by now."""
        return self._host(name).info()

    def infos(self) -> tuple[PlannerInfo, ...]:
        """All that are known, the own one first, also where there is none."""
        names = self._on_demand_planners.names() if self._on_demand_planners else ()
        return (self._own.info(), *(host.info() for host in map(self._host, names) if host is not self._own))

    async def start(self) -> None:
        """Begin to load the own one, unless it is to come when it is wanted; returns at once."""
        await self._own.start()

    async def close(self) -> None:
        """Let the step at hand end and free the threads."""
        for host in self._all():
            await host.close()

    @asynccontextmanager
    async def borrow(self, name: str = "") -> AsyncIterator[Planner]:
        """The planner, alone in memory and kept there meanwhile; waits until others have done.

        Raises as `PlannerDesk.borrow` does.
        """
        async with self._using(name) as (_, planner):
            yield planner

    async def draft(self, request: DraftRequest, longest: float, watch: Watch) -> Draft:
        async with self._using(request.options.model) as (host, _):
            return await host.draft(request, longest, watch)

    async def free(self) -> None:
        """Give memory back that nobody uses."""
        await self._own.free()

    async def put(self, info: PlannerInfo, load: LoadPlanner) -> PlannerInfo:
        """Have another planner as the own one, see `PlannerDesk.put`."""
        async with self._admission:
            await self._unload_others(self._own)
            if entry := self._on_demand.pop(info.name, None):
                await entry.close()
            return await self._own.put(info, load)

    @asynccontextmanager
    async def _using(self, name: str) -> AsyncIterator[tuple[PlannerHost, Planner]]:
        async with AsyncExitStack() as stack:
            async with self._admission:
                host = self._host(name)
                await host.start()
                await self._unload_others(host)
                try:
                    planner = await stack.enter_async_context(host.borrow())
                except PlannerUnavailableError:
                    await self._forget(host)
                    raise
            yield host, planner

    async def _unload_others(self, host: PlannerHost) -> None:
        for other in self._all():
            if other is not host:
                await other.unload_when_idle()

    async def _forget(self, host: PlannerHost) -> None:
        """Let a guest go that did not come, so that the next request for it tries again."""
        for name, entry in tuple(self._on_demand.items()):
            if entry is host:
                del self._on_demand[name]
                await entry.close()

    def _host(self, name: str) -> PlannerHost:
        if not name or self._on_demand_planners is None or name == self._own.info().name:
            return self._own
        if name not in self._on_demand:
            found = self._on_demand_planners.host(name)
            if found is None:
                return self._own
            self._on_demand[name] = found
        return self._on_demand[name]

    def _all(self) -> Iterator[PlannerHost]:
        yield self._own
        yield from self._on_demand.values()
