"""Which pages may use the server. The browser itself is in tests/system/test_browser.py."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from acestep.rest.middleware import Access
from tests.rest.conftest import CONFIG, Serve, Server, assert_error

EVIL = "https://evil.example"
# What a page may send without asking the browser first (a "simple" request), and to what.
FORM = '--X\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--X--\r\n'
PATHS = ("/health", "/v1/models", "/openapi.json", "/nothing", "/v1/audio?path=x")
FOREIGN = ("evil.example:8001", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1")
OWN = ("localhost", "LOCALHOST:8001", "localhost.", "127.0.0.1", "127.8.9.1:80", "[::1]:8001")
CHANGES = [
    ("/release_task", "text/plain", '{"prompt": "x"}'),
    ("/release_task", "application/x-www-form-urlencoded", "prompt=x"),
    (
        "/release_task",
        "multipart/form-data; boundary=X",
        '--X\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--X--\r\n',
    ),
    ("/api/release_task", "text/plain", '{"prompt": "x"}'),
    ("/v1/init", "text/plain", '{"slot": 1}'),
    ("/v1/reinitialize", "text/plain", ""),
    ("/v1/lora/unload", "text/plain", ""),
    ("/v1/lora/toggle", "text/plain", '{"use_lora": false}'),
    ("/v1/chat/completions", "text/plain", '{"messages": [{"role": "user", "content": "x"}]}'),
    ("/v1/audio/generations", "text/plain", '{"prompt": "x", "async": true}'),
    ("/v1/music/generate", "text/plain", '{"prompt": "x"}'),
    ("/query_result", "text/plain", '{"task_id_list": ["a"]}'),
    ("/cancel_task", "text/plain", '{"task_id": "a"}'),
    ("/v1/jobs/a/cancel", "text/plain", ""),
    ("/v1/jobs/a/retry", "text/plain", ""),
]


def allowing(*origins: str, hosts: tuple[str, ...] = (), is_local: bool = False) -> Access:
    return Access(origins, hosts, is_local)


@asynccontextmanager
async def at(serve: Serve, access: Access, address: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
    """A server with `access`, called at its `address`."""
    async with serve(replace(CONFIG, access=access)) as server:
        transport = httpx.ASGITransport(app=server.app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{address}:8001") as client:
            yield client


class TestOrigins:
    @pytest.mark.parametrize(("path", "kind", "body"), CHANGES)
    async def test_pages_of_others_change_nothing(self, server: Server, path: str, kind: str, body: str):
        for headers in (
            {"Origin": EVIL},
            {"Origin": "null"},
            {"Origin": "http://localhost.evil.example"},
            {"Origin": f"http://localhost:3000 {EVIL}"},
            {"Origin": EVIL, "Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": EVIL, "X-Forwarded-Host": "evil.example"},
        ):
            answer = await server.client.post(path, content=body, headers={**headers, "Content-Type": kind})
            assert answer.status_code == 403, answer.text
            assert "ACESTEP_CORS_ORIGINS" in answer.text
            assert "access-control-allow-origin" not in answer.headers
        assert (await server.queue.stats()).total == 0

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Origin": "http://localhost:3000"},
            {"Origin": "http://127.0.0.1:5173", "Sec-Fetch-Site": "cross-site"},
            {"Origin": "https://[::1]", "Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
            {"Sec-Fetch-Site": "same-origin"},
        ],
    )
    async def test_pages_of_this_machine_and_programs_work(self, server: Server, headers: dict[str, str]):
        answer = await server.client.post("/release_task", json={"prompt": "x"}, headers=headers)
        assert answer.status_code == 200
        assert answer.headers.get("access-control-allow-origin") == headers.get("Origin")

    @pytest.mark.parametrize(
        ("allowed", "origin"),
        [
            ("https://music.example", "https://music.example"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
            ("null", "null"),
            ("*", EVIL),
        ],
    )
    async def test_named_origins(self, serve: Serve, allowed: str, origin: str):
        async with at(serve, allowing("local", allowed)) as client:
            for each in (origin, "http://localhost"):
                headers = {"Origin": each, "Sec-Fetch-Site": "cross-site"}
                answer = await client.post("/release_task", json={"prompt": "x"}, headers=headers)
                assert answer.status_code == 200
                assert answer.headers["access-control-allow-origin"] in (each, "*")

    async def test_none(self, serve: Serve):
        async with at(serve, allowing("none")) as client:
            for origin in ("http://localhost:3000", "none"):
                answer = await client.post("/release_task", json={"prompt": "x"}, headers={"Origin": origin})
                assert answer.status_code == 403

    async def test_what_is_only_read_stays_readable_by_programs_that_say_where_they_run(self, server: Server):
        answer = await server.client.get("/health", headers={"Origin": EVIL})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers

    async def test_pages_of_the_server_itself(self, serve: Serve):
        async with at(serve, allowing("none"), "192.168.1.5") as client:
            own = {"Origin": "http://192.168.1.5:8001", "Sec-Fetch-Site": "same-origin"}
            assert (await client.post("/release_task", json={"prompt": "x"}, headers=own)).status_code == 200
            for host in ("evil.example", "evil.example:8001"):  # a rebound name has the same origin, too
                rebound = {"Origin": f"http://{host}", "Host": host, "Sec-Fetch-Site": "same-origin"}
                answer = await client.post("/release_task", json={"prompt": "x"}, headers=rebound)
                assert answer.status_code == 403


class TestPreflight:
    async def test_allows_any_header(self, serve: Serve):
        # What openai's JavaScript library sends from a page.
        asked = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-title"
        async with serve(replace(CONFIG, api_key="k")) as server:
            answer = await server.client.options(
                "/v1/chat/completions",
                headers={
                    "Origin": "http://localhost:3000",
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": asked,
                },
            )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        allowed = answer.headers["access-control-allow-headers"].replace(" ", "").split(",")
        assert set(asked.split(",")) <= set(allowed)
        assert "access-control-allow-credentials" not in answer.headers

    async def test_a_page_may_delete_jobs(self, server: Server):
        headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "DELETE"}
        assert (await server.client.options("/v1/jobs/x", headers=headers)).status_code == 200
        answer = await server.client.delete("/v1/jobs/x", headers={"Origin": "http://localhost:3000"})
        assert answer.status_code == 404
        foreign = await server.client.delete("/v1/jobs/x", headers={"Origin": EVIL})
        assert foreign.status_code == 403

    @pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost.evil.example", "http://notlocalhost"])
    async def test_of_others(self, server: Server, origin: str):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = await server.client.options("/release_task", headers=headers)
        assert answer.status_code == 400
        assert "access-control-allow-origin" not in answer.headers


class TestHosts:
    @pytest.mark.parametrize(
        "path", ["/health", "/v1/models", "/openapi.json", "/nothing", "/v1/audio?path=x"]
    )
    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:8001", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"],
    )
    async def test_other_names_read_nothing(self, serve: Serve, path: str, host: str):
        async with at(serve, allowing("local", is_local=True)) as client:
            answer = await client.get(path, headers={"Host": host})
            assert_error(answer, 403, host.partition(":")[0], "ACESTEP_ALLOWED_HOSTS")

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8001", "localhost.", "127.0.0.1", "127.8.9.1:80", "[::1]:8001"]
    )
    async def test_names_of_this_machine(self, serve: Serve, host: str):
        async with at(serve, allowing("local", is_local=True)) as client:
            assert (await client.get("/health", headers={"Host": host})).status_code == 200

    @pytest.mark.parametrize(
        ("allowed", "host", "status"),
        [
            ("music.example.org", "Music.example.org:443", 200),
            ("music.example.org", "a.music.example.org", 403),
            ("*.example.org", "a.b.example.org", 200),
            ("*.example.org", "example.org", 403),
            ("*.example.org", "evilexample.org", 403),
            ("*", "evil.example", 200),
        ],
    )
    async def test_named(self, serve: Serve, allowed: str, host: str, status: int):
        async with at(serve, allowing("local", hosts=(allowed,), is_local=True)) as client:
            assert (await client.get("/health", headers={"Host": host})).status_code == status

    async def test_a_server_for_others_has_any_name(self, serve: Serve):
        async with at(serve, allowing("local", is_local=False), "192.168.1.5") as client:
            assert (await client.get("/health", headers={"Host": "studio.lan"})).status_code == 200

    async def test_a_connection_from_elsewhere_shows_that_the_server_listens_there(self, serve: Serve):
        async with at(serve, allowing("local", is_local=True), "192.168.1.5") as client:
            assert (await client.get("/health")).status_code == 200

    async def test_two_hosts_are_both_looked_at(self, serve: Serve):
        async with at(serve, allowing("local", is_local=True)) as client:
            answer = await client.get("/health", headers=[("Host", "localhost"), ("Host", "evil.example")])
            assert answer.status_code == 403
