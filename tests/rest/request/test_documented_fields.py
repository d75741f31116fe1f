"""What /openapi.json says of each field is what the parser does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from acestep.errors import InvalidFieldError
from acestep.rest.app import create_app
from acestep.rest.openapi import BODIES
from acestep.rest.request.body import BODY_FIELD
from acestep.rest.request.schemas import (
    METAS,
    PARAM_OBJ,
    FormatTask,
    GenerateTask,
    UnderstandTask,
    read_draft,
    read_plain,
    read_task,
)
from acestep.rest.request.task_rules import is_neutral

DOCUMENT = create_app().openapi()["components"]["schemas"]
BESIDE = {BODY_FIELD, PARAM_OBJ, METAS[0]}  # read before the fields are
FIELDS = [
    (model, name) for model in BODIES for name in DOCUMENT[model.__name__]["properties"] if name not in BESIDE
]
Read = Callable[[dict[str, Any]], BaseModel]


def reader(model: type[BaseModel]) -> Read:
    if model is GenerateTask:
        return lambda body: read_task(body)[0]
    if model in (FormatTask, UnderstandTask):
        return lambda body: read_draft(model, body)[0]
    return partial(read_plain, model)


def described(model: type[BaseModel], name: str) -> dict[str, Any]:
    return dict(DOCUMENT[model.__name__]["properties"][name])


def example(schema: dict[str, Any]) -> Any:
    (value,) = schema["examples"]
    return value


def edges(schema: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Each end of a range: the last value within it, and the first outside."""
    main = schema["anyOf"][0]
    step = 1 if main.get("type") == "integer" else 0.001
    if "minimum" in main:
        yield main["minimum"], main["minimum"] - step
    if "exclusiveMinimum" in main:
        yield main["exclusiveMinimum"] + step, main["exclusiveMinimum"]
    if "maximum" in main:
        yield main["maximum"], main["maximum"] + step
    if "maxLength" in main:
        yield "x" * main["maxLength"], "x" * (main["maxLength"] + 1)
    for word in main.get("enum", ()):
        yield word, f"no {word}"


@pytest.mark.parametrize("model", BODIES)
def test_the_document_and_the_parser_know_the_same_fields(model: type[BaseModel]):
    assert {name for kind, name in FIELDS if kind is model} == set(model.model_fields)


@pytest.mark.parametrize(("model", "name"), FIELDS)
def test_every_name_is_read_and_the_example_says_something(model: type[BaseModel], name: str):
    read, schema = reader(model), described(model, name)
    value, nothing = example(schema), getattr(reader(model)({}), name)
    expected = getattr(read({name: value}), name)
    assert expected != nothing
    for alias in schema["x-aliases"]:
        found = read({alias: value})
        assert getattr(found, name) == expected, alias
        assert found.model_fields_set == {name}


@pytest.mark.parametrize(("model", "name"), FIELDS)
def test_the_default_is_what_holds_where_nothing_is_sent(model: type[BaseModel], name: str):
    read, default = reader(model), described(model, name)["default"]
    assert getattr(read({name: default}), name) == getattr(read({}), name)


@pytest.mark.parametrize(("model", "name"), FIELDS)
def test_ranges_hold_at_both_ends(model: type[BaseModel], name: str):
    read = reader(model)
    for inside, outside in edges(described(model, name)):
        read({name: inside})
        with pytest.raises(InvalidFieldError) as refused:
            read({name: outside})
        assert refused.value.field == name


@pytest.mark.parametrize(("model", "name"), FIELDS)
def test_values_that_mean_the_default_are_the_default(model: type[BaseModel], name: str):
    read, schema = reader(model), described(model, name)
    for value in [None, *(kind["const"] for kind in schema["anyOf"] if "const" in kind)]:
        assert is_neutral(read({name: value}), name)
