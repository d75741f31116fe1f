"""What is fetched, where it goes, and what is said when it does not arrive."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from fnmatch import fnmatch
from pathlib import Path

import pytest

from acestep.checkpoints import MAIN_REPO, PUBLISHED, is_whole, require
from acestep.download import DownloadProgress, fetch, fetch_for_server, hub_reachable, run
from acestep.errors import CheckpointError, JobCancelledError
from acestep.settings import Settings
from tests.checkpoint_folders import write_diffusers, write_model, write_published, write_text_encoder

DiskUsage = namedtuple("DiskUsage", "total used free")


class FakeHub:
    """Stands in for `huggingface_hub.snapshot_download`, copying out of folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[tuple[str, list[str] | None]] = []
        self.lost: set[str] = set()

    def __call__(self, repo_id, *, local_dir, allow_patterns, ignore_patterns, tqdm_class):
        self.calls.append((repo_id, allow_patterns))
        files_bar = tqdm_class(desc="Fetching files")
        bytes_bar = tqdm_class(total=0, unit="B", name="huggingface_hub.snapshot_download")
        for file in sorted((self.root / repo_id).rglob("*")):
            path = file.relative_to(self.root / repo_id).as_posix()
            wanted = allow_patterns is None or any(fnmatch(path, pattern) for pattern in allow_patterns)
            if not wanted or any(fnmatch(path, pattern) for pattern in ignore_patterns):
                continue
            if not file.is_file() or path in self.lost or (local_dir / path).is_file():
                continue
            (local_dir / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, local_dir / path)
            bytes_bar.update(file.stat().st_size)
            files_bar.update(1)


@pytest.fixture
def hub(tmp_path):
    root = tmp_path / "hub"
    main = root / MAIN_REPO
    turbo = write_published(main)
    (turbo / "modeling_turbo.py").write_text("raise SystemExit", encoding="utf-8")
    write_text_encoder(main / "acestep-5Hz-lm-1.7B")
    base = write_model(root / "ACE-Step" / "acestep-v15-base", is_turbo=False)
    for name in ("silence_latent.pt", "modeling_base.py", "README.md", ".gitattributes"):
        (base / name).write_bytes(b"x")
    write_diffusers(root / "ACE-Step" / "acestep-v15-xl-turbo-diffusers")
    return FakeHub(root)


@pytest.fixture
def into(tmp_path):
    return tmp_path / "my checkpoints"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_default_model_comes_with_its_parts_and_nothing_else(hub, into):
    fetch("acestep-v15-turbo", into, snapshot=hub)
    assert files(into) == {
        "acestep-v15-turbo/config.json",
        "acestep-v15-turbo/model.safetensors",
        "acestep-v15-turbo/silence_latent.pt",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "Qwen3-Embedding-0.6B/config.json",
        "Qwen3-Embedding-0.6B/model.safetensors",
        "Qwen3-Embedding-0.6B/tokenizer.json",
    }
    assert require("acestep-v15-turbo", into).is_turbo
    assert [repo for repo, _ in hub.calls] == [MAIN_REPO]


def test_a_model_with_a_repository_of_its_own_goes_into_a_folder_of_its_name(hub, into):
    fetch("acestep-v15-base", into, snapshot=hub)
    assert not require("acestep-v15-base", into).is_turbo
    assert files(into / "acestep-v15-base") == {"config.json", "model.safetensors", "silence_latent.pt"}
    assert not (into / "acestep-v15-turbo").exists()


def test_parts_that_are_here_are_not_asked_for_again(hub, into):
    write_published(into)
    fetch("acestep-v15-base", into, snapshot=hub)
    assert hub.calls == [("ACE-Step/acestep-v15-base", None)]


def test_diffusers_layout_needs_nothing_beside_it(hub, into):
    fetch("acestep-v15-xl-turbo-diffusers", into, snapshot=hub)
    assert require("acestep-v15-xl-turbo-diffusers", into).layout == "diffusers"
    assert [path.name for path in into.iterdir()] == ["acestep-v15-xl-turbo-diffusers"]


def test_a_planner_comes_alone(hub, into):
    fetch("acestep-5Hz-lm-1.7B", into, snapshot=hub)
    assert is_whole(PUBLISHED["acestep-5Hz-lm-1.7B"], into)
    assert [path.name for path in into.iterdir()] == ["acestep-5Hz-lm-1.7B"]


def test_what_is_here_whole_needs_no_hub(into):
    write_published(into)
    fetch("acestep-v15-turbo", into, snapshot=None)


def test_what_was_interrupted_is_completed(hub, into):
    folder = write_published(into)
    (folder / "model.safetensors").unlink()
    (into / "vae" / "config.json").unlink()
    fetch("acestep-v15-turbo", into, snapshot=hub)
    ((_, patterns),) = hub.calls
    assert patterns == ["acestep-v15-turbo/*", "vae/*"]
    assert require("acestep-v15-turbo", into)


def test_progress_counts_bytes_up_to_the_end(hub, into):
    seen: list[DownloadProgress] = []
    fetch("acestep-v15-base", into, seen.append, snapshot=hub)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert done[-2] == sum((into / file).stat().st_size for file in files(into))
    assert seen[0].fraction < 1
    assert (seen[-1].name, seen[-1].fraction) == ("acestep-v15-base", 1.0)


def test_a_server_hears_of_every_percent_and_gets_the_checkpoint(hub, into):
    heard: list[tuple[str, str]] = []
    settings = Settings.load(into, checkpoints_dir=into)
    checkpoint = fetch_for_server("acestep-v15-turbo", settings, lambda *said: heard.append(said), hub)
    assert checkpoint == require("acestep-v15-turbo", into)
    assert heard == [("downloading", "0 % of 6.3 GB"), ("downloading", "100 % of 6.3 GB")]


def test_progress_can_stop_a_download(hub, into):
    def stop(_progress):
        raise JobCancelledError("enough")

    with pytest.raises(JobCancelledError):
        fetch("acestep-v15-turbo", into, stop, snapshot=hub)


def test_a_full_disk_is_noticed_before_the_download(hub, into, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**12, 10**12 - 5 * 10**9, 5 * 10**9))
    with pytest.raises(CheckpointError, match=r"needs about 6\.3 GB more .* 5\.0 GB are free"):
        fetch("acestep-v15-turbo", into, snapshot=hub)
    assert not hub.calls
    fetch("acestep-5Hz-lm-1.7B", into, snapshot=hub)  # 3.7 GB fit


def test_a_download_that_stays_incomplete_is_an_error(hub, into):
    hub.lost.add("acestep-v15-turbo/model.safetensors")
    with pytest.raises(CheckpointError, match=r"did not arrive whole.*acestep-download acestep-v15-turbo"):
        fetch("acestep-v15-turbo", into, snapshot=hub)


def test_an_error_of_the_client_becomes_one_sentence(into):
    def broken(*_args, **_kwargs):
        raise RuntimeError("line one\nline two")

    with pytest.raises(CheckpointError) as caught:
        fetch("acestep-v15-turbo", into, snapshot=broken)
    assert "line one" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_published_is_refused(into):
    with pytest.raises(CheckpointError, match="'my-model' is not published"):
        fetch("my-model", into)


def test_modelscope_is_refused_with_what_to_do(into):
    with pytest.raises(CheckpointError, match="Unset it to use Hugging Face"):
        fetch("acestep-v15-turbo", into, source="modelscope")


def test_offline_the_hub_is_not_reachable(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not hub_reachable()


def acestep_download(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("ACESTEP_", "HF_"))}
    return subprocess.run(
        [sys.executable, "-m", "acestep.download", *arguments],
        env={**bare, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_real_client_offline_gives_one_clear_error(into):
    result = acestep_download("--dir", str(into), HF_HUB_OFFLINE="1", ACESTEP_DISABLE_TQDM="1")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "HF_HUB_OFFLINE is set, so nothing can be downloaded. Unset it and try again.\n"


def test_the_real_client_without_a_hub_gives_one_clear_error(into):
    result = acestep_download(
        "vae", "--dir", str(into), HF_ENDPOINT="http://127.0.0.1:9", ACESTEP_DISABLE_TQDM="1"
    )
    assert result.returncode == 1
    assert result.stderr.startswith("vae could not be downloaded from http://127.0.0.1:9: ")
    assert len(result.stderr.splitlines()) == 1


def test_list_shows_what_is_here(into, capsys):
    (write_published(into) / "model.safetensors").unlink()
    assert run(["--list", "--dir", str(into)]) == 0
    rows = dict(re.findall(r"│ (\S+) +│ [\d.]+ GB +│ (yes|no|in part)", capsys.readouterr().out))
    assert rows.keys() == PUBLISHED.keys()
    assert (rows["acestep-v15-turbo"], rows["vae"], rows["acestep-v15-sft"]) == ("in part", "yes", "no")


def test_the_command_takes_names_both_ways(into, capsys):
    write_published(into)
    assert run(["vae", "--model", "acestep-v15-turbo", "--dir", str(into)]) == 0
    assert f"acestep-v15-turbo is in {into}" in capsys.readouterr().err


def test_the_command_refuses_unknown_names_and_settings_with_2(into, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        run(["my-model"])
    assert stopped.value.code == 2
    assert "acestep-v15-turbo" in capsys.readouterr().err
    monkeypatch.setenv("ACESTEP_API_PORT", "x")
    assert run(["vae", "--dir", str(into)]) == 2
    assert "ACESTEP_API_PORT='x'" in capsys.readouterr().err
