"""From the bytes of a request to its fields and audio files."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from acestep.errors import DataFolderError, InvalidFieldError, UnusableAudioError
from acestep.files import FileStore
from acestep.rest.request.decode import (
    FormParser,
    Part,
    charset_of,
    fields_of,
    form_fields,
    json_object,
    no_file,
    too_large,
    unquoted,
)
from acestep.rest.spelling import JsonObject

BODY_FIELD = "ai_token"  # may carry the key
SOURCE, REFERENCE = "src_audio", "reference_audio"
# The names under which files may be sent; of two names for the same thing the first counts.
UPLOAD_NAMES = {
    "ref_audio": REFERENCE,
    "reference_audio": REFERENCE,
    "ctx_audio": SOURCE,
    "src_audio": SOURCE,
    "audio": SOURCE,
    "file": SOURCE,
}
# The fields that name a file of this machine instead.
PATHS = {SOURCE: "src_audio_path", REFERENCE: "reference_audio_path"}
ROOTS = "ACESTEP_AUDIO_ROOTS"
CHUNK = 1024 * 1024
MAX_AT_ONCE = 64 * 1024  # bytes of a body that are decoded on the event loop
FORM = "application/x-www-form-urlencoded"


class Probed(Protocol):
    @property
    def seconds(self) -> float:
        """Duration; may count an encoder's padding."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what of it cannot be used as it is."""
        ...


# Raises UnusableAudioError for a file that the server cannot use.
AudioProbe = Callable[[Path], Awaitable[Probed] | Probed]


@dataclass(frozen=True, slots=True)
class Sound:
    """Audio that a request uploads or names."""

    path: Path
    name: str  # as the client calls the file
    seconds: float
    warnings: tuple[str, ...] = ()


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
    media_type, charset = _media_type(content_type), charset_of(content_type)
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


@asynccontextmanager
async def stored(
    files: Mapping[str, UploadFile], folder: Path, probe: AudioProbe
) -> AsyncIterator[dict[str, Sound]]:
    """Write uploads to `folder` before the block begins, and delete them if it fails.

    Raises `UnusableAudioError` that names the upload.
    """
    store = FileStore(folder)
    sounds: dict[str, Sound] = {}
    try:
        for kind, upload in files.items():
            sounds[kind] = await _store(kind, upload, store, probe)
        yield sounds
    except Exception:  # but not CancelledError: the block may have made a job that needs them
        for sound in sounds.values():
            store.delete(sound.path.name)
        raise


@asynccontextmanager
async def lent(
    files: Mapping[str, UploadFile], folder: Path, probe: AudioProbe
) -> AsyncIterator[dict[str, Sound]]:
    """As `stored`, and delete them when the block ends."""
    async with stored(files, folder, probe) as sounds:
        yield sounds
        for sound in sounds.values():
            sound.path.unlink(missing_ok=True)


async def look_at(kind: str, name: str, path: Path, probe: AudioProbe) -> Sound:
    """Raises `UnusableAudioError` that calls the file by `name`, as the warnings do."""

    def told(sentence: str) -> str:
        return f"{kind}: {sentence.replace(path.name, Path(name).name)}"

    try:
        looking = await run_in_threadpool(probe, path)
        facts = await looking if isinstance(looking, Awaitable) else looking
    except UnusableAudioError as error:
        raise UnusableAudioError(told(str(error))) from None
    return Sound(path, name, facts.seconds, tuple(map(told, facts.warnings)))


def permitted(field: str, named: str, roots: Sequence[Path]) -> Path:
    """The file in one of `roots`; a relative path counts from each of them.

    Links are followed first, so that none leads out. A file elsewhere and a missing one get the same error.
    """
    for root in roots:
        try:
            found = (root / named).resolve()
            if found.is_relative_to(root.resolve()) and found.is_file():
                return found
        except (OSError, ValueError):  # a path of a thousand characters, or with a zero byte
            continue
    raise InvalidFieldError(
        field,
        named,
        f"the `file` of a song that is still here, or a file in a folder of {ROOTS}",
        f"Upload the file as {field.removesuffix('_path')} instead, or set {ROOTS}",
    )


async def _store(kind: str, upload: UploadFile, store: FileStore, probe: AudioProbe) -> Sound:
    new = store.begin(_extension(upload.filename or ""))
    try:
        # Written before the job is accepted, which survives a power cut with its audio.
        await run_in_threadpool(_copy, upload, new.path)
        found = await look_at(kind, upload.filename or kind, new.path, probe)
        return replace(found, path=await run_in_threadpool(store.finish, new))
    except OSError as error:
        raise DataFolderError(f"An upload cannot be stored in {new.path.parent}: {error}") from error
    finally:
        store.discard(new)


def _copy(upload: UploadFile, path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(upload.file, target, CHUNK)


def _extension(filename: str) -> str:
    # Return the client's file extension if it is a harmless one; it helps to recognise the format.
    found = re.search(r"\.([A-Za-z0-9]{1,8})$", filename)
    return found[1].lower() if found else "audio"
