import threading
from dataclasses import replace

import pytest

from acestep.domain.models import PlannerInfo
from acestep.limits import TURBO_TASKS
from acestep.rest.deps import provide
from acestep.rest.envelope import Envelope
from acestep.rest.response.schemas import ModelInit, ModelList, Reinitialized
from tests.rest.conftest import (
    BASE,
    CONFIG,
    NO_PLANNER,
    PLANNER,
    TURBO,
    FakeWorker,
    Serve,
    Server,
    assert_error,
    failed,
)


class TestWrapped:
    async def test_list(self, server: Server):
        body = (await server.client.get("/v1/models")).json()
        Envelope[ModelList].model_validate(body, strict=True)
        data = body["data"]
        assert data["default_model"] == TURBO.name
        turbo, base = data["models"]
        assert turbo == {
            "name": TURBO.name,
            "is_default": True,
            "is_loaded": True,
            "state": "ready",
            "detail": "",
            "notice": "",
            "is_turbo": True,
            "defaults": {"inference_steps": 8, "guidance_scale": 1.0, "shift": 3.0, "audio_format": "mp3"},
            "limits": {"max_inference_steps": 8, "max_audio_duration": 240.0, "max_batch_size": 4},
            "tasks": ["text2music", "cover", "repaint"],
            "supported_task_types": ["text2music", "cover", "repaint"],
        }
        assert (base["is_default"], base["is_loaded"], base["state"]) == (False, False, "loading")
        assert (base["detail"], base["notice"]) == ("reading weights", "large")

    async def test_no_models(self, serve: Serve):
        async with serve(models=()) as server:
            data = (await server.client.get("/v1/models")).json()["data"]
            assert (data["models"], data["default_model"]) == ([], None)

    async def test_inventory(self, server: Server):
        body = (await server.client.get("/v1/model_inventory")).json()
        Envelope[ModelList].model_validate(body, strict=True)
        data = body["data"]
        assert [(model["name"], model["is_loaded"]) for model in data["models"]] == [
            (TURBO.name, True),
            (BASE.name, False),
            ("acestep-v15-sft", False),
        ]
        assert data["models"][0]["supported_task_types"] == list(TURBO_TASKS)
        assert data["default_model"] == TURBO.name
        assert (data["lm_models"], data["loaded_lm_model"], data["llm_initialized"]) == ([], None, False)

    @pytest.mark.parametrize("route", ["/v1/models", "/v1/model_inventory"])
    async def test_a_planner(self, serve: Serve, route: str):
        async with serve(worker=FakeWorker(planner_info=PLANNER)) as server:
            data = (await server.client.get(route)).json()["data"]
            assert (data["loaded_lm_model"], data["llm_initialized"]) == (PLANNER.name, True)
            assert data["lm_models"] == [
                {"name": PLANNER.name, "state": "ready", "detail": "", "backend": "pt", "is_loaded": True}
            ]

    async def test_a_planner_on_its_way(self, serve: Serve):
        planner = replace(PLANNER, state="downloading", detail="3 of 7 GB")
        async with serve(worker=FakeWorker(planner_info=planner)) as server:
            data = (await server.client.get("/v1/models")).json()["data"]
            assert (data["loaded_lm_model"], data["llm_initialized"]) == (None, False)
            (entry,) = data["lm_models"]
            assert (entry["state"], entry["detail"], entry["is_loaded"]) == (
                "downloading",
                "3 of 7 GB",
                False,
            )


class TestPlannersOfAWorkerThatSearches:
    """The search for room takes long; it runs in another thread than the event loop."""

    @pytest.mark.parametrize(
        ("method", "route"),
        [
            ("GET", "/v1/models"),
            ("GET", "/v1/model_inventory"),
            ("POST", "/v1/init"),
            ("POST", "/v1/reinitialize"),
        ],
    )
    async def test_the_event_loop_goes_on(self, serve: Serve, method: str, route: str):
        threads: list[threading.Thread] = []

        class Searching(FakeWorker):
            def planners(self) -> tuple[PlannerInfo, ...]:
                threads.append(threading.current_thread())
                return super().planners()

        async with serve(worker=Searching()) as server:
            (await server.client.request(method, route, json={})).raise_for_status()
        assert len(threads) == 1
        assert threading.current_thread() not in threads


class TestOpenAiStyle:
    @pytest.mark.parametrize(
        ("route", "headers"),
        [
            ("/api/v1/models", {}),
            ("/v1/models?format=openai", {}),
            ("/v1/models", {"Accept": "application/vnd.openai+json, */*"}),
            ("/v1/models", {"User-Agent": "OpenAI/Python 2.8.0"}),
            ("/v1/models", {"User-Agent": "AsyncOpenAI/JS 6.1.0"}),
            ("/v1/models", {"X-Stainless-OS": "Linux"}),
            ("/v1/models", {"x-stainless-lang": "js", "User-Agent": "Mozilla/5.0"}),
        ],
    )
    async def test_ways_to_ask(self, server: Server, route: str, headers: dict[str, str]):
        body = (await server.client.get(route, headers=headers)).json()
        assert body["object"] == "list"
        assert [model["id"] for model in body["data"]] == [f"acestep/{TURBO.name}", f"acestep/{BASE.name}"]
        first = body["data"][0]
        assert (first["name"], first["max_output_length"]) == (f"ACE-Step {TURBO.name}", 240)
        assert (first["object"], first["owned_by"]) == ("model", "ace-step")
        assert set(first["pricing"].values()) == {"0"}

    @pytest.mark.parametrize("name", [f"acestep/{BASE.name}", BASE.name, f"acestep%2F{BASE.name}"])
    @pytest.mark.parametrize("root", ["", "/api"])
    async def test_one(self, server: Server, root: str, name: str):
        found = (await server.client.get(f"{root}/v1/models/{name}")).json()
        assert (found["id"], found["object"]) == (f"acestep/{BASE.name}", "model")

    @pytest.mark.parametrize(
        ("configured", "route", "is_openai"),
        [
            ("openai", "/v1/models", True),
            ("openai", "/v1/models?format=wrapped", False),
            ("wrapped", "/v1/models", False),
            ("wrapped", "/v1/models?format=openai", True),
        ],
    )
    async def test_the_setting_decides_where_nothing_else_does(
        self, serve: Serve, configured: str, route: str, is_openai: bool
    ):
        async with serve(replace(CONFIG, model_list=configured, api_key="k")) as server:
            body = (await server.client.get(route, headers={"Authorization": "Bearer k"})).json()
            assert isinstance(body["data"], list) is is_openai
            refused = await server.client.get(route)
            assert refused.status_code == 401
            assert isinstance(refused.json()["error"], dict) is is_openai

    async def test_a_library_may_ask_for_the_envelope(self, server: Server):
        answer = await server.client.get("/v1/models?format=wrapped", headers={"User-Agent": "OpenAI/Python"})
        assert answer.json()["data"]["default_model"] == TURBO.name

    async def test_one_that_is_not_there(self, server: Server):
        assert_error(await server.client.get("/v1/models/gpt"), 404, "'gpt' is not loaded here", TURBO.name)

    async def test_its_ids_can_be_asked_for(self, server: Server):
        request = await server.submitted(model=f"acestep/{BASE.name}")
        assert (request.model, request.warnings) == (BASE.name, ())


class TestInit:
    async def test_a_model_into_a_slot(self, serve: Serve):
        worker = FakeWorker()
        async with serve(worker=worker) as server:
            asked = {"model": "acestep/acestep-v15-sft", "slot": "2"}
            body = (await server.client.post("/v1/init", json=asked)).json()
            Envelope[ModelInit].model_validate(body, strict=True)
            data = body["data"]
            assert worker.puts == [(2, "acestep-v15-sft")]
            assert (data["slot"], data["loaded_model"]) == (2, "acestep-v15-sft")
            assert [model["name"] for model in data["models"]] == [TURBO.name, "acestep-v15-sft"]
            assert (data["loaded_lm_model"], data["llm_initialized"]) == (None, False)

    async def test_nothing_named_is_the_default_again(self, serve: Serve):
        worker = FakeWorker()
        async with serve(worker=worker) as server:
            data = (await server.client.post("/v1/init", json={})).json()["data"]
        assert worker.puts == [(1, None)]
        assert (data["slot"], data["loaded_model"]) == (1, TURBO.name)

    @pytest.mark.parametrize(
        ("asked", "field"),
        [
            ({"slot": 4}, "slot"),
            ({"slot": 0}, "slot"),
            ({"model": "gpt"}, "model"),
            ({"lm_model_path": "acestep-5Hz-lm-4B"}, "lm_model_path"),
            ({"model": "acestep-v15-sft", "slot": 2, "lm_model_path": "acestep-5Hz-lm-4B"}, "lm_model_path"),
        ],
    )
    async def test_what_cannot_be(self, serve: Serve, asked: dict[str, object], field: str):
        worker = FakeWorker()
        async with serve(worker=worker) as server:
            error = assert_error(await server.client.post("/v1/init", json=asked), 422, field)
        assert error["extra"]["field"] == field
        assert (worker.infos, worker.planner_info) == ((TURBO, BASE), NO_PLANNER)

    @pytest.mark.parametrize(
        ("asked", "put", "name"),
        [
            ({"init_llm": True}, None, PLANNER.name),
            ({"lm_model_path": "acestep-5Hz-lm-0.6B"}, "acestep-5Hz-lm-0.6B", "acestep-5Hz-lm-0.6B"),
            ({"init_llm": "true", "lm_model_path": PLANNER.name}, PLANNER.name, PLANNER.name),
        ],
    )
    async def test_a_planner_alone_leaves_the_models(
        self, serve: Serve, asked: dict[str, object], put: str | None, name: str
    ):
        worker = FakeWorker()
        async with serve(worker=worker) as server:
            body = (await server.client.post("/v1/init", json=asked)).json()
            Envelope[ModelInit].model_validate(body, strict=True)
            assert server.app.state.services.planners.puts == [put]
        data = body["data"]
        assert (data["loaded_lm_model"], data["llm_initialized"]) == (name, True)
        assert (data["loaded_model"], worker.puts) == (TURBO.name, [])

    async def test_a_model_and_a_planner(self, serve: Serve):
        worker = FakeWorker()
        async with serve(worker=worker) as server:
            asked = {"model": "acestep-v15-sft", "slot": 2, "init_llm": True}
            data = (await server.client.post("/v1/init", json=asked)).json()["data"]
            again = await server.client.post("/v1/init", json={"slot": 1, "init_llm": True})
        assert (data["loaded_model"], data["loaded_lm_model"]) == ("acestep-v15-sft", PLANNER.name)
        assert again.status_code == 200
        assert worker.puts == [(2, "acestep-v15-sft"), (1, None)]

    async def test_a_server_whose_planner_stays(self, server: Server):
        provide(server.app, replace(server.app.state.services, planners=None))
        answer = await server.client.post("/v1/init", json={"init_llm": True})
        assert_error(answer, 503, "cannot be changed")
        assert (await server.client.post("/v1/reinitialize")).status_code == 200

    async def test_reinitialize(self, serve: Serve):
        async with serve(worker=FakeWorker((TURBO, failed(BASE)))) as server:
            for expected in ([BASE.name], []):
                body = (await server.client.post("/v1/reinitialize")).json()
                Envelope[Reinitialized].model_validate(body, strict=True)
                assert (body["data"]["reloaded"], body["data"]["message"]) == (expected, "All is loaded")

    async def test_reinitialize_with_a_planner(self, serve: Serve):
        worker = FakeWorker((TURBO,), replace(PLANNER, state="failed", detail="no room"))
        async with serve(worker=worker) as server:
            data = (await server.client.post("/v1/reinitialize")).json()["data"]
            assert (data["reloaded"], data["message"]) == ([PLANNER.name], "All is loaded")
            provide(server.app, replace(server.app.state.services, planners=None))
            worker.planner_info = replace(PLANNER, state="failed", detail="no room")
            data = (await server.client.post("/v1/reinitialize")).json()["data"]
            assert (data["reloaded"], PLANNER.name in data["message"]) == ([], True)

    @pytest.mark.parametrize("route", ["/v1/init", "/v1/reinitialize"])
    async def test_a_server_whose_models_stay(self, server: Server, route: str):
        provide(server.app, replace(server.app.state.services, keeper=None))
        assert_error(await server.client.post(route, json={}), 503, "cannot be changed")
