"""The models that a server is configured with, and those that lie on its disk beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from acestep.catalog import checkpoints
from acestep.catalog.checkpoints import PUBLISHED, Checkpoint, Choice, Published
from acestep.domain.models import ModelInfo
from acestep.engine.model_manager import PRIMARY
from acestep.errors import CheckpointError
from acestep.limits import tasks_of
from acestep.settings.settings import Settings, variable

_MAX_STEPS = 200  # of a base model, as the API documents
_SLOTS = {2: "config_path2", 3: "config_path3"}  # those of ACESTEP_MODELS follow


@dataclass(frozen=True, slots=True)
class ConfiguredModels:
    """The models by slot, and a sentence for each that is left out."""

    by_slot: Mapping[int, Choice]
    notes: tuple[str, ...] = ()

    @property
    def default(self) -> Choice:
        return self.by_slot[PRIMARY]

    @property
    def loadable(self) -> tuple[Choice, ...]:
        return tuple(choice for choice in self.by_slot.values() if not choice.problem)


def configured_models(
    settings: Settings, default: Choice, hub_reachable: Callable[[], bool]
) -> ConfiguredModels:
    """The default model and those that the settings name beside it."""
    by_slot = {PRIMARY: default}
    notes: list[str] = []
    for number, setting, wish in _wishes(settings):
        choice = _choice(setting, wish, settings.checkpoints_dir, hub_reachable)
        if any(choice.name == other.name for other in by_slot.values()):
            notes.append(f"{setting}: {wish} is left out; another model is called {choice.name} already")
        else:
            by_slot[number] = choice
    return ConfiguredModels(by_slot, tuple(notes))


def _wishes(settings: Settings) -> Iterator[tuple[int, str, str]]:
    # Slot number, variable and name or path of each.
    for number, field in _SLOTS.items():
        if wish := getattr(settings, field):
            yield number, variable(field), wish
    for number, wish in zip(count(max(_SLOTS) + 1), filter(None, settings.models), strict=False):
        yield number, variable("models"), wish


def _choice(setting: str, wish: str, checkpoints_dir: Path, hub_reachable: Callable[[], bool]) -> Choice:
    try:
        return checkpoints.choose(wish, checkpoints_dir, lambda: False, hub_reachable)
    except CheckpointError as error:
        return _unavailable(
            Path(wish).name, f"{setting}: {error} To do without it, take it out of {setting}."
        )


def _unavailable(name: str, problem: str) -> Choice:
    # A model of which only its name is known.
    published = PUBLISHED.get(name)
    is_turbo = published.is_turbo if published else "turbo" in name
    return Choice(name, None, is_turbo, Published(name, "", 0, is_turbo=is_turbo).defaults, problem=problem)


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
        state="failed" if choice.problem else "loading" if choice.checkpoint else "downloading",
        detail=choice.problem,
        notice=" ".join(filter(None, (choice.checkpoint.notice if choice.checkpoint else "", choice.notice))),
    )


class OnDisk:
    """The complete models in a folder, by name; read again when files came or went there."""

    def __init__(self, checkpoints_dir: Path) -> None:
        self._folder = checkpoints_dir
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._found: tuple[Checkpoint, ...] = ()

    def models(self) -> tuple[Checkpoint, ...]:
        """Cheap where nothing changed; else reads headers, no weights: some milliseconds."""
        seen = tuple(_changes(self._folder))
        if seen != self._seen:
            folders = _dit_folders(self._folder)
            self._found = tuple(checkpoint for folder in folders if (checkpoint := _complete(folder)))
            self._seen = seen
        return self._found


def _changes(folder: Path, depth: int = 2) -> Iterator[tuple[str, int]]:
    # The folders in here, two levels deep, and when something last came or went in each.
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # missing, or removed meanwhile
        return
    for entry in entries:
        if entry.is_dir():
            yield entry.path, entry.stat().st_mtime_ns
            if depth > 1:
                yield from _changes(Path(entry.path), depth - 1)


def _dit_folders(checkpoints_dir: Path) -> list[Path]:
    # Folders that look like a DiT in one of the two layouts.
    if not checkpoints_dir.is_dir():
        return []
    marks = ("silence_latent.pt", "model_index.json")
    return sorted(
        path for path in checkpoints_dir.iterdir() if any((path / mark).is_file() for mark in marks)
    )


def _complete(folder: Path) -> Checkpoint | None:
    try:
        return checkpoints.find(folder.name, folder.parent)
    except CheckpointError:
        return None
