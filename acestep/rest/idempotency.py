"""Requests that may be sent twice: `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Scope

from acestep.jobs.model import Once
from acestep.rest.spelling import JsonObject

KEY = "idempotency-key"
REPLAYED = "Idempotent-Replayed"
ADDED = "acestep.headers"  # of a scope: headers that its answer gets, whatever makes it
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')  # a string of RFC 9651
_MAX_KEY = 255
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RepeatableCall:
    """A request with a key; `id` is a hash of it and of the API key."""

    id: str
    scope: Scope

    async def once(self, fields: JsonObject, files: Mapping[str, UploadFile]) -> Once:
        """With the fingerprint of all that was sent."""
        sent = json.dumps(fields, sort_keys=True, default=str)
        digest = hashlib.sha256(f"{self.scope['method']} {self.scope['path']}\n{sent}".encode())
        for name, file in sorted(files.items()):
            digest.update(f"\n{name} {await run_in_threadpool(_hash_of, file)}".encode())
        return Once(self.id, digest.hexdigest())

    def note_replay(self) -> None:
        self.scope[ADDED] = [(REPLAYED.lower().encode(), b"true")]


@contextmanager
def repeatable(scope: Scope, in_flight: set[str]) -> Iterator[RepeatableCall]:
    """Raises 400 for a key that cannot be read, and 409 while the first request with it is in `in_flight`."""
    headers = Headers(scope=scope)
    caller = headers.get("authorization") or headers.get("x-api-key", "")
    caller = re.sub(r"(?i)^\s*bearer\s+", "", caller).strip()
    name = hashlib.sha256(f"{caller}\0{_key_of(headers[KEY])}".encode()).hexdigest()
    if name in in_flight:
        raise HTTPException(
            409,
            "Idempotency-Key: the first request with this key is still being answered. Wait for its answer, "
            "or send this one again later",
            {"Retry-After": "1"},
        )
    in_flight.add(name)
    try:
        yield RepeatableCall(name, scope)
    finally:
        in_flight.discard(name)


def _key_of(sent: str) -> str:
    # Quoted, as the draft has it, or bare, as most clients send it.
    sent = sent.strip()
    quoted = _QUOTED.fullmatch(sent)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else sent
    if not 0 < len(key) <= _MAX_KEY or (not quoted and '"' in key):
        raise HTTPException(
            400, f"Idempotency-Key: {sent[:80]!r} cannot be used; allowed: 1 to {_MAX_KEY} characters"
        )
    return key


def _hash_of(file: UploadFile) -> str:
    digest = hashlib.sha256()
    while piece := file.file.read(_PIECE):
        digest.update(piece)
    file.file.seek(0)
    return digest.hexdigest()
