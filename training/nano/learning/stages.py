"""Stages of training that can be interrupted: steps until a stage's time is over, and a state file."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_SMOOTH = 0.98
_PRINT_EVERY = 100  # steps; a log file shows these lines alone
_SAVE_EVERY = 120.0  # seconds


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


def computed_seconds() -> float:
    """Seconds in which this process computed with all its threads: other programs take nothing from them."""
    return time.process_time() / torch.get_num_threads()


class Stage:
    """Runs steps until `minutes` of computing are over, counted over interruptions.

    `parts` are saved in `path` now and then and at the end, and read from there where it exists.
    """

    def __init__(
        self,
        name: str,
        minutes: float,
        path: Path,
        parts: Mapping[str, Stateful],
        now: Callable[[], float] = computed_seconds,
    ) -> None:
        self.name, self._seconds, self._path, self._parts, self._now = name, minutes * 60, path, parts, now
        self._loss: float | None = None
        self._step, self._spent = 0, 0.0
        if path.exists():
            kept = torch.load(path, weights_only=True)
            self._step, self._spent = kept["step"], kept["spent"]
            for name_of_part, part in parts.items():
                part.load_state_dict(kept[name_of_part])

    def steps(self) -> Iterator[tuple[int, float]]:
        """Each step's number, and the share of the time that is gone."""
        before, started = self._spent, self._now()
        saved = before
        columns = (
            TextColumn(self.name),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as progress:
            task = progress.add_task("", total=self._seconds)
            for step in itertools.count(self._step):
                self._step, self._spent = step, before + self._now() - started
                says = f"step {step}, loss {self._loss or 0.0:.4f}"
                progress.update(task, completed=self._spent, description=says)
                if step % _PRINT_EVERY == 0:
                    progress.console.print(f"{self.name}: {self._spent / 60:.1f} min, {says}")
                if self._spent - saved > _SAVE_EVERY:
                    self._save()
                    saved = self._spent
                if self._spent >= self._seconds:
                    break
                yield step, self._spent / self._seconds
        self._save()

    def show(self, loss: float) -> None:
        """Report a step's loss."""
        self._loss = loss if self._loss is None else _SMOOTH * self._loss + (1 - _SMOOTH) * loss

    def _save(self) -> None:
        kept: dict[str, Any] = {name: part.state_dict() for name, part in self._parts.items()}
        partial = self._path.with_suffix(".partial")
        torch.save(kept | {"step": self._step, "spent": self._spent}, partial)
        partial.rename(self._path)
