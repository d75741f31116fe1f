"""The real clients of both hubs, against hubs on this machine that have a bad day."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from acestep.catalog.hubs import (
    Hub,
    HuggingFace,
    ModelScope,
    OnBytes,
    Pull,
    answering,
    any_reachable,
    hubs,
    pull_from_any,
)
from acestep.errors import CheckpointError, JobCancelledError
from tests.fake_hub import FakeHub

REPO = "ACE-Step/songs"
WEIGHTS = "dit/model.safetensors"
SIZE = 3_000_000


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "hub" / REPO
    for path, content in {
        WEIGHTS: os.urandom(SIZE),
        "dit/config.json": b'{"a": 1}',
        "dit/modeling.py": b"raise SystemExit",
        "vae/config.json": b"{}",
        "README.md": b"# Songs",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    with FakeHub(tmp_path / "hub") as fake:
        yield fake


@pytest.fixture(params=[HuggingFace, ModelScope])
def client(request, hub):
    return request.param(hub.url)


@pytest.fixture
def into(tmp_path):
    return tmp_path / "here"


def arrived(hub: FakeHub, into: Path) -> set[str]:
    """Files that are here as the hub has them."""
    there = hub.root / REPO
    return {
        path
        for path in hub.files(REPO)
        if (into / path).is_file() and (into / path).read_bytes() == (there / path).read_bytes()
    }


def nothing(_count: int) -> None:
    pass


def test_all_but_code_and_pages_arrives(hub, client, into):
    client.pull(Pull(REPO, into), nothing)
    assert arrived(hub, into) == {WEIGHTS, "dit/config.json", "vae/config.json"}
    assert not (into / "dit/modeling.py").exists()


def test_patterns_choose_folders(hub, client, into):
    client.pull(Pull(REPO, into, ("vae/*",)), nothing)
    assert arrived(hub, into) == {"vae/config.json"}
    assert [path for path, _ in hub.asked] == ["vae/config.json"]


def test_bytes_are_counted_as_they_arrive(client, into):
    heard: list[int] = []
    client.pull(Pull(REPO, into), heard.append)
    assert sum(heard) == SIZE + 8 + 2


def test_what_is_here_whole_is_not_sent_again(hub, client, into):
    client.pull(Pull(REPO, into), nothing)
    hub.asked.clear()
    client.pull(Pull(REPO, into), nothing)
    assert hub.asked == []


def test_a_cut_connection_goes_on_where_it_stopped(hub, client, into, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)  # what is kept of a cut
    hub.mischief.cut[WEIGHTS] = [1_000_000]
    client.pull(Pull(REPO, into), nothing)
    assert WEIGHTS in arrived(hub, into)
    starts = [start for path, start in hub.asked if path == WEIGHTS]
    assert starts[0] == 0
    assert 0 < starts[-1] <= 1_000_000


def test_other_bytes_than_listed_are_fetched_again(hub, client, into):
    hub.mischief.spoil[WEIGHTS] = 1
    client.pull(Pull(REPO, into), nothing)
    assert WEIGHTS in arrived(hub, into)


@pytest.mark.parametrize("path", [WEIGHTS, "dit/config.json"])
def test_other_bytes_each_time_are_refused_and_not_kept(hub, client, into, path, monkeypatch):
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.01)
    hub.mischief.spoil[path] = 99
    with pytest.raises(CheckpointError, match=Path(path).name) as caught:
        client.pull(Pull(REPO, into), nothing)
    assert hub.url in str(caught.value)
    assert not (into / path).exists()


def test_another_size_than_listed_is_refused(hub, client, into):
    hub.mischief.wrong_size[WEIGHTS] = SIZE + 1000
    with pytest.raises(CheckpointError, match=hub.url) as caught:
        client.pull(Pull(REPO, into), nothing)
    assert "\n" not in str(caught.value)
    assert not (into / WEIGHTS).exists()


def test_a_repository_that_is_not_there_is_named(client, into):
    with pytest.raises(CheckpointError, match="shows no ACE-Step/nobody"):
        client.pull(Pull("ACE-Step/nobody", into), nothing)


def test_who_counts_can_stop_it(client, into):
    def stop(_count):
        raise JobCancelledError("enough")

    with pytest.raises(JobCancelledError, match="enough"):
        client.pull(Pull(REPO, into), stop)


def test_the_second_hub_is_asked_when_the_first_fails(hub, into):
    hub.mischief.spoil[WEIGHTS] = 2  # Hugging Face tries twice
    pull_from_any([HuggingFace(hub.url), ModelScope(hub.url)], Pull(REPO, into), nothing)
    assert WEIGHTS in arrived(hub, into)


def test_all_that_failed_are_named(hub, into):
    both: tuple[Hub, Hub] = (HuggingFace("http://127.0.0.1:9"), ModelScope(hub.url))
    with pytest.raises(CheckpointError, match=rf"http://127\.0\.0\.1:9: .*; {hub.url} shows no ACE-Step/no"):
        pull_from_any(both, Pull("ACE-Step/nobody", into), nothing)


class TestOrder:
    @pytest.fixture(autouse=True)
    def two(self, hub, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)

    def test_a_hub_that_answers_goes_first(self):
        assert [type(hub) for hub in hubs("auto")] == [ModelScope, HuggingFace]

    def test_a_hub_that_was_asked_for_goes_first(self):
        assert [type(hub) for hub in hubs("huggingface")] == [HuggingFace, ModelScope]
        assert [type(hub) for hub in hubs("modelscope")] == [ModelScope, HuggingFace]

    def test_one_that_answers_is_enough(self, monkeypatch):
        assert any_reachable("auto")
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:10")
        assert not any_reachable("auto")

    def test_offline_none_is_asked(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert not any_reachable("auto")


class SlowHub:
    """A hub that answers when it is told to, as where a name server is silent."""

    def __init__(self, address: str, answer: bool, released: threading.Event | None = None) -> None:
        self.address = address
        self._answer = answer
        self._released = released

    def reachable(self) -> bool:
        if self._released:
            self._released.wait()
        return self._answer

    def pull(self, pull: Pull, on_bytes: OnBytes) -> None:
        raise NotImplementedError


class TestAnswering:
    @pytest.fixture
    def never(self):
        event = threading.Event()
        yield event
        event.set()

    def test_hubs_that_say_nothing_are_waited_for_no_longer_than_told(self, never, caplog):
        caplog.set_level("INFO")
        silent = [SlowHub("https://one", True, never), SlowHub("https://other", True, never)]
        started = time.monotonic()
        assert answering(silent, seconds=0.05) == []
        assert time.monotonic() - started < 15  # generous; without a bound it is for ever
        assert caplog.messages == ["Waiting for an answer of https://one or https://other (0.05 s at most)"]

    def test_a_start_waits_for_five_seconds_at_most(self, monkeypatch, caplog):
        caplog.set_level("INFO")
        monkeypatch.setattr(
            "acestep.catalog.hubs._wished_first", lambda source: (SlowHub("https://no", False),)
        )
        assert not any_reachable("auto")
        assert caplog.messages == ["Waiting for an answer of https://no (5 s at most)"]

    def test_one_that_answers_is_enough_although_the_other_is_silent(self, never):
        quick = SlowHub("https://quick", True)
        assert answering([SlowHub("https://slow", True, never), quick], enough=1, seconds=60) == [quick]

    def test_a_silent_hub_does_not_hide_the_other(self, never):
        quick = SlowHub("https://quick", True)
        assert answering([SlowHub("https://slow", True, never), quick], seconds=0.5) == [quick]

    def test_a_hub_that_says_no_does_not_count(self):
        no, yes = SlowHub("https://no", False), SlowHub("https://yes", True)
        assert answering([no, no], enough=1, seconds=60) == []
        assert answering([no, yes], enough=1, seconds=60) == [yes]
