"""How long an answer that needs the planner is waited for: to its end, a time limit, or the client's leaving.

Owns the life of one draft. Knows nothing of what drafts are about.
"""

from __future__ import annotations

import asyncio
import threading

from starlette.exceptions import HTTPException
from starlette.requests import Request

from acestep.domain import Draft, DraftRequest, PlannerInfo
from acestep.jobs.worker import Worker

UNWIND_SECONDS = 1.0  # how long a draft that nobody waits for any more may take to stop


async def wait_for_draft(request: Request, worker: Worker, asked: DraftRequest, seconds: float) -> Draft:
    """Return the planner's draft. It is stopped where it takes longer than `seconds`, or the client leaves.

    Raises what `Worker.draft` does, 504 after the time limit, and 400 (which nobody reads) without a client.
    """
    stop = threading.Event()
    draft = asyncio.ensure_future(worker.draft(asked, stop.is_set))
    gone = asyncio.create_task(until_disconnect(request))
    try:
        await asyncio.wait({draft, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if draft.done():
            return draft.result()
        if gone.done():
            raise HTTPException(400, "The connection ended before the answer")
        raise HTTPException(504, _too_slow(seconds, worker.planner(asked.options.model)))
    finally:
        stop.set()
        gone.cancel()
        await _end(draft)


async def until_disconnect(request: Request) -> None:
    """Return when the client has left; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _end(draft: asyncio.Future[Draft]) -> None:
    """Let a draft stop by itself, since it may have threads at work; then cancel it."""
    if draft.done():
        return
    draft.add_done_callback(_forget)
    await asyncio.wait({draft}, timeout=UNWIND_SECONDS)
    draft.cancel()


def _forget(draft: asyncio.Future[Draft]) -> None:
    if not draft.cancelled():
        draft.exception()


def _too_slow(seconds: float, planner: PlannerInfo) -> str:
    if planner.state != "ready":
        state = f"is {planner.state} still" if planner.is_usable else f"is {planner.state}"
        about = f" ({planner.detail})" if planner.detail else ""
        return f"The planner {state}{about}; no answer within {seconds:g} s. Ask again later."
    return (
        f"The planner did not answer within {seconds:g} s, the limit of this server (ACESTEP_LM_TIMEOUT). "
        "Ask again later, or for less."
    )
