"""From the bytes of a request to its fields and audio files. `forms` reads what is not JSON."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from acestep.errors import InvalidFieldError
from acestep.rest.request.forms import (
    BLOCK,
    FormParser,
    Part,
    charset_of,
    fields_of,
    form_fields,
    no_file,
    too_large,
    undecodable,
    unquoted,
)
from acestep.rest.request.sounds import UPLOAD_NAMES
from acestep.rest.spelling import JsonObject

BODY_FIELD = "ai_token"  # may carry the key
MAX_AT_ONCE = 64 * 1024  # bytes of a body that are decoded on the event loop
FORM = "application/x-www-form-urlencoded"
# In one body. 4 MB of empty lists take Python half a second, in which nothing else is answered; as many as
# these take 20 ms. The longest request that can be used has about 10,000 commas.
MAX_VALUES = 50_000
MAX_DIGITS = 400  # of a whole number in JSON; reading one takes time by the square of its digits


class TooManyValuesError(ValueError):
    """`name` is that of the list or object that is too long; "": not known."""

    def __init__(self, name: str) -> None:
        super().__init__(f"more than {MAX_VALUES} values")
        self.name = name


def read_json(text: str) -> object:
    """Raises ValueError for what is no JSON or has too many values, RecursionError for deep nesting."""
    values = 0
    for start in range(0, len(text), BLOCK):
        end = start + BLOCK
        values += sum(text.count(mark, start, end) for mark in ",[{")
        if values > MAX_VALUES:
            raise TooManyValuesError(_name_before(text[:end], ('":[', '": [', '":{', '": {')))
    found: object = json.loads(text, parse_int=_whole)
    return found


def json_object(raw: bytes, complaint: str, charset: str = "") -> JsonObject:
    """Raises 400 that begins with `complaint`, and `InvalidFieldError` for too many values."""
    encoding = charset or json.detect_encoding(raw)
    try:
        found = read_json(raw.decode(encoding).removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode(encoding, "replace")
        raise undecodable(complaint, _name_before(before, ('":', '" :')), error) from None
    except TooManyValuesError as error:
        allowed = f"at most {MAX_VALUES} values in the whole body (commas and brackets in text count too)"
        raise InvalidFieldError(error.name or "body", str(error), allowed) from None
    except json.JSONDecodeError as error:
        where = f"{error.msg} (line {error.lineno}, column {error.colno})"
        raise HTTPException(400, f"{complaint}: {where}") from None
    except (ValueError, RecursionError):  # a number of 5,000 digits, or nested without end
        raise HTTPException(400, complaint) from None
    if not isinstance(found, dict):
        raise HTTPException(400, "JSON payload must be an object")
    return found


@dataclass(frozen=True, slots=True)
class Body:
    fields: JsonObject
    files: dict[str, UploadFile] = field(default_factory=dict)  # by kind: SOURCE, REFERENCE

    async def close(self) -> None:
        for upload in self.files.values():
            await upload.close()


class BodyReader:
    """Limits are in bytes; files may take up `upload_limit` more than the body.

    `check` raises for a key (None: not sent yet) that opens nothing; it is called before the rest is read.
    """

    def __init__(
        self, body_limit: int, upload_limit: int, check: Callable[[object], None] = lambda _: None
    ) -> None:
        self._body_limit = body_limit
        self._upload_limit = upload_limit
        self._check = check

    async def read(self, request: Request) -> Body:
        """Read the body by its content type, or by its first characters where that says nothing.

        Raises 400 if it is broken, 413 if too large, 415 for an unknown type, `InvalidFieldError` for a file
        under another name than UPLOAD_NAMES and for text under one of them.
        """
        content_type = request.headers.get("content-type", "")
        if _media_type(content_type) == "multipart/form-data":
            return await self._read_multipart(request)
        raw = b"".join([chunk async for chunk in _limited(request, self._body_limit)])
        if len(raw) < MAX_AT_ONCE:
            return Body(_fields(raw, content_type))
        return Body(await run_in_threadpool(_fields, raw, content_type))

    async def _read_multipart(self, request: Request) -> Body:
        charset = charset_of(request.headers["content-type"])
        parts: list[Part] = []
        stream = self._checked(_limited(request, self._body_limit + self._upload_limit), parts)
        parser = FormParser(request.headers, stream, UPLOAD_NAMES, self._body_limit)
        parser.parts = parts
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, f"Malformed form: {error.message}") from None
        files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        try:
            return Body(fields_of(parser.parts, charset), self._pick(files))
        except (InvalidFieldError, HTTPException):
            await form.close()
            raise

    async def _checked(
        self, stream: AsyncGenerator[bytes, None], parts: Sequence[Part]
    ) -> AsyncGenerator[bytes, None]:
        # The key may be in the form, but has to come before so much that only files are as large.
        seen, is_checked = 0, False
        async for chunk in stream:
            yield chunk
            seen += len(chunk)
            if seen > self._body_limit and not is_checked:
                sent = (part.value.decode("utf-8", "replace") for part in parts if part.name == BODY_FIELD)
                self._check(next(sent, None))
                is_checked = True

    def _pick(self, files: list[tuple[str, UploadFile]]) -> dict[str, UploadFile]:
        picked: dict[str, UploadFile] = {}
        for name, upload in files:
            if not upload.filename and not upload.size:
                continue  # a file input that was left empty
            if name not in UPLOAD_NAMES:
                raise InvalidFieldError(
                    name[:60], f"file {upload.filename}", f"files only as {', '.join(UPLOAD_NAMES)}"
                )
            if (upload.size or 0) > self._upload_limit:
                raise too_large(self._upload_limit, f"{name}: ")
            picked[name] = upload
        return {kind: picked[name] for name, kind in reversed(UPLOAD_NAMES.items()) if name in picked}


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    # Pass a body on, up to `limit` bytes; a length that is announced is refused before reading.
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and float(announced) > limit:
        raise too_large(limit)
    seen = 0
    try:
        async for chunk in request.stream():
            seen += len(chunk)
            if seen > limit:
                raise too_large(limit)
            yield chunk
    except ClientDisconnect:
        raise HTTPException(400, "The connection ended before the body did") from None


def _fields(raw: bytes, content_type: str) -> JsonObject:
    media_type = _media_type(content_type)
    charset = charset_of(content_type) if "charset" in content_type.lower() else ""
    if media_type.startswith("application/json") or media_type.endswith("+json"):
        return _without_texts_for_files(json_object(raw, "Malformed JSON payload", charset))
    whole = raw
    if media_type == FORM and b"=" not in raw and raw[:3].upper() == b"%7B":
        whole = unquoted(raw.replace(b"+", b" "))  # as curl --data-urlencode sends it
    if _beginning(whole) in (b"{", b"["):
        complaint = "Invalid JSON body (hint: set 'Content-Type: application/json')"
        return _without_texts_for_files(json_object(whole, complaint, charset))
    if media_type == FORM or (b"=" in raw and (charset or _is_text(raw))):
        return _without_texts_for_files(form_fields(raw, charset))
    sent = content_type or "(missing)"
    raise HTTPException(
        415, f"Unsupported Content-Type: {sent}; use application/json, {FORM}, or multipart/form-data"
    )


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _beginning(raw: bytes) -> bytes:
    found = re.match(rb"(?:\xef\xbb\xbf)?\s*(.)", raw)
    return found[1] if found else b""


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _without_texts_for_files(fields: JsonObject) -> JsonObject:
    for name in UPLOAD_NAMES:
        if isinstance(fields.get(name), str) and fields[name].strip():
            raise no_file(name, fields[name])
    return fields


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError
    return int(digits)


def _name_before(text: str, ends: Sequence[str]) -> str:
    # The name of the last field in the JSON `text` that goes on with one of `ends`.
    end = max(text.rfind(each) for each in ends)
    return text[text.rfind('"', 0, max(0, end)) + 1 : end][:60] if end > 0 else ""
