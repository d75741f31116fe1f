"""From the bytes of a request to its fields and audio files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, parse_qsl, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from acestep.errors import DataFolderError, InvalidFieldError, UnusableAudioError
from acestep.files import FileStore
from acestep.rest.spelling import JsonObject, split_link

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
MAX_FORM_FIELDS = 1_000
CHUNK = 1024 * 1024
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
    """Limits are in bytes; files may take up `upload_limit` more than the body."""

    def __init__(self, body_limit: int, upload_limit: int) -> None:
        self._body_limit = body_limit
        self._upload_limit = upload_limit

    async def read(self, request: Request) -> Body:
        """Read the body by its content type, or by its first characters where that says nothing.

        Raises 400 if it is broken, 413 if too large, 415 for an unknown type, `InvalidFieldError` for a file
        under another name than UPLOAD_NAMES.
        """
        content_type = request.headers.get("content-type", "").lower()
        media_type = content_type.partition(";")[0].strip()
        if media_type == "multipart/form-data":
            return await self._read_multipart(request)
        raw = b"".join([chunk async for chunk in _limited(request, self._body_limit)])
        if media_type.startswith("application/json") or media_type.endswith("+json"):
            return Body(_json_object(raw, "Malformed JSON payload"))
        if media_type == FORM:
            return Body(_form(raw))
        return Body(_sniff(raw, content_type))

    async def _read_multipart(self, request: Request) -> Body:
        parser = _FormParser(request, self._body_limit, self._body_limit + self._upload_limit)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if "exceeded maximum size" in error.message:
                raise _too_large(self._body_limit) from None
            raise HTTPException(400, f"Malformed form: {error.message}") from None
        except ValueError as error:  # text in a strange character set
            raise HTTPException(400, f"Malformed form: {error}") from None
        files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        try:
            fields = _gather([(name, value) for name, value in form.multi_items() if isinstance(value, str)])
            return Body(fields, self._pick(files))
        except (InvalidFieldError, HTTPException):
            await form.close()
            raise

    def _pick(self, files: list[tuple[str, UploadFile]]) -> dict[str, UploadFile]:
        picked: dict[str, UploadFile] = {}
        for name, upload in files:
            if not upload.filename and not upload.size:
                continue  # a file input that was left empty
            if name not in UPLOAD_NAMES:
                raise InvalidFieldError(
                    name, f"file {upload.filename}", f"files only as {', '.join(UPLOAD_NAMES)}"
                )
            if (upload.size or 0) > self._upload_limit:
                raise _too_large(self._upload_limit, f"{name}: ")
            picked[name] = upload
        return {kind: picked[name] for name, kind in reversed(UPLOAD_NAMES.items()) if name in picked}


class _FormParser(MultiPartParser):
    # Multipart forms whose text fields together stay within a limit, too, not only the whole.
    def __init__(self, request: Request, text_limit: int, limit: int) -> None:
        super().__init__(
            request.headers,
            _limited(request, limit),
            max_files=len(UPLOAD_NAMES),
            max_fields=MAX_FORM_FIELDS,
            max_part_size=text_limit,
        )
        self._text_limit = text_limit
        self._text_length = 0

    def on_part_end(self) -> None:
        super().on_part_end()
        _, value = self.items[-1]
        self._text_length += len(value) if isinstance(value, str) else 0
        if self._text_length > self._text_limit:
            raise _too_large(self._text_limit)


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    # Pass a body on, up to `limit` bytes; a length that is announced is refused before reading.
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and float(announced) > limit:
        raise _too_large(limit)
    seen = 0
    try:
        async for chunk in request.stream():
            seen += len(chunk)
            if seen > limit:
                raise _too_large(limit)
            yield chunk
    except ClientDisconnect:
        raise HTTPException(400, "The connection ended before the body did") from None


def _too_large(limit: int, what: str = "") -> HTTPException:
    return HTTPException(413, f"{what}The request is too large: at most {limit} bytes are accepted")


def _json_object(raw: bytes, complaint: str) -> JsonObject:
    try:
        found = json.loads(raw)
    except json.JSONDecodeError as error:
        where = f"{error.msg} (line {error.lineno}, column {error.colno})"
        raise HTTPException(400, f"{complaint}: {where}") from None
    except (ValueError, RecursionError):  # not UTF-8, a number of 5,000 digits, or nested without end
        raise HTTPException(400, complaint) from None
    if not isinstance(found, dict):
        raise HTTPException(400, "JSON payload must be an object")
    return found


def _form(raw: bytes) -> JsonObject:
    try:
        pairs = parse_qsl(
            raw.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except ValueError as error:
        raise HTTPException(400, f"Malformed form: {error}") from None
    return _gather(pairs)


def _sniff(raw: bytes, content_type: str) -> JsonObject:
    start = raw.lstrip()[:1]
    if start in (b"{", b"["):
        return _json_object(raw, "Invalid JSON body (hint: set 'Content-Type: application/json')")
    if b"=" in raw and _is_text(raw):
        return _form(raw)
    sent = content_type or "(missing)"
    raise HTTPException(
        415, f"Unsupported Content-Type: {sent}; use application/json, {FORM}, or multipart/form-data"
    )


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _gather(pairs: list[tuple[str, str]]) -> JsonObject:
    # Make a field that is sent several times a list, which only fields that take lists accept.
    fields: JsonObject = {}
    for name, value in pairs:
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
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


def finished_song(named: str, open_token: Callable[[str], Path | None]) -> Path | None:
    """The file of a song that is named by its `file`, or by the token in it; None: it is no song."""
    try:
        carried = parse_qs(urlsplit(named).query).get("path", [named])[0]
    except ValueError:  # it looks like an address, and is none
        return None
    return open_token(split_link(carried)[1])


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
