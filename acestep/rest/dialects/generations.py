"""The fields of `/v1/audio/generations`, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from acestep.errors import InvalidFieldError
from acestep.rest.dialects.reading import read, wire_fields
from acestep.rest.request.schemas import find_task, parse_task


class AudioGeneration(BaseModel):
    """A request for one song, answered with its bytes. Further fields are those of /release_task."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    prompt: str | None = Field(None, description="Caption: what the music sounds like.")
    input: str | None = Field(None, description="Another name for `prompt`.")
    response_format: str | None = Field(None, description="`audio_format` of /release_task. Default: mp3.")
    n: int = Field(1, ge=1, description="Songs to make; more than one only where the answer does not wait.")
    run_async: bool = Field(
        False,
        alias="async",
        description="Answer at once, with a job; the header `Prefer: respond-async` asks for the same.",
    )


def read_generation(
    body: Mapping[str, Any], prefers_async: bool
) -> tuple[dict[str, Any], bool, tuple[str, ...]]:
    """Return the wire fields of a request, whether the answer is a job, and warnings.

    Raises `InvalidFieldError` for a field that cannot be read, and for several songs in an answer that holds
    one.
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
    fields.setdefault("batch_size", 1)
    songs = parse_task(fields).batch_size
    if not run_async and songs != 1:
        raise InvalidFieldError("n", songs, "1", 'Or send "async": true and fetch the songs')
    return fields, run_async, warnings
