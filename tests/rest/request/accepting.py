"""From the fields of a body to the request in it, as submitting does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from acestep.catalog.adapters import AdapterFolder
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import SongRequest
from acestep.rest.adapters import ServerAdapters
from acestep.rest.request.body import Sound
from acestep.rest.request.schemas import read_task
from acestep.rest.request.task_rules import check_strict
from acestep.rest.submit import accept as accept_task
from tests.rest.conftest import CONFIG, FakeWorker

NO_ADAPTERS = ServerAdapters(AdapterFolder(None))


def accept(
    body: Mapping[str, Any],
    models: Sequence[ModelInfo],
    planner: PlannerInfo,
    strict: bool = False,
    sounds: Mapping[str, Sound] | None = None,
    adapters: ServerAdapters = NO_ADAPTERS,
    strict_model: bool = False,
) -> SongRequest:
    """What is queued for a body."""
    worker = FakeWorker(tuple(models), planner)
    task, ignored = read_task(body)
    request = accept_task(task, sounds or {}, worker, replace(CONFIG, strict_model=strict_model), adapters)
    request = replace(request, warnings=(*ignored, *request.warnings))
    check_strict(request.warnings, strict)
    return request
