from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from acestep.errors import InvalidFieldError
from acestep.rest.dialects.reading import read, wire_fields
from acestep.rest.request.schemas import find_task, parse_task, require_fields
from acestep.rest.spelling import JsonObject


class AudioGeneration(BaseModel):
    """A request for one song, whose file is the answer. Every field of /release_task is read as well."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    prompt: str | None = Field(None, description="Caption: a description of the music.")
    input: str | None = Field(None, description="Another name for `prompt`.")
    response_format: str | None = Field(None, description="`audio_format` of /release_task. Default: mp3.")
    n: int = Field(1, ge=1, description="Number of songs; more than one only with `async`.")
    run_async: bool = Field(
        False,
        alias="async",
        description="Answer at once with a job; the header `Prefer: respond-async` does the same.",
    )


def read_generation(body: JsonObject, prefers_async: bool) -> tuple[JsonObject, bool, tuple[str, ...]]:
    """Return the fields of `/release_task`, whether the answer is a job, and warnings.

    Raises `InvalidFieldError`, also for several songs where the answer is a file.
    """
    request = read(AudioGeneration, body)
    run_async = request.run_async or prefers_async
    sent = wire_fields(request)
    prompt = sent.get("prompt") or sent.get("caption")
    if prompt and request.input and prompt != request.input:
        raise InvalidFieldError("input", request.input, "the same as prompt", "Send one of the two")
    sent["prompt"] = prompt or request.input
    songs = request.n if "n" in request.model_fields_set else None
    fields, warnings = find_task(sent, {"audio_format": request.response_format, "batch_size": songs})
    require_fields(fields, warnings)
    fields.setdefault("batch_size", 1)
    count = parse_task(fields).batch_size
    if not run_async and count != 1:
        raise InvalidFieldError("n", count, "1", 'Or send "async": true and fetch the songs')
    return fields, run_async, warnings
