"""Runs one language model on a thread, for many tasks at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from acestep.device.oom import is_out_of_memory
from acestep.errors import AceStepError, JobCancelledError, NotEnoughMemoryError, PlannerError
from acestep.planner.language_model import Generation, LanguageModel, StepOutput

OnTokens = Callable[[int], None]
Cancelled = Callable[[], bool]

_CLOSED = "The planner has been shut down."
_AGAIN = "It is loaded again when a request needs it."
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    generation: Generation
    on_tokens: OnTokens
    cancelled: Cancelled
    text: Future[str] = field(default_factory=Future)

    def finish(self, outcome: str | BaseException) -> None:
        with contextlib.suppress(InvalidStateError):  # its task was cancelled
            if isinstance(outcome, str):
                self.text.set_result(outcome)
            else:
                self.text.set_exception(outcome)


class GenerationLoop:
    # If a step runs out of memory, its texts fail and the loop goes on. After any other error the state of
    # the model is unknown: all texts fail, later ones too, and it has to be loaded again (`failure`).

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()  # None: close
        self._running: dict[int, _Request] = {}  # by sequence id; used by the thread alone
        self._lock = threading.Lock()
        self._closed = False
        self._failure = ""
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._drive, name="planner", daemon=True)
        self._thread.start()

    async def generate(self, generation: Generation, on_tokens: OnTokens, cancelled: Cancelled) -> str:
        """The text. `on_tokens` and `cancelled` are called at each step, on the loop's thread.

        Raises JobCancelledError within a step after `cancelled()` turns true, and PlannerError.
        """
        request = _Request(generation, on_tokens, cancelled)
        with self._lock:
            if self._closed:
                raise PlannerError(_CLOSED)
            self._queue.put(request)
        return await asyncio.wrap_future(request.text)

    @property
    def failure(self) -> str:
        """Why the model cannot be used any more; "" if it can."""
        return self._failure

    def silence(self) -> float:
        """Seconds since the current step began."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def close(self) -> None:
        """Wait for the current step, and end the thread. Running texts fail."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def free_model(self) -> None:
        """Free the model's memory, after `close`. A process that ends is faster without."""
        try:
            self._model.close()
        except Exception:  # noqa: BLE001 - the rest is freed with the last reference
            _log.exception("The language model could not be closed")

    def _drive(self) -> None:
        while self._take_queued():
            if failure := self._step():
                self._fail_all(failure)
        self._fail_all(PlannerError(_CLOSED))

    def _step(self) -> AceStepError | None:
        # One step. Returns its error without the traceback, whose frames would hold memory.
        self._step_began = time.monotonic()
        try:
            self._drop_cancelled()
            for output in self._model.step():
                self._report(output)
        except Exception as error:  # noqa: BLE001 - its jobs end
            readable = _readable(error)
            if isinstance(error, AceStepError) or isinstance(readable, NotEnoughMemoryError):
                return readable
            self._failure = f"{readable}. {_AGAIN}"
            return self._refusal()
        finally:
            self._step_began = None
        return None

    def _take_queued(self) -> bool:
        # Start queued texts; wait for one if none is running. False: close.
        with contextlib.suppress(Empty):
            while True:
                request = self._queue.get(block=not self._running)
                if request is None:
                    return False
                self._start(request)
        return True

    def _start(self, request: _Request) -> None:
        if self._failure:
            request.finish(self._refusal())
            return
        try:
            self._running[self._model.add(request.generation)] = request
        except Exception as error:  # noqa: BLE001 - this job ends
            request.finish(_readable(error))

    def _refusal(self) -> PlannerError:
        return PlannerError(f"{self._failure} Send the request once more.")

    def _drop_cancelled(self) -> None:
        for sequence_id, request in list(self._running.items()):
            if request.text.cancelled() or request.cancelled():
                self._model.abort(sequence_id)
                del self._running[sequence_id]
                request.finish(JobCancelledError("The job was cancelled while the planner ran."))

    def _report(self, output: StepOutput) -> None:
        request = self._running.get(output.sequence_id)
        if request is None:
            return
        request.on_tokens(output.tokens)
        if output.text is None and output.error is None:
            return
        del self._running[output.sequence_id]
        request.finish(PlannerError(output.error) if output.text is None else output.text)

    def _fail_all(self, error: AceStepError) -> None:
        failed, self._running = self._running, {}
        for sequence_id, request in failed.items():
            with contextlib.suppress(Exception):  # a failed model may fail here too
                self._model.abort(sequence_id)
            request.finish(error)


def _readable(error: Exception) -> AceStepError:
    if isinstance(error, AceStepError):
        return error
    if is_out_of_memory(error):
        # Without its traceback, whose frames hold memory.
        _log.warning("The language model ran out of memory: %s", str(error).partition("\n")[0])
        return NotEnoughMemoryError("plan", "the texts of the language model were too large together")
    _log.error("The language model failed", exc_info=error)
    return PlannerError(f"The language model failed: {str(error) or type(error).__name__}")
