"""Example requests: sentences, and whole songs with lyrics."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class SimpleExample:
    description: str
    instrumental: bool
    language: str


@dataclass(frozen=True, slots=True)
class CustomExample:
    """`duration` is in seconds."""

    caption: str
    lyrics: str
    bpm: int
    key_scale: str
    time_signature: str
    duration: int
    language: str


class Examples:
    """Draws examples with equal probability."""

    def __init__(
        self, simple: Sequence[SimpleExample], custom: Sequence[CustomExample], rng: random.Random
    ) -> None:
        self._simple = tuple(simple)
        self._custom = tuple(custom)
        self._rng = rng

    @classmethod
    def load(cls, rng: random.Random | None = None) -> Examples:
        return cls(load_simple(), load_custom(), rng or random.SystemRandom())

    def draw_simple(self) -> SimpleExample:
        return self._rng.choice(self._simple)

    def draw_custom(self) -> CustomExample:
        return self._rng.choice(self._custom)


def load_simple() -> tuple[SimpleExample, ...]:
    return tuple(SimpleExample(**entry) for entry in _read("simple.json"))


def load_custom() -> tuple[CustomExample, ...]:
    # In the file, lyrics are lists of lines.
    return tuple(
        CustomExample(**{**entry, "lyrics": "\n".join(entry["lyrics"])}) for entry in _read("custom.json")
    )


def _read(name: str) -> list[dict[str, Any]]:
    text = files(__name__).joinpath(name).read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = json.loads(text)
    return entries
