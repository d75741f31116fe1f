"""Modules that several models have in common, in memory once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar, cast
from weakref import WeakValueDictionary

T = TypeVar("T")


class SharedModules:
    """The modules in use by the models of one server; each is freed with its last user. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: WeakValueDictionary[Hashable, object] = WeakValueDictionary()

    def get(self, path: Path, form: Hashable, load: Callable[[], T]) -> T:
        """The module from `path` in a form (device, dtype and the like); `load` makes it if there is none."""
        key = (path.resolve(), form)  # a link and its target are one
        with self._lock:  # so that no two threads load the same module
            module = cast("T | None", self._loaded.get(key))
            if module is None:
                module = load()
                self._loaded[key] = module
            return module
