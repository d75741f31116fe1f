"""A training loop's time: so many minutes, shown as they pass."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_SMOOTH = 0.98
_PRINT_EVERY = 250  # steps; a log file shows these lines alone


class Clock:
    """Counts steps until `minutes` are over; `now` gives seconds."""

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = minutes * 60
        self._now = now
        self._loss: float | None = None

    def steps(self, name: str) -> Iterator[tuple[int, float]]:
        """Each step's number, and the share of the time that is gone; ends when all of it is."""
        started = self._now()
        columns = (TextColumn(name), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Progress(*columns) as progress:
            task = progress.add_task("", total=self._seconds)
            for step in itertools.count():
                elapsed = self._now() - started
                if step:
                    says = f"{name}, step {step}, loss {self._loss or 0.0:.4f}"
                    progress.update(task, completed=elapsed, description=says)
                    if step % _PRINT_EVERY == 0:
                        progress.console.print(f"{elapsed / 60:.1f} min, {says}")
                if elapsed > self._seconds:
                    return
                yield step, elapsed / self._seconds

    def show(self, loss: float) -> None:
        """Report a step's loss."""
        self._loss = loss if self._loss is None else _SMOOTH * self._loss + (1 - _SMOOTH) * loss
