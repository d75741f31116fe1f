from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel

from acestep.errors import InvalidFieldError
from acestep.rest.app import create_app
from acestep.rest.openapi import BODIES
from acestep.rest.request.body import BODY_FIELD
from acestep.rest.request.draft_tasks import FormatTask, SampleTask, UnderstandTask, WriteTask
from acestep.rest.request.schemas import (
    ALLOWED,
    METAS,
    PARAM_OBJ,
    GenerateTask,
    read_draft,
    read_plain,
    read_task,
)
from acestep.rest.request.task_rules import is_neutral
from tests.rest.values import FIELDS, aliases


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app().openapi()


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].removeprefix("#/components/schemas/")
    return dict(document["components"]["schemas"][name])


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*(references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(references(value) for value in node))
    return set()


def test_every_reference_leads_somewhere(document: dict[str, Any]):
    found = references(document)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"]
)
@pytest.mark.parametrize("path", ["/release_task", "/query_result"])
def test_bodies_have_all_three_types(document: dict[str, Any], path: str, content_type: str):
    content = document["paths"][path]["post"]["requestBody"]["content"][content_type]
    parts = [resolve(document, part) for part in content["schema"].get("allOf", [content["schema"]])]
    properties = {name for part in parts for name in part["properties"]}
    assert "ai_token" in properties
    if path == "/query_result":
        assert "task_id_list" in properties
        return
    assert {*FIELDS, "param_obj", "metas"} <= properties
    assert ("src_audio" in properties) == (content_type == "multipart/form-data")
    GenerateTask.model_validate(content["example"])


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"]
)
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/format_input", {"prompt", "lyrics", "temperature", "bpm", "param_obj", "metas"}),
        ("/v1/understand", {"audio_code_string", "temperature", "param_obj", "metas"}),
        ("/v1/create_sample", {"query", "instrumental", "lyrics", "bpm", "param_obj", "metas"}),
        ("/v1/lyrics", {"query", "prompt", "lyrics", "seed", "param_obj", "metas"}),
        ("/create_random_sample", {"sample_type"}),
    ],
)
def test_bodies_of_drafts(document: dict[str, Any], path: str, fields: set[str], content_type: str):
    content = document["paths"][path]["post"]["requestBody"]["content"][content_type]
    parts = [resolve(document, part) for part in content["schema"].get("allOf", [content["schema"]])]
    properties = {name for part in parts for name in part["properties"]}
    assert {*fields, "ai_token"} <= properties
    takes_files = path == "/v1/understand" and content_type == "multipart/form-data"
    assert ({"src_audio", "audio", "file"} <= properties) == takes_files


def test_the_example_of_formatting_is_one(document: dict[str, Any]):
    content = document["paths"]["/format_input"]["post"]["requestBody"]["content"]["application/json"]
    task, warnings = read_draft(FormatTask, content["example"])
    assert (task.bpm, task.audio_duration, warnings) == (112, 60.0, ())


@pytest.mark.parametrize("model", [FormatTask, WriteTask, UnderstandTask, SampleTask])
def test_fields_of_drafts_are_described(document: dict[str, Any], model: type[BaseModel]):
    properties = document["components"]["schemas"][model.__name__]["properties"]
    assert set(model.model_fields) <= set(properties)
    for name in model.model_fields:
        assert properties[name]["description"]
        assert properties[name]["examples"]
        assert ALLOWED[model][name]


def test_every_field_with_its_aliases_default_and_example(document: dict[str, Any]):
    for name in FIELDS:
        schema = document["components"]["schemas"]["GenerateTask"]["properties"][name]
        assert schema["x-aliases"] == list(aliases(name))
        assert all(alias in schema["description"] for alias in aliases(name))
        assert "default" in schema, name
        assert schema["examples"], name


def test_ranges(document: dict[str, Any]):
    properties = document["components"]["schemas"]["GenerateTask"]["properties"]
    bpm = properties["bpm"]["anyOf"][0]
    assert (bpm["minimum"], bpm["maximum"]) == (30, 300)
    assert properties["prompt"]["anyOf"][0]["maxLength"] == 10_000
    assert properties["audio_format"]["anyOf"][0]["enum"] == ["mp3", "wav", "wav32", "flac", "opus", "aac"]


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/release_task", "post"),
        ("/query_result", "post"),
        ("/format_input", "post"),
        ("/v1/understand", "post"),
        ("/v1/models", "get"),
        ("/v1/model_inventory", "get"),
        ("/v1/stats", "get"),
        ("/health", "get"),
    ],
)
def test_answers_are_described_in_their_envelope(document: dict[str, Any], path: str, method: str):
    responses = document["paths"][path][method]["responses"]
    schema = responses["200"]["content"]["application/json"]["schema"]
    good = resolve(document, schema.get("anyOf", [schema])[0])
    assert set(good["properties"]) == {"data", "code", "error", "timestamp", "extra"}
    assert {"503", "504"} <= set(responses)
    schema = responses["422"]["content"]["application/json"]["schema"]
    bad = resolve(document, schema.get("anyOf", [schema])[0])
    assert {"error", "detail", "extra"} <= set(bad["properties"])


def test_both_shapes_of_the_model_list_are_described(document: dict[str, Any]):
    answer = document["paths"]["/v1/models"]["get"]["responses"]["200"]
    shapes = [resolve(document, shape) for shape in answer["content"]["application/json"]["schema"]["anyOf"]]
    assert [set(shape["properties"]) for shape in shapes] == [
        {"data", "code", "error", "timestamp", "extra"},
        {"object", "data"},
    ]


def test_a_server_that_cannot_make_songs_still_says_how_it_is(document: dict[str, Any]):
    answer = document["paths"]["/health"]["get"]["responses"]["503"]
    assert "data" in described(document, answer)
    ready = resolve(document, answer["content"]["application/json"]["schema"])["properties"]["data"]
    assert "planner" in resolve(document, ready)["properties"]


def test_the_items_of_a_result_are_described(document: dict[str, Any]):
    result = document["components"]["schemas"]["QueryEntry"]["properties"]["result"]
    assert result["contentMediaType"] == "application/json"
    assert "seed_value" in resolve(document, result["contentSchema"]["items"])["properties"]


def test_both_kinds_of_examples_are_described(document: dict[str, Any]):
    answer = document["paths"]["/create_random_sample"]["post"]["responses"]["200"]
    kinds = [resolve(document, kind) for kind in answer["content"]["application/json"]["schema"]["anyOf"]]
    data = [resolve(document, kind["properties"]["data"]) for kind in kinds]
    assert [set(shape["properties"]) for shape in data] == [
        {"description", "instrumental", "vocal_language"},
        {"think", "caption", "lyrics", "bpm", "duration", "keyscale", "language", "timesignature"},
    ]


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/v1/chat/completions", {"messages", "stream", "audio_config"}),
        ("/v1/audio/generations", {"input", "response_format", "async"}),
    ],
)
def test_dialects_name_their_own_fields_and_those_of_release_task(
    document: dict[str, Any], path: str, own: set[str]
):
    post = document["paths"][path]["post"]
    content = post["requestBody"]["content"]["application/json"]
    properties = set(resolve(document, content["schema"])["properties"])
    assert {*own, *FIELDS} <= properties
    assert content["example"].keys() <= properties | {"duration"}
    assert {"422", "504"} <= set(post["responses"])


def test_answers_of_dialects_are_described(document: dict[str, Any]):
    paths = document["paths"]
    chat = paths["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(chat) == {"application/json", "text/event-stream"}
    generation = paths["/v1/audio/generations"]["post"]["responses"]
    assert "audio/*" in generation["200"]["content"]
    assert "result" in described(document, generation["202"])
    assert "queue_position" in described(document, paths["/v1/music/generate"]["post"]["responses"]["200"])
    assert "stage" in described(document, paths["/v1/jobs/{job_id}"]["get"]["responses"]["200"])


def described(document: dict[str, Any], answer: dict[str, Any]) -> set[str]:
    schema = answer["content"]["application/json"]["schema"]
    kinds = [resolve(document, kind) for kind in schema.get("anyOf", [schema])]
    return {name for kind in kinds for name in kind["properties"]}


NO_FIELDS = {BODY_FIELD, PARAM_OBJ, METAS[0]}  # read before the fields are
Read = Callable[[dict[str, Any]], BaseModel]


def reader(model: type[BaseModel]) -> Read:
    if model is GenerateTask:
        return lambda body: read_task(body)[0]
    if model in (FormatTask, WriteTask, UnderstandTask):
        return lambda body: read_draft(model, body)[0]
    return partial(read_plain, model)


def properties(document: dict[str, Any], model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """The schemas of a body's fields."""
    found = document["components"]["schemas"][model.__name__]["properties"]
    return {name: schema for name, schema in found.items() if name not in NO_FIELDS}


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
class TestFieldsOfBodies:
    def test_the_document_and_the_parser_know_the_same(
        self, document: dict[str, Any], model: type[BaseModel]
    ):
        assert set(properties(document, model)) == set(model.model_fields)

    def test_every_name_is_read_and_the_example_says_something(
        self, document: dict[str, Any], model: type[BaseModel]
    ):
        read = reader(model)
        for name, schema in properties(document, model).items():
            value, nothing = example(schema), getattr(read({}), name)
            expected = getattr(read({name: value}), name)
            assert expected != nothing, name
            for alias in schema["x-aliases"]:
                found = read({alias: value})
                assert getattr(found, name) == expected, alias
                assert found.model_fields_set == {name}

    def test_the_default_is_what_holds_where_nothing_is_sent(
        self, document: dict[str, Any], model: type[BaseModel]
    ):
        read = reader(model)
        for name, schema in properties(document, model).items():
            assert getattr(read({name: schema["default"]}), name) == getattr(read({}), name), name

    def test_ranges_hold_at_both_ends(self, document: dict[str, Any], model: type[BaseModel]):
        read = reader(model)
        for name, schema in properties(document, model).items():
            for inside, outside in edges(schema):
                read({name: inside})
                with pytest.raises(InvalidFieldError) as refused:
                    read({name: outside})
                assert refused.value.field == name

    def test_values_that_mean_the_default_are_the_default(
        self, document: dict[str, Any], model: type[BaseModel]
    ):
        read = reader(model)
        for name, schema in properties(document, model).items():
            for value in [None, *(kind["const"] for kind in schema["anyOf"] if "const" in kind)]:
                assert is_neutral(read({name: value}), name), (name, value)


def test_what_is_read_without_being_a_word_is_in_the_schema(document: dict[str, Any]) -> None:
    # Such as bpm -1 and key_scale 0, which mean that the field is not set.
    properties = document["components"]["schemas"]["GenerateTask"]["properties"]
    parts = {"components": document["components"]}
    values: tuple[Any, ...] = (0, -1, 0.0, -1.0, 1, 1.5, "0", "-1", "", None, False, True, [], {}, [0], [-1])
    beyond = []
    for name, schema in properties.items():
        validator = jsonschema_rs.validator_for({**schema, **parts})
        for value in values:
            with suppress(InvalidFieldError):
                read_task({"prompt": "x", name: value})
                if not validator.is_valid(value):
                    beyond.append((name, value))
    assert beyond == []
