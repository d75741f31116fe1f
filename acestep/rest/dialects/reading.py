from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from acestep.errors import InvalidFieldError
from acestep.rest.errors import InvalidFieldsError
from acestep.rest.request.schemas import GenerateTask, remedy_for
from acestep.rest.spelling import JsonObject

M = TypeVar("M", bound=BaseModel)

_LENGTHS = {"too_short": "{min_length} or more of them", "too_long": "at most {max_length} of them"}
_PREAMBLE = "Input should be "


def read(model: type[M], fields: Mapping[str, object]) -> M:
    """Read a dialect's own fields; null counts as not sent.

    Raises `InvalidFieldError` that names every field that cannot be used.
    """
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    raise InvalidFieldsError([_invalid(item, fields) for item in wrong])


def wire_fields(request: BaseModel) -> JsonObject:
    """Return the fields of `/release_task` in a request, under any of their names."""
    shared = [name for name in GenerateTask.model_fields if name in request.model_fields_set]
    return {**{name: getattr(request, name) for name in shared}, **(request.model_extra or {})}


def _invalid(item: ErrorDetails, fields: Mapping[str, object]) -> InvalidFieldError:
    if item["type"] == "missing":
        missing = f"{_path(item['loc'][:-1], fields)}.{item['loc'][-1]}".removeprefix(".")
        return InvalidFieldError(missing, None, "a value; the field is required")
    path = _path(item["loc"], fields)
    if item["type"] in _LENGTHS:
        length = item["ctx"]
        allowed = _LENGTHS[item["type"]].format(**length)
        return InvalidFieldError(path, f"{length['actual_length']} entries", allowed)
    allowed = item["msg"].removeprefix(_PREAMBLE)
    return InvalidFieldError(path, item["input"], allowed, remedy_for(item["input"]))


def _path(parts: Sequence[str | int], node: object) -> str:
    # Return `messages[0].content`, without the tags of unions that pydantic adds.
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
            node = node[part] if isinstance(node, Sequence) else None
        elif isinstance(node, Mapping) and part in node:
            path += f".{part}"
            node = node[part]
    return path.removeprefix(".")


def ignored(sent: Mapping[str, object], names: Sequence[str], why: str) -> list[str]:
    """Return a warning for each of `names` that was sent."""
    return [f"{name}: {why}; it is not used" for name in names if sent.get(name) is not None]
