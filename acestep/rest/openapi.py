"""What `/openapi.json` says of errors, and of bodies that routes read themselves."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from pydantic import BaseModel

from acestep.rest.dialects.chat_fields import ChatRequest
from acestep.rest.dialects.generations import AudioGeneration
from acestep.rest.dialects.jobs import JobObject
from acestep.rest.dialects.speech import AudioSpeech
from acestep.rest.envelope import ErrorEnvelope, OpenAiError
from acestep.rest.request.body import BODY_FIELD, FORM
from acestep.rest.request.draft_tasks import (
    FormatTask,
    SampleTask,
    TranscribeTask,
    UnderstandTask,
    WriteTask,
)
from acestep.rest.request.fields_models import InitModel, LoadLora, ScaleLora, ToggleLora
from acestep.rest.request.schemas import METAS, PARAM_OBJ, CancelTask, GenerateTask, QueryTask
from acestep.rest.request.sounds import UPLOAD_NAMES
from acestep.rest.response.schemas import ResultItem
from acestep.rest.spelling import JsonObject

SCHEMAS = "#/components/schemas/"

_DESCRIPTIONS = {
    400: "The body is broken",
    401: "The key is missing or wrong",
    403: "A web page of another origin asks for it, or the host name is not the server's",
    404: "It does not exist, or was deleted",
    413: "The body is too large",
    415: "The type of the body is not supported, or a file is not audio",
    422: "A field cannot be used; `extra` names it",
    429: "The queue is full; `Retry-After` has the seconds to wait",
    500: "Internal error, or a job that failed",
    501: "It takes a library that is not installed on the server",
    503: "A model is not available, or the server is stopping or cannot use its storage",
    507: "The disk of the server has no room left for songs",
    504: "The planner or the song was not finished in time",
}


def _reference(model: type[BaseModel]) -> JsonObject:
    return {"$ref": SCHEMAS + model.__name__}


def errors(*shapes: type[BaseModel]) -> dict[int | str, JsonObject]:
    # By reference: FastAPI builds a validator for each `model` of each route, 0.1 s in all.
    references = [_reference(shape) for shape in shapes]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    content = {"application/json": {"schema": schema}}
    return {
        status: {"description": description, "content": content}
        for status, description in _DESCRIPTIONS.items()
    }


ERRORS = errors(ErrorEnvelope)
OPENAI_ERRORS = errors(OpenAiError)  # of the routes whose errors have OpenAI's shape

EXAMPLES: dict[type[BaseModel], JsonObject] = {
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
    WriteTask: {"query": "a quiet song about rain", "vocal_language": "en", "seed": 42},
    UnderstandTask: {"audio_code_string": "<|audio_code_12|><|audio_code_7|>", "seed": 42},
    SampleTask: {"sample_type": "custom_mode"},
    CancelTask: {"task_id": "0b5c1d0e-4f0e-4c57-9f5e-0d1f6f0f8f11"},
    TranscribeTask: {"audio_path": "/v1/audio?path=…", "language": "ja"},
    ChatRequest: {
        "model": "acestep/acestep-v15-turbo",
        "messages": [
            {"role": "user", "content": "<prompt>Calm piano</prompt><lyrics>[Instrumental]</lyrics>"}
        ],
        "audio_config": {"duration": 30, "format": "mp3"},
        "stream": True,
    },
    AudioSpeech: {"input": "[Verse]\nCity lights are calling", "instructions": "City pop", "voice": "alloy"},
    AudioGeneration: {"prompt": "Calm piano", "duration": 30, "response_format": "flac", "seed": 42},
}

# Answers without an envelope.
CHAT_ANSWERS: dict[int | str, JsonObject] = {
    **OPENAI_ERRORS,
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
    },
}

SPEECH_ANSWERS: dict[int | str, JsonObject] = {
    **OPENAI_ERRORS,
    200: {
        "description": "The song. Headers: `X-ACE-Step-Task-Id`, `-Seed`, `-Warnings` (a JSON list).",
        "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
    },
}

GENERATION_ANSWERS: dict[int | str, JsonObject] = {
    **SPEECH_ANSWERS,
    202: {
        "model": JobObject,
        "description": "The job; `Location` is its address",
    },
}

DIALECTS = (ChatRequest, AudioGeneration, AudioSpeech)
TAKE_FILES = (GenerateTask, UnderstandTask, TranscribeTask)
TAKE_NESTS = (GenerateTask, FormatTask, WriteTask, UnderstandTask)
BODIES = (
    *(GenerateTask, FormatTask, WriteTask, UnderstandTask, SampleTask, QueryTask, CancelTask),
    *(TranscribeTask, LoadLora, ToggleLora, ScaleLora, InitModel),
)
# Fields that stand in a body beside those of its model. An empty value counts as not sent, whatever its type.
_KEY: JsonObject = {BODY_FIELD: {"description": "The API key, if the server has one."}}
_NESTS: JsonObject = {
    PARAM_OBJ: {"description": "An object with more fields; fields at the top level win."},
    METAS[0]: {
        "description": "An object with more fields; those at the top level and in `param_obj` win.",
        "x-aliases": list(METAS[1:]),
    },
}

_NULL, _STRING, _BIT = {"type": "null"}, {"type": "string"}, {"enum": [0, 1]}
# Types that are read beside the declared one. Bodies may be forms, which hold only strings.
_WIRE_TYPES: Mapping[str, tuple[JsonObject, ...]] = {
    "integer": (_STRING,),
    "number": (_STRING,),
    "boolean": (_STRING, _BIT),
    "string": ({"type": "number"},),
    "object": (_STRING,),  # as JSON
}
# Pydantic reads a dialect's own fields; it takes booleans for numbers.
_DIALECT_TYPES: Mapping[str, tuple[JsonObject, ...]] = {
    "integer": (_STRING, {"type": "boolean"}),
    "number": (_STRING, {"type": "boolean"}),
    "boolean": (_STRING, _BIT),
}
# Keys of a field's schema that limit its values; the others are notes.
_CONSTRAINTS = (
    *("anyOf", "$ref", "type", "enum", "const", "items", "maxItems", "maxLength", "format"),
    *("minimum", "maximum", "exclusiveMinimum"),
)


def body_of(model: type[BaseModel]) -> JsonObject:
    """Return the request body of a route that reads `model` as JSON or as a form of either kind."""
    plain: JsonObject = {"schema": _reference(model)}
    files = {"allOf": [plain["schema"], {"type": "object", "properties": _files()}]}
    multipart = {"schema": files} if model in TAKE_FILES else plain
    content = {"application/json": plain, FORM: plain, "multipart/form-data": multipart}
    if model in EXAMPLES:
        content = {kind: {**entry, "example": EXAMPLES[model]} for kind, entry in content.items()}
    return {"requestBody": {"required": True, "content": content}}


def dialect_of(model: type[BaseModel]) -> JsonObject:
    """Return the request body of a route that reads `model` as JSON."""
    content = {"application/json": {"schema": _reference(model), "example": EXAMPLES[model]}}
    return {"requestBody": {"required": True, "content": content}}


def describe(app: FastAPI) -> None:
    """Add the models that routes read and write by hand to the document of `app`."""
    generate = app.openapi

    def openapi() -> JsonObject:
        document = generate()
        document["components"]["schemas"].update(_extra_schemas())
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _files() -> JsonObject:
    about = "Audio file. Of several names for the same file the first counts."
    return {name: {"type": "string", "format": "binary", "description": about} for name in UPLOAD_NAMES}


def _extra_schemas() -> JsonObject:
    schemas: JsonObject = {}
    for model in (*BODIES, *DIALECTS, ResultItem):
        schema = model.model_json_schema(ref_template=SCHEMAS + "{model}")
        parts = schema.pop("$defs", {})
        if model in DIALECTS:
            for part in parts.values():
                part["properties"] = _lenient_dialect_fields(part, takes_null=False)
        schemas.update(parts)
        schemas[model.__name__] = schema
    for error in (ErrorEnvelope, OpenAiError):
        schema = error.model_json_schema(ref_template=SCHEMAS + "{model}", mode="serialization")
        schemas |= schema.pop("$defs") | {error.__name__: schema}
    for model in BODIES:
        properties = schemas[model.__name__]["properties"]
        properties |= {name: _lenient_wire_field(properties[name]) for name in model.model_fields}
        properties |= _KEY | (_NESTS if model in TAKE_NESTS else {})
    for model in DIALECTS:
        schema = schemas[model.__name__]
        own = _lenient_dialect_fields(schema, takes_null=True)
        schema["properties"] = schemas[GenerateTask.__name__]["properties"] | own
    return schemas


def _lenient_wire_field(schema: JsonObject) -> JsonObject:
    # Describe a field of `BODIES` with all that it is read from; null counts as not sent.
    types, notes = _parted(schema)
    is_word = "enum" in types[0] or (types[0].get("type") == "string" and "x-allowed" in notes)
    more = () if is_word else _WIRE_TYPES.get(types[0].get("type", ""), ())
    empty = [{"const": ""}] if "enum" in types[0] else []
    neutral = [{"const": value} for value in notes.get("x-neutral", ())]
    return {"anyOf": [*_with(types, *more, _NULL), *empty, *neutral], **notes}


def _lenient_dialect_fields(schema: JsonObject, takes_null: bool) -> JsonObject:
    # Describe the fields of `DIALECTS` with all that they are read from. `takes_null`: null counts as not
    # sent, for fields that need not be sent.
    needed = schema.get("required", ())
    return {
        name: _lenient_dialect_field(field, takes_null and name not in needed)
        for name, field in schema["properties"].items()
    }


def _lenient_dialect_field(schema: JsonObject, takes_null: bool) -> JsonObject:
    types, notes = _parted(schema)
    more = _DIALECT_TYPES.get(types[0].get("type", ""), ())
    lenient = _with(types, *more, *([_NULL] if takes_null else []))
    return dict(schema) if len(lenient) == len(types) else {"anyOf": lenient, **notes}


def _parted(schema: JsonObject) -> tuple[list[JsonObject], JsonObject]:
    # Return the types that a field may have, the declared one first, and the notes on it.
    notes = {name: value for name, value in schema.items() if name not in _CONSTRAINTS}
    only = {name: schema[name] for name in _CONSTRAINTS if name in schema}
    return list(schema.get("anyOf", [only])), notes


def _with(types: list[JsonObject], *more: JsonObject) -> list[JsonObject]:
    known = {each.get("type") for each in types}
    return [*types, *(each for each in more if each.get("type", "") not in known)]
