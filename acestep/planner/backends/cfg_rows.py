"""The choice of tokens inside another engine's batch: guidance over pairs of rows, then grammar and chance.

Such an engine moves its rows about, and samples each by itself. Here the rows of a text are found, one
token is chosen for all of them, and every other token barred, so that the engine can only sample that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.planner.backends.grammars import Allowed, Grammars
from acestep.planner.backends.sampling import next_tokens
from acestep.planner.backends.sequence import Spell, TextSequence
from acestep.planner.language_model import StepOutput


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """What a row of the batch is: `part` 0 reads the prompt of the text, 1 its null prompt.

    `written` is the engine's own list of the tokens that follow the prompt, which it appends to.
    """

    ticket: int
    part: int
    written: list[int]


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of the engine's batch, in the order in which it is to be read.

    `moved` has (from, to, whether the two change places).
    """

    removed: Sequence[int] = ()
    added: Sequence[tuple[int, Place]] = ()
    moved: Sequence[tuple[int, int, bool]] = ()


class CfgRows:
    """The texts in an engine's batch."""

    def __init__(self, grammars: Grammars, spell: Spell) -> None:
        self._grammars = grammars
        self._spell = spell
        self._writings: dict[int, tuple[TextSequence, int]] = {}  # by ticket, with the number of its rows
        self._places: dict[int, Place] = {}  # by row
        self._advances: list[StepOutput] = []

    def enter(self, writing: TextSequence, parts: int) -> None:
        """Expect `parts` rows of a text."""
        self._writings[writing.ticket] = writing, parts

    def leave(self, ticket: int) -> None:
        """Forget a text; its rows, where they are still there, mean nothing from now on."""
        self._writings.pop(ticket, None)

    def advances(self) -> list[StepOutput]:
        """What has been chosen since the last call."""
        advances, self._advances = self._advances, []
        return advances

    def update(self, changes: Changes) -> None:
        """Follow the engine's rows."""
        for row in changes.removed:
            self._places.pop(row, None)
        self._places.update(changes.added)
        for source, target, swapped in changes.moved:
            moved, other = self._places.pop(source, None), self._places.pop(target, None)
            if moved is not None:
                self._places[target] = moved
            if swapped and other is not None:
                self._places[source] = other

    @torch.inference_mode()
    def choose(self, logits: Tensor) -> Tensor:
        """Leave each row of `[rows, vocabulary]` float32 logits one token: that of its text. In place."""
        together = self._together()
        whole = [(writing, rows) for writing, rows in together if rows]
        allowed = self._grammars.allowed([writing.constraint for writing, _ in whole]) if whole else []
        tokens = self._tokens(logits, whole, allowed)
        for (writing, rows), token in zip(whole, tokens, strict=True):
            self._advances.append(writing.take(token, self._spell))
            if token is not None:
                logits[rows] = -torch.inf
                logits[rows, token] = 0
        self._advances += [
            StepOutput(writing.ticket, len(writing.tokens), error="The engine ran its two prompts apart")
            for writing, rows in together
            if not rows
        ]
        return logits

    def _together(self) -> list[tuple[TextSequence, list[int]]]:
        """The texts in the batch with their rows, by part; no rows where some are missing or behind."""
        found: dict[int, dict[int, int]] = {}  # the row by part, by ticket
        for row, place in self._places.items():
            if place.ticket not in self._writings:
                continue
            rows_by_part = found.setdefault(place.ticket, {})
            if len(place.written) == len(self._writings[place.ticket][0].tokens):
                rows_by_part[place.part] = row
        together: list[tuple[TextSequence, list[int]]] = []
        for ticket, rows_by_part in found.items():
            writing, parts = self._writings[ticket]
            rows = [rows_by_part[part] for part in range(parts)] if len(rows_by_part) == parts else []
            together.append((writing, rows))
        return together

    def _tokens(
        self, logits: Tensor, whole: list[tuple[TextSequence, list[int]]], allowed: Sequence[Allowed | None]
    ) -> list[int | None]:
        """The next token of each text; None where its grammar allows none."""

        def index(each: Allowed) -> slice | Tensor:
            return (
                each.rows if isinstance(each.rows, slice) else torch.from_numpy(each.rows).to(logits.device)
            )

        def logits_of(asked: Sequence[tuple[int, Allowed]]) -> list[Tensor]:
            return [logits[whole[place][1]][:, index(each)] for place, each in asked]

        return next_tokens([writing for writing, _ in whole], allowed, logits_of, index)
