from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import pytest

from acestep.audio.encode import SongWriter
from acestep.domain.models import PlannerInfo
from acestep.domain.song import Progress, SongPlan
from acestep.engine.engine import Engine
from acestep.engine.idle import IdlePolicy
from acestep.engine.model_entry import ModelEntry
from acestep.engine.model_manager import PRIMARY, ModelManager
from acestep.engine.renderer import Loaded, LoadedPlanner, OnLoading
from acestep.engine.threads import (
    Watchdog,
    WatchedThread,
    WatchedThreads,
)
from acestep.errors import JobCancelledError, StageStuckError
from acestep.files import AudioStore
from tests.engine.clock import LIMIT, Clock, while_nothing_happens
from tests.engine.fakes import (
    INFO,
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
from tests.engine.models import BASE, SFT, TURBO, Folder, opened, states
from tests.engine.test_planning import MODEL, THINKING
from tests.planner.test_loop import GatedModel


@asynccontextmanager
async def guarded(files: AudioStore, renderer: FakeRenderer, seconds: float = LIMIT) -> AsyncIterator[Engine]:
    async with running(files, loads(renderer), idle_policy=IdlePolicy(Watchdog(seconds))) as engine:
        await engine.wait_ready()
        yield engine


class TestSongs:
    async def test_a_stage_that_is_stuck_fails_its_job_by_name(self, files, renderer, clock):
        renderer.hold()
        async with guarded(files, renderer) as engine:
            work = engine.run(request(), unheard, wanted)
            await clock.until_stuck(work, renderer.begun.is_set, "Stage render made no progress for 60 s")
            assert "Stage render" in engine.trouble() and "Restart" in engine.trouble()
            renderer.release()
            await until(lambda: not engine.trouble())

    async def test_a_late_result_is_dropped_and_the_engine_works_again(self, files, renderer, clock):
        told: list[Progress] = []
        renderer.hold()
        async with guarded(files, renderer) as engine:
            work = engine.run(request(seeds=(1,)), told.append, wanted)
            await clock.until_stuck(work, renderer.begun.is_set, "Stage render")
            sources = len(told)
            renderer.release()
            (song,) = await engine.run(request(seeds=(2,)), unheard, wanted)
            assert song.plan.seed == 2
        assert len(told) == sources
        assert [plan.seed for plan in renderer.decoded] == [2]

    async def test_the_engine_is_not_ready_while_a_thread_is_stuck(self, files, renderer, clock):
        renderer.hold()
        async with guarded(files, renderer) as engine:
            work = engine.run(request(), unheard, wanted)
            await clock.until_stuck(work, renderer.begun.is_set, "Stage render")
            ready = asyncio.create_task(engine.wait_ready())
            await while_nothing_happens(ready)
            renderer.release()
            async with asyncio.timeout(PATIENCE):
                await ready

    async def test_a_job_behind_a_stuck_one_is_not_failed(self, files, renderer, clock):
        renderer.hold()
        async with guarded(files, renderer) as engine:
            stuck = asyncio.create_task(engine.run(request(duration=10.0), unheard, wanted))
            await renderer.wait_begun()
            behind = asyncio.create_task(engine.run(request(duration=20.0), unheard, wanted))
            await clock.until_stuck(stuck, renderer.begun.is_set, "Stage render")
            clock.forward(2 * LIMIT)
            await while_nothing_happens(behind)
            renderer.release()
            assert len(await behind) == 1

    async def test_a_slow_stage_is_not_stuck(self, files, renderer, clock):
        def slow(plan: SongPlan) -> None:
            clock.forward(0.3 * LIMIT)
            time.sleep(0.02)  # for several looks

        renderer.on_decode = slow
        async with guarded(files, renderer) as engine:
            songs = await engine.run(request(seeds=(1, 2, 3, 4)), unheard, wanted)
        assert len(songs) == 4  # each waited longer for the others than the limit

    async def test_without_a_limit_nothing_is_stuck(self, files, renderer, clock):
        renderer.hold()
        async with guarded(files, renderer, seconds=0.0) as engine:
            song = asyncio.create_task(engine.run(request(), unheard, wanted))
            await renderer.wait_begun()
            clock.forward(100 * LIMIT)
            await while_nothing_happens(song)
            assert not engine.trouble()
            renderer.release()
            assert len(await song) == 1


async def test_a_planner_that_is_stuck_fails_its_job(files: AudioStore, clock: Clock) -> None:
    model, idle_policy = GatedModel(), IdlePolicy(Watchdog(LIMIT))
    host = planner_host(
        PlannerInfo("toy", "loading"), lambda on_loading: LoadedPlanner(model, "toy"), idle_policy=idle_policy
    )
    async with running(files, loads(FakeRenderer(), MODEL), MODEL, host, idle_policy) as engine:
        work = engine.run(request(planner=THINKING), unheard, wanted)
        await clock.until_stuck(work, lambda: model.entered > 0, "Stage plan")
        assert "Stage plan" in engine.trouble()
        model.let(10_000)
        await until(lambda: not engine.trouble())
        assert len(await engine.run(request(planner=THINKING), unheard, wanted)) == 1


class TestThreads:
    async def test_beats_keep_work_alive_and_end_what_was_given_up(self, clock):
        executor, go_on = ThreadPoolExecutor(1), threading.Event()
        thread = WatchedThread(executor, Watchdog(LIMIT))
        ended: list[Exception] = []

        def steady() -> str:
            for _ in range(6):
                clock.forward(LIMIT / 4)
                time.sleep(0.02)  # for several looks
                thread.beat()
            return "done"

        def stuck() -> None:
            assert go_on.wait(PATIENCE)
            try:
                thread.beat()
            except JobCancelledError as error:
                ended.append(error)
                raise

        assert await thread.run("steady", steady) == "done"
        await clock.until_stuck(thread.run("stuck", stuck), lambda: thread.stage == "stuck", "Stage stuck")
        go_on.set()
        assert await thread.run("next", lambda: "works") == "works"
        assert len(ended) == 1 and thread.silence() == 0.0
        executor.shutdown()

    async def test_a_stuck_thread_is_reported_though_its_caller_was_cancelled(self, clock):
        executor, go_on, watchdog = ThreadPoolExecutor(1), threading.Event(), Watchdog(LIMIT)
        thread = WatchedThread(executor, watchdog)
        left = asyncio.create_task(thread.run("left alone", lambda: go_on.wait(PATIENCE)))
        await until(lambda: thread.stage == "left alone")
        left.cancel()
        assert watchdog.trouble() == ""
        clock.forward(LIMIT)
        assert "left alone" in watchdog.trouble()
        go_on.set()
        async with asyncio.timeout(PATIENCE):
            await watchdog.wait_healthy()
        executor.shutdown()


class TestLoading:
    @pytest.fixture
    def folder(self) -> Folder:
        return Folder(TURBO, BASE, SFT)

    def model_manager(self, folder: Folder, *names: str, room: int = 3) -> ModelManager:
        idle_policy = IdlePolicy(Watchdog(LIMIT))
        return ModelManager(folder.slots(*names or ("turbo",)), folder, room=room, idle_policy=idle_policy)

    async def test_a_job_whose_model_is_stuck_in_loading_fails(self, files, folder, clock):
        idle_policy = IdlePolicy(Watchdog(LIMIT))
        model_manager = ModelManager(folder.slots("turbo"), folder, room=2, idle_policy=idle_policy)
        host = planner_host()
        engine = Engine(model_manager, SongWriter(files, 128), host, idle_policy)
        await engine.start()
        await engine.wait_ready()
        folder.go_on.clear()
        work = engine.run(request(model="base"), unheard, wanted)
        await clock.until_stuck(
            work, lambda: "base" in folder.loads, "Stage load base made no progress for 60 s"
        )
        assert "Stage load base" in engine.trouble() and "Restart" in engine.trouble()
        ready = asyncio.create_task(engine.wait_ready())
        (song,) = await engine.run(request(), unheard, wanted)
        assert song.dit_model == "turbo", "a job that has begun is done"
        assert not ready.done(), "no other job begins"
        folder.go_on.set()
        async with asyncio.timeout(PATIENCE):
            await ready
        (song,) = await engine.run(request(model="base"), unheard, wanted)
        assert (song.dit_model, folder.loads) == ("base", ["turbo", "base"]), "loaded late, and used"
        await engine.close()

    async def test_a_default_model_that_is_loaded_late_makes_the_server_ready(self, files, folder, clock):
        folder.go_on.clear()
        idle_policy = IdlePolicy(Watchdog(LIMIT))
        async with running(files, folder.find("turbo").load, TURBO, idle_policy=idle_policy) as engine:
            ready = asyncio.create_task(engine.wait_ready())
            await until(lambda: folder.loads == ["turbo"])
            clock.forward(LIMIT)
            assert "Stage load turbo" in engine.trouble()
            await while_nothing_happens(ready)
            folder.go_on.set()
            async with asyncio.timeout(PATIENCE):
                await ready
            assert not engine.trouble()

    async def test_slow_loading_is_not_stuck_while_it_makes_progress(self, files, clock):
        def slow(on_loading: OnLoading) -> Loaded:
            for percent in range(6):
                clock.forward(LIMIT / 4)
                time.sleep(0.02)  # for several looks
                on_loading("downloading", f"{percent} %") if percent % 2 else on_loading.beat()
            return loads(FakeRenderer())(on_loading)

        async with running(files, slow, idle_policy=IdlePolicy(Watchdog(LIMIT))) as engine:
            assert len(await engine.run(request(), unheard, wanted)) == 1

    async def test_a_job_that_waits_for_another_model_is_not_failed(self, folder, clock):
        model_manager = self.model_manager(folder)
        async with opened(model_manager):
            await model_manager.wait_ready()
            folder.go_on.clear()
            base, sft = (asyncio.create_task(self.borrowed(model_manager, name)) for name in ("base", "sft"))
            await clock.until_stuck(base, lambda: "base" in folder.loads, "load base")
            clock.forward(LIMIT)
            await while_nothing_happens(sft)
            folder.go_on.set()
            assert await sft == "sft"

    async def test_a_model_whose_put_failed_is_not_put_late(self, folder, clock):
        model_manager = self.model_manager(folder)
        async with opened(model_manager):
            await model_manager.wait_ready()
            folder.go_on.clear()
            putting = model_manager.put(PRIMARY, "base")
            await clock.until_stuck(
                putting, lambda: "base" in folder.loads, r"load base .* restart the server"
            )
            for change in (model_manager.put(PRIMARY, "sft"), model_manager.reload()):
                with pytest.raises(StageStuckError, match="load base"):  # and nothing is changed
                    await change
            folder.go_on.set()
            await until(lambda: not model_manager._idle_policy.watchdog.trouble())
            assert model_manager.primary.name == "turbo" and states(model_manager)["base"] == "on_disk"
            assert (await model_manager.put(PRIMARY, "base")).name == "base"
        assert folder.loads == ["turbo", "base", "base"]

    async def test_a_model_in_its_slot_may_be_loaded_late(self, folder, clock):
        folder.room = 1
        model_manager = self.model_manager(folder, room=0)
        async with opened(model_manager):
            await model_manager.wait_ready()
            folder.go_on.clear()
            putting = model_manager.put(PRIMARY, "base")
            await clock.until_stuck(putting, lambda: "base" in folder.loads, "load base")
            assert states(model_manager) == {"base": "loading"}
            folder.go_on.set()
            await until(lambda: not model_manager._idle_policy.watchdog.trouble())
            assert await self.borrowed(model_manager, None) == "base"
        assert folder.loads == ["turbo", "base"]

    async def test_loading_ends_at_its_next_beat_after_the_server_closed(self):
        begun, ended = threading.Event(), threading.Event()

        def load(on_loading: OnLoading) -> Loaded:
            begun.set()
            try:
                while True:
                    time.sleep(0.01)
                    on_loading.beat()
            finally:
                ended.set()

        async with opened(ModelManager({PRIMARY: ModelEntry(INFO, load)})):
            assert await asyncio.to_thread(begun.wait, PATIENCE)
        assert await asyncio.to_thread(ended.wait, PATIENCE)

    async def borrowed(self, model_manager: ModelManager, name: str | None) -> str:
        async with model_manager.borrow(name) as (loaded, _):
            return loaded.info.name


async def test_work_goes_to_the_thread_that_is_the_least_busy() -> None:
    threads = [WatchedThread(ThreadPoolExecutor(1, f"writer-{n}"), Watchdog()) for n in range(2)]
    pool, both = WatchedThreads(threads), threading.Barrier(2)

    def write() -> str:
        both.wait(PATIENCE)
        pool.beat()
        return threading.current_thread().name

    names = await asyncio.gather(*(pool.run("write", write) for _ in range(4)))
    assert sorted(names) == ["writer-0_0", "writer-0_0", "writer-1_0", "writer-1_0"]
    pool.close()


async def test_each_of_several_threads_tells_of_its_own_progress(clock: Clock) -> None:
    watchdog = Watchdog(LIMIT)
    stuck, works = (WatchedThread(ThreadPoolExecutor(1), watchdog) for _ in range(2))
    pool, release = WatchedThreads([stuck, works]), threading.Event()
    waiting = asyncio.create_task(pool.run("write", lambda: release.wait(PATIENCE)))
    await until(lambda: stuck.stage == "write")

    def work() -> tuple[bool, bool]:
        clock.forward(LIMIT)
        pool.beat()
        return watchdog.is_stuck(stuck), watchdog.is_stuck(works)

    assert await pool.run("write", work) == (True, False)
    release.set()
    with suppress(StageStuckError):
        await waiting
    pool.close()
