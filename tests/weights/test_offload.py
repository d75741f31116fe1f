import threading
from concurrent.futures import ThreadPoolExecutor

from acestep.weights.offload import DeviceLock


def test_requests_are_granted_in_their_order() -> None:
    lock = DeviceLock()
    first, second, third = (lock.request() for _ in range(3))
    assert [request.wait(0) for request in (first, second, third)] == [True, False, False]
    assert [request.is_awaited for request in (first, second, third)] == [True, True, False]
    first.release()
    assert [request.wait(0) for request in (second, third)] == [True, False]


def test_a_withdrawn_request_is_passed_over() -> None:
    lock = DeviceLock()
    first, second, third = (lock.request() for _ in range(3))
    second.release()
    first.release()
    assert third.wait(0)
    assert not third.is_awaited


def test_one_thread_at_a_time_has_the_device() -> None:
    lock, users, overlaps = DeviceLock(), threading.Semaphore(1), []

    def work(_: int) -> None:
        for _ in range(20):
            request = lock.request()
            assert request.wait(30)
            overlaps.append(not users.acquire(blocking=False))
            users.release()
            request.release()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert overlaps == [False] * 80
