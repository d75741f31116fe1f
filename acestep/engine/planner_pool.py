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
from acestep.engine.planner_host import LoadPlanner, PlannerDesk
from acestep.errors import PlannerUnavailableError
from acestep.planner.planner import Planner, Watch


class GuestList(Protocol):
    """The planners that may come because a request names them."""

    def names(self) -> tuple[str, ...]:
        """Those that are known beforehand; cheap."""
        ...

    def desk(self, name: str) -> PlannerDesk | None:
        """A desk for the planner of this name, which is yet to be loaded; None where it cannot be had."""
        ...


class PlannerDesks:
    """The planners that requests can be answered by; "" as a name, or one that cannot be had: the own one.

    Requests for different planners have their turns in the order in which they come.
    """

    def __init__(self, own: PlannerDesk, guest_list: GuestList | None = None) -> None:
        """Without a list nobody comes."""
        self._own = own
        self._guest_list = guest_list
        self._guests: dict[str, PlannerDesk] = {}
        self._door = asyncio.Lock()

    def info(self, name: str = "") -> PlannerInfo:
        """The planner that answers a request for this one, as far as it is known by now."""
        return self._desk(name).info()

    def infos(self) -> tuple[PlannerInfo, ...]:
        """All that are known, the own one first, also where there is none."""
        names = self._guest_list.names() if self._guest_list else ()
        return (self._own.info(), *(desk.info() for desk in map(self._desk, names) if desk is not self._own))

    async def start(self) -> None:
        """Begin to load the own one, unless it is to come when it is wanted; returns at once."""
        await self._own.start()

    async def close(self) -> None:
        """Let the step at hand end and free the threads."""
        for desk in self._all():
            await desk.close()

    @asynccontextmanager
    async def borrow(self, name: str = "") -> AsyncIterator[Planner]:
        """The planner, alone in memory and kept there meanwhile; waits until others have done.

        Raises as `PlannerDesk.borrow` does.
        """
        async with self._seated(name) as (_, planner):
            yield planner

    async def draft(self, request: DraftRequest, longest: float, watch: Watch) -> Draft:
        async with self._seated(request.options.model) as (desk, _):
            return await desk.draft(request, longest, watch)

    async def free(self) -> None:
        """Give memory back that nobody uses."""
        await self._own.free()

    async def put(self, info: PlannerInfo, load: LoadPlanner) -> PlannerInfo:
        """Have another planner as the own one, see `PlannerDesk.put`."""
        async with self._door:
            await self._send_others_away(self._own)
            if guest := self._guests.pop(info.name, None):
                await guest.close()
            return await self._own.put(info, load)

    @asynccontextmanager
    async def _seated(self, name: str) -> AsyncIterator[tuple[PlannerDesk, Planner]]:
        async with AsyncExitStack() as stack:
            async with self._door:
                desk = self._desk(name)
                await desk.start()
                await self._send_others_away(desk)
                try:
                    planner = await stack.enter_async_context(desk.borrow())
                except PlannerUnavailableError:
                    await self._forget(desk)
                    raise
            yield desk, planner

    async def _send_others_away(self, desk: PlannerDesk) -> None:
        for other in self._all():
            if other is not desk:
                await other.make_way()

    async def _forget(self, desk: PlannerDesk) -> None:
        """Let a guest go that did not come, so that the next request for it tries again."""
        for name, guest in tuple(self._guests.items()):
            if guest is desk:
                del self._guests[name]
                await guest.close()

    def _desk(self, name: str) -> PlannerDesk:
        if not name or self._guest_list is None or name == self._own.info().name:
            return self._own
        if name not in self._guests:
            found = self._guest_list.desk(name)
            if found is None:
                return self._own
            self._guests[name] = found
        return self._guests[name]

    def _all(self) -> Iterator[PlannerDesk]:
        yield self._own
        yield from self._guests.values()
