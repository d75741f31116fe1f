"""Which tokens a grammar allows next.

Owns the meeting of llguidance and a tokenizer, and the choice of which rows of the output head must be
computed. Knows nothing of what the grammars mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from acestep.errors import PlannerError
from acestep.planner.backends.vocabulary import grammar_tokenizer
from acestep.planner.language_model import Vocabulary

# Up to so many scattered rows of the head are gathered; for more, a pass over the whole is cheaper.
_FEW = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """The tokens that may come next: `rows` of the vocabulary, without those where `barred` is set.

    `rows` are a slice or sorted ids, never empty. `barred` is as long as `rows`; None: nothing is.
    """

    rows: slice | NDArray[np.int64]
    barred: NDArray[np.bool_] | None = None

    @property
    def forced(self) -> int | None:
        """The token, where there is no choice."""
        if isinstance(self.rows, slice) or len(self.rows) > 1:
            return None
        return int(self.rows[0])

    def token(self, index: int) -> int:
        """The token that `rows` have at `index`."""
        return int(self.rows.start) + index if isinstance(self.rows, slice) else int(self.rows[index])


class Constraint:
    """Where one text stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self.matcher = matcher

    @property
    def ended(self) -> bool:
        """Nothing more can come."""
        return bool(self.matcher.is_stopped())

    @property
    def error(self) -> str:
        """Why the grammar could not be followed; empty if it could."""
        return str(self.matcher.get_error()) if self.matcher.is_error() else ""

    def forced(self) -> list[int]:
        """The tokens that come next whatever is thought of them: each is what `allowed` would leave."""
        return list(self.matcher.compute_ff_tokens())

    def advance(self, token: int) -> None:
        """Take a token that was allowed."""
        self.matcher.consume_token(token)


class Grammars:
    """Reads grammars for one tokenizer, and says for many texts at once what they allow."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, size: int) -> None:
        """`size`: how many rows the output head has, which may be more than there are tokens."""
        end = tokenizer.convert_tokens_to_ids(vocabulary.end_of_turn)
        self._tokenizer = grammar_tokenizer(tokenizer, size, end)
        self._executor = llguidance.LLExecutor()
        self._size = size
        self._codes = slice(vocabulary.first_code_id, vocabulary.first_code_id + vocabulary.code_count)
        bits = np.zeros(llguidance.numpy.get_bitmask_shape(1, size)[1] * 32, np.uint8)
        bits[self._codes] = 1
        self._code_bits = np.packbits(bits, bitorder="little").view(np.int32)
        self._every_code = Allowed(self._codes) if vocabulary.code_count > 1 else None

    def read(self, grammar: str) -> Constraint:
        """Start at a grammar's beginning. Raises PlannerError that quotes what is wrong with it."""
        constraint = Constraint(llguidance.LLMatcher(self._tokenizer, grammar, log_level=0))
        if constraint.error:
            raise PlannerError(f"The grammar cannot be read: {constraint.error}")
        return constraint

    def allowed(self, constraints: Sequence[Constraint]) -> list[Allowed | None]:
        """What each allows next; None where that cannot be told, and the constraint has an error."""
        bits = llguidance.numpy.allocate_token_bitmask(len(constraints), self._size)
        if len(constraints) == 1:  # not worth a thread
            llguidance.numpy.fill_next_token_bitmask(constraints[0].matcher, bits)
        else:
            matchers = [(constraint.matcher, n) for n, constraint in enumerate(constraints)]
            llguidance.numpy.fill_next_token_bitmask_par(self._executor, matchers, bits)
        return [
            None if constraint.error else self._sorted_out(row)
            for constraint, row in zip(constraints, bits, strict=True)
        ]

    def _sorted_out(self, bits: NDArray[np.int32]) -> Allowed | None:
        if self._every_code and np.array_equal(bits, self._code_bits):  # nearly always
            return self._every_code
        mask = np.unpackbits(bits.view(np.uint8), count=self._size, bitorder="little").view(np.bool_)
        count = np.count_nonzero(mask)
        codes = mask[self._codes]
        if count > 1 and count == np.count_nonzero(codes):
            return Allowed(self._codes, None if codes.all() else ~codes)
        if count <= _FEW:
            ids = np.flatnonzero(mask)
            return Allowed(ids) if len(ids) else None
        return Allowed(slice(0, self._size), ~mask)
