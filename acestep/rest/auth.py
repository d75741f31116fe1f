"""Who may come in: the key in a body, in `Authorization`, or in `x-api-key`.

Knows neither routes nor settings.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

BODY_FIELD = "ai_token"
_SCHEME = "bearer "


def check_headers(key: str, headers: Headers) -> None:
    """Raise 401 unless a header carries `key`; an empty key lets everybody in."""
    _check_headers(key, headers, "Missing Authorization header")


def check_body(key: str, headers: Headers, fields: Mapping[str, Any]) -> None:
    """Raise 401 unless the body's `ai_token` or, if there is none, a header carries `key`."""
    token = fields.get(BODY_FIELD)
    if key and token not in (None, ""):
        if not _equal(key, str(token).encode("utf-8", "surrogatepass")):
            raise _unauthorized("Invalid ai_token")
        return
    _check_headers(key, headers, "Missing ai_token or Authorization header")


def _check_headers(key: str, headers: Headers, missing: str) -> None:
    if not key:
        return
    # Header text is bytes read as latin-1; so that any key works, bytes are compared.
    sent = [
        _bare(headers.get(name, "")).encode("latin-1")
        for name in ("authorization", "x-api-key")
        if headers.get(name)
    ]
    if not sent:
        raise _unauthorized(missing)
    if not any(_equal(key, token) for token in sent):
        raise _unauthorized("Invalid API key")


def _bare(header: str) -> str:
    return header[len(_SCHEME) :].strip() if header.lower().startswith(_SCHEME) else header.strip()


def _equal(key: str, sent: bytes) -> bool:
    return hmac.compare_digest(key.encode("utf-8"), sent)


def _unauthorized(message: str) -> HTTPException:
    return HTTPException(401, message, headers={"WWW-Authenticate": "Bearer"})
