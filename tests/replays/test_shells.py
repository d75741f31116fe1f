"""curl without a content type, PHP and jQuery scripts, and a Windows console, with and without a key."""

import json
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer
from tests.replays.clients import poll, songs_of
from tests.replays.conftest import KEY, QUICK, assert_is_music

FORM = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d says of any body


@pytest.fixture(params=["server", "locked"])
def shell(request: pytest.FixtureRequest) -> LiveServer:
    found: LiveServer = request.getfixturevalue(request.param)
    return found


def post(shell: LiveServer, route: str, **body: Any) -> httpx.Response:
    headers = body.pop("headers", {}) | (
        {"x-api-key": KEY} if "Authorization" in shell.client.headers else {}
    )
    with httpx.Client(base_url=shell.url, timeout=60) as client:
        return client.post(route, headers=headers, **body)


def test_curl_sends_json_as_a_form(shell: LiveServer):
    sent = json.dumps({"prompt": "sad piano", "lyrics": "[inst]"} | QUICK)
    answer = post(shell, "/release_task", content=sent, headers=FORM)
    task_id = answer.raise_for_status().json()["data"]["task_id"]
    ask = json.dumps({"task_id_list": [task_id]})
    (song,) = songs_of(
        poll(lambda: post(shell, "/query_result", content=ask, headers=FORM).json()["data"][0])
    )
    assert song["prompt"] == "sad piano"
    assert_is_music(shell.download(song), "mp3")


def test_php_names_arrays_with_brackets(shell: LiveServer):
    body = "task_id_list[]=one&task_id_list[]=two"
    entries = post(shell, "/query_result", content=body, headers=FORM).raise_for_status().json()["data"]
    assert [entry["task_id"] for entry in entries] == ["one", "two"]


@pytest.mark.parametrize("route", ["/release_task", "/query_result"])
def test_a_script_whose_variables_were_empty_hears_of_it(shell: LiveServer, route: str):
    answer = post(shell, route, json={})
    assert answer.status_code == 422
    assert "nothing was sent; send " in answer.json()["error"]


def test_a_windows_console_hears_what_its_text_is_not(shell: LiveServer):
    answer = post(shell, "/release_task", content="lyrics=夜の歌".encode("cp932"), headers=FORM)
    assert answer.status_code == 400
    assert "lyrics: not UTF-8" in answer.json()["error"]


def test_curl_without_its_at(shell: LiveServer):
    answer = post(shell, "/release_task", files={"src_audio": (None, "/x.wav"), "task_type": (None, "cover")})
    assert answer.status_code == 422
    assert "-F src_audio=@song.wav" in answer.json()["error"]


def test_a_connection_that_ends_early(shell: LiveServer):
    whole = b'--X\r\nContent-Disposition: form-data; name="prompt"\r\n\r\npiano\r\n--X\r\nContent-Disp'
    headers = {"Content-Type": "multipart/form-data; boundary=X"}
    answer = post(shell, "/release_task", content=whole, headers=headers)
    assert answer.status_code == 400
    assert "ends before its last boundary" in answer.json()["error"]
