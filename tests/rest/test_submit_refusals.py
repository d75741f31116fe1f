from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.rest.conftest import CONFIG, Serve, Server, assert_error


async def test_a_full_disk_refuses_before_anything_is_written(serve: Serve) -> None:
    async with serve(replace(CONFIG, disk_reserve=10**18)) as server:
        files: Any = {"src_audio": ("a.wav", b"RIFF")}
        refused = [
            await server.client.post("/release_task", data={"task_type": "cover"}, files=files),
            await server.client.post("/v1/music/generate", json={"prompt": "pop"}),
            await server.client.post("/v1/audio/generations", json={"prompt": "pop"}),
        ]
        for answer in refused:
            assert_error(answer, 507, "ACESTEP_RESERVE_GB", "nothing was accepted")
        assert ((await server.queue.stats()).total, [*server.uploads.iterdir()]) == (0, [])


async def test_a_job_is_not_tried_again_either(serve: Serve, monkeypatch: Any) -> None:
    async with serve(replace(CONFIG, disk_reserve=1)) as server:
        job_id = await server.release(prompt="pop")
        usage: Any = type("Usage", (), {"free": 0})()
        monkeypatch.setattr("acestep.files.shutil.disk_usage", lambda path: usage)
        assert_error(await server.client.post(f"/v1/jobs/{job_id}/retry"), 507, "0.00 GB are free")
        assert (await server.query(job_id))[0]["status"] == 0


async def test_a_server_that_stops_takes_no_job_and_still_answers(server: Server) -> None:
    job_id = await server.release(prompt="pop")
    server.queue.is_stopping = True
    refused = await server.client.post("/release_task", json={"prompt": "pop"})
    assert_error(refused, 503, "is stopping", "in 30 s")
    assert refused.headers["retry-after"] == "30"
    assert (await server.query(job_id))[0]["status"] == 0
    assert (await server.client.get("/health/ready")).status_code == 503
    assert (await server.client.get("/health/live")).status_code == 200
