"""What `/openapi.json` says of bodies, which routes read themselves, and of errors.

Owns the way from the wire models to the document; the facts are on the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from acestep.http.answers import ResultItem
from acestep.http.auth import BODY_FIELD
from acestep.http.dialects.chat_fields import ChatRequest
from acestep.http.dialects.generations import AudioGeneration
from acestep.http.dialects.jobs import JobObject
from acestep.http.envelope import ErrorEnvelope
from acestep.http.lora_fields import LoadLora, ScaleLora, ToggleLora
from acestep.http.parse import FORM, UPLOAD_NAMES
from acestep.http.schemas import (
    METAS,
    PARAM_OBJ,
    FormatTask,
    GenerateTask,
    QueryTask,
    SampleTask,
    UnderstandTask,
)

SCHEMAS = "#/components/schemas/"
# What a schema holds beside its notes.
_CONSTRAINTS = (
    *("anyOf", "type", "enum", "const", "items", "maxItems", "maxLength", "format"),
    *("minimum", "maximum", "exclusiveMinimum"),
)
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
# What answers that are no envelope look like; `http.dialects` makes them.
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
            "text/event-stream": {"schema": {"type": "string"}},
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
_NULL = {"type": "null"}
TAKE_FILES = (GenerateTask, UnderstandTask)
TAKE_NESTS = (GenerateTask, FormatTask, UnderstandTask)
BODIES = (
    *(GenerateTask, FormatTask, UnderstandTask, SampleTask, QueryTask),
    *(LoadLora, ToggleLora, ScaleLora),
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
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    # An object, or JSON of one; what is empty counts as not sent, whatever its type.
    nests = {
        PARAM_OBJ: {"description": "An object with more fields; those at the top level win."},
        METAS[0]: {"description": "More fields; those above win.", "x-aliases": list(METAS[1:])},
    }
    for model in BODIES:
        properties = schemas[model.__name__]["properties"]
        properties |= {name: _as_read(properties[name]) for name in model.model_fields}
        properties |= {BODY_FIELD: {"description": "The key, where one is set."}}
        properties |= nests if model in TAKE_NESTS else {}
    for model in DIALECTS:
        schema = schemas[model.__name__]
        schema["properties"] = schemas[GenerateTask.__name__]["properties"] | _optional(schema)
    return schemas


def _optional(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Let all fields be null, which counts as not sent, but those that must be sent."""
    kept = schema.get("required", ())
    return {
        name: field if name in kept or _NULL in field.get("anyOf", ()) else {"anyOf": [field, _NULL]}
        for name, field in schema["properties"].items()
    }


# What is also read where a value of the first type is asked for.
_ALSO_READ: Mapping[str, tuple[dict[str, Any], ...]] = {
    "integer": ({"type": "string"},),
    "number": ({"type": "string"},),
    "boolean": ({"type": "string"}, {"enum": [0, 1]}),
    "string": ({"type": "number"},),
}


def _as_read(schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a field as it is read, not only as it is meant: as a string, as forms send it, or not at all.

    What is meant stays in front.
    """
    notes = {name: value for name, value in schema.items() if name not in _CONSTRAINTS}
    kinds = schema.get("anyOf", [{name: schema[name] for name in _CONSTRAINTS if name in schema}])
    first, known = kinds[0], {kind.get("type") for kind in kinds}
    is_word = "enum" in first or (first.get("type") == "string" and "x-allowed" in notes)
    also = () if is_word else _ALSO_READ.get(first.get("type", ""), ())
    more = [kind for kind in (*also, _NULL) if kind.get("type", "") not in known]
    more += [{"const": ""}] if "enum" in first else []
    more += [{"const": value} for value in notes.get("x-neutral", ())]
    return {"anyOf": [*kinds, *more], **notes}
