"""The engine's threads: one of a kind each, and all of them polite.

Owns how a thread that computes is started; knows nothing of what runs in it.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

_NICER = 10  # steps: a tenth of the event loop's share where both want one core


def computing_thread(name: str) -> ThreadPoolExecutor:
    """One thread called `name` that stands back behind the event loop."""
    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_stand_back)


def _stand_back() -> None:
    """Let the event loop go first where it and the computing threads want the same core.

    On Linux every thread has a niceness of its own, which the threads that it starts inherit.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread) + _NICER
        os.setpriority(os.PRIO_PROCESS, thread, nice)  # the kernel stops at 19
