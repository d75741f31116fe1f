"""The wire fields of a job, beside those of its songs."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel

from acestep.errors import InvalidFieldError
from acestep.jobs.model import Hook
from acestep.rest.request.wire_types import reader, shown_as, wire
from acestep.webhooks.addresses import is_private_host

MAX_URL = 2000  # characters
HookEvent = Literal["queued", "started", "song", "succeeded", "failed", "cancelled"]
ENDS = ("succeeded", "failed", "cancelled")


def read_url(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    url = urlsplit(value.strip())
    is_web = url.scheme in ("http", "https") and bool(url.hostname)
    if not is_web or url.username is not None or not value.isascii():
        raise ValueError
    _ = url.port  # raises ValueError where it is none
    return value.strip()


def read_events(value: object) -> tuple[str, ...]:
    """From a list, or a text with commas between the names."""
    names = value if isinstance(value, list) else re.split(r"[,\s]+", str(value).strip())
    events = tuple(dict.fromkeys(str(name).strip().lower().removeprefix("job.") for name in names))
    if not set(events) <= set(get_args(HookEvent)):
        raise ValueError
    return events


CallbackUrl = Annotated[str, reader(read_url, MAX_URL), shown_as("string")]
HookEvents = Annotated[tuple[str, ...], reader(read_events), shown_as("string", "array")]


class JobFields(BaseModel):
    callback_url: CallbackUrl = wire(
        "",
        "callbackUrl",
        "webhook_url",
        "webhookUrl",
        about="Address to which events of the job are posted, signed as in Standard Webhooks.",
        allowed=f"an http or https address of at most {MAX_URL} characters, without a user name",
        example="https://example.org/songs",
    )
    webhook_events: HookEvents = wire(
        ENDS,
        "webhookEvents",
        about="The events that are posted.",
        allowed=f"one or more of {', '.join(get_args(HookEvent))}, as a list or separated by commas",
        example=["succeeded", "failed"],
    )


def hook_of(fields: JobFields, allows_private: bool) -> Hook:
    """Raises InvalidFieldError for an address of this machine or its network."""
    if not allows_private and is_private_host(urlsplit(fields.callback_url).hostname or ""):
        raise InvalidFieldError(
            "callback_url",
            fields.callback_url,
            "an address on the internet",
            "ACESTEP_WEBHOOK_ALLOW_PRIVATE=true allows others",
        )
    return Hook(fields.callback_url, fields.webhook_events)
