"""No field looks at a value that is too long for it, and no refusal echoes one."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import pytest
from pydantic import BaseModel

from acestep.errors import InvalidFieldError
from acestep.rest.dialects.chat_fields import ChatRequest
from acestep.rest.dialects.chat_input import read_chat, song_of
from acestep.rest.dialects.generations import AudioGeneration, read_generation
from acestep.rest.dialects.speech import AudioSpeech, read_speech
from acestep.rest.request.draft_tasks import FormatTask, SampleTask, UnderstandTask, WriteTask
from acestep.rest.request.fields_models import InitModel, LoadLora, ScaleLora, ToggleLora
from acestep.rest.request.schemas import (
    GenerateTask,
    QueryTask,
    read_draft,
    read_plain,
    read_query,
    read_task,
)
from tests.rest.conftest import NO_PLANNER, PLANNER

MILLION = 1_000_000
HALF = chr(0xD83D)  # of an emoji
READERS: Mapping[type[BaseModel], Callable[[dict[str, Any]], object]] = {
    GenerateTask: read_task,
    FormatTask: lambda body: read_draft(FormatTask, body),
    WriteTask: lambda body: read_draft(WriteTask, body),
    UnderstandTask: lambda body: read_draft(UnderstandTask, body),
    QueryTask: read_query,
    SampleTask: lambda body: read_plain(SampleTask, body),
    LoadLora: lambda body: read_plain(LoadLora, body),
    ToggleLora: lambda body: read_plain(ToggleLora, body),
    ScaleLora: lambda body: read_plain(ScaleLora, body),
    InitModel: lambda body: read_plain(InitModel, body),
    AudioGeneration: lambda body: read_generation({"prompt": "pop"} | body, False),
    AudioSpeech: lambda body: read_speech({"input": "pop"} | body),
    ChatRequest: lambda body: song_of(
        read_chat({"messages": [{"role": "user", "content": "pop"}]} | body), PLANNER
    ),
}
MODELS = pytest.mark.parametrize("model", READERS)
# Of any type, and ignored with a warning.
UNREAD = ("stop", "max_tokens", "max_completion_tokens", "wave", "voice", "speed")


class LookedThroughError(Exception):
    """Not an AssertionError, which pydantic takes for a value that cannot be used."""


class Untouchable(list[Any]):
    """A long list that must not be looked through."""

    def __len__(self) -> int:
        return MILLION

    def _touched(self, *_: object) -> NoReturn:
        raise LookedThroughError

    __iter__ = __repr__ = __contains__ = _touched


def fields_of(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def refused(read: Callable[[dict[str, Any]], object], name: str, value: object) -> InvalidFieldError | None:
    try:
        read({name: value})
    except InvalidFieldError as error:
        assert len(str(error)) < 1_000
        assert len(repr(error.value)) < 200
        return error
    return None


@MODELS
def test_a_million_elements(model: type[BaseModel]):
    # What pydantic itself refuses to take for its type is looked at by nothing else.
    for name in fields_of(model):
        error = refused(READERS[model], name, Untouchable([1]))
        assert name in UNREAD or error is not None, name


TEXTS = (
    "1," * 2_000_000,
    "9" * 4_000_000,
    "[" * 4_000_000,
    "[1" + ",1" * 2_000_000 + "]",
    "a b " * 1_000_000,
)


@MODELS
def test_four_million_characters(model: type[BaseModel]):
    for name in fields_of(model):
        for text in TEXTS:
            error = refused(READERS[model], name, text)
            assert name in UNREAD or error is not None, (name, text[:5])


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
    body = dict.fromkeys(GenerateTask.model_fields, HALF)
    with pytest.raises(InvalidFieldError) as caught:
        read_task(body)
    assert str(caught.value).count("cannot be used; allowed: ") == 10
    assert str(caught.value).endswith(f"; {len(GenerateTask.model_fields) - 10} more values cannot be used")


@MODELS
@pytest.mark.parametrize("deep", ["list", "object"])
def test_deep_nests(model: type[BaseModel], deep: str):
    value: Any = 1
    for _ in range(5_000):
        value = [value] if deep == "list" else {"a": value}
    for name in fields_of(model):
        refused(READERS[model], name, value)


@pytest.mark.parametrize(
    "name", ["lyrics", "prompt", "lm_negative_prompt", "model", "src_audio_path", "task_type", "instruction"]
)
def test_half_an_emoji_is_named(name: str):
    error = refused(read_task, name, f"la{HALF} la")
    assert error is not None
    assert str(error).startswith(f"{name}: ")
    assert str(error).endswith(
        "Half of a character is at position 2, as where an emoji was cut; send it whole"
    )


@pytest.mark.parametrize("content", [HALF, [{"type": "text", "text": HALF}]])
def test_half_an_emoji_in_a_chat_is_named(content: object):
    song = {"messages": [{"role": "user", "content": content}]}
    with pytest.raises(InvalidFieldError, match=r"^prompt: .*Half of a character is at position 0"):
        song_of(read_chat(song), NO_PLANNER)


def test_half_an_emoji_in_a_generation_is_named():
    with pytest.raises(InvalidFieldError, match=r"^prompt: .*Half of a character"):
        read_generation({"input": HALF}, False)
