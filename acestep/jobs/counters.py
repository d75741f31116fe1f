"""What was counted of jobs that ended, also of those that have expired. A trigger counts, with the state."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Numbers:
    counted: Mapping[str, Mapping[str, float]]  # by what is counted, and its label
    states: Mapping[str, int]  # jobs in the database
    deliveries: int  # webhooks that wait


def numbers(database: sqlite3.Connection) -> Numbers:
    counted: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for name, label, value in database.execute("SELECT name, label, value FROM counters"):
        counted[name][label] = value
    states = dict(database.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())
    (deliveries,) = database.execute("SELECT COUNT(*) FROM deliveries").fetchone()
    return Numbers(counted, states, deliveries)
