"""Events that wait to be sent to the addresses that clients named. SQL triggers write them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from acestep.jobs.store import JobStore


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way; `number` is the event's, and stays the same over all attempts."""

    number: int
    job_id: str
    url: str
    kind: str
    at: float
    data: dict[str, Any]
    attempts: int


class Outbox:
    def __init__(self, store: JobStore) -> None:
        self._store = store

    async def due(self, now: float, besides: Collection[int], limit: int) -> tuple[Delivery, ...]:
        """What is to be sent by now, the oldest first."""

        def find(database: sqlite3.Connection) -> tuple[Delivery, ...]:
            rows = database.execute(
                "SELECT number, job_id, url, kind, at, data, attempts FROM deliveries WHERE next_at <= ?"
                " AND number NOT IN (SELECT value FROM json_each(?)) ORDER BY number LIMIT ?",
                (now, json.dumps([*besides]), limit),
            )
            return tuple(
                Delivery(number, job_id, url, kind, at, json.loads(data), attempts)
                for number, job_id, url, kind, at, data, attempts in rows
            )

        return await self._store.call(find)

    async def next_at(self, besides: Collection[int]) -> float | None:
        """When the next one is due."""

        def find(database: sqlite3.Connection) -> float | None:
            (at,) = database.execute(
                "SELECT MIN(next_at) FROM deliveries WHERE number NOT IN (SELECT value FROM json_each(?))",
                (json.dumps([*besides]),),
            ).fetchone()
            return None if at is None else float(at)

        return await self._store.call(find)

    async def put_off(self, delivery: Delivery, until: float) -> None:
        await self._change(
            "UPDATE deliveries SET attempts = attempts + 1, next_at = ? WHERE number = ?",
            until,
            delivery.number,
        )

    async def remove(self, delivery: Delivery) -> None:
        """It was sent, or is given up."""
        await self._change("DELETE FROM deliveries WHERE number = ?", delivery.number)

    async def close(self, job_id: str) -> None:
        """Send nothing more of a job."""
        await self._change("DELETE FROM hooks WHERE job_id = ?", job_id)
        await self._change("DELETE FROM deliveries WHERE job_id = ?", job_id)

    async def hooked(self) -> set[str]:
        """The jobs that have not ended and whose events are to be sent."""

        def find(database: sqlite3.Connection) -> set[str]:
            rows = database.execute(
                "SELECT job_id FROM hooks JOIN jobs ON jobs.id = job_id WHERE finished_at IS NULL"
            )
            return {job_id for (job_id,) in rows}

        return await self._store.call(find)

    async def waiting(self) -> int:
        def count(database: sqlite3.Connection) -> int:
            return int(database.execute("SELECT COUNT(*) FROM deliveries").fetchone()[0])

        return await self._store.call(count)

    async def _change(self, statement: str, *values: object) -> None:
        await self._store.call(lambda database: database.execute(statement, values).rowcount)
