"""Work for which memory runs out: let go of all that it held, and try once more with less.

Runs on the thread that computes, since what failed is let go only where nobody holds its frames any more.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

from acestep.device.oom import is_out_of_memory
from acestep.engine.batching import halved
from acestep.engine.renderer import Loaded
from acestep.errors import NotEnoughMemoryError

T = TypeVar("T")
Free = Callable[[], None]

log = logging.getLogger(__name__)

_ROUNDING = 1e-6  # songs: three times a length may be a little less than three of it
_WORTH_HALVING = 20.0  # seconds: half of it is the shortest song


def collect() -> None:
    """Give memory back that nobody uses, as far as Python alone can."""
    gc.collect()


@dataclass(frozen=True, slots=True)
class WorkItem:
    """What a stage works at: a song, or `what` else, of so many seconds, with `model`.

    Where `seconds` are unknown, or mean nothing, `remedy` says what would fit.
    """

    stage: str
    model: str
    seconds: float | None
    what: str = "a song"
    remedy: str = "a shorter one needs less"


class BatchLimit:
    """How much music fits into a batch of a model, learned from batches that did not fit.

    Memory for songs grows with their number times their length, so that one bound is good for all lengths. It
    is forgotten with the model: what is loaded anew may find more room.
    """

    def __init__(self) -> None:
        self._seconds: WeakKeyDictionary[Loaded, float] = WeakKeyDictionary()

    def most(self, model: Loaded, seconds: float) -> int:
        """How many songs of so many seconds may be in a batch: at least one."""
        most = model.info.max_batch
        bound = self._seconds.get(model)
        return most if bound is None else max(1, min(most, int(bound / seconds + _ROUNDING)))

    def learn(self, model: Loaded, seconds: float, too_many: int) -> None:
        """So many songs of so many seconds ran out of memory; half of them are tried from now on."""
        most = halved(too_many)
        self._seconds[model] = most * seconds
        log.warning(
            "%d songs of %g s at once are too many for %s here: no more than %d (%g s in all) from now on",
            *(too_many, seconds, model.info.name, most, most * seconds),
        )


def load_with_retry(what: str, load: Callable[[], T], free: Free) -> T:
    """What `load` brings into memory; what came is freed where it does not fit: NotEnoughMemoryError."""
    remedy = "choose a smaller one, have fewer models in memory, or let them leave it when idle"
    return OomRetry(free).run(WorkItem("load", what, None, what, remedy), load)


class OomRetry:
    """Runs the stages' work; `free` gives memory back to the device that nobody uses. Thread-safe."""

    def __init__(self, free: Free = collect) -> None:
        self._free = free
        self._gone_through: dict[tuple[str, str], float] = {}  # the longest, by stage and model

    def run(self, piece: WorkItem, work: Callable[[], T]) -> T:
        """What `work` returns. Raises NotEnoughMemoryError where memory ran out; it is free again then."""
        try:
            done = work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("Out of memory at stage %s: %s", piece.stage, str(error).partition("\n")[0])
        else:
            self._remember(piece)
            return done
        # Only here, the error is gone, and with it the frames that hold what was computed so far.
        self._free()
        raise NotEnoughMemoryError(piece.stage, self._sentence(piece))

    def retry_with_less(
        self, piece: WorkItem, work: Callable[[], T], smaller: Callable[[], T] | None = None
    ) -> T:
        """As `once`; where memory ran out, what `smaller` returns (None: `work`, which has all to itself)."""
        try:
            return self.run(piece, work)
        except NotEnoughMemoryError:
            log.info("Trying stage %s once more with less", piece.stage)
        return self.run(piece, smaller or work)

    def _remember(self, piece: WorkItem) -> None:
        key = (piece.stage, piece.model)
        self._gone_through[key] = max(self._gone_through.get(key, 0.0), piece.seconds or 0.0)

    def _sentence(self, piece: WorkItem) -> str:
        """What was too large, and what would fit, as far as anybody can know."""
        if piece.seconds is None:
            return f"{piece.what} is too large for this server; {piece.remedy}"
        told = f"{piece.what} of {piece.seconds:g} s is too large for this server"
        fitted = self._gone_through.get((piece.stage, piece.model), 0.0)
        if 0.0 < fitted < piece.seconds:
            return f"{told}; up to {fitted:g} s have gone through: ask for a shorter one"
        if piece.seconds >= _WORTH_HALVING:
            return f"{told}; half as long ({piece.seconds / 2:g} s) needs about half: ask for a shorter one"
        return f"{told} at the moment; ask for fewer songs at once (batch_size), or later"
