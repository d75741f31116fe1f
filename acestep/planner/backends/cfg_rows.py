"""Classifier-free guidance inside the batch of another engine, which reorders rows and samples each alone.

`CfgRows` samples one token for the two rows of a text, and masks all others, so that the engine takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.planner.backends.grammars import Allowed, Grammars
from acestep.planner.backends.sampling import next_tokens
from acestep.planner.backends.sequence import Detokenize, TextSequence
from acestep.planner.language_model import StepOutput


@dataclass(frozen=True, slots=True, eq=False)
class BatchRow:
    sequence_id: int
    prompt: int  # 0: the prompt of the text, 1: its null prompt
    output: list[int]  # the tokens after the prompt; the engine appends to it


@dataclass(frozen=True, slots=True)
class BatchChanges:
    """To be applied in this order."""

    removed: Sequence[int] = ()
    added: Sequence[tuple[int, BatchRow]] = ()
    moved: Sequence[tuple[int, int, bool]] = ()  # from, to, whether the two swap


class CfgRows:
    def __init__(self, grammars: Grammars, detokenize: Detokenize) -> None:
        self._grammars = grammars
        self._detokenize = detokenize
        self._sequences: dict[int, tuple[TextSequence, int]] = {}  # by id, with the number of prompts
        self._rows: dict[int, BatchRow] = {}
        self._outputs: list[StepOutput] = []

    def add(self, sequence: TextSequence, prompts: int) -> None:
        self._sequences[sequence.id] = sequence, prompts

    def remove(self, sequence_id: int) -> None:
        self._sequences.pop(sequence_id, None)  # rows that are still in the batch are ignored

    def take_outputs(self) -> list[StepOutput]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def update(self, changes: BatchChanges) -> None:
        for row in changes.removed:
            self._rows.pop(row, None)
        self._rows.update(changes.added)
        for source, target, swapped in changes.moved:
            moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if swapped and other is not None:
                self._rows[source] = other

    @torch.inference_mode()
    def sample(self, logits: Tensor) -> Tensor:
        """Mask `[rows, vocabulary]` float32 logits in place, so that each row keeps the token of its text."""
        found = self._rows_by_sequence()
        whole = [(sequence, rows) for sequence, rows in found if rows]
        tokens = self._tokens(logits, whole) if whole else []
        for (sequence, rows), token in zip(whole, tokens, strict=True):
            self._outputs.append(sequence.append(token, self._detokenize))
            if token is not None:
                logits[rows] = -torch.inf
                logits[rows, token] = 0
        self._outputs += [
            StepOutput(
                sequence.id, len(sequence.tokens), error="The engine put its two prompts into different steps"
            )
            for sequence, rows in found
            if not rows
        ]
        return logits

    def _rows_by_sequence(self) -> list[tuple[TextSequence, list[int]]]:
        # The rows of each text, by prompt; none if rows are missing, or at another token than the text.
        found: dict[int, dict[int, int]] = {}  # by sequence id, the row of each prompt
        for number, row in self._rows.items():
            if row.sequence_id not in self._sequences:
                continue
            row_of_prompt = found.setdefault(row.sequence_id, {})
            if len(row.output) == len(self._sequences[row.sequence_id][0].tokens):
                row_of_prompt[row.prompt] = number
        result: list[tuple[TextSequence, list[int]]] = []
        for sequence_id, row_of_prompt in found.items():
            sequence, prompts = self._sequences[sequence_id]
            is_whole = len(row_of_prompt) == prompts
            result.append((sequence, [row_of_prompt[n] for n in range(prompts)] if is_whole else []))
        return result

    def _tokens(self, logits: Tensor, whole: list[tuple[TextSequence, list[int]]]) -> list[int | None]:
        def index(each: Allowed) -> slice | Tensor:
            return (
                each.rows if isinstance(each.rows, slice) else torch.from_numpy(each.rows).to(logits.device)
            )

        def logits_of(asked: Sequence[tuple[int, Allowed]]) -> list[Tensor]:
            return [logits[whole[number][1]][:, index(each)] for number, each in asked]

        allowed = self._grammars.allowed([sequence.constraint for sequence, _ in whole])
        return next_tokens([sequence for sequence, _ in whole], allowed, logits_of, index)
