from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The settings of one `config.json`; errors name the setting and its value."""

    path: Path
    content: dict[str, object]

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        return cls(path, read_json(path))

    def error(self, name: str, expected: str) -> CheckpointError:
        if name not in self.content:
            return CheckpointError(f"{self.path}: {name!r} is missing")
        return CheckpointError(f"{self.path}: {name} is {self.content[name]!r}; {expected} is expected")

    def check(self, name: str, known: object) -> None:
        if self.content.get(name) != known:
            raise self.error(name, repr(known))

    def size(self, name: str) -> int:
        value = self.content.get(name)
        if not isinstance(value, int) or value < 1:
            raise self.error(name, "a whole number from 1 on")
        return value

    def sizes(self, name: str) -> tuple[int, ...]:
        values = self.content.get(name)
        if not isinstance(values, list) or not all(isinstance(each, int) and each > 0 for each in values):
            raise self.error(name, "a list of whole numbers from 1 on")
        return tuple(values)

    def number(self, name: str) -> float:
        value = self.content.get(name)
        if not isinstance(value, int | float) or value <= 0:
            raise self.error(name, "a number above 0")
        return float(value)
