"""The output head. It computes the logits of the tokens that are asked for, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from acestep.planner.backends.decoder import EVEN_ROWS
from acestep.planner.backends.sampling import to_device

Rows = slice | NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LogitsRequest:
    states: list[int]  # indices of hidden states
    rows: Rows


class Head:
    def __init__(self, weight: Tensor) -> None:
        self._weight = weight  # [vocabulary, hidden]

    def parameters(self) -> Iterator[Tensor]:
        yield self._weight

    @property
    def size(self) -> int:
        return len(self._weight)

    def logits(self, hidden: Tensor, requests: Sequence[LogitsRequest]) -> list[Tensor]:
        """For each request float32 `[states, rows]`; `hidden` is `[n, hidden]`."""
        answers: list[Tensor] = [hidden] * len(requests)
        by_slice: dict[tuple[int, int], list[int]] = {}
        for number, request in enumerate(requests):
            if isinstance(request.rows, slice):
                by_slice.setdefault((request.rows.start, request.rows.stop), []).append(number)
            else:  # a product of its own, whose shape does not depend on the others
                weight = self._weight[self.index(request.rows)]
                answers[number] = functional.linear(_take(hidden, request.states), weight).float()
        for (start, stop), numbers in by_slice.items():  # one product, which reads the weights once
            states = [state for number in numbers for state in requests[number].states]
            padding = states[:1] * (EVEN_ROWS - len(states))
            found = functional.linear(_take(hidden, states + padding), self._weight[start:stop]).float()
            sizes = [len(requests[number].states) for number in numbers]
            for number, part in zip(numbers, torch.split(found[: len(states)], sizes), strict=True):
                answers[number] = part
        return answers

    def index(self, rows: Rows) -> slice | Tensor:
        """`rows` as an index on the head's device."""
        return rows if isinstance(rows, slice) else to_device(torch.from_numpy(rows), self._weight.device)


def _take(hidden: Tensor, states: list[int]) -> Tensor:
    return hidden[to_device(torch.tensor(states), hidden.device)]
