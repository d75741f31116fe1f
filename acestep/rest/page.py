"""The files of the page, which makes songs through the public API in a browser."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

PREFIX = "/page"  # of its files
IMMUTABLE = "public, max-age=31536000, immutable"  # since their paths hold a hash of all files
_START = "index.html"
_LATER = ("drawing", "vendor/wavesurfer")  # loaded with the first waveform
_TYPES = ".d.ts"  # for the type checker
_TEXTS = ("text/", "application/json", "image/svg")
# `Accept` of clients that want the page: what browsers send for a page that is opened.
_HTML = "text/html"


@dataclass(frozen=True, slots=True, eq=False)
class PageFile:
    content: bytes
    packed: bytes  # with gzip
    media_type: str


class Page:
    """Read once; `version` is a hash of all its files."""

    def __init__(self, folder: Traversable | None = None) -> None:
        found = dict(_read(folder or files("acestep") / "page"))
        self.version = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]
        start = found.pop(_START).decode("utf-8").replace("{{modules}}", _preloads(found))
        self._start = start.replace("{{version}}", self.version)
        self._files = {name: _file(name, content) for name, content in found.items()}

    def find(self, version: str, name: str) -> PageFile | None:
        return self._files.get(name) if version == self.version else None

    def start(self) -> tuple[str, dict[str, str]]:
        """The first document and its headers. The waveforms have a style element, which the nonce allows."""
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'self'; style-src 'self' 'nonce-{nonce}'; media-src 'self' blob:; "
            "connect-src 'self' blob:; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "Cache-Control": "no-cache",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Vary": "Accept",
        }
        return self._start.replace("{{nonce}}", nonce), headers


def _preloads(names: Iterable[str]) -> str:
    # Without them a browser would find each module in the one that imports it, one after another.
    modules = sorted(name for name in names if name.endswith(".js") and not name.startswith(_LATER))
    return "\n    ".join(f'<link rel="modulepreload" href="page/{{{{version}}}}/{name}">' for name in modules)


def wants_page(accept: str) -> bool:
    """Whether a client asks for a document to look at: only browsers name HTML."""
    return _HTML in accept


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _read(each, f"{prefix}{each.name}/")
        elif not each.name.endswith(_TYPES):
            yield prefix + each.name, each.read_bytes()


def _file(name: str, content: bytes) -> PageFile:
    kind = mimetypes.types_map.get("." + name.rpartition(".")[2], "application/octet-stream")
    kind = "text/javascript" if name.endswith(".js") else kind  # as some systems have it otherwise
    if kind.startswith(_TEXTS):
        kind += "; charset=utf-8"
    return PageFile(content, gzip.compress(content, mtime=0), kind)
