"""Links to songs, given out and opened again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from acestep.files import AudioStore
from acestep.rest.spelling import AUDIO_PATH, audio_link, split_link

PATH = "path"  # of ACESTEP_AUDIO_LINKS
MAX_NESTING = 4  # of links in the `path` of links


@dataclass(frozen=True, slots=True)
class AudioLinks:
    store: AudioStore
    style: str
    root_path: str = ""

    def to(self, caption: str, name: str) -> str:
        """Return the link to the file `name` of a song."""
        if self.style == PATH and (path := self.store.path(name)) is not None:
            return f"{self.root_path}{AUDIO_PATH}?path={quote(str(path), safe='')}"
        return self.root_path + audio_link(caption, self.store.token(name))

    def open(self, path: str) -> tuple[str, Path | None]:
        """Return the label and the file of a link, or of what it carries; None: it opens nothing."""
        path = _innermost(path)
        label, token = split_link(path)
        found = self.store.open_token(token)
        if found is None and self.style == PATH and self.store.owns(Path(path)):
            return "", self.store.path(Path(path).name)
        return label, found


def _innermost(path: str) -> str:
    # Clients send whole links as the path, some of them encoded once more.
    for _ in range(MAX_NESTING):
        path = unquote(path)
        try:
            inner = parse_qs(urlsplit(path).query).get("path")
        except ValueError:  # it looks like an address, and is none
            return ""
        if not inner:
            return path
        path = inner[0]
    return path
