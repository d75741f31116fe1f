"""No field looks at a value that is too long for it, and no refusal echoes one."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import pytest
from pydantic import BaseModel

from acestep.errors import InvalidFieldError
from acestep.rest.dialects.chat_fields import ChatRequest
from acestep.rest.dialects.chat_input import read_chat, song_of
from acestep.rest.dialects.generations import AudioGeneration, read_generation
from acestep.rest.request.fields_models import InitModel, LoadLora, ScaleLora, ToggleLora
from acestep.rest.request.schemas import (
    FormatTask,
    GenerateTask,
    QueryTask,
    SampleTask,
    UnderstandTask,
    read_draft,
    read_plain,
    read_query,
    read_task,
)
from tests.rest.conftest import PLANNER

MILLION = 1_000_000
READERS: Mapping[type[BaseModel], Callable[[dict[str, Any]], object]] = {
    GenerateTask: read_task,
    FormatTask: lambda body: read_draft(FormatTask, body),
    UnderstandTask: lambda body: read_draft(UnderstandTask, body),
    QueryTask: read_query,
    SampleTask: lambda body: read_plain(SampleTask, body),
    LoadLora: lambda body: read_plain(LoadLora, body),
    ToggleLora: lambda body: read_plain(ToggleLora, body),
    ScaleLora: lambda body: read_plain(ScaleLora, body),
    InitModel: lambda body: read_plain(InitModel, body),
    AudioGeneration: lambda body: read_generation({"prompt": "pop"} | body, False),
    ChatRequest: lambda body: song_of(
        read_chat({"messages": [{"role": "user", "content": "pop"}]} | body), PLANNER
    ),
}
FIELDS = [
    pytest.param(read, info.alias or name, id=f"{model.__name__}-{name}")
    for model, read in READERS.items()
    for name, info in model.model_fields.items()
]
# Of any type, and ignored with a warning.
UNREAD = ("stop", "max_tokens", "max_completion_tokens", "wave")


class Untouchable(list[Any]):
    """A long list that must not be looked through."""

    def __len__(self) -> int:
        return MILLION

    def _touched(self, *_: object) -> NoReturn:
        raise AssertionError("looked through")

    __iter__ = __repr__ = __contains__ = _touched  # type: ignore[assignment]


def refused(read: Callable[[dict[str, Any]], object], name: str, value: object) -> InvalidFieldError | None:
    try:
        read({name: value})
    except InvalidFieldError as error:
        assert len(str(error)) < 1_000
        assert len(repr(error.value)) < 200
        return error
    return None


@pytest.mark.parametrize(("read", "name"), FIELDS)
def test_a_million_elements(read: Callable[[dict[str, Any]], object], name: str):
    # What pydantic itself refuses to take for its type is looked at by nothing else.
    error = refused(read, name, Untouchable([1]))
    assert name in UNREAD or error is not None


@pytest.mark.parametrize(
    "text",
    ["1," * 2_000_000, "9" * 4_000_000, "[" * 4_000_000, "[1" + ",1" * 2_000_000 + "]", "a b " * 1_000_000],
)
@pytest.mark.parametrize(("read", "name"), FIELDS)
def test_four_million_characters(read: Callable[[dict[str, Any]], object], name: str, text: str):
    error = refused(read, name, text)
    assert name in UNREAD or error is not None


@pytest.mark.parametrize("name", ["param_obj", "metas"])
@pytest.mark.parametrize("value", ['{"seed": [' + "1," * 100_000 + "1]}", "[" * 100_000, Untouchable()])
def test_nests(name: str, value: object):
    assert refused(read_task, name, value) is not None


@pytest.mark.parametrize("item", [1, "x", None, {}, {"type": "text"}, [1]])
@pytest.mark.parametrize(
    "body",
    [
        lambda item: {"messages": [item] * 999},
        lambda item: {"messages": [{"role": "user", "content": [item] * 99}] * 400},
        lambda item: {"modalities": [item] * 19},
        lambda item: {"audio_config": [item] * 999},
    ],
)
def test_many_bad_elements_get_a_short_answer(item: object, body: Callable[[object], dict[str, Any]]):
    sent = {"messages": [{"role": "user", "content": "pop"}]} | body(item)
    try:
        song_of(read_chat(sent), PLANNER)
    except InvalidFieldError as error:
        assert len(str(error)) < 1_000


def test_ten_reasons_are_told():
    body = dict.fromkeys(GenerateTask.model_fields, "�")
    with pytest.raises(InvalidFieldError) as caught:
        read_task(body)
    assert str(caught.value).count("cannot be used; allowed: ") == 10
    assert str(caught.value).endswith(f"; {len(GenerateTask.model_fields) - 10} more values cannot be used")


@pytest.mark.parametrize("deep", ["list", "object"])
@pytest.mark.parametrize(("read", "name"), FIELDS)
def test_deep_nests(read: Callable[[dict[str, Any]], object], name: str, deep: str):
    value: Any = 1
    for _ in range(5_000):
        value = [value] if deep == "list" else {"a": value}
    refused(read, name, value)
