"""Every route of /openapi.json, asked by schemathesis in ways that it allows and in ways that it does not.

25 examples a route by default; SCHEMATHESIS_EXAMPLES asks for more.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings

from acestep.catalog.adapters import AdapterFolder
from acestep.rest import routes
from acestep.rest.adapters import ServerAdapters
from acestep.rest.app import create_app
from acestep.rest.deps import provide
from acestep.rest.routes import page
from tests.adapter_headers import write_header
from tests.rest.conftest import PLANNER, TURBO, FakeWorker, Server, running
from tests.rest.test_transcribe import FakeTranscriber

USUAL = 25
SHORT = 100
KNOWN: dict[str, str] = {}  # a job, its song, a model and an adapter, as soon as the server runs
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", USUAL))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """A server whose jobs are done as soon as they arrive, on the event loop that the requests run on."""
    with TemporaryDirectory() as folder:
        async with running(Path(folder), worker=FakeWorker(planner_info=PLANNER)) as server:
            write_header(Path(folder) / "lora" / "pop")
            adapters = ServerAdapters(AdapterFolder(Path(folder) / "lora"))
            adapters.load("pop", None, TURBO)
            services = replace(server.app.state.services, lora=adapters, transcriber=FakeTranscriber())
            provide(app, services)
            KNOWN.update(lora_path="pop", adapter_name="pop")
            KNOWN.update(job_id=await server.release(prompt="pop"), name=TURBO.name)
            await server.finish_next()
            (entry,) = await server.query(KNOWN["job_id"])
            KNOWN["path"] = parse_qs(urlsplit(json.loads(entry["result"])[0]["file"]).query)["path"][0]
            working = asyncio.create_task(work(server))
            yield
            working.cancel()


async def work(server: Server) -> None:
    while True:
        await server.finish_next()


app = create_app(lifespan=lifespan)  # which starts with the first request
ENDLESS = "/v1/events"  # its stream has no end to wait for; tests/rest/test_jobs.py follows it
schema = schemathesis.openapi.from_dict(app.openapi()).exclude(path=ENDLESS)
schema.app = app
schema.config.phases.coverage.enabled = EXAMPLES > USUAL  # thousands of cases
# What a schema cannot say: which fields go together, and what the server has loaded.
schema.config.checks.positive_data_acceptance.expected_statuses = ["2xx", "404", "415", "422"]


def often_known(context: Any, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Ask half of the time after what is there."""
    if not parameters or context.operation.method.upper() == "DELETE":  # the known job stays for the others
        return parameters
    return {
        name: KNOWN.get(name, value) if len(str(value)) % 2 else value for name, value in parameters.items()
    }


def often_known_in_body(context: Any, body: Any) -> Any:
    """As `often_known`, for bodies; other values than short texts and numbers may be meant to be refused."""
    if not isinstance(body, dict):
        return body  # a form that has become what is sent
    plain = {name: value for name, value in body.items() if type(value) in (str, int, float)}
    short = {name: value for name, value in plain.items() if len(str(value)) < SHORT}
    return {**body, **(often_known(context, short) or {})}


schema.hook("map_path_parameters")(often_known)
schema.hook("map_query")(often_known)
schema.hook("map_body")(often_known_in_body)


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


def test_no_route_is_left_out() -> None:
    """What is asked above is all that there is, but for the files of the page."""
    rooms = [import_module(f"{routes.__name__}.{room.name}") for room in iter_modules(routes.__path__)]
    there = {
        (route.path.replace(":path}", "}"), method)
        for room in rooms
        for route in room.router.routes
        if route.include_in_schema or room is not page
        for method in route.methods - {"HEAD"}
    }
    paths = app.openapi()["paths"]
    assert there == {(path, method.upper()) for path, methods in paths.items() for method in methods}
