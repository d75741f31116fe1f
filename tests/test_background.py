from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import pytest

from acestep.background import BackgroundTasks, delays
from acestep.errors import JobDatabaseError


def at_once() -> Iterator[float]:
    return repeat(0.0)


def never() -> Iterator[float]:
    return repeat(3600.0)


async def ended(task: asyncio.Task[None]) -> None:
    """Return when `task` has ended in any way, and its callbacks have run."""
    await asyncio.wait([task], timeout=5)
    await asyncio.sleep(0)


def failing(*errors: Exception) -> Callable[[], Coroutine[Any, Any, None]]:
    """Work that raises these, one at each start, and then waits for ever."""
    left = list(errors)

    async def work() -> None:
        if left:
            raise left.pop(0)
        await asyncio.Event().wait()

    return work


async def trouble(tasks: BackgroundTasks) -> str:
    async with asyncio.timeout(5):
        while not tasks.trouble():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
    return tasks.trouble()


def test_each_delay_is_twice_the_last_up_to_a_minute():
    assert list(islice(delays(), 8)) == [1, 2, 4, 8, 16, 32, 60, 60]


class TestKeep:
    async def test_work_that_breaks_starts_again(self, caplog: pytest.LogCaptureFixture):
        tasks, runs, goes_on = BackgroundTasks(at_once), 0, asyncio.Event()

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs < 4:
                raise LookupError(f"try {runs}")
            goes_on.set()
            await asyncio.Event().wait()

        with caplog.at_level(logging.CRITICAL):
            task = tasks.keep("feed", work)
            await asyncio.wait_for(goes_on.wait(), 5)
        assert (runs, tasks.trouble()) == (4, "")
        assert caplog.text.count("Background task 'feed' broke; it starts again") == 3
        assert "try 3" in caplog.text
        task.cancel()

    @pytest.mark.parametrize(
        "error", [LookupError("/secret"), OSError("/secret"), asyncio.QueueFull("/secret")]
    )
    async def test_work_that_is_broken_is_named_without_what_the_error_says(self, error: Exception):
        tasks = BackgroundTasks(never)
        task = tasks.keep("feed", failing(error))
        kind = type(error).__name__
        assert await trouble(tasks) == (
            f"Background task 'feed' broke: {kind}; the server's log says more. "
            "It starts again within 3600 s."
        )
        task.cancel()
        await ended(task)
        assert tasks.trouble() == ""

    async def test_an_error_of_the_database_is_told(self):
        tasks = BackgroundTasks(never)
        error = JobDatabaseError(Path("/secret/jobs.sqlite3"), "is damaged. Move it away.")
        task = tasks.keep("cleaner", failing(error))
        assert await trouble(tasks) == (
            "Background task 'cleaner' broke: The job database jobs.sqlite3 is damaged. Move it away. "
            "It starts again within 3600 s."
        )
        task.cancel()

    async def test_delays_begin_anew_after_a_long_run(self, monkeypatch: pytest.MonkeyPatch):
        asked: list[str] = []

        def noted() -> Iterator[float]:
            asked.append("anew")
            return repeat(0.0)

        tasks = BackgroundTasks(noted)
        monkeypatch.setattr("acestep.background.LONGEST_DELAY", -1.0)  # so that every run is a long one
        task = tasks.keep("feed", failing(LookupError(), LookupError()))
        async with asyncio.timeout(5):
            while len(asked) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0)
        task.cancel()

    async def test_work_that_returns_is_done(self):
        async def work() -> None:
            return None

        task = BackgroundTasks(at_once).keep("feed", work)
        await asyncio.wait_for(task, 5)

    async def test_two_of_one_name_are_told_apart(self):
        tasks = BackgroundTasks(never)
        first, second = (tasks.keep("watch", failing(LookupError())) for _ in range(2))
        await trouble(tasks)
        first.cancel()
        await ended(first)
        assert tasks.trouble().count("Background task 'watch' broke") == 1
        second.cancel()


class TestRun:
    async def test_work_that_breaks_stays_broken_until_it_is_run_again(
        self, caplog: pytest.LogCaptureFixture
    ):
        tasks, fine = BackgroundTasks(), asyncio.Event()
        with caplog.at_level(logging.CRITICAL):
            await ended(tasks.run("load base", failing(LookupError("no such file"))()))
        assert tasks.trouble() == (
            "Background task 'load base' broke: LookupError; the server's log says more. Restart the server."
        )
        assert "no such file" in caplog.text
        fine.set()
        await ended(tasks.run("load base", _returns(fine)))
        assert tasks.trouble() == ""

    async def test_work_that_is_cancelled_is_not_broken(self):
        tasks = BackgroundTasks()
        task = tasks.run("load base", _returns(asyncio.Event()))
        await asyncio.sleep(0)
        task.cancel()
        await ended(task)
        assert tasks.trouble() == ""


async def _returns(when: asyncio.Event) -> None:
    await when.wait()
