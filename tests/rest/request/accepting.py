"""From the fields of a body to the request in it, as submitting does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import SongRequest
from acestep.rest.request.schemas import read_task
from acestep.rest.request.to_request import RequestContext, accept_task


def accept(
    body: Mapping[str, Any],
    models: Sequence[ModelInfo],
    planner: PlannerInfo,
    strict: bool = False,
    strict_model: bool = False,
    context: RequestContext | None = None,
) -> SongRequest:
    """`accept_task`, of a body that is yet to be read."""
    return accept_task(read_task(body), models, planner, strict, strict_model, context)
