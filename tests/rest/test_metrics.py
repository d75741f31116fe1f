from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from acestep.jobs.model import Hook
from tests.jobs.fakes import request
from tests.rest.conftest import CONFIG, TURBO, FakeWorker, Serve, Server, assert_error

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json"


async def values(server: Server) -> dict[str, float]:
    """Each sample by its name and labels."""
    answer = await server.client.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_what_happened_is_counted_and_stays_when_jobs_are_deleted(server: Server) -> None:
    job_id = await server.release(prompt="pop", batch_size=2, audio_duration=30, model=TURBO.name)
    await server.finish_next(lm_model="lm", decided={"audio_codes": (1, 2, 3)})
    await server.client.post(f"/v1/jobs/{await server.release()}/cancel")
    await server.queue.submit(request(), hook=Hook("http://x.example", ("queued", "started")))
    await server.queue.take()
    await server.release()
    server.queue.errors["NotEnoughMemoryError"] += 1
    expected = {
        "acestep_queue_jobs queued": 1.0,
        "acestep_queue_jobs running": 1.0,
        "acestep_jobs_total succeeded": 1.0,
        "acestep_jobs_total cancelled": 1.0,
        f"acestep_songs_total {TURBO.name}": 2.0,
        f"acestep_music_seconds_total {TURBO.name}": 60.0,
        "acestep_audio_codes_total lm": 6.0,
        "acestep_stage_seconds_total render": 3.0,
        "acestep_stage_runs_total render": 2.0,
        "acestep_job_errors_total NotEnoughMemoryError": 1.0,
        "acestep_webhook_outbox": 2.0,
        f"acestep_model {TURBO.name} ready": 1.0,
    }
    assert (await values(server)).items() >= expected.items()
    await server.client.delete(f"/v1/jobs/{job_id}")
    found = await values(server)
    assert found.items() >= expected.items()
    assert found["process_resident_memory_bytes"] > 1e6


async def test_an_empty_server_and_its_key(serve: Serve) -> None:
    async with serve(replace(CONFIG, api_key="k")) as server:
        assert_error(await server.client.get("/metrics"), 401)
        server.client.headers["Authorization"] = "Bearer k"
        assert (await values(server))["acestep_queue_jobs queued"] == 0.0


async def test_live_and_ready(serve: Serve) -> None:
    loading = replace(TURBO, state="loading", detail="reading weights")
    worker = FakeWorker((loading,))
    async with serve(replace(CONFIG, api_key="k"), worker=worker) as server:
        assert (await server.client.get("/health/live")).json()["data"] == {"status": "ok"}
        assert_ready = await server.client.get("/health/ready")
        assert (assert_ready.status_code, assert_ready.json()["error"]) == (503, "reading weights")
        worker.infos = (TURBO,)
        assert (await server.client.get("/health/ready")).status_code == 200
        worker.in_trouble = "Stage render is stuck."
        assert (await server.client.get("/health/ready")).json()["error"] == "Stage render is stuck."
        assert (await server.client.get("/health/live")).status_code == 200


async def test_the_dashboard_shows_metrics_that_exist(server: Server) -> None:
    await server.release(prompt="pop")
    await server.finish_next(lm_model="lm")
    server.queue.errors["PlannerError"] += 1
    known = {name.partition(" ")[0] for name in await values(server)}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = {
        name
        for panel in panels
        for each in panel["targets"]
        for name in re.findall(r"\b(?:acestep|process)_\w+", each["expr"])
    }
    assert len(panels) >= 8
    assert shown <= known
