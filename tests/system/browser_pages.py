"""Pages for a real browser, and the server that hands them out and takes down what they report."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60  # generous: the browser starts in about two

# `asked`: requests of a page, as [method, path, content type, body]. It reports the status and text of each
# answer that it can read, or the error that it gets instead.
_PAGE = """<!doctype html><meta charset="utf-8"><body><script>
const [api, asked, modes] = %s;
async function ask([method, path, type, body], mode) {
  const headers = type ? {"Content-Type": type} : {};
  if (type === "application/json") headers["x-stainless-os"] = "Linux";
  try {
    const answer = await fetch(api + path, {method, mode, headers, body: body || undefined});
    return {path, mode, kind: answer.type, status: answer.status, text: await answer.text()};
  } catch (error) {
    return {path, mode, error: String(error)};
  }
}
function submit([method, path, type, body]) {
  // A form needs no script's rights; its answer goes into a frame, which the page tries to read.
  return new Promise(resolve => {
    const frame = document.createElement("iframe"), form = document.createElement("form");
    frame.name = "f" + Math.random();
    document.body.append(frame, form);
    form.action = api + path; form.method = "POST"; form.target = frame.name; form.enctype = "text/plain";
    const input = document.createElement("input");
    input.name = body.slice(0, -1) + ',"x":"'; input.value = '"}';  // JSON, cut where the form puts its "="
    form.append(input);
    frame.onload = () => {
      let text = "";
      try { text = frame.contentDocument ? frame.contentDocument.body.textContent : ""; } catch { text = ""; }
      if (frame.contentDocument && frame.contentWindow.location.href === "about:blank") return;
      resolve({path, mode: "form", text});
    };
    setTimeout(() => resolve({path, mode: "form", text: ""}), 3000);
    form.submit();
  });
}
(async () => {
  const found = [];
  for (const each of asked) for (const mode of modes) {
    if (mode !== "form") found.push(await ask(each, mode));
    else if (each[0] === "POST") found.push(await submit(each));
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(found)});
})();
</script></body>"""


class Pages:
    """A web server on a port of its own; every host name leads to it.

    What it does not serve itself it passes on to port `api`, once that is set, as it came. To the browser the
    API is then at the page's own origin, as after its name was bound to this machine (DNS rebinding).
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.api = 0
        self._page = b""
        self._report: list[dict[str, Any]] = []
        self._reported = threading.Event()

    def visit(
        self, host: str, api: str, asked: list[list[str]], modes: list[str], profile: Path
    ) -> list[dict[str, Any]]:
        """Open a page at `host` in a browser; returns what it reports of the requests to `api`."""
        self._page = (_PAGE % json.dumps([api, asked, modes])).encode()
        self._reported.clear()
        with chromium(f"http://{host}:{self.port}/", profile) as browser:
            if not self._reported.wait(SECONDS):
                raise AssertionError(f"the page reported nothing; the browser: {browser.poll()}")
        return self._report

    def page(self) -> bytes:
        return self._page

    def take_down(self, report: bytes) -> None:
        self._report = json.loads(report)
        self._reported.set()


@contextmanager
def pages(port: int) -> Iterator[Pages]:
    found = Pages(port)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/" and found.api:
                self._pass_on()
            else:
                self._answer(found.page())

        def do_POST(self) -> None:
            if self.path != "/report":
                self._pass_on()
                return
            found.take_down(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(b"")

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = HTTPConnection("127.0.0.1", found.api, timeout=SECONDS)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not here."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def dom(url: str, profile: Path) -> str:
    """The page at `url`, as the browser shows it."""
    done = subprocess.run(
        [*_command(profile), "--dump-dom", url], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    return done.stdout


@contextmanager
def chromium(url: str, profile: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*_command(profile), "--remote-debugging-port=0", url],  # without it, a headless browser ends at once
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _command(profile: Path) -> list[str]:
    assert CHROMIUM is not None
    return [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-component-update", "--disable-background-networking", f"--user-data-dir={profile}"),
        # Names of others that lead to this machine, as rebinding makes them.
        "--host-resolver-rules=MAP *.example 127.0.0.1",
    ]
