"""Every route of /openapi.json, asked by schemathesis in ways that it allows and in ways that it does not.

50 examples a route by default; SCHEMATHESIS_EXAMPLES asks for more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings

from acestep.http.app import create_app
from acestep.http.deps import provide
from tests.http.conftest import PLANNER, FakeWorker, Server, running

USUAL = 50
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", USUAL))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """A server whose jobs are done as soon as they arrive, on the event loop that the requests run on."""
    with TemporaryDirectory() as folder:
        async with running(Path(folder), worker=FakeWorker(planner_info=PLANNER)) as server:
            provide(app, server.app.state.services)
            working = asyncio.create_task(work(server))
            yield
            working.cancel()


async def work(server: Server) -> None:
    while True:
        await server.finish_next()


app = create_app(lifespan=lifespan)  # which starts with the first request
schema = schemathesis.openapi.from_dict(app.openapi())
schema.app = app
schema.config.phases.coverage.enabled = EXAMPLES > USUAL  # thousands of cases
# What a schema cannot say: which fields go together, and what the server has loaded.
schema.config.checks.positive_data_acceptance.expected_statuses = ["2xx", "404", "415", "422"]


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(case: Any) -> None:
    case.call_and_validate()
