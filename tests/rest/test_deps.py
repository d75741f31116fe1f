from dataclasses import replace
from typing import Any

import pytest

from acestep.rest.deps import HttpConfig
from tests.rest.conftest import CONFIG, Serve, assert_error

KEY = "sk-geheim-ключ"
RAW = KEY.encode()
BODY_ROUTES = ["/release_task", "/query_result"]
BODY: dict[str, Any] = {"prompt": "pop", "task_id": "a"}  # of either route
HEADER_ROUTES = [
    "/v1/stats",
    "/v1/models",
    "/v1/models?format=openai",
    "/api/v1/models",
    "/v1/models/acestep-v15-turbo",
    "/v1/model_inventory",
]
RIGHT = [
    {"Authorization": b"Bearer " + RAW},
    {"Authorization": b"bearer " + RAW},
    {"Authorization": RAW},
    {"x-api-key": RAW},
    {"Authorization": b"Basic abc", "x-api-key": RAW},
]
WRONG = [
    {"Authorization": b"Bearer wrong"},
    {"Authorization": b"wrong"},
    {"Authorization": b"Bearer"},
    {"Authorization": b"Bearer " + RAW[:-1]},
    {"Authorization": b"Bearer " + RAW + b"x"},
    {"Authorization": "Bearer schlüssel".encode("latin-1")},
    {"x-api-key": b"wrong"},
    {"x-api-key": b"Bearer wrong"},
]


@pytest.fixture
def config() -> HttpConfig:
    return replace(CONFIG, api_key=KEY)


class TestHeaders:
    @pytest.mark.parametrize("headers", RIGHT)
    async def test_right(self, serve: Serve, config: HttpConfig, headers: dict[str, bytes]):
        async with serve(config) as server:
            for route in HEADER_ROUTES:
                assert (await server.client.get(route, headers=headers)).status_code == 200  # type: ignore[arg-type]
            for route in BODY_ROUTES:
                answer = await server.client.post(route, json=BODY, headers=headers)  # type: ignore[arg-type]
                assert answer.status_code == 200

    @pytest.mark.parametrize("headers", WRONG)
    async def test_wrong(self, serve: Serve, config: HttpConfig, headers: dict[str, Any]):
        async with serve(config) as server:
            answers = [await server.client.get(route, headers=headers) for route in HEADER_ROUTES]
            answers += [await server.client.post(route, json=BODY, headers=headers) for route in BODY_ROUTES]
            for answer in answers:
                assert assert_error(answer, 401)["error"] == "Invalid API key"
                assert answer.headers["www-authenticate"] == "Bearer"

    async def test_missing(self, serve: Serve, config: HttpConfig):
        async with serve(config) as server:
            for route in HEADER_ROUTES:
                answer = await server.client.get(route)
                assert assert_error(answer, 401)["error"] == "Missing Authorization header"
            for route in BODY_ROUTES:
                answer = await server.client.post(route, json=BODY)
                assert assert_error(answer, 401)["error"] == "Missing ai_token or Authorization header"

    async def test_a_refused_request_is_not_queued(self, serve: Serve, config: HttpConfig):
        async with serve(config) as server:
            await server.client.post("/release_task", json={"prompt": "pop"})
            assert (await server.queue.stats()).total == 0


class TestBody:
    @pytest.mark.parametrize("as_json", [True, False])
    async def test_right_decides_whatever_the_header_says(
        self, serve: Serve, config: HttpConfig, as_json: bool
    ):
        async with serve(config) as server:
            for route in BODY_ROUTES:
                request: dict[str, Any] = {"json" if as_json else "data": BODY | {"ai_token": KEY}}
                answer = await server.client.post(route, **request, headers={"Authorization": "wrong"})
                assert answer.status_code == 200

    @pytest.mark.parametrize("token", ["wrong", 5, {"a": 1}, [KEY], True, "\ud800"])
    async def test_wrong_decides_whatever_the_header_says(
        self, serve: Serve, config: HttpConfig, token: object
    ):
        async with serve(config) as server:
            headers: Any = {"Authorization": b"Bearer " + RAW}
            body = '{"ai_token": "\\ud800"}' if token == "\ud800" else None
            for route in BODY_ROUTES:
                if body:
                    answer = await server.client.post(route, content=body, headers=headers)
                else:
                    answer = await server.client.post(route, json={"ai_token": token}, headers=headers)
                assert assert_error(answer, 401)["error"] == "Invalid ai_token"
                assert answer.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize("token", ["", None])
    async def test_an_empty_one_leaves_it_to_the_header(
        self, serve: Serve, config: HttpConfig, token: str | None
    ):
        async with serve(config) as server:
            headers: Any = {"Authorization": b"Bearer " + RAW}
            answer = await server.client.post(
                "/release_task", json=BODY | {"ai_token": token}, headers=headers
            )
            assert answer.status_code == 200


class TestOpenDoors:
    @pytest.mark.parametrize("route", ["/health", "/docs", "/openapi.json"])
    async def test_need_no_key(self, serve: Serve, config: HttpConfig, route: str):
        async with serve(config) as server:
            assert (await server.client.get(route)).status_code == 200

    async def test_an_empty_key_means_no_key(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="")) as server:
            assert (await server.client.get("/v1/stats")).status_code == 200
            answer = await server.client.post("/release_task", json={"prompt": "pop", "ai_token": "anything"})
            assert answer.status_code == 200

    async def test_the_key_counts_in_the_query_string_for_nothing(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="k")) as server:
            assert_error(await server.client.get("/v1/stats?ai_token=k&api_key=k"), 401)
