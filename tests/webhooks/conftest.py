from __future__ import annotations

from tests.jobs.conftest import store

__all__ = ["store"]
