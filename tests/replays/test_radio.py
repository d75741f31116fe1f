"""generative-radio, which plays songs as they come: it looks at the string, the link and the file alone."""

import json
import time

import httpx

from tests.live_server import LiveServer
from tests.replays.conftest import QUICK, assert_is_music


def test_two_songs_on_air(server: LiveServer):
    with httpx.Client(base_url=server.url, timeout=60) as radio:
        tasks = [
            radio.post("/release_task", json={"prompt": prompt, "lyrics": "", **QUICK}).json()["data"][
                "task_id"
            ]
            for prompt in ("late night piano", "morning marimba")
        ]
        played: list[bytes] = []
        until = time.monotonic() + 120
        while len(played) < len(tasks) and time.monotonic() < until:
            query = {"task_id_list": json.dumps(tasks[len(played) : len(played) + 1])}
            (entry,) = radio.post("/query_result", json=query).json()["data"]
            if entry["status"] == 1:
                link = json.loads(entry["result"])[0]["file"]
                assert link.startswith("/v1/audio?path=")
                with radio.stream("GET", link) as stream:
                    played.append(b"".join(stream.iter_bytes()))
            time.sleep(0.05)
    assert len(played) == 2
    assert played[0] != played[1]
    for song in played:
        assert_is_music(song, "mp3")
