import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from acestep import __version__
from acestep.background import BackgroundTasks
from acestep.domain.devices import Gpu, Placement
from acestep.domain.models import ModelState
from acestep.memory.configs import TEXT_ENCODER, VAE, published_dit
from acestep.memory.decide import Decision
from acestep.memory.plan import Abilities, Device, MemoryPlan, PlanPart, Sizes
from acestep.memory.search import Budget, Constraints
from acestep.rest.deps import provide
from acestep.rest.envelope import Envelope
from acestep.rest.response.schemas import Health, Stats
from tests.jobs.outages import Outage, damaged, each_outage
from tests.rest.conftest import (
    BASE,
    NO_PLANNER,
    PLANNER,
    TURBO,
    FakeWorker,
    Serve,
    Server,
    assert_error,
    failed,
)


async def test_stats(server: Server):
    for _ in range(4):
        await server.release(batch_size=1)
    await server.finish_next()
    await server.queue.fail((await server.queue.take()).id, "no")
    await server.queue.take()
    body = (await server.client.get("/v1/stats")).json()
    Envelope[Stats].model_validate(body, strict=True)
    data = body["data"]
    assert data["jobs"] == {"total": 4, "queued": 1, "running": 1, "succeeded": 1, "failed": 1}
    assert (data["queue_size"], data["queue_maxsize"]) == (1, 200)
    assert data["avg_job_seconds"] >= 0
    assert data["planner"] == {"name": "", "state": "absent", "detail": NO_PLANNER.detail, "backend": ""}


async def test_stats_say_what_runs_the_planner(serve: Serve):
    planner = replace(PLANNER, detail="vllm is not installed; pt is used")
    async with serve(worker=FakeWorker(planner_info=planner)) as server:
        data = (await server.client.get("/v1/stats")).json()["data"]
        assert data["planner"] == {
            "name": PLANNER.name,
            "state": "ready",
            "detail": "vllm is not installed; pt is used",
            "backend": "pt",
        }


class TestHealth:
    async def test_ready(self, server: Server):
        answer = await server.client.get("/health")
        assert answer.status_code == 200
        Envelope[Health].model_validate(answer.json(), strict=True)
        assert answer.json()["data"] == {
            "status": "ok",
            "service": "ACE-Step API",
            "version": __version__,
            "ready": True,
            "models_initialized": True,
            "llm_initialized": False,
            "loaded_model": TURBO.name,
            "loaded_lm_model": None,
            "models": [
                {"name": TURBO.name, "state": "ready", "detail": ""},
                {"name": BASE.name, "state": "loading", "detail": "reading weights"},
            ],
            "planner": {"name": "", "state": "absent", "detail": NO_PLANNER.detail, "backend": ""},
            "gpus": [],
            "gpu_mapping": None,
            "device_map": {
                "dit": "cpu",
                "vae": "cpu",
                "text_encoder": "cpu",
                "lm": None,
                "summary": "dit:cpu, vae:cpu, text_encoder:cpu",
                "multi_device": False,
            },
        }

    @pytest.mark.parametrize(("state", "is_loaded"), [("ready", True), ("loading", False), ("failed", False)])
    async def test_the_planner(self, serve: Serve, state: ModelState, is_loaded: bool):
        async with serve(worker=FakeWorker(planner_info=replace(PLANNER, state=state))) as server:
            data = (await server.client.get("/health")).json()["data"]
            assert (data["status"], data["llm_initialized"]) == ("ok", is_loaded)
            assert data["loaded_lm_model"] == (PLANNER.name if is_loaded else None)
            assert (data["planner"]["name"], data["planner"]["state"]) == (PLANNER.name, state)

    @pytest.mark.parametrize("state", ["absent", "downloading", "loading"])
    async def test_on_the_way(self, serve: Serve, state: ModelState):
        async with serve(models=(replace(TURBO, state=state), BASE)) as server:
            answer = await server.client.get("/health")
            data = answer.json()["data"]
            assert (answer.status_code, data["status"], data["ready"]) == (200, "ok", False)
            assert (data["models_initialized"], data["loaded_model"]) == (False, None)

    async def test_a_damaged_job_database(self, serve: Serve, tmp_path: Path):
        await damaged(tmp_path / "jobs.sqlite3")
        async with serve() as server:
            assert (await server.client.get("/health")).status_code == 200
            feed = asyncio.create_task(server.queue.take())
            async with asyncio.timeout(5):
                while not server.queue.trouble():  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.001)
            answer = await server.client.get("/health")
            body = answer.json()
            assert (answer.status_code, body["code"], body["data"]["status"]) == (503, 503, "error")
            assert not body["data"]["ready"]
            said = ("The job database jobs.sqlite3 is damaged", "Stop the server and move the file away")
            assert all(words in body["error"] for words in said)
            refused = await server.client.post("/release_task", json={"prompt": "pop"})
            assert_error(refused, 503, *said)
            assert str(tmp_path) not in answer.text + refused.text
            feed.cancel()

    @each_outage
    async def test_a_job_database_that_refuses_for_a_while(
        self, serve: Serve, tmp_path: Path, outage: Outage
    ):
        async with serve() as server:
            checking = asyncio.create_task(server.queue.check_after_refusal())
            with outage(server.queue._store, tmp_path / "jobs.sqlite3") as sentence:
                refused = await server.client.post("/release_task", json={"prompt": "pop"})
                assert_error(refused, 503, f"The job database jobs.sqlite3 cannot be used: {sentence}")
                answer = await server.client.get("/health")
                assert (answer.status_code, answer.json()["error"]) == (503, refused.json()["error"])
            await server.release(prompt="pop")
            assert (await server.client.get("/health")).status_code == 200
            checking.cancel()

    async def test_a_background_task_is_broken(self, serve: Serve):
        async def breaks() -> None:
            raise LookupError

        async with serve() as server:
            tasks = BackgroundTasks()
            provide(server.app, replace(server.app.state.services, background=tasks))
            assert (await server.client.get("/health")).status_code == 200
            await asyncio.wait([tasks.run("job feed", breaks())])
            answer = await server.client.get("/health")
            body = answer.json()
            assert (answer.status_code, body["data"]["status"]) == (503, "error")
            assert body["error"] == (
                "Background task 'job feed' broke: LookupError; the server's log says more. "
                "Restart the server."
            )

    async def test_the_default_model_failed(self, serve: Serve):
        async with serve(models=(failed(TURBO), BASE)) as server:
            answer = await server.client.get("/health")
            body = answer.json()
            assert (answer.status_code, body["code"], body["data"]["status"]) == (503, 503, "error")
            assert body["error"] == "config.json is missing"

    async def test_another_model_failed(self, serve: Serve):
        async with serve(models=(TURBO, failed(BASE))) as server:
            answer = await server.client.get("/health")
            assert (answer.status_code, answer.json()["data"]["status"]) == (200, "ok")

    @pytest.mark.parametrize("state", ["on_disk", "loading"])
    async def test_models_that_come_when_they_are_wanted(self, serve: Serve, state: ModelState):
        worker = FakeWorker(
            infos=(replace(TURBO, state=state, loads_on_demand=True), BASE),
            planner_info=replace(PLANNER, state=state, loads_on_demand=True),
        )
        async with serve(worker=worker) as server:
            answer = await server.client.get("/health")
            data = answer.json()["data"]
            # Who waits for a server to be ready would wait for ever if it had to be in memory.
            assert (answer.status_code, data["status"], data["ready"]) == (200, "ok", True)
            assert (data["models_initialized"], data["llm_initialized"]) == (True, True)
            assert (data["loaded_model"], data["loaded_lm_model"]) == (None, None)
            models = (await server.client.get("/v1/models")).json()["data"]
            assert (models["models"][0]["is_loaded"], models["models"][0]["state"]) == (False, state)
            assert (models["llm_initialized"], models["loaded_lm_model"]) == (True, None)

    async def test_one_that_was_to_come_and_failed(self, serve: Serve):
        broken = replace(failed(TURBO), loads_on_demand=True)
        async with serve(models=(broken, BASE)) as server:
            answer = await server.client.get("/health")
            assert (answer.status_code, answer.json()["data"]["ready"]) == (503, False)

    async def test_a_thread_is_stuck(self, serve: Serve):
        worker = FakeWorker(in_trouble="Stage render has made no progress for 1800 s. Restart the server.")
        async with serve(worker=worker) as server:
            answer = await server.client.get("/health")
            body = answer.json()
            assert (answer.status_code, body["code"], body["error"]) == (503, 503, worker.in_trouble)
            assert (body["data"]["status"], body["data"]["ready"]) == ("error", False)
            assert body["data"]["loaded_model"] == TURBO.name

    async def test_no_model(self, serve: Serve):
        async with serve(models=()) as server:
            data = (await server.client.get("/health")).json()["data"]
            assert (data["status"], data["ready"], data["models"]) == ("ok", False, [])


async def test_stats_show_the_memory_plan(server: Server):
    part = PlanPart("DiT", "offloaded", 3_000, 2_000)
    plan = MemoryPlan((part,), "render", 2_000, 4, 240.0, 256, "acestep-5Hz-lm-0.6B", 2, 3328, "int8")
    constraints = Constraints(Budget(4_000, True, "ACESTEP_VRAM_BUDGET"), Device(), Abilities())
    sizes = Sizes((published_dit(TURBO.name, is_turbo=True),), TEXT_ENCODER, VAE)
    decision = Decision(plan, constraints, sizes, ("Said.",))
    provide(server.app, replace(server.app.state.services, memory=decision))
    body = (await server.client.get("/v1/stats")).json()
    Envelope[Stats].model_validate(body, strict=True)
    assert body["data"]["memory"] == {
        "device": "gpu",
        "budget_bytes": 4_000,
        "budget_source": "ACESTEP_VRAM_BUDGET",
        "peak_bytes": 2_000,
        "peak_stage": "render",
        "parts": [{"name": "DiT", "placement": "offloaded", "bytes": 3_000, "bytes_at_peak": 2_000}],
        "quantization": "int8",
        "max_batch_size": 4,
        "max_audio_duration": 240.0,
        "vae_decode_chunk_size": 256,
        "lm_model": "acestep-5Hz-lm-0.6B",
        "lm_texts_at_once": 2,
        "lm_tokens": 3328,
        "notes": ["Said."],
    }


async def test_stats_without_a_memory_plan(server: Server):
    assert (await server.client.get("/v1/stats")).json()["data"]["memory"] is None


GPUS = (Gpu(0, "GPU", 24576, 1024), Gpu(1, "GPU", 24576, 24576))


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/model_inventory"])
async def test_where_the_models_run(serve: Serve, path: str):
    def mapped() -> Placement:
        return Placement(GPUS, "dit:0,lm:1", "cuda:0", "cuda:1")

    async with serve(worker=FakeWorker(planner_info=PLANNER)) as server:
        state = server.app.state
        assert (await server.client.get(path)).json()["data"]["gpus"] == []
        state.services = replace(state.services, placement=mapped)
        data = (await server.client.get(path)).json()["data"]
    assert data["gpu_mapping"] == "dit:0,lm:1"
    assert data["gpus"][0] == {
        "index": 0,
        "logical_index": 0,
        "name": "GPU",
        "total_vram_gb": 24.0,
        "free_vram_gb": 1.0,
    }
    assert data["device_map"] == {
        "dit": "cuda:0",
        "vae": "cuda:0",
        "text_encoder": "cuda:0",
        "lm": "cuda:1",
        "summary": "dit:0, vae:0, text_encoder:0, lm:1",
        "multi_device": True,
    }
