"""Whose turn it is on a device, where those who work there must not overlap.

Owns the line: who came first has the device until it says that it is done. Knows nothing of what is done
there.
"""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A line of threads before one device. For any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[Turn] = deque()

    def ask(self) -> Turn:
        """Stand in line; returns at once. Whoever asks must `end` the turn, come or not."""
        turn = Turn(self._line, self._changed)
        with self._changed:
            self._line.append(turn)
        return turn


class Turn:
    """A place in the line."""

    def __init__(self, line: deque[Turn], changed: threading.Condition) -> None:
        self._line = line
        self._changed = changed

    def came(self, seconds: float) -> bool:
        """Whether the device is ours, for which this waits so long at most."""
        with self._changed:
            return self._changed.wait_for(lambda: self._line[0] is self, seconds)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody stands behind."""
        with self._changed:
            return self._line[-1] is not self

    def end(self) -> None:
        """Leave the line, or the device."""
        with self._changed:
            self._line.remove(self)
            self._changed.notify_all()
