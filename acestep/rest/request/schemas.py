"""The wire requests as pydantic models, and the lookup that finds their values in a body."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from acestep.domain.song import AudioFormat
from acestep.errors import InvalidFieldError
from acestep.rest.errors import InvalidFieldsError
from acestep.rest.request.body import BODY_FIELD
from acestep.rest.request.draft_tasks import (
    FormatTask,
    SampleTask,
    TranscribeTask,
    UnderstandTask,
    WriteTask,
)
from acestep.rest.request.fields_audio import MorphFields, SourceFields
from acestep.rest.request.fields_jobs import JobFields
from acestep.rest.request.fields_models import InitModel, LoadLora, LoraFields, ScaleLora, ToggleLora
from acestep.rest.request.fields_output import AnalysisFields, FileFields
from acestep.rest.request.fields_planner import CodeFields, PlannerFields, PlannerSamplingFields
from acestep.rest.request.fields_sampler import NewerSamplerFields
from acestep.rest.request.fields_song import (
    MusicFields,
    OutputFields,
    SamplerFields,
)
from acestep.rest.request.wire_types import (
    MAX_ID,
    MAX_IDS,
    TaskIds,
    Text,
    is_undecided,
    notes_of,
    read_object,
    wire,
)
from acestep.rest.spelling import JsonObject

PARAM_OBJ = "param_obj"
METAS = ("metas", "meta", "metadata", "user_metadata", "userMetadata")
AUDIO_NAMES = (*get_args(AudioFormat), "ogg", "m4a")  # what clients mean by `format`
MAX_NAMED = 10  # unknown fields that a warning lists
MAX_NAME = 40  # characters of a name that is compared with known ones
CLOSE = 0.66  # share of letters in common: "bmp" is near "bpm", "lenght" is not near "bpm"

M = TypeVar("M", bound=BaseModel)


class GenerateTask(
    NewerSamplerFields,
    MorphFields,
    SourceFields,
    AnalysisFields,
    CodeFields,
    PlannerSamplingFields,
    PlannerFields,
    LoraFields,
    SamplerFields,
    FileFields,
    OutputFields,
    MusicFields,
    JobFields,
):
    """A request for songs. Every field may also stand in `param_obj` or `metas`, under any of its names."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read_tasks_of_clients(cls, values: JsonObject) -> JsonObject:
        sent = values.get("task_type")
        name = sent.strip().lower() if isinstance(sent, str) else ""
        if name == "cover-nofsq":
            return {**values, "task_type": "cover", "no_fsq": True}
        if name == "stem_separation":
            return {"stem_count": 4, **values, "task_type": "extract"}
        return values


class QueryTask(BaseModel):
    """A question after jobs."""

    task_id_list: TaskIds = wire(
        (),
        "task_ids",
        "task_id",
        about="Ids of jobs: a list, a string that holds a JSON list, or one id.",
        allowed=f"a list of at most {MAX_IDS} task ids",
        example=["0b5c1d0e-4f0e-4c57-9f5e-0d1f6f0f8f11"],
    )


class CancelTask(BaseModel):
    """A job that is not wanted any more."""

    task_id: Text = wire(
        "",
        "job_id",
        max_length=MAX_ID,
        about="Id of the job.",
        example="0b5c1d0e-4f0e-4c57-9f5e-0d1f6f0f8f11",
    )


def read_task(body: Mapping[str, object]) -> tuple[GenerateTask, tuple[str, ...]]:
    """Return the request, and warnings about unknown fields.

    Raises `InvalidFieldError` that names the values that are not readable or out of their range.
    """
    found, warnings = find_task(body)
    return parse_task(found), warnings


def require_fields(fields: Mapping[str, object], warnings: Sequence[str] = ()) -> None:
    """Refuse a request that says nothing of a song; `warnings` are about what it says else."""
    if all(isinstance(value, str) and not value.strip() for value in fields.values()):
        allowed = "a caption, or any other field of a song, such as lyrics or src_audio"
        raise InvalidFieldError("prompt", None, allowed, "; ".join(warnings))


def find_task(*places: Mapping[str, object]) -> tuple[JsonObject, tuple[str, ...]]:
    """Return the fields of a request by their own names, and warnings about what is not used.

    Of several values for a field the one in the first place counts; objects in a place (`param_obj`, metas)
    come after all places. The values are not read yet: `parse_task` does that.
    """
    nested = (source for place in places for source in _sources(place)[1:])
    sources, warnings = _drop_audio_format([*places, *nested])
    return _look_up(GenerateTask, sources), (*warnings, *_unknown(GenerateTask, sources))


def parse_task(found: Mapping[str, object]) -> GenerateTask:
    """Read what `find_task` found, or what a dialect made of it."""
    return _validate(GenerateTask, found)


def read_draft(model: type[M], body: Mapping[str, object]) -> tuple[M, tuple[str, ...]]:
    return _read(model, _sources(body))


def read_plain(model: type[M], body: Mapping[str, object]) -> M:
    """Read fields at the top level of a body; unknown ones beside known ones are not looked at."""
    found = _look_up(model, [body])
    if not found and (strange := _unknown(model, [body])):
        known = f"one of {', '.join(model.model_fields)}"
        raise InvalidFieldError(next(iter(model.model_fields)), None, known, "; ".join(strange))
    return _validate(model, found)


def read_query(body: Mapping[str, object]) -> QueryTask:
    task = read_plain(QueryTask, body)
    if not task.model_fields_set:
        raise InvalidFieldError("task_id_list", None, ALLOWED[QueryTask]["task_id_list"])
    return task


def read_cancel(body: Mapping[str, object]) -> str:
    """The id of the job."""
    task = read_plain(CancelTask, body)
    if not task.task_id:
        raise InvalidFieldError("task_id", None, "the id of a job")
    return task.task_id


def _in_words(schema: JsonObject) -> str:
    if "x-allowed" in schema:
        return str(schema["x-allowed"])
    main = schema.get("anyOf", [schema])[0]
    if "enum" in main:
        return ", ".join(main["enum"])
    if main["type"] in ("integer", "number"):
        return ("a whole number" if main["type"] == "integer" else "a number") + _range(main)
    if main["type"] == "string":
        return f"text of at most {main['maxLength']} characters" if "maxLength" in main else "text"
    return "true or false"


def _range(schema: JsonObject) -> str:
    limits = (
        ("minimum", "from {:g}"),
        ("exclusiveMinimum", "above {:g}"),
        ("maximum", "to {:g}"),
    )
    return "".join(f" {text.format(schema[key])}" for key, text in limits if key in schema)


def _read(model: type[M], sources: Sequence[Mapping[str, object]]) -> tuple[M, tuple[str, ...]]:
    return _validate(model, _look_up(model, sources)), tuple(_unknown(model, sources))


def _sources(body: Mapping[str, object]) -> list[Mapping[str, object]]:
    # The body, its `param_obj`, and the first of its metas that is not empty.
    names = [PARAM_OBJ, next((name for name in METAS if body.get(name)), METAS[0])]
    return [body, *(_object(name, body[name]) for name in names if body.get(name))]


def _object(name: str, value: object) -> Mapping[str, object]:
    try:
        found = read_object(value)
    except (TypeError, ValueError, RecursionError):
        raise InvalidFieldError(name, value, "an object, or a string that holds one as JSON") from None
    return found


def _drop_audio_format(
    sources: Sequence[Mapping[str, object]],
) -> tuple[list[Mapping[str, object]], tuple[str, ...]]:
    # `format` is an alias of use_format, a boolean.
    warnings: list[str] = []
    kept: list[Mapping[str, object]] = []
    for source in sources:
        value = source.get("format")
        if isinstance(value, str) and value.strip().lower() in AUDIO_NAMES:
            warnings.append(f"format: {value!r} is not used; an audio format is sent as audio_format")
            kept.append({name: source[name] for name in source if name != "format"})
        else:
            kept.append(source)
    return kept, tuple(warnings)


def names(model: type[BaseModel]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each field of `model` with every name under which it is read, in order."""
    for field, info in model.model_fields.items():
        yield field, (field, *notes_of(info)["x-aliases"])


def _look_up(model: type[BaseModel], sources: Sequence[Mapping[str, object]]) -> JsonObject:
    # The first value of each field that is decided; "" and "auto" are values for free text alone.
    found: JsonObject = {}
    for field, spellings in names(model):
        is_free = notes_of(model.model_fields[field])["x-free-text"]
        choices = ALLOWED[model][field].split(", ")  # of chunk_mask_mode, "auto" is one
        sent = (source[name] for source in sources for name in spellings if source.get(name) is not None)
        decided = (value for value in sent if is_free or not is_undecided(value) or value in choices)
        value = next(decided, None)
        if value is not None:
            found[field] = value
    return found


def _validate(model: type[M], values: Mapping[str, object]) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong = {str(item["loc"][0]): item["input"] for item in error.errors(include_url=False)}
    raise InvalidFieldsError(
        [
            InvalidFieldError(field, value, ALLOWED[model][field], remedy_for(value))
            for field, value in wrong.items()
        ]
    )


def remedy_for(value: object) -> str:
    """What to do about a value that looks right and is not; "": nothing to say."""
    try:
        str.encode(value if isinstance(value, str) else "")
    except UnicodeEncodeError as error:
        return f"Half of a character is at position {error.start}, as where an emoji was cut; send it whole"
    return ""


def _unknown(model: type[BaseModel], sources: Sequence[Mapping[str, object]]) -> list[str]:
    known = {name for _, spellings in names(model) for name in spellings}
    known |= {BODY_FIELD, PARAM_OBJ, *METAS}
    strange = list(dict.fromkeys(name for source in sources for name in source if name not in known))
    # repr keeps control characters and half surrogate pairs out of what is stored and logged.
    warnings = [
        f"{name[:60]!r}: there is no such field; it is ignored{_suggestion(name, known)}"
        for name in strange[:MAX_NAMED]
    ]
    if len(strange) > MAX_NAMED:
        warnings.append(f"{len(strange) - MAX_NAMED} more unknown fields are ignored")
    return warnings


def _suggestion(name: str, known: Collection[str]) -> str:
    # A long name takes long to compare, and is no slip of the pen.
    by_letters = {other.lower().replace("_", ""): other for other in known}
    bare = re.sub(r"[^a-z0-9]", "", name[:MAX_NAME].lower())
    near = difflib.get_close_matches(bare, by_letters, 1, CLOSE)
    return f". Did you mean {by_letters[near[0]]}?" if near and len(name) <= MAX_NAME else ""


# What each field takes, in words. A schema takes tens of milliseconds to make, so it is made once.
ALLOWED: Mapping[type[BaseModel], Mapping[str, str]] = {
    model: {field: _in_words(schema) for field, schema in model.model_json_schema()["properties"].items()}
    for model in (
        *(GenerateTask, FormatTask, WriteTask, UnderstandTask, SampleTask, QueryTask, CancelTask),
        *(TranscribeTask, LoadLora, ToggleLora, ScaleLora, InitModel),
    )
}
