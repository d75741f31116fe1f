"""What several models have in common is in memory once.

Keeps no part alive: it goes with the last model that uses it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class SharedModules:
    """Parts in memory that are used by the models of one server. For any thread."""

    def __init__(self) -> None:
        self._admission = threading.Lock()
        self._held: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()

    def get(self, path: Path, place: Hashable, load: Callable[[], T]) -> T:
        """The part from `path` at `place` (device and dtype); `load` is called where nobody has it yet.

        Links lead to the same part as what they point to.
        """
        key = (path.resolve(), place)
        with self._admission:  # while one thread loads a part, none loads it again
            held: T | None = self._held.get(key)
            if held is None:
                held = self._held[key] = load()
            return held
