"""What a field is read from beside what is meant: schemas are widened, so that they do not say too little.

Owns which other types stand in for which. Knows none of the fields. What is meant stays in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NULL = {"type": "null"}
_STRING, _BIT = {"type": "string"}, {"enum": [0, 1]}
# Where a value of the first type is asked for, `http.fields` reads these too: forms send nothing but strings.
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
    """Describe a field of `http.fields` as it is read; null, and what means the default, are not sent."""
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
