"""The audio that a request uploads or names."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from acestep.errors import DataFolderError, InvalidFieldError, UnusableAudioError
from acestep.files import FileStore

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
