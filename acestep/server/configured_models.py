"""Which models a server is set up with, and which others lie on its disk.

Which files a model needs, and where they are, is `checkpoints`' affair.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from acestep.catalog import checkpoints
from acestep.catalog.checkpoints import PUBLISHED, Checkpoint, Choice, Published
from acestep.domain.models import ModelInfo
from acestep.errors import CheckpointError
from acestep.limits import tasks_of
from acestep.settings.settings import Settings, variable

_MAX_STEPS = 200  # of a base model, as the API documents
_SLOTS = {2: "config_path2", 3: "config_path3"}  # what is in `models` comes after them


@dataclass(frozen=True, slots=True)
class Secondary:
    """A model beside the default one: `choice` to load it in slot `number`, or what is known without one."""

    number: int
    info: ModelInfo
    choice: Choice | None = None


@dataclass(frozen=True, slots=True)
class Secondaries:
    """The models beside the default one, and sentences about those that are left out."""

    models: tuple[Secondary, ...]
    notes: tuple[str, ...] = ()


def secondaries(settings: Settings, default: str, hub_reachable: Callable[[], bool]) -> Secondaries:
    """What is set up beside the model called `default`; what cannot be had is there as failed."""
    found: list[Secondary] = []
    notes: list[str] = []
    taken = {default}
    for number, setting, wish in _wishes(settings):
        secondary = _secondary(number, wish, settings.checkpoints_dir, hub_reachable)
        if secondary.info.name in taken:
            notes.append(
                f"{setting}: {wish} is left out; there is a model called {secondary.info.name} already"
            )
            continue
        taken.add(secondary.info.name)
        found.append(secondary)
    return Secondaries(tuple(found), tuple(notes))


def _wishes(settings: Settings) -> Iterator[tuple[int, str, str]]:
    """Slot number, variable and name or path of each."""
    for number, field in _SLOTS.items():
        if wish := getattr(settings, field):
            yield number, variable(field), wish
    for number, wish in zip(count(max(_SLOTS) + 1), filter(None, settings.models), strict=False):
        yield number, variable("models"), wish


def _secondary(number: int, wish: str, checkpoints_dir: Path, hub_reachable: Callable[[], bool]) -> Secondary:
    try:
        choice = checkpoints.choose(wish, checkpoints_dir, lambda: False, hub_reachable)
    except CheckpointError as error:
        return Secondary(number, _without(Path(wish).name, str(error)))
    return Secondary(number, expect(choice), choice)


def expect(choice: Choice, is_default: bool = False) -> ModelInfo:
    """What is known of a model before it is loaded."""
    return ModelInfo(
        name=choice.name,
        is_turbo=choice.is_turbo,
        tasks=tasks_of(choice.is_turbo),
        steps=choice.defaults.steps,
        guidance_scale=choice.defaults.guidance_scale,
        shift=choice.defaults.shift,
        max_steps=choice.defaults.steps if choice.is_turbo else _MAX_STEPS,
        is_default=is_default,
        state="loading" if choice.checkpoint else "downloading",
        notice=" ".join(filter(None, (choice.checkpoint.notice if choice.checkpoint else "", choice.notice))),
    )


def _without(name: str, reason: str) -> ModelInfo:
    """A model that is not to be had: what its name alone says."""
    published = PUBLISHED.get(name)
    is_turbo = published.is_turbo if published else "turbo" in name
    defaults = Published(name, "", 0, is_turbo=is_turbo).defaults
    return replace(expect(Choice(name, None, is_turbo, defaults)), state="failed", detail=reason)


class OnDisk:
    """The models in a folder that are whole, by name; looked at again when something came or went there."""

    def __init__(self, checkpoints_dir: Path) -> None:
        self._folder = checkpoints_dir
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._found: tuple[Checkpoint, ...] = ()

    def models(self) -> tuple[Checkpoint, ...]:
        """Cheap where nothing changed; else reads headers, no weights: some milliseconds."""
        seen = tuple(_changes(self._folder))
        if seen != self._seen:
            folders = _dit_folders(self._folder)
            self._found = tuple(checkpoint for folder in folders if (checkpoint := _whole(folder)))
            self._seen = seen
        return self._found


def _changes(folder: Path, depth: int = 2) -> Iterator[tuple[str, int]]:
    """The folders in here, two levels deep, and when something last came or went in each."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # not there, or gone meanwhile
        return
    for entry in entries:
        if entry.is_dir():
            yield entry.path, entry.stat().st_mtime_ns
            if depth > 1:
                yield from _changes(Path(entry.path), depth - 1)


def _dit_folders(checkpoints_dir: Path) -> list[Path]:
    """Folders that look like a DiT in one of the two layouts."""
    if not checkpoints_dir.is_dir():
        return []
    marks = ("silence_latent.pt", "model_index.json")
    return sorted(
        path for path in checkpoints_dir.iterdir() if any((path / mark).is_file() for mark in marks)
    )


def _whole(folder: Path) -> Checkpoint | None:
    try:
        return checkpoints.find(folder.name, folder.parent)
    except CheckpointError:
        return None
