"""Programs that keep one connection and ask at long intervals, with and without a key."""

import http.client
import json
import time

from tests.live_server import LiveServer
from tests.replays.conftest import KEY

PAUSE = 5.1  # seconds; uvicorn's own limit is 5


def test_the_same_connection_after_a_pause(server: LiveServer, locked: LiveServer):
    connections = [
        http.client.HTTPConnection("127.0.0.1", live.port, timeout=30) for live in (server, locked)
    ]
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    for connection in connections:
        connection.connect()
        connection.auto_open = 0  # as in programs that do not connect again
    for pause in (PAUSE, 0):
        for connection in connections:
            connection.request("POST", "/query_result", json.dumps({"task_id_list": ["x"]}), headers)
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["data"][0]["status"]) == (200, 2)
        time.sleep(pause)
    for connection in connections:
        connection.close()
