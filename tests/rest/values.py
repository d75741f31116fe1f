"""Values for every wire field, made from its schema, so that a new field is tested without a new test."""

from typing import Any

from acestep.rest.request.schemas import GenerateTask
from acestep.rest.request.wire_types import notes_of

FIELDS = tuple(GenerateTask.model_fields)
SCHEMAS: dict[str, dict[str, Any]] = GenerateTask.model_json_schema()["properties"]


def aliases(name: str) -> tuple[str, ...]:
    return tuple(notes_of(GenerateTask.model_fields[name])["x-aliases"])


def example(name: str) -> Any:
    """A readable value that is not the default."""
    (value,) = SCHEMAS[name]["examples"]
    return value


def main_schema(name: str) -> dict[str, Any]:
    return dict(SCHEMAS[name].get("anyOf", [SCHEMAS[name]])[0])


def wrong_types(name: str) -> list[Any]:
    """Values of JSON types that the field cannot be read from."""
    kinds = {kind.get("type") for kind in SCHEMAS[name].get("anyOf", [SCHEMAS[name]])}
    wrong: list[Any] = []
    if "object" not in kinds:
        wrong.append({"a": 1})
    if "array" not in kinds:
        wrong.append([1, 2])
    if kinds & {"integer", "number", "boolean"} or "enum" in main_schema(name):
        wrong += ["abc", "1;2", float("nan"), 1e999]
    if "integer" in kinds:
        wrong += [3.7, "3.7", *([] if "boolean" in kinds else [True])]
    if "number" in kinds:
        wrong += ["inf", "nan", True, "1_0"]
    if "object" in kinds:
        wrong += [3, "[1]", "{"]
    if "boolean" not in kinds:
        wrong.append(True)
    return wrong


def outside() -> list[tuple[str, Any]]:
    """Each range that a schema declares, left by the smallest step."""
    found: list[tuple[str, Any]] = []
    for name in FIELDS:
        schema = main_schema(name)
        step = 1 if schema.get("type") == "integer" else 0.001
        # 0 and -1 mean "automatic" for a few fields, so a range may not begin just above them.
        if "minimum" in schema:
            found.append((name, schema["minimum"] - step))
        if "exclusiveMinimum" in schema:
            found.append((name, schema["exclusiveMinimum"]))
        if "maximum" in schema:
            found.append((name, schema["maximum"] + step))
        if "maxLength" in schema:
            found.append((name, "x" * (schema["maxLength"] + 1)))
        if "enum" in schema:
            found.append((name, "zzz"))
    return found


def at_the_edge() -> list[tuple[str, Any]]:
    """Each range that a schema declares, used to its end."""
    found: list[tuple[str, Any]] = []
    for name in FIELDS:
        schema = main_schema(name)
        found += [(name, schema[key]) for key in ("minimum", "maximum") if key in schema]
        if "maxLength" in schema:
            found.append((name, "x" * schema["maxLength"]))
        found += [(name, word) for word in schema.get("enum", ())]
    return found
