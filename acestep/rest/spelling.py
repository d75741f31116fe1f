"""How values are spelled on the wire: links to audio and its file names, media types, codes."""

from __future__ import annotations

import base64
import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from acestep.files import AudioStore

JsonObject = dict[str, Any]

AUDIO_PATH = "/v1/audio"
PATH = "path"  # of ACESTEP_AUDIO_LINKS
MAX_NESTING = 4  # of links in the `path` of links
LABEL_END = "_"  # between the label of an audio link and its token, which has no underscore
MAX_LABEL = 40  # characters
_PUNYCODE = "xn--"  # of labels that are not ASCII, as in host names; some clients do not encode links again
_MAX_PUNYCODE = 200  # characters: the longest label in it takes fewer
UNDECIDED = "N/A"  # metadata that nothing decided; clients send it back
MEDIA_TYPES = {
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
}


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


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def media_type(path: Path) -> str:
    return MEDIA_TYPES.get(path.suffix, "application/octet-stream")


def speaking_name(label: str, path: Path) -> str:
    """Return a name for a download; the file's own name tells the songs of a batch apart."""
    return f"{label}-{path.stem[:8]}{path.suffix}" if label else path.name


def disposition(kind: str, label: str, path: Path) -> str:
    """Return a Content-Disposition; one name that is not ASCII has another that is, for older programs."""
    name = speaking_name(label, path)
    if name.isascii():
        return f'{kind}; filename="{name}"'
    plain = speaking_name(re.sub(r"[^a-z0-9-]+", "", label).strip("-") or "song", path)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def data_url(path: Path) -> str:
    """Return the file itself as a `data:` link, in base64."""
    return f"data:{media_type(path)};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def code_string(codes: Sequence[int]) -> str:
    return "".join(f"<|audio_code_{code}|>" for code in codes)


def audio_link(caption: str, token: str) -> str:
    """Return the link to a file: the label of its caption, then the token that opens it."""
    label = _in_ascii(label_of(caption))
    return f"{AUDIO_PATH}?path={quote(f'{label}{LABEL_END}{token}' if label else token, safe='')}"


def label_of(caption: str) -> str:
    """Return the words of a caption, safe in any header; `audio_link` has them in ASCII."""
    shown = unicodedata.normalize("NFC", caption[: 10 * MAX_LABEL].lower())
    return "-".join("".join(c if _is_of_a_word(c) else " " for c in shown).split())[:MAX_LABEL].strip("-")


def split_link(path: str) -> tuple[str, str]:
    """Return the label and the token in the path of an audio link; other characters than a label's go."""
    label, _, token = path.rpartition(LABEL_END)
    if label.startswith(_PUNYCODE):
        try:
            label = label[len(_PUNYCODE) :][:_MAX_PUNYCODE].encode("ascii").decode("punycode")
        except UnicodeError:
            label = ""
    return "".join(c for c in label if c == "-" or _is_of_a_word(c))[:MAX_LABEL], token


def _is_of_a_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"  # letters, their marks, numbers


def _in_ascii(label: str) -> str:
    return label if label.isascii() else _PUNYCODE + label.encode("punycode").decode("ascii")


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
