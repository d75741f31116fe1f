"""The whole server as its users start it: real processes, real HTTP, the bundled model."""

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import pytest

from acestep import api_server
from acestep.catalog.checkpoints import NANO_FOLDER
from tests.live_server import QUICK, LiveServer, WarmServer, free_port, run_to_end


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, str]]:
    """A server, and a task that was submitted before its model was loaded."""
    with LiveServer(tmp_path_factory.mktemp("server") / "data") as live:
        early = live.submit(**QUICK)
        assert not live.client.get("/health").json()["data"]["ready"]
        yield live, early


@pytest.fixture
def server(starting: tuple[LiveServer, str]) -> LiveServer:
    live, _ = starting
    live.wait_ready()
    return live


def test_a_caption_becomes_a_file_of_the_asked_length(server: LiveServer) -> None:
    fields = QUICK | {"seed": 5, "bpm": 100, "batch_size": 2}
    (songs,) = server.wait_for([server.submit(**fields)])
    assert [song["seed"] for song in songs] == [5, 6]
    for song in songs:
        with av.open(io.BytesIO(server.download(song))) as file:
            stream = file.streams.audio[0]
            assert (stream.codec_context.channels, stream.codec_context.sample_rate) == (2, 48_000)
            assert sum(frame.samples for frame in file.decode(stream)) == 10 * 48_000
    assert songs[0]["dit_model"] == "acestep-nano"
    assert set(songs[0]["timings"]) == {"plan", "render", "decode", "write"}


def test_a_song_is_the_same_to_the_bit_alone_and_in_company(server: LiveServer) -> None:
    wav = QUICK | {"audio_format": "wav32", "seed": 11}
    (alone,) = server.wait_for([server.submit(**wav)])
    other = wav | {"prompt": "loud drums, a choir", "lyrics": "[Verse]\nla la la", "seed": 5}
    tasks = [server.submit(**other), server.submit(**(wav | {"batch_size": 2})), server.submit(**other)]
    first, pair, last = server.wait_for(tasks)
    assert server.download(pair[0]) == server.download(alone[0])
    assert server.download(first[0]) == server.download(last[0]) != server.download(pair[1])


def decoded(data: bytes) -> list[float]:
    with av.open(io.BytesIO(data)) as file:
        return [float(x) for frame in file.decode(audio=0) for x in frame.to_ndarray()[0][::97]]


def test_a_song_is_worked_on_by_upload_and_leaves_nothing_behind(server: LiveServer) -> None:
    wav = QUICK | {"audio_format": "wav32", "seed": 5}
    ((song,),) = server.wait_for([server.submit(**wav)])
    source = server.download(song)

    def upload(**fields: object) -> str:
        files = {"src_audio": ("song.wav", source), "ref_audio": ("same.wav", source)}
        data = {"inference_steps": 1, "guidance_scale": 1, "batch_size": 1, "audio_format": "wav32"} | fields
        answer = server.client.post("/release_task", files=files, data=data)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["task_id"])

    window = {"repainting_start": 3, "repainting_end": 12}
    repaint = upload(task_type="repaint", **window)
    extract = upload(task_type="extract", track_name="drums")
    ((painted,), (extracted,)) = server.wait_for([repaint, extract])
    assert (painted["metas"]["duration"], extracted["metas"]["duration"]) == (12.0, 10.0)
    assert len(painted["warnings"]) == len(extracted["warnings"]) == 1  # that it is nano
    assert decoded(server.download(extracted)) != decoded(source)
    ((found,),) = server.wait_for([upload(extract_codes_only=True)])
    assert found["audio_codes"].count("<|audio_code_") == 50
    uploads = server.log.parent / "uploads"
    until = time.monotonic() + 20
    while list(uploads.iterdir()) and time.monotonic() < until:
        time.sleep(0.02)  # a job has ended a moment before its audio goes
    assert list(uploads.iterdir()) == []


def test_everybody_is_told_that_it_is_nano(server: LiveServer) -> None:
    (model,) = server.client.get("/v1/models").json()["data"]["models"]
    assert model["name"] == "acestep-nano" and "bundled nano model" in model["notice"]
    assert "bundled nano model" in server.log.read_text()
    ((song,),) = server.wait_for([server.submit(**QUICK)])
    assert any("bundled nano model" in warning for warning in song["warnings"])


def test_jobs_are_counted_and_their_time_is_known(server: LiveServer) -> None:
    before = server.client.get("/v1/stats").json()["data"]
    server.wait_for([server.submit(**QUICK)])
    after = server.client.get("/v1/stats").json()["data"]
    assert after["jobs"]["succeeded"] == before["jobs"]["succeeded"] + 1
    assert 0 < after["avg_job_seconds"] < 60


def test_memory_is_planned_shown_and_limits_what_is_asked_for(server: LiveServer) -> None:
    plan = server.client.get("/v1/stats").json()["data"]["memory"]
    assert plan["device"] == "cpu" and plan["peak_bytes"] == sum(
        part["bytes_at_peak"] for part in plan["parts"]
    )
    assert {part["placement"] for part in plan["parts"]} == {"resident"}
    assert "Memory plan: " in server.log.read_text()
    (model,) = server.client.get("/v1/models").json()["data"]["models"]
    assert model["limits"]["max_batch_size"] == plan["max_batch_size"]
    assert model["limits"]["max_audio_duration"] == plan["max_audio_duration"]


def test_a_budget_that_holds_nothing_refuses_the_start(tmp_path: Path) -> None:
    shutil.copytree(NANO_FOLDER, tmp_path / "huge")
    config = tmp_path / "huge" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 5000}))
    env = {"ACESTEP_CONFIG_PATH": str(tmp_path / "huge"), "ACESTEP_DATA_DIR": str(tmp_path / "data")}
    own = {"ACESTEP_DEVICE": "cuda", "ACESTEP_VRAM_BUDGET": "1.5"}
    refused = run_to_end((), tmp_path, env | own)
    assert refused.returncode == api_server.REFUSED
    assert lines_of(refused) == 1
    assert "ACESTEP_VRAM_BUDGET='1.5' cannot be used; allowed: " in refused.stderr
    assert "GB or more for huge" in refused.stderr


def lines_of(ended: subprocess.CompletedProcess[str]) -> int:
    """How many lines it printed, without that which says that a hub is waited for."""
    return sum("Waiting for an answer of " not in line for line in ended.stderr.splitlines())


@pytest.mark.parametrize(
    ("kind", "device", "allowed"),
    [("fp8", "mps", "int8 or none on mps"), ("int4", "cpu", "none, int8 (or int8_weight_only), fp8 (or")],
)
def test_a_quantization_that_cannot_be_refuses_the_start(
    tmp_path: Path, kind: str, device: str, allowed: str
) -> None:
    env = {"ACESTEP_CONFIG_PATH": "acestep-nano", "ACESTEP_DATA_DIR": str(tmp_path / "data")}
    refused = run_to_end((), tmp_path, env | {"ACESTEP_QUANTIZATION": kind, "ACESTEP_DEVICE": device})
    assert (refused.returncode, lines_of(refused)) == (api_server.REFUSED, 1)
    assert f"ACESTEP_QUANTIZATION={kind!r} cannot be used; allowed: {allowed}" in refused.stderr


def test_a_second_server_on_the_same_data_is_refused(server: LiveServer, tmp_path: Path) -> None:
    data = server.log.parent
    second = run_to_end(("--port", str(free_port())), tmp_path, {"ACESTEP_DATA_DIR": str(data)})
    assert second.returncode == api_server.REFUSED
    assert second.stderr.count("\n") == 1
    assert "--workers 1" in second.stderr and str(data) in second.stderr


def test_uvicorn_serves_the_same_and_takes_one_worker_only(tmp_path: Path) -> None:
    with uvicorn(tmp_path / "one", workers=1) as live:
        assert live.client.get("/health").json()["data"]["service"] == "ACE-Step API"
    two = uvicorn(tmp_path / "two", workers=2)
    with contextlib.suppress(AssertionError):  # the process that came first may answer for a moment
        two.start()
    assert two.process is not None and two.process.wait(60) != 0
    assert "--workers 1" in two.log.read_text()


LAZY = {"ACESTEP_NO_INIT": "true"}  # no model and no torch, for what needs neither


def uvicorn(data: Path, workers: int) -> LiveServer:
    live = LiveServer(data, LAZY)
    live.command = [sys.executable, "-m", "uvicorn", "acestep.api_server:app"]
    live.command += ["--port", str(live.port), "--workers", str(workers)]
    return live


def test_the_key_on_the_command_line_locks_the_door(tmp_path: Path) -> None:
    live = LiveServer(tmp_path / "data", LAZY)
    live.command += ["--api-key", "sk-secret"]
    with live:
        assert live.client.get("/v1/stats").status_code == 401
        assert live.client.get("/v1/stats", headers={"Authorization": "Bearer sk-secret"}).status_code == 200
        assert "sk-secret" not in live.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ((), {"ACESTEP_QUEUE_MAXSIZE": "many"}, ("ACESTEP_QUEUE_MAXSIZE", "many", "0 or more")),
        (("--port", "99999"), {}, ("--port='99999'", "65535")),
        ((), {"ACESTEP_API_PORT": "99999"}, ("ACESTEP_API_PORT='99999'", "65535")),
        (("--host", "no such host"), {}, ("--host='no such host'", "127.0.0.1")),
        (("--download-source", "here"), {}, ("--download-source='here'", "modelscope")),
        (("--init-llm", "--lm-model-path", "typo"), {}, ("no planner 'typo'", "Set --lm-model-path to the")),
        ((), {"ACESTEP_CONFIG_PATH": "acestep-v99"}, ("acestep-v99", "acestep-nano")),
        ((), {"ACESTEP_CONFIG_PATH": "acestep-v15-turbo", "HF_HUB_OFFLINE": "1"}, ("acestep-download",)),
        ((), {"ACESTEP_DATA_DIR": "/proc/nowhere"}, ("/proc/nowhere", "ACESTEP_DATA_DIR")),
    ],
)
def test_what_cannot_be_used_stops_the_start_with_one_line(
    tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], said: tuple[str, ...]
) -> None:
    where = {"ACESTEP_DATA_DIR": str(tmp_path / "data"), "ACESTEP_CHECKPOINTS_DIR": str(tmp_path)}
    refused = run_to_end(arguments, tmp_path, where | env)
    assert refused.returncode == api_server.REFUSED
    assert refused.stdout == "" and lines_of(refused) == 1
    assert all(word in refused.stderr for word in said)


def test_a_port_that_is_taken_stops_the_start_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = run_to_end(("--port", str(port)), tmp_path, {"ACESTEP_DATA_DIR": str(tmp_path / "data")})
    assert (refused.returncode, refused.stderr.count("\n")) == (api_server.REFUSED, 1)
    assert f"Port {port} is taken by process {os.getpid()} (" in refused.stderr
    assert "--port " in refused.stderr and not (tmp_path / "data").exists()


def spoil(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("jobs.sqlite3", spoil, "jobs.sqlite3 is damaged (file is not a database). Stop the server and move"),
        ("jobs.sqlite3", Path.touch, "jobs.sqlite3 is damaged (it is empty). Stop the server and move"),
        ("jobs.sqlite3", Path.mkdir, "jobs.sqlite3 is a folder. Move it away"),
        ("secret", Path.touch, "secret holds 0 bytes instead of 32. Delete it"),
    ],
)
def test_a_damaged_data_folder_stops_the_start_and_fails_the_check(
    tmp_path: Path, name: str, harm: Callable[[Path], None], said: str
) -> None:
    env = {"ACESTEP_DATA_DIR": str(tmp_path / "data"), "ACESTEP_CONFIG_PATH": "acestep-nano"}
    (tmp_path / "data").mkdir()
    harm(tmp_path / "data" / name)
    refused = run_to_end(("--port", str(free_port())), tmp_path, env)
    assert (refused.returncode, refused.stderr.count("\n")) == (api_server.REFUSED, 1)
    assert said in refused.stderr
    checked = run_to_end(("--check",), tmp_path, env)
    assert (checked.returncode, checked.stdout.count("BAD")) == (api_server.REFUSED, 1)
    assert said in checked.stdout


def test_the_check_reports_what_is_well(tmp_path: Path) -> None:
    checked = run_to_end(("--check",), tmp_path, {"ACESTEP_DATA_DIR": str(tmp_path / "data")})
    assert (checked.returncode, checked.stderr) == (0, "")
    assert [line.partition(":")[0] for line in checked.stdout.splitlines()] == [
        "ok  settings",
        "ok  data folder",
        "ok  songs",
        "ok  key of audio links",
        "ok  job database",
    ]


def test_help_names_the_flags(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "acestep.api_server", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0
    assert all(flag in shown.stdout for flag in ("--host", "--port", "--api-key"))


def test_nothing_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    live = WarmServer(tmp_path / "data")
    live.start()
    live.wait_ready()
    ids = [live.submit(**QUICK, seed=seed) for seed in range(10)]
    until(lambda: sum(entry["status"] == 1 for entry in live.query(ids)) >= 3)
    live.kill()
    with live:
        results = live.wait_for(ids, seconds=240)
        files = [song["file"] for songs in results for song in songs]
        assert [len(songs) for songs in results] == [1] * 10
        assert [songs[0]["seed"] for songs in results] == list(range(10))
        assert all(songs[0]["status"] == 1 for songs in results)
        assert len(set(files)) == 10
        assert all(live.client.head(file).status_code == 200 for file in files)
        assert live.client.get("/v1/stats").json()["data"]["jobs"]["total"] == 10


def test_a_server_whose_job_database_is_gone_takes_no_jobs_until_it_is_back(tmp_path: Path) -> None:
    with WarmServer(tmp_path / "data") as live:
        live.wait_ready()
        database = tmp_path / "data" / "jobs.sqlite3"
        database.rename(database.with_suffix(".away"))
        refused = live.client.post("/release_task", json=QUICK)
        health = live.client.get("/health")
        assert (refused.status_code, health.status_code) == (503, 503)
        said = "The job database jobs.sqlite3 was moved or deleted. Put it back, or restart the server."
        assert (refused.json()["error"], health.json()["error"]) == (said, said)
        database.with_suffix(".away").rename(database)
        until(lambda: live.client.get("/health").status_code == 200)
        ((song,),) = live.wait_for([live.submit(**QUICK)])
        assert song["status"] == 1
        database.write_bytes(b"garbage")
        until(lambda: live.client.get("/health").status_code == 503)  # no request meets the damage
        refused = live.client.post("/release_task", json=QUICK)
        assert "The job database jobs.sqlite3 is damaged (" in live.client.get("/health").json()["error"]
        assert (refused.status_code, "is damaged (" in refused.json()["error"]) == (503, True)


def until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_orderly_stop_puts_the_running_job_back(tmp_path: Path) -> None:
    live = WarmServer(tmp_path / "data")
    live.start()
    live.wait_ready()
    long = QUICK | {"audio_duration": 120, "inference_steps": 60, "guidance_scale": 7}
    task = live.submit(**long)
    until(lambda: '"stage": "render"' in live.query([task])[0]["result"])
    live.stop()
    live.start()
    (entry,) = live.query([task])
    assert entry["status"] == 0
    live.stop()


def test_a_stop_waits_for_no_request_and_no_job(tmp_path: Path) -> None:
    live = WarmServer(tmp_path / "data")
    live.start()
    live.wait_ready()
    long = QUICK | {"audio_duration": 120, "inference_steps": 60, "guidance_scale": 7}
    task = live.submit(**long)
    until(lambda: '"stage": "render"' in live.query([task])[0]["result"])
    ask = {"messages": [{"role": "user", "content": "a piano"}]}
    half = b"POST /release_task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
    with ThreadPoolExecutor() as pool, socket.create_connection(("127.0.0.1", live.port)) as idle:
        idle.sendall(half)
        waiting = pool.submit(live.client.post, "/v1/chat/completions", json=ask)
        until(lambda: live.client.get("/v1/stats").json()["data"]["jobs"]["total"] == 2)
        began = time.monotonic()
        live.stop()
        took = time.monotonic() - began
        answer = waiting.result(30)
    assert answer.status_code == 503
    assert "The server is stopping" in answer.text
    assert took < 6  # it was more than 10 where requests and jobs had 5 seconds each
    live.start()
    assert [
        live.query([task])[0]["status"],
        live.client.get("/v1/stats").json()["data"]["jobs"]["total"],
    ] == [0, 2]
    live.stop()


def test_requests_wait_while_the_model_loads(starting: tuple[LiveServer, str]) -> None:
    live, early = starting
    ((song,),) = live.wait_for([early], seconds=300)
    assert song["status"] == 1


def test_only_app_is_built_on_demand() -> None:
    with pytest.raises(AttributeError):
        _ = api_server.nothing
