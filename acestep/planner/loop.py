"""Many texts at once from one language model: tasks wait here, one thread drives it."""

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
class _Run:
    """One text that somebody waits for."""

    generation: Generation
    on_tokens: OnTokens
    cancelled: Cancelled
    text: Future[str] = field(default_factory=Future)

    def finish(self, outcome: str | BaseException) -> None:
        """Tell whoever still waits."""
        with contextlib.suppress(InvalidStateError):  # its task was cancelled meanwhile
            if isinstance(outcome, str):
                self.text.set_result(outcome)
            else:
                self.text.set_exception(outcome)


class GenerationLoop:
    """Runs the generations of many tasks together on one model, which is its own. Close it when done.

    Want of memory passes. Anything else that a step raises leaves the model in a state that nobody knows:
    what is written then and what comes later fails, and it has to be loaded again (`failure`).
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._arrivals: SimpleQueue[_Run | None] = SimpleQueue()  # None: close
        self._running: dict[int, _Run] = {}  # by ticket; the thread's alone
        self._lock = threading.Lock()
        self._closed = False
        self._failure = ""
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._drive, name="planner", daemon=True)
        self._thread.start()

    async def generate(self, generation: Generation, on_tokens: OnTokens, cancelled: Cancelled) -> str:
        """Return the text of `generation`, which joins those that are being written.

        `on_tokens` gets the number of tokens so far, and `cancelled` is asked, once a step, both from the
        loop's thread. Raises `JobCancelledError` within a step after `cancelled()` turns true, and
        `PlannerError` where there is no text; a task that is cancelled takes its generation along.
        """
        run = _Run(generation, on_tokens, cancelled)
        with self._lock:
            if self._closed:
                raise PlannerError(_CLOSED)
            self._arrivals.put(run)
        return await asyncio.wrap_future(run.text)

    @property
    def failure(self) -> str:
        """Why the model cannot be used any more; "" as long as it can. From any thread."""
        return self._failure

    def silence(self) -> float:
        """Seconds that the model has been at the step at hand; 0 where it is at none. From any thread."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def close(self) -> None:
        """End the thread after the step that it is at. Whoever still waits gets a `PlannerError`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._arrivals.put(None)
        self._thread.join()

    def let_go(self) -> None:
        """Have the model give back what it holds; after `close`. A process that ends is faster without."""
        try:
            self._model.close()
        except Exception:  # noqa: BLE001 - what is left of it goes with the last who holds it
            _log.exception("The language model could not be closed")

    def _drive(self) -> None:
        while self._take_arrivals():
            if failure := self._step():
                self._fail_all(failure)
        self._fail_all(PlannerError(_CLOSED))

    def _step(self) -> AceStepError | None:
        """One step of the model, or why not: then the jobs of this step end, the loop does not.

        On return the error that the model raised is gone: it would keep memory.
        """
        self._step_began = time.monotonic()
        try:
            self._drop_cancelled()
            for advance in self._model.step():
                self._settle(advance)
        except Exception as error:  # noqa: BLE001 - whatever it is
            readable = _readable(error)
            if isinstance(error, AceStepError) or isinstance(readable, NotEnoughMemoryError):
                return readable
            self._failure = f"{readable}. {_AGAIN}"
            return self._refusal()
        finally:
            self._step_began = None
        return None

    def _take_arrivals(self) -> bool:
        """Start what has come; wait for it if there is nothing else to do. False: close."""
        with contextlib.suppress(Empty):
            while True:
                run = self._arrivals.get(block=not self._running)
                if run is None:
                    return False
                self._start(run)
        return True

    def _start(self, run: _Run) -> None:
        if self._failure:
            run.finish(self._refusal())
            return
        try:
            self._running[self._model.add(run.generation)] = run
        except Exception as error:  # noqa: BLE001 - this job ends
            run.finish(_readable(error))

    def _refusal(self) -> PlannerError:
        return PlannerError(f"{self._failure} Send the request once more.")

    def _drop_cancelled(self) -> None:
        for ticket, run in list(self._running.items()):
            if run.text.cancelled() or run.cancelled():
                self._model.abort(ticket)
                del self._running[ticket]
                run.finish(JobCancelledError("The planner was asked to stop and did."))

    def _settle(self, advance: StepOutput) -> None:
        run = self._running.get(advance.ticket)
        if run is None:
            return
        run.on_tokens(advance.tokens)
        if advance.text is None and advance.error is None:
            return
        del self._running[advance.ticket]
        run.finish(PlannerError(advance.error) if advance.text is None else advance.text)

    def _fail_all(self, error: AceStepError) -> None:
        failed, self._running = self._running, {}
        for ticket, run in failed.items():
            with contextlib.suppress(Exception):  # a model that fails may fail at this as well
                self._model.abort(ticket)
            run.finish(error)


def _readable(error: Exception) -> AceStepError:
    """Whatever it was, as an error that people can read."""
    if isinstance(error, AceStepError):
        return error
    if is_out_of_memory(error):
        # Without its frames, which hold what did not fit.
        _log.warning("The language model ran out of memory: %s", str(error).partition("\n")[0])
        return NotEnoughMemoryError("plan", "the language model had no room for all that was being written")
    _log.error("The language model failed", exc_info=error)
    return PlannerError(f"The language model failed: {str(error) or type(error).__name__}")
