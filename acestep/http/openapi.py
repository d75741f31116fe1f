"""What `/openapi.json` says of bodies, which routes read themselves, and of errors.

Owns the way from the wire models to the document; the facts are on the fields.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from acestep.http.answers import ResultItem
from acestep.http.auth import BODY_FIELD
from acestep.http.envelope import ErrorEnvelope
from acestep.http.parse import FORM, UPLOAD_NAMES
from acestep.http.schemas import METAS, PARAM_OBJ, GenerateTask, QueryTask

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
    }.items()
}
EXAMPLE = {
    "prompt": "Bright city pop with slap bass and brass",
    "lyrics": "[Verse]\nCity lights are calling",
    "vocal_language": "en",
    "audio_duration": 60,
    "bpm": 112,
    "key_scale": "F# minor",
    "seed": 42,
}


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the request body of a route that reads `model` as JSON or as a form of either kind."""
    plain: dict[str, Any] = {"schema": {"$ref": SCHEMAS + model.__name__}}
    if model is not GenerateTask:
        return _body({"application/json": plain, FORM: plain, "multipart/form-data": plain})
    files = {"allOf": [plain["schema"], {"type": "object", "properties": dict.fromkeys(UPLOAD_NAMES, _FILE)}]}
    content = {"application/json": plain, FORM: plain, "multipart/form-data": {"schema": files}}
    return _body({kind: {**entry, "example": EXAMPLE} for kind, entry in content.items()})


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


_FILE = {"type": "string", "format": "binary", "description": "Audio; not supported by this server yet."}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _extra_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for model in (GenerateTask, QueryTask, ResultItem):
        schema = model.model_json_schema(ref_template=SCHEMAS + "{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    for model in (GenerateTask, QueryTask):
        schemas[model.__name__]["properties"][BODY_FIELD] = {"type": "string", "description": "The key."}
    nested = {"anyOf": [{"type": "object"}, {"type": "string"}]}
    schemas[GenerateTask.__name__]["properties"] |= {
        PARAM_OBJ: {**nested, "description": "More fields; those at the top level win."},
        METAS[0]: {**nested, "description": "More fields; those above win.", "x-aliases": list(METAS[1:])},
    }
    return schemas
