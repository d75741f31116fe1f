"""One device, several threads: in the order in which they came, and nobody is left waiting."""

import threading
from concurrent.futures import ThreadPoolExecutor

from acestep.weights.offload import DeviceLock


def test_whoever_came_first_goes_first() -> None:
    turns = DeviceLock()
    first, second, third = (turns.request() for _ in range(3))
    assert [turn.came(0) for turn in (first, second, third)] == [True, False, False]
    assert [turn.is_awaited for turn in (first, second, third)] == [True, True, False]
    first.end()
    assert [turn.came(0) for turn in (second, third)] == [True, False]


def test_whoever_gives_up_is_passed_over() -> None:
    turns = DeviceLock()
    first, second, third = (turns.request() for _ in range(3))
    second.end()
    first.end()
    assert third.came(0)
    assert not third.is_awaited


def test_one_at_a_time() -> None:
    turns, inside, seen = DeviceLock(), threading.Semaphore(0), []

    def work(number: int) -> None:
        for _ in range(20):
            turn = turns.request()
            assert turn.came(30)
            seen.append(inside.acquire(blocking=False))  # nobody let it go: nobody else is here
            inside.release()
            assert inside.acquire(blocking=False)
            turn.end()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert seen == [False] * 80
