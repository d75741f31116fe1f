"""The output head: logits of those tokens that are asked for, and of no others.

Knows hidden states and rows of its weight; knows nothing of texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from acestep.planner.backends.decoder import EVEN_ROWS
from acestep.planner.backends.sampling import carried

Rows = slice | NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The logits of `rows` of the head after the hidden states at `places`."""

    places: list[int]
    rows: Rows


class Head:
    """A head of `weight` `[vocabulary, hidden]`."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def parameters(self) -> Iterator[Tensor]:
        """Its weights, which may be elsewhere while there is nothing to do."""
        yield self._weight

    @property
    def size(self) -> int:
        """How many tokens it can tell apart."""
        return len(self._weight)

    def logits(self, hidden: Tensor, questions: Sequence[Question]) -> list[Tensor]:
        """`[places, rows]` in float32 for each; `hidden` is `[n, hidden]`.

        Questions for the same slice are answered in one product, so that its weights are read once.
        """
        answers: list[Tensor] = [hidden] * len(questions)
        together: dict[tuple[int, int], list[int]] = {}
        for number, question in enumerate(questions):
            if isinstance(question.rows, slice):
                together.setdefault((question.rows.start, question.rows.stop), []).append(number)
            else:  # a product of its own, whose shape does not depend on the others
                weight = self._weight[self.index(question.rows)]
                answers[number] = functional.linear(_at(hidden, question.places), weight).float()
        for (start, stop), numbers in together.items():
            places = [place for number in numbers for place in questions[number].places]
            padding = places[:1] * (EVEN_ROWS - len(places))
            found = functional.linear(_at(hidden, places + padding), self._weight[start:stop]).float()
            sizes = [len(questions[number].places) for number in numbers]
            parts = torch.split(found[: len(places)], sizes)
            for number, part in zip(numbers, parts, strict=True):
                answers[number] = part
        return answers

    def index(self, rows: Rows) -> slice | Tensor:
        """`rows` as tensors on the head's device take them."""
        return rows if isinstance(rows, slice) else carried(torch.from_numpy(rows), self._weight.device)


def _at(hidden: Tensor, places: list[int]) -> Tensor:
    return hidden[carried(torch.tensor(places), hidden.device)]
