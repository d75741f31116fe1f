from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import pytest

from acestep.logs import JsonFormatter

JOB = "0b5c1d0e-4f0e-4c57-9f5e-0d1f6f0f8f11"


def line(message: str, *values: object, error: Any = None) -> dict[str, Any]:
    record = logging.LogRecord("acestep.jobs", logging.INFO, "x.py", 1, message, values, error)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(
    ("message", "job"),
    [
        (f"Job {JOB} runs", JOB),
        (f"Webhook 3 of job {JOB} failed", JOB),
        ("Ready", None),
        ("A job 17 of 40", None),
    ],
)
def test_a_line_says_whose_job_it_is_about(message: str, job: str | None) -> None:
    found = line("%s", message)
    assert (found["level"], found["logger"], found["message"]) == ("info", "acestep.jobs", message)
    assert found.get("job_id") == job


async def test_so_does_one_that_a_job_writes() -> None:
    async def work() -> dict[str, Any]:
        return line("The model is loaded again")

    assert (await asyncio.create_task(work(), name=f"job {JOB}"))["job_id"] == JOB
    assert "job_id" not in await asyncio.create_task(work(), name="job feed")


def test_an_exception_is_one_line() -> None:
    try:
        raise ValueError("明\nるい")
    except ValueError:
        found = line("It broke", error=sys.exc_info())
    assert "Traceback" in found["exception"]
    assert found["exception"].endswith("ValueError: 明\nるい")
