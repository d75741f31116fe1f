"""Several workers as one: who makes which song."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from acestep.domain.draft import DraftRequest
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import PlannerOptions, Song, SongRequest
from acestep.engine.multi_device import Fleet, FleetKeeper, merged
from acestep.errors import ModelUnavailableError
from tests.engine.fakes import INFO
from tests.jobs.fakes import FakeWorker, request, song

HUM, ROAR = replace(INFO, state="ready", is_default=True), replace(INFO, name="roar", state="ready")


class OneOfMany(FakeWorker):
    """Holds its songs until `go`; has `infos`, and `ill` is its trouble."""

    def __init__(self, *infos: ModelInfo, planner: PlannerInfo | None = None) -> None:
        super().__init__(self._hold)
        self.infos = infos or (HUM,)
        self.go = asyncio.Event()
        self.ill = ""
        self.own_planner = planner or PlannerInfo()
        self.on_demand: tuple[PlannerInfo, ...] = ()
        self.drafts = 0

    async def _hold(self, asked: SongRequest, *_: object) -> tuple[Song, ...]:
        await self.go.wait()
        return (song("a.mp3", asked.caption),)

    def models(self):
        return self.infos

    def planner(self, name=""):
        return next((info for info in self.on_demand if info.name == name), self.own_planner)

    def planners(self):
        return (self.own_planner, *self.on_demand)

    def trouble(self):
        return self.ill

    async def draft(self, request, cancelled):
        self.drafts += 1
        return await super().draft(request, cancelled)


class Shelf:
    """Slots of a keeper; `broken` names cannot be loaded."""

    def __init__(self, *names: str, broken: str = "") -> None:
        self.slots = dict(enumerate(names, 1))
        self.broken = broken

    def inventory(self):
        return tuple(replace(HUM, name=name) for name in self.slots.values())

    async def put(self, number, name=None):
        if name == self.broken:
            raise ModelUnavailableError(f"{name} is broken")
        self.slots[number] = name or self.slots[number]
        return replace(HUM, name=self.slots[number])

    async def reload(self):
        return tuple(self.slots.values())


async def run(fleet: Fleet, asked: SongRequest) -> asyncio.Task[tuple[Song, ...]]:
    task = asyncio.create_task(fleet.run(asked, lambda _: None, lambda: False))
    await asyncio.sleep(0)
    return task


async def test_a_song_goes_to_who_has_least_music_to_make():
    one, other = OneOfMany(), OneOfMany()
    fleet = Fleet([one, other])
    tasks = [
        await run(fleet, replace(request(name), duration=seconds))
        for name, seconds in (("long", 200.0), ("short", 30.0), ("next", 60.0), ("last", 30.0))
    ]
    assert (one.begun, other.begun) == (["long"], ["short", "next", "last"])
    other.go.set()
    await asyncio.gather(*tasks[1:])
    tasks.append(await run(fleet, request("after")))
    assert other.begun[-1] == "after"
    one.go.set()
    songs = await asyncio.gather(*tasks)
    assert [each.plan.caption for (each,) in songs] == ["long", "short", "next", "last", "after"]


async def test_a_song_that_failed_is_no_load_any_more():
    async def broken(*_):
        raise ModelUnavailableError("no")

    one, other = FakeWorker(broken), OneOfMany()
    one.models = lambda: (HUM,)  # type: ignore[method-assign]
    fleet = Fleet([one, other])
    for _ in range(3):
        with pytest.raises(ModelUnavailableError):
            await (await run(fleet, request()))
    assert one.begun == ["a song"] * 3


async def test_who_has_the_model_in_memory_makes_the_song():
    one, other = OneOfMany(HUM), OneOfMany(HUM, ROAR)
    fleet = Fleet([one, other])
    for _ in range(2):
        await run(fleet, replace(request(), model="roar"))
    assert (one.begun, other.begun) == ([], ["a song"] * 2)
    await run(fleet, replace(request(), model="nobody"))  # the default, wherever
    assert one.begun == ["a song"]


@pytest.mark.parametrize("model", [None, "roar"])
async def test_a_song_goes_where_its_model_can_be_loaded_rather_than_where_it_failed(model):
    broken = [replace(info, state="failed") for info in (HUM, ROAR)]
    loading = [replace(info, state="loading") for info in (HUM, ROAR)]
    one, other = OneOfMany(*broken), OneOfMany(*loading)
    fleet = Fleet([one, other])
    for _ in range(2):
        await run(fleet, replace(request(), model=model))
    assert (one.begun, other.begun) == ([], ["a song"] * 2)


async def test_who_is_in_trouble_gets_nothing():
    one, other = OneOfMany(), OneOfMany()
    fleet = Fleet([one, other])
    one.ill = "GPU 0 is stuck."
    for _ in range(2):
        await run(fleet, request())
    assert (one.begun, other.begun) == ([], ["a song"] * 2)
    assert fleet.trouble() == ""
    other.ill = "GPU 1 is stuck."
    assert fleet.trouble() == "GPU 0 is stuck. GPU 1 is stuck."


async def test_it_is_ready_with_the_first():
    one, other = OneOfMany(), OneOfMany()
    one.ready.clear()
    other.ready.clear()
    waiting = asyncio.create_task(Fleet([one, other]).wait_ready())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    other.ready.set()
    await asyncio.wait_for(waiting, 1)


async def test_a_text_goes_to_who_has_a_planner():
    planner = PlannerInfo("lm", "ready")
    one, other = OneOfMany(), OneOfMany(planner=planner)
    fleet = Fleet([one, other])
    assert fleet.planner() == planner
    await fleet.draft(DraftRequest("format", caption="x"), lambda: False)
    assert (one.drafts, other.drafts) == (0, 1)


async def test_a_planner_that_is_named_is_had_wherever_it_is():
    one, other = OneOfMany(), OneOfMany(planner=PlannerInfo("lm", "ready"))
    one.on_demand = (PlannerInfo("large", "ready"), PlannerInfo("small", "on_disk"))
    other.on_demand = (PlannerInfo("large", "on_disk"),)
    fleet = Fleet([one, other])
    assert fleet.planners() == (other.own_planner, *one.on_demand)
    assert fleet.planner("large") == one.on_demand[0]
    await fleet.draft(DraftRequest("format", options=PlannerOptions(model="small")), lambda: False)
    assert (one.drafts, other.drafts) == (1, 0)


def test_a_model_is_as_far_as_the_furthest_within_the_tightest_limits():
    near = replace(HUM, state="loading", max_duration=600.0, max_batch=2)
    far = replace(HUM, state="ready", max_duration=240.0, max_batch=4)
    assert merged([(near, ROAR), (far,)]) == (replace(far, max_batch=2), ROAR)


class TestKeeper:
    async def test_all_get_the_model(self):
        model_managers = Shelf("hum"), Shelf("hum")
        info = await FleetKeeper(model_managers).put(1, "roar")
        assert info.name == "roar"
        assert [model_manager.slots for model_manager in model_managers] == [{1: "roar"}] * 2

    async def test_where_one_cannot_load_it_all_stay_as_they_were(self):
        model_managers = Shelf("hum", "purr"), Shelf("hum", "purr", broken="roar")
        with pytest.raises(ModelUnavailableError, match="roar is broken"):
            await FleetKeeper(model_managers).put(1, "roar")
        assert [model_manager.slots for model_manager in model_managers] == [{1: "hum", 2: "purr"}] * 2

    async def test_what_came_back_anywhere_is_told_once(self):
        assert await FleetKeeper([Shelf("hum"), Shelf("hum", "roar")]).reload() == ("hum", "roar")
