import gzip
import json
import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

import acestep
from acestep.rest.deps import provide
from acestep.rest.page import Page, wants_page
from scripts.vendor import LOCK, with_local_imports
from tests.rest.conftest import Server

FOLDER = Path(acestep.__file__).parent / "page"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "i18n").mkdir()
    (tmp_path / "index.html").write_text("<script src=page/{{version}}/a.js nonce={{nonce}}>")
    (tmp_path / "a.js").write_text("export const a = 1;" * 100)
    (tmp_path / "i18n" / "ja.json").write_text('{"a": "あ"}')
    (tmp_path / "a.d.ts").write_text("export const a: number;")
    return tmp_path


def test_files_are_found_under_a_hash_of_all_of_them(folder: Path) -> None:
    page = Page(folder)
    found = page.find(page.version, "i18n/ja.json")
    assert found is not None
    assert (found.content.decode(), found.media_type) == ('{"a": "あ"}', "application/json; charset=utf-8")
    for name in ("index.html", "a.d.ts", "../a.js", "i18n", ""):
        assert page.find(page.version, name) is None
    assert page.find("0" * 16, "a.js") is None
    (folder / "i18n" / "ja.json").write_text('{"a": "い"}')
    assert Page(folder).version != page.version


def test_each_start_has_a_nonce_of_its_own(folder: Path) -> None:
    page = Page(folder)
    (one, headers), (two, _) = page.start(), page.start()
    nonce = one.partition("nonce=")[2].rstrip(">")
    assert one.startswith(f"<script src=page/{page.version}/a.js nonce=")
    assert len(nonce) >= 20
    assert one != two
    assert f"'nonce-{nonce}'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("accept", "is_page"), [(BROWSER, True), ("*/*", False), ("application/json", False), ("", False)]
)
def test_browsers_alone_get_the_page(accept: str, is_page: bool) -> None:
    assert wants_page(accept) == is_page


@pytest.fixture
def with_page(server: Server) -> Server:
    provide(server.app, replace(server.app.state.services, page=Page()))
    return server


async def test_the_page_and_its_files_are_served(with_page: Server) -> None:
    server = with_page
    start = await server.client.get("/", headers={"Accept": BROWSER})
    assert start.headers["content-type"] == "text/html; charset=utf-8"
    assert start.headers["cache-control"] == "no-cache"
    links = re.findall(r'(?:src|href)="(page/[^"]+)"', start.text)
    assert len(links) >= 25
    for link in links:
        packed = await server.client.get(f"/{link}")
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["cache-control"] == "public, max-age=31536000, immutable"
        plain = await server.client.get(f"/{link}", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == packed.content == (FOLDER / link.split("/", 2)[2]).read_bytes()


async def test_programs_get_what_they_got_before(with_page: Server) -> None:
    answer = await with_page.client.get("/")
    assert answer.json()["data"]["docs"] == "/docs"


async def test_an_unknown_file_is_not_there(with_page: Server) -> None:
    here = f"/page/{Page().version}"
    for path in ("/page/old/main.js", f"{here}/nothing.js", f"{here}/../../api_server.py"):
        assert (await with_page.client.get(path)).status_code == 404


async def test_a_server_without_a_page_says_where_the_documentation_is(server: Server) -> None:
    answer = await server.client.get("/", headers={"Accept": BROWSER})
    assert answer.json()["data"]["docs"] == "/docs"
    assert (await server.client.get(f"/page/{Page().version}/main.js")).status_code == 404


def test_languages_have_the_same_texts_with_the_same_values() -> None:
    texts = {path.stem: json.loads(path.read_text()) for path in (FOLDER / "i18n").glob("*.json")}
    assert set(texts) == {"en", "ja"}
    assert texts["en"].keys() == texts["ja"].keys()
    for name, text in texts["en"].items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", texts["ja"][name])), name


def test_every_text_that_is_asked_for_is_there() -> None:
    texts = json.loads((FOLDER / "i18n" / "en.json").read_text())
    asked = {name for path in FOLDER.glob("*.js") for name in re.findall(r'\bt\("([^"]+)"', path.read_text())}
    assert len(asked) > 50
    assert asked - texts.keys() == set()


def test_libraries_are_those_of_the_lock_and_need_nothing_else() -> None:
    lock = json.loads(LOCK.read_text())
    scripts = {path.name for path in LOCK.parent.glob("*.js")}
    assert scripts == {package["file"] for package in lock}
    for package in lock:
        content = (LOCK.parent / package["file"]).read_bytes()
        assert sha256(content).hexdigest() == package["sha256"], package["file"]
        assert (LOCK.parent / package["licence"]).is_file()
        imported = re.findall(r'from ?"([^"]+)"', content.decode())
        assert {name.removeprefix("./") for name in imported} <= scripts


def test_imports_of_packages_become_files() -> None:
    source = 'import{a as t}from"preact";import*as b from "@preact/core";export{t};\n//# sourceMappingURL=x\n'
    files = {"preact": "preact.js", "@preact/core": "core.js"}
    expected = 'import{a as t}from"./preact.js";import*as b from "./core.js";export{t};\n'
    assert with_local_imports(source, files) == expected


def test_the_page_is_small() -> None:
    # 120 kB with gzip: what a phone loads in a second.
    files = [path for path in FOLDER.rglob("*") if path.suffix in (".js", ".css", ".html", ".json", ".svg")]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < 120_000
