"""Songs in another file format, made from the file that there is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import av

from acestep.audio.decode import read
from acestep.audio.encode import FileSpec, Tags, extension, write
from acestep.domain.song import AudioFormat
from acestep.errors import DataFolderError
from acestep.files import FileStore

# What FFmpeg calls the tags of our files.
_NAMES = {
    "bpm": ("TBPM", "bpm"),
    "key": ("TKEY", "INITIALKEY"),
    "seed": ("seed",),
    "model": ("model",),
}
# A line of the comment, where a container has no such tag.
_LINE = re.compile(r"(bpm|key|seed|model|software): (.*)")
_MINOR_KEY = re.compile(r"([A-G][#b]?)m")


class AudioConverter:
    """One song at a time, since each is decoded whole: 10 minutes take 230 MB."""

    def __init__(self, store: FileStore, mp3_bitrate: int) -> None:
        self._store = store  # where unfinished files are deleted after a crash
        self._mp3_bitrate = mp3_bitrate
        self._lock = Lock()

    def convert(self, source: Path, audio_format: AudioFormat) -> Path:
        """A new file with the sound and the tags of `source`, which the caller deletes. Blocking.

        Raises UnusableAudioError and DataFolderError.
        """
        new = self._store.begin(extension(audio_format))
        try:
            with self._lock:
                write(read(source), new.path, FileSpec(audio_format, self._mp3_bitrate, tags=tags_of(source)))
        except BaseException as error:
            self._store.discard(new)
            if isinstance(error, OSError):
                raise DataFolderError(
                    f"The song cannot be converted: {error.strerror or error}. Make room in the data folder "
                    "(ACESTEP_DATA_DIR), and see that the server may write there."
                ) from error
            raise
        return new.path


def tags_of(path: Path) -> Tags:
    """The tags of a song that was made here; of M4A all but the tempo, which FFmpeg does not read."""
    with av.open(f"file:{path}") as container:
        found = {name.lower(): text for name, text in container.metadata.items()}
        for stream in container.streams.audio:  # where Ogg has them
            found = {name.lower(): text for name, text in stream.metadata.items()} | found
    lines = found.get("comment", "").splitlines()
    noted = {match[1]: match[2] for line in lines if (match := _LINE.fullmatch(line))}
    caption = "\n".join(line for line in lines if not _LINE.fullmatch(line))
    facts = {fact: _first(found, names) or noted.get(fact, "") for fact, names in _NAMES.items()}
    return Tags(
        title=found.get("title", ""),
        caption=caption,
        seed=_number(facts["seed"]),
        bpm=_number(facts["bpm"]),
        key_scale=_key(facts["key"]),
        model=facts["model"],
    )


def _first(found: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((found[name.lower()] for name in names if name.lower() in found), "")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _key(text: str) -> str | None:
    # ID3 spells keys C and Cm.
    if minor := _MINOR_KEY.fullmatch(text):
        return f"{minor[1]} minor"
    return f"{text} major" if re.fullmatch(r"[A-G][#b]?", text) else text or None
