"""Songs and sentences drawn from the book of examples."""

import random
from dataclasses import replace
from typing import Any

import pytest

from acestep.examples import Examples, load_custom, load_simple
from acestep.rest.response.jobs import custom_sample
from tests.rest.conftest import (
    BASE,
    CONFIG,
    NO_PLANNER,
    PLANNER,
    TURBO,
    Serve,
    Server,
    assert_error,
)
from tests.rest.request.accepting import accept


async def draw(server: Server, **fields: Any) -> dict[str, Any]:
    answer = await server.client.post("/create_random_sample", json=fields)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["code"], body["error"], body["extra"]) == (200, None, None)
    return dict(body["data"])


@pytest.mark.parametrize(
    "fields", [{}, {"sample_type": ""}, {"sample_type": None}, {"sample_type": "simple_mode"}]
)
async def test_simple(shared: Server, fields: dict[str, Any]):
    data = await draw(shared, **fields)
    assert set(data) == {"description", "instrumental", "vocal_language"}
    assert (type(data["description"]), type(data["instrumental"])) == (str, bool)


@pytest.mark.parametrize("kind", ["custom_mode", "anything", "Simple", 5])
async def test_custom(shared: Server, kind: Any):
    data = await draw(shared, sample_type=kind)
    assert {name: type(value) for name, value in data.items()} == {
        "think": bool,
        "caption": str,
        "lyrics": str,
        "bpm": int,
        "duration": int,
        "keyscale": str,
        "language": str,
        "timesignature": str,
    }


@pytest.mark.parametrize(
    "request_", [{"data": {"sample_type": "custom_mode"}}, {"files": {"sample_type": (None, "x")}}]
)
async def test_as_a_form(shared: Server, request_: dict[str, Any]):
    answer = await shared.client.post("/create_random_sample", **request_)
    assert "lyrics" in answer.json()["data"]


@pytest.mark.parametrize("value", [True, ["custom_mode"], {"a": 1}, "x" * 101])
async def test_bad_types(shared: Server, value: Any):
    answer = await shared.client.post("/create_random_sample", json={"sample_type": value})
    assert_error(answer, 422, "sample_type: ", "text of at most 100 characters")


async def test_no_planner_is_needed_but_the_key_is(serve: Serve):
    async with serve(replace(CONFIG, api_key="k")) as server:
        assert_error(await server.client.post("/create_random_sample", json={}), 401)
        assert "description" in await draw(server, ai_token="k")


async def test_the_draw_is_the_books(serve: Serve):
    async def drawn() -> list[str]:
        async with serve(examples=Examples.load(random.Random(1))) as server:
            return [(await draw(server))["description"] for _ in range(5)]

    book = Examples.load(random.Random(1))
    assert await drawn() == [book.draw_simple().description for _ in range(5)]


async def test_every_song_can_be_rendered_as_it_is():
    book = load_custom()
    for example in book:
        sample = custom_sample(example).model_dump(exclude={"think"})
        request = accept(sample, (TURBO, BASE), NO_PLANNER)
        assert request.warnings == ()
        assert (request.caption, request.lyrics) == (example.caption, example.lyrics)
        assert (request.bpm, request.duration) == (example.bpm, example.duration)
        assert (request.key_scale, request.time_signature) == (example.key_scale, example.time_signature)
        assert request.language == example.language
    assert book


async def test_every_sentence_can_be_asked_for():
    book = load_simple()
    for example in book:
        sent = {"sample_query": example.description, "vocal_language": example.language}
        assert accept(sent, (TURBO,), PLANNER).warnings == ()
    assert book
