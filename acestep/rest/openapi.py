"""What `/openapi.json` says of bodies, which routes read themselves, and of errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from acestep.rest.auth import BODY_FIELD
from acestep.rest.dialects.chat_fields import ChatRequest
from acestep.rest.dialects.generations import AudioGeneration
from acestep.rest.dialects.jobs import JobObject
from acestep.rest.envelope import ErrorEnvelope
from acestep.rest.request.body import FORM, UPLOAD_NAMES
from acestep.rest.request.fields_models import InitModel, LoadLora, ScaleLora, ToggleLora
from acestep.rest.request.schemas import (
    METAS,
    PARAM_OBJ,
    FormatTask,
    GenerateTask,
    QueryTask,
    SampleTask,
    UnderstandTask,
)
from acestep.rest.response.schemas import ResultItem

SCHEMAS = "#/components/schemas/"

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": description}
    for status, description in {
        400: "The body is broken",
        401: "The key is missing or wrong",
        404: "There is no such thing",
        413: "The body is too large",
        415: "The body's type is unknown, or a file is not audio",
        422: "A field cannot be used; `extra` names it",
        429: "The queue is full; `Retry-After` says when to come back",
        500: "The server failed",
        503: "A model is not available",
        504: "The planner, or a song that was waited for, was not there in time",
    }.items()
}

EXAMPLES: dict[type[BaseModel], dict[str, Any]] = {
    GenerateTask: {
        "prompt": "Bright city pop with slap bass and brass",
        "lyrics": "[Verse]\nCity lights are calling",
        "vocal_language": "en",
        "audio_duration": 60,
        "bpm": 112,
        "key_scale": "F# minor",
        "seed": 42,
    },
    FormatTask: {
        "prompt": "city pop, slap bass",
        "lyrics": "City lights are calling",
        "param_obj": {"bpm": 112, "duration": 60},
    },
    UnderstandTask: {"audio_code_string": "<|audio_code_12|><|audio_code_7|>", "seed": 42},
    SampleTask: {"sample_type": "custom_mode"},
    ChatRequest: {
        "model": "acestep/acestep-v15-turbo",
        "messages": [
            {"role": "user", "content": "<prompt>Calm piano</prompt><lyrics>[Instrumental]</lyrics>"}
        ],
        "audio_config": {"duration": 30, "format": "mp3"},
        "stream": True,
    },
    AudioGeneration: {"prompt": "Calm piano", "duration": 30, "response_format": "flac", "seed": 42},
}

# What answers that are no envelope look like; `rest.dialects` makes them.
CHAT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A chat completion, or chunks of it as server-sent events.",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "id": "chatcmpl-0b5c1d0e4f0e4c579f5e0d1f",
                    "object": "chat.completion",
                    "created": 1767225600,
                    "model": "acestep/acestep-v15-turbo",
                    "choices": [
                        {
                            "index": 0,
                            "message": {
                                "role": "assistant",
                                "content": "## Metadata\n**Caption:** Calm piano",
                                "audio": [
                                    {
                                        "type": "audio_url",
                                        "audio_url": {"url": "data:audio/mpeg;base64,…"},
                                        "seed": 42,
                                        "file": "/v1/audio?path=…",
                                    }
                                ],
                            },
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
                    "task_id": "0b5c1d0e-4f0e-4c57-9f5e-0d1f6f0f8f11",
                    "warnings": [],
                },
            },
            "text/event-stream": {"schema": {"description": "Events; the data of the last one is [DONE]."}},
        },
    }
}

GENERATION_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The song; `X-ACE-Step-Task-Id`, `-Seed` and `-Warnings` (a JSON list) tell of it.",
        "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    202: {
        "model": JobObject,
        "description": "The job that makes the songs; `Location` is where to ask for it",
    },
}

DIALECTS = (ChatRequest, AudioGeneration)

TAKE_FILES = (GenerateTask, UnderstandTask)

TAKE_NESTS = (GenerateTask, FormatTask, UnderstandTask)

BODIES = (
    *(GenerateTask, FormatTask, UnderstandTask, SampleTask, QueryTask),
    *(LoadLora, ToggleLora, ScaleLora, InitModel),
)


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the request body of a route that reads `model` as JSON or as a form of either kind."""
    plain: dict[str, Any] = {"schema": {"$ref": SCHEMAS + model.__name__}}
    files = {"allOf": [plain["schema"], {"type": "object", "properties": _files(model)}]}
    multipart = {"schema": files} if model in TAKE_FILES else plain
    content = {"application/json": plain, FORM: plain, "multipart/form-data": multipart}
    if model in EXAMPLES:
        content = {kind: {**entry, "example": EXAMPLES[model]} for kind, entry in content.items()}
    return {"requestBody": {"required": True, "content": content}}


def dialect_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the request body of a route that reads `model` as JSON, and more fields as /release_task."""
    schema = {"$ref": SCHEMAS + model.__name__}
    content = {"application/json": {"schema": schema, "example": EXAMPLES[model]}}
    return {"requestBody": {"required": True, "content": content}}


def describe(app: FastAPI) -> None:
    """Add the models that routes read and write by hand to the document of `app`."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["components"]["schemas"].update(_extra_schemas())
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _files(model: type[BaseModel]) -> dict[str, Any]:
    about = "Audio; of two names of the same thing the first counts."
    file = {"type": "string", "format": "binary", "description": about}
    return dict.fromkeys(UPLOAD_NAMES, file)


def _extra_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for model in (*BODIES, *DIALECTS, ResultItem):
        schema = model.model_json_schema(ref_template=SCHEMAS + "{model}")
        parts = schema.pop("$defs", {})
        if model in DIALECTS:
            for part in parts.values():
                part["properties"] = dialect_fields(part, takes_null=False)
        schemas.update(parts)
        schemas[model.__name__] = schema
    # An object, or JSON of one; what is empty counts as not sent, whatever its type.
    nests = {
        PARAM_OBJ: {"description": "An object with more fields; those at the top level win."},
        METAS[0]: {"description": "More fields; those above win.", "x-aliases": list(METAS[1:])},
    }
    for model in BODIES:
        properties = schemas[model.__name__]["properties"]
        properties |= {name: wire_field(properties[name]) for name in model.model_fields}
        properties |= {BODY_FIELD: {"description": "The key, where one is set."}}
        properties |= nests if model in TAKE_NESTS else {}
    for model in DIALECTS:
        schema = schemas[model.__name__]
        own = dialect_fields(schema, takes_null=True)
        schema["properties"] = schemas[GenerateTask.__name__]["properties"] | own
    return schemas


NULL = {"type": "null"}

_STRING, _BIT = {"type": "string"}, {"enum": [0, 1]}

# `rest.request.wire_types` reads these too where the first type is expected: forms send only strings.
_WIRE: Mapping[str, tuple[dict[str, Any], ...]] = {
    "integer": (_STRING,),
    "number": (_STRING,),
    "boolean": (_STRING, _BIT),
    "string": ({"type": "number"},),
}

# Dialects are read by pydantic, which counts with booleans.
_DIALECT: Mapping[str, tuple[dict[str, Any], ...]] = {
    "integer": (_STRING, {"type": "boolean"}),
    "number": (_STRING, {"type": "boolean"}),
    "boolean": (_STRING, _BIT),
}

# What a schema holds beside its notes.
_CONSTRAINTS = (
    *("anyOf", "$ref", "type", "enum", "const", "items", "maxItems", "maxLength", "format"),
    *("minimum", "maximum", "exclusiveMinimum"),
)


def wire_field(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a wire field as it is read; null and what means the default are not sent."""
    kinds, notes = _parted(schema)
    is_word = "enum" in kinds[0] or (kinds[0].get("type") == "string" and "x-allowed" in notes)
    more = () if is_word else _WIRE.get(kinds[0].get("type", ""), ())
    empty = [{"const": ""}] if "enum" in kinds[0] else []
    neutral = [{"const": value} for value in notes.get("x-neutral", ())]
    return {"anyOf": [*_with(kinds, *more, NULL), *empty, *neutral], **notes}


def dialect_fields(schema: Mapping[str, Any], takes_null: bool) -> dict[str, Any]:
    """Describe the fields of an object of a dialect as they are read; null may stand for "not sent".

    What must be sent cannot be null.
    """
    needed = schema.get("required", ())
    return {
        name: _dialect_field(field, takes_null and name not in needed)
        for name, field in schema["properties"].items()
    }


def _dialect_field(schema: Mapping[str, Any], takes_null: bool) -> dict[str, Any]:
    kinds, notes = _parted(schema)
    more = _DIALECT.get(kinds[0].get("type", ""), ())
    wider = _with(kinds, *more, *([NULL] if takes_null else []))
    return dict(schema) if len(wider) == len(kinds) else {"anyOf": wider, **notes}


def _parted(schema: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return what a field may be, first what is meant, and the notes on it."""
    notes = {name: value for name, value in schema.items() if name not in _CONSTRAINTS}
    alone = {name: schema[name] for name in _CONSTRAINTS if name in schema}
    return list(schema.get("anyOf", [alone])), notes


def _with(kinds: list[dict[str, Any]], *more: dict[str, Any]) -> list[dict[str, Any]]:
    known = {kind.get("type") for kind in kinds}
    return [*kinds, *(kind for kind in more if kind.get("type", "") not in known)]
