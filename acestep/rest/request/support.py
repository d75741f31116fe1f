"""What becomes of the fields that are not simply served: refused, ignored or skipped, by their `Support`."""

from __future__ import annotations

import json

from pydantic import BaseModel

from acestep.domain.models import PlannerInfo
from acestep.errors import InvalidFieldError, PlannerUnavailableError
from acestep.rest.errors import InvalidFieldsError, StrictError
from acestep.rest.request.wire_types import Support, notes_of

MAX_SHOWN = 60  # characters
_ABSENT = "None is loaded on this server"


def check_support(task: BaseModel, planner: PlannerInfo, is_for_planner: bool = False) -> list[str]:
    """Refuse what is not supported, or needs a planner that is not there; return warnings about the rest.

    `is_for_planner`: nobody else answers the request, whatever is in its fields.
    Raises `InvalidFieldError` or `PlannerUnavailableError`, naming every such field.
    """
    sent = {name: getattr(task, name) for name in type(task).model_fields if not is_neutral(task, name)}
    by_support: dict[Support, list[str]] = {support: [] for support in Support}
    for name in sent:
        by_support[_support(task, name)].append(name)
    if unsupported := by_support[Support.UNSUPPORTED]:
        raise InvalidFieldsError([_unsupported(task, name) for name in unsupported])
    if planned := by_support[Support.PLANNER]:
        remedy = f"Or leave it out, or send {_default(task, planned[0])}."
        require_planner(planner, ", ".join(planned), remedy)
    warnings = [
        f"{name}: {_instead(task, name) or 'the server decides this'}; {shown(sent[name])} is not used"
        for name in by_support[Support.IGNORED]
        if (name, sent[name]) != ("lm_backend", planner.backend)
    ]
    warnings += _other_planner(getattr(task, "lm_model_path", None), planner)
    answers = planner.is_usable if planned or is_for_planner else planner.fills_in
    return warnings if answers else [*warnings, *_skipped(task, planner)]


def require_planner(planner: PlannerInfo, what: str, remedy: str = "") -> None:
    """Raise `PlannerUnavailableError` for `what` unless there is a planner, or will be."""
    if not planner.is_usable:
        why = (planner.detail or _ABSENT).rstrip(".")
        text = f"{what}: needs the planner (the 5 Hz language model). {why}. {remedy}"
        raise PlannerUnavailableError(text.strip())


def check_strict(warnings: tuple[str, ...], strict: bool) -> None:
    """Raise `StrictError` for warnings on a server that does not just warn."""
    if strict and warnings:
        raise StrictError(warnings)


def planner_name(path: str | None) -> str:
    """The planner that `lm_model_path` means: a name, or a path that ends with it; "" if none is named."""
    return (path or "").strip().rstrip("/").rpartition("/")[2]


def _other_planner(path: str | None, planner: PlannerInfo) -> list[str]:
    if not path or planner_name(path) == planner.name:
        return []
    runs = f"{planner.name} is used instead" if planner.is_usable else "no planner is loaded on this server"
    return [f"lm_model_path: {path!r} is not loaded here; {runs}"]


def _skipped(task: BaseModel, planner: PlannerInfo) -> list[str]:
    why = "no planner is loaded on this server"
    if planner.is_usable:
        why = (
            f"{planner.name} only does what cannot be done without it (ACESTEP_INIT_LLM=true has it fill in)"
        )
    return [
        f"{name}: skipped, since {why}"
        for name in type(task).model_fields
        if _support(task, name) is Support.OPTIONAL and name in task.model_fields_set and _asks(task, name)
    ]


def _asks(task: BaseModel, name: str) -> bool:
    """Whether a field asks the planner for anything; one that is true by default does when it is true."""
    value = getattr(task, name)
    return value if isinstance(value, bool) else not is_neutral(task, name)


def _support(task: BaseModel, name: str) -> Support:
    return Support(notes_of(type(task).model_fields[name])["x-support"])


def is_neutral(task: BaseModel, name: str) -> bool:
    """Whether a field says nothing: it has its default, or a value that means the same."""
    info = type(task).model_fields[name]
    value = getattr(task, name)
    value = value.strip() if isinstance(value, str) else value
    return value == info.default or value in notes_of(info)["x-neutral"]


def shown(value: object) -> str:
    """Return a value as warnings show it."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _instead(task: BaseModel, name: str) -> str:
    return str(notes_of(type(task).model_fields[name])["x-instead"])


def _unsupported(task: BaseModel, name: str) -> InvalidFieldError:
    instead = _instead(task, name)
    remedy = "It is not supported by this server yet" + (f"; {instead}" if instead else "")
    return InvalidFieldError(name, getattr(task, name), _default(task, name), remedy)


def _default(task: BaseModel, name: str) -> str:
    return json.dumps(type(task).model_fields[name].default)
