"""Both hubs over real HTTP on this machine, for the real clients; files come out of folders.

Can do what hubs do on a bad day: cut a connection, hold back a file, send other bytes than they list.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub.utils.sha import git_hash

_COMMIT = "5" * 40
_LARGE = (".safetensors", ".pt")  # in LFS; the rest is in git itself


@dataclass
class Mischief:
    """What goes wrong, by the file's path in its repository."""

    cut: dict[str, list[int]] = field(default_factory=dict)  # bytes sent before each of the next cuts
    spoil: dict[str, int] = field(default_factory=dict)  # answers with other bytes
    wrong_size: dict[str, int] = field(default_factory=dict)  # the size that the hub claims
    lost: set[str] = field(default_factory=set)  # listed, but not sent


class FakeHub:
    """Serves the repositories `root/owner/name`; `asked` are paths of files that were sent, with offsets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mischief = Mischief()
        self.asked: list[tuple[str, int]] = []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def files(self, repo: str) -> list[str]:
        """Paths of a repository's files."""
        folder = self.root / repo
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def size(self, repo: str, path: str) -> int:
        """The size that this hub claims."""
        return self.mischief.wrong_size.get(path, (self.root / repo / path).stat().st_size)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._route(send=False)

    def do_GET(self) -> None:
        self._route(send=True)

    def log_message(self, *_: Any) -> None:
        """Keep silent."""

    def _route(self, send: bool) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        match parts:
            case ["api", "models", owner, name, "tree", *_]:
                self._tree(f"{owner}/{name}")
            case ["api", "models", owner, name, *_]:
                self._described(f"{owner}/{name}")
            case ["api", "v1", "models", owner, name, "repo", "files"]:
                self._listed(f"{owner}/{name}", parse_qs(url.query).get("Root", [""])[0])
            case ["api", "v1", "models", owner, name, "repo"]:
                self._file(f"{owner}/{name}", parse_qs(url.query)["FilePath"][0], send)
            case [owner, name, "resolve", _, *path]:
                self._file(f"{owner}/{name}", "/".join(path), send)
            case [""]:
                self._json({})
            case _:
                self._json({"Code": 404, "Message": "not found"}, 404)

    def _described(self, repo: str) -> None:
        """A model as Hugging Face tells of it."""
        if not (self.hub.root / repo).is_dir():
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        about = {"id": repo, "modelId": repo, "sha": _COMMIT, "private": False, "tags": [], "downloads": 0}
        siblings = [{"rfilename": path} for path in self.hub.files(repo)]
        return self._json({**about, "likes": 0, "siblings": siblings})

    def _tree(self, repo: str) -> None:
        """A repository's files as Hugging Face lists them."""
        files = []
        for path in self.hub.files(repo):
            content, size = (self.hub.root / repo / path).read_bytes(), self.hub.size(repo, path)
            file: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": git_hash(content)}
            if path.endswith(_LARGE):
                digest = hashlib.sha256(content).hexdigest()
                file["lfs"] = {"oid": digest, "size": size, "pointerSize": 130}
            files.append(file)
        self._json(files)

    def _listed(self, repo: str, root: str) -> None:
        """A repository's files as ModelScope lists them."""
        if not (self.hub.root / repo).is_dir():
            return self._json({"Code": 10010205001, "Message": "record not found", "Success": False}, 404)
        files = [
            {
                "Path": path,
                "Name": Path(path).name,
                "Type": "blob",
                "Size": self.hub.size(repo, path),
                "Sha256": hashlib.sha256((self.hub.root / repo / path).read_bytes()).hexdigest(),
            }
            for path in self.hub.files(repo)
            if path.startswith(root.strip("/"))
        ]
        return self._json({"Code": 200, "Success": True, "Data": {"Files": files}})

    def _file(self, repo: str, path: str, send: bool) -> None:
        mischief, file = self.hub.mischief, self.hub.root / repo / path
        if path in mischief.lost or not file.is_file():
            self._json({"Code": 404}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        etag = hashlib.sha256(content).hexdigest() if path.endswith(_LARGE) else git_hash(content)
        start, end = _wanted_bytes(self.headers.get("Range"), len(content))
        if send and mischief.spoil.get(path, 0) > 0:
            mischief.spoil[path] -= 1
            content = bytes(byte ^ 1 for byte in content)
        body = content[start:end]
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if self.headers.get("Range"):
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", _COMMIT)
        if path.endswith(_LARGE):
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(self.hub.size(repo, path)))
        self.end_headers()
        if send:
            self.hub.asked.append((path, start))
            self._send_body(path, body)

    def _send_body(self, path: str, body: bytes) -> None:
        cuts = self.hub.mischief.cut.get(path)
        if cuts:
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
            self.connection.shutdown(2)
        else:
            self.wfile.write(body)

    def _json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _wanted_bytes(wanted: str | None, size: int) -> tuple[int, int]:
    """First byte, and the one after the last, of a Range header."""
    if not wanted:
        return 0, size
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    return int(first), min(int(last) + 1, size) if last else size
