"""Programs that hand links to songs on: as the path of a download, and as the source of a cover."""

from urllib.parse import quote

import pytest

from tests.live_server import LiveServer
from tests.replays.conftest import QUICK, assert_is_music

CAPTIONS = ["Calm piano", "静かなピアノ"]


@pytest.mark.parametrize("name", ["server", "locked"])
@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_whole_link(request: pytest.FixtureRequest, name: str, caption: str):
    live: LiveServer = request.getfixturevalue(name)
    ((song,),) = live.wait_for([live.submit(prompt=caption, **QUICK, audio_format="wav")])
    link = song["file"]
    content = live.download(song)
    assert_is_music(content, "wav")
    for path in (link, live.url + link):
        answer = live.client.get(f"/v1/audio?path={quote(path, safe='')}")
        assert (answer.status_code, answer.content) == (200, content)
    again = live.client.get(link, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    ((cover,),) = live.wait_for(
        [live.submit(prompt="Rock", task_type="cover", src_audio_path=link, **QUICK, audio_format="wav")]
    )
    assert_is_music(live.download(cover), "wav")


def test_the_name_of_a_download_is_readable(server: LiveServer):
    ((song,),) = server.wait_for([server.submit(prompt="夜の歌", **QUICK)])
    disposition = server.client.get(song["file"]).headers["content-disposition"]
    assert f"filename*=UTF-8''{quote('夜の歌')}-" in disposition
