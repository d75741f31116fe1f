"""Models that are loaded because a request names them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from acestep.engine.model_manager import ModelManager
from acestep.errors import ModelUnavailableError
from tests.engine.fakes import request, unheard, until, wanted
from tests.engine.models import BASE, SFT, TURBO, Folder, borrowed, opened, states, working


@pytest.fixture
def folder() -> Folder:
    return Folder(TURBO, BASE, SFT)


class TestOnDemand:
    async def test_a_model_is_loaded_for_the_request_that_names_it(self, files, folder):
        model_manager = ModelManager(folder.slots("turbo"), folder, room=2)
        async with working(files, model_manager) as engine:
            assert states(model_manager) == {"turbo": "ready", "base": "on_disk", "sft": "on_disk"}
            (song,) = await engine.run(request(model="base"), unheard, wanted)
            assert (song.dit_model, song.plan.sampling.steps) == ("base", 50)
            assert states(model_manager) == {"turbo": "ready", "base": "ready", "sft": "on_disk"}
            await engine.run(request(model="base"), unheard, wanted)
        assert folder.loads == ["turbo", "base"]

    async def test_a_published_model_is_downloaded_for_the_request_that_names_it(self, folder):
        folder.absent = (replace(BASE, state="absent", loads_on_demand=True),)
        there = folder.infos.pop("base")
        model_manager = ModelManager(folder.slots("turbo"), folder, room=2)
        async with opened(model_manager):
            await model_manager.wait_ready()
            assert states(model_manager) == {"turbo": "ready", "sft": "on_disk", "base": "absent"}
            assert "base" not in [info.name for info in model_manager.inventory()]
            folder.infos["base"] = replace(there, loads_on_demand=True)
            folder.go_on.clear()
            waiting = asyncio.create_task(borrowed(model_manager, "base"))
            await until(lambda: folder.loads == ["turbo", "base"])
            folder.say("downloading", "12 % of 4.8 GB")
            (info,) = [info for info in model_manager.infos() if info.name == "base"]
            assert (info.state, info.detail, info.is_usable) == ("downloading", "12 % of 4.8 GB", True)
            folder.go_on.set()
            assert await waiting == ("base", ())
            assert states(model_manager)["base"] == "ready"

    async def test_without_room_none_is_downloaded(self, folder):
        folder.absent = (replace(BASE, state="absent", loads_on_demand=True),)
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            assert states(model_manager) == {"turbo": "ready"}

    async def test_the_one_that_was_idle_for_longest_makes_room(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            for name in ("turbo", "base", "turbo", "sft"):
                assert await borrowed(model_manager, name) == (name, ())
            assert states(model_manager) == {"turbo": "ready", "base": "on_disk", "sft": "ready"}
            assert await borrowed(model_manager, "base") == ("base", ())
            assert states(model_manager) == {"turbo": "on_disk", "base": "ready", "sft": "ready"}
            assert await borrowed(model_manager, None) == ("turbo", ())

    async def test_so_does_one_where_memory_is_short_before_its_number_is_full(self, folder):
        folder.room = 1
        async with opened(ModelManager(folder.slots("turbo"), folder, room=3)) as model_manager:
            await model_manager.wait_ready()
            assert await borrowed(model_manager, "base") == ("base", ())
            assert states(model_manager) == {"turbo": "on_disk", "base": "ready", "sft": "on_disk"}
            assert await borrowed(model_manager, None) == ("turbo", ())
            assert states(model_manager) == {"turbo": "ready", "base": "on_disk", "sft": "on_disk"}
            folder.room = 0
            with pytest.raises(ModelUnavailableError, match="1 are too many"):
                await borrowed(model_manager, "sft")

    async def test_the_default_that_left_is_tried_again_too(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            assert await borrowed(model_manager, "base") == ("base", ())
            folder.broken["turbo"] = "Out of memory."
            with pytest.raises(ModelUnavailableError, match="turbo could not be loaded: Out of memory"):
                await borrowed(model_manager, None)
            assert (model_manager.primary.state, model_manager.primary.detail) == (
                "on_disk",
                "Out of memory.",
            )
            folder.broken.clear()
            assert await borrowed(model_manager, None) == ("turbo", ())
            assert model_manager.primary.detail == ""

    @pytest.mark.parametrize("broken", [{}, {"base": "Out of memory."}], ids=["comes", "fails"])
    async def test_a_model_that_nobody_waits_for_any_more_is_still_counted(self, folder, broken):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            await model_manager.wait_ready()
            folder.broken |= broken
            folder.go_on.clear()
            waiting = asyncio.create_task(borrowed(model_manager, "base"))
            await until(lambda: folder.loads == ["turbo", "base"])
            waiting.cancel()
            await asyncio.wait([waiting])
            assert states(model_manager)["base"] == "loading"
            folder.go_on.set()
            await until(lambda: states(model_manager)["base"] == ("on_disk" if broken else "ready"))
            folder.broken.clear()
            assert await borrowed(model_manager, "base") == ("base", ())
        assert folder.loads == ["turbo", "base", "base"][: 3 if broken else 2]

    async def test_what_could_not_be_loaded_takes_no_room(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo", "base"), folder, room=2)) as model_manager:
            await until(lambda: states(model_manager)["base"] == "failed")
            assert await borrowed(model_manager, "sft") == ("sft", ())
            assert states(model_manager) == {"turbo": "ready", "base": "failed", "sft": "ready"}

    async def test_songs_keep_their_model_until_they_end(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            async with model_manager.borrow("turbo"):
                waiting = asyncio.create_task(borrowed(model_manager, "base"))
                later = asyncio.create_task(borrowed(model_manager, "turbo"))
                await asyncio.sleep(0.02)
                assert states(model_manager)["turbo"] == "ready" and not waiting.done()
                assert not later.done()  # or base might wait for ever
            assert await waiting == ("base", ())
            assert await later == ("turbo", ())
        assert folder.loads == ["turbo", "base", "turbo"]

    async def test_who_stops_waiting_for_room_is_not_in_the_way(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            async with model_manager.borrow("turbo"):
                waiting = asyncio.create_task(borrowed(model_manager, "base"))
                await asyncio.sleep(0.02)
                waiting.cancel()
                await asyncio.wait([waiting])
            assert await borrowed(model_manager, "sft") == ("sft", ())
        assert folder.loads == ["turbo", "sft"]

    async def test_one_that_fails_is_tried_again(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            name, (note,) = await borrowed(model_manager, "base")
            assert name == "turbo" and note.endswith("could not be loaded: Out of memory.")
            folder.broken.clear()
            assert await borrowed(model_manager, "base") == ("base", ())
