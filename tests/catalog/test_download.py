"""What is fetched, where it goes, and what is said when it does not arrive."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from acestep.catalog.checkpoints import MAIN_REPO, PUBLISHED, is_whole, require
from acestep.catalog.download import DownloadProgress, Order, fetch, fetch_for_server, run
from acestep.catalog.hubs import HuggingFace
from acestep.errors import CheckpointError, JobCancelledError
from tests.checkpoint_folders import write_diffusers, write_model, write_published, write_text_encoder
from tests.fake_hub import FakeHub

DiskUsage = namedtuple("DiskUsage", "total used free")


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
    with FakeHub(root) as fake:
        yield fake


@pytest.fixture
def into(tmp_path):
    return tmp_path / "my checkpoints"


@pytest.fixture
def order(hub, into):
    """An order of a model by its name, to Hugging Face alone."""
    return lambda name, **more: Order(name, into, lambda: [HuggingFace(hub.url)], **more)


def files(folder: Path) -> set[str]:
    """What is in it, but for the client's notes."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if ".cache" not in path.parts}


def sent(hub: FakeHub) -> set[str]:
    return {path for path, _ in hub.asked}


def test_the_default_model_comes_with_its_parts_and_nothing_else(order, hub, into):
    fetch(order("acestep-v15-turbo"))
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
    assert sent(hub) == files(into)


def test_a_model_with_a_repository_of_its_own_goes_into_a_folder_of_its_name(order, hub, into):
    fetch(order("acestep-v15-base"))
    assert not require("acestep-v15-base", into).is_turbo
    assert files(into / "acestep-v15-base") == {"config.json", "model.safetensors", "silence_latent.pt"}
    assert not (into / "acestep-v15-turbo").exists()


def test_parts_that_are_here_are_not_asked_for_again(order, hub, into):
    write_published(into)
    fetch(order("acestep-v15-base"))
    assert sent(hub) == {"config.json", "model.safetensors", "silence_latent.pt"}


def test_diffusers_layout_needs_nothing_beside_it(order, hub, into):
    fetch(order("acestep-v15-xl-turbo-diffusers"))
    assert require("acestep-v15-xl-turbo-diffusers", into).layout == "diffusers"
    assert {file.partition("/")[0] for file in files(into)} == {"acestep-v15-xl-turbo-diffusers"}


def test_a_planner_comes_alone(order, hub, into):
    fetch(order("acestep-5Hz-lm-1.7B"))
    assert is_whole(PUBLISHED["acestep-5Hz-lm-1.7B"], into)
    assert {file.partition("/")[0] for file in files(into)} == {"acestep-5Hz-lm-1.7B"}


def test_what_is_here_whole_needs_no_hub(order, hub, into):
    write_published(into)
    fetch(order("acestep-v15-turbo"))
    assert sent(hub) == set()


def test_what_was_interrupted_is_completed(order, hub, into):
    folder = write_published(into)
    (folder / "model.safetensors").unlink()
    (into / "vae" / "config.json").unlink()
    fetch(order("acestep-v15-turbo"))
    assert {"acestep-v15-turbo/model.safetensors", "vae/config.json"} <= sent(hub)
    assert not any(file.startswith("Qwen3") for file in sent(hub))
    assert require("acestep-v15-turbo", into)


def test_progress_counts_bytes_up_to_the_end(order, hub, into):
    seen: list[DownloadProgress] = []
    fetch(order("acestep-v15-base"), seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert done[-2] == sum((into / file).stat().st_size for file in files(into))
    assert seen[0].fraction < 1
    assert (seen[-1].name, seen[-1].fraction) == ("acestep-v15-base", 1.0)


def test_a_server_hears_of_every_percent(order, into):
    heard: list[tuple[str, str]] = []
    beats: list[int] = []
    fetch_for_server(
        order("acestep-v15-turbo"), lambda *said: heard.append(said), lambda: beats.append(len(heard))
    )
    assert require("acestep-v15-turbo", into)
    assert beats.count(1) > 2, "and of every byte, as long as the percent is the same"
    assert heard == [("downloading", "0 % of 6.3 GB"), ("downloading", "100 % of 6.3 GB")]


def test_progress_can_stop_a_download(order, hub, into):
    def stop(_progress):
        raise JobCancelledError("enough")

    with pytest.raises(JobCancelledError):
        fetch(order("acestep-v15-turbo"), stop)


def test_a_full_disk_is_noticed_before_the_download(order, hub, into, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**12, 10**12 - 5 * 10**9, 5 * 10**9))
    with pytest.raises(CheckpointError, match=r"needs about 6\.3 GB more .* 5\.0 GB are free"):
        fetch(order("acestep-v15-turbo"))
    assert not hub.asked
    fetch(order("acestep-5Hz-lm-1.7B"))  # 3.7 GB fit


def test_a_download_that_stays_incomplete_is_an_error(order, hub, into):
    hub.mischief.lost.add("acestep-v15-turbo/model.safetensors")
    with pytest.raises(CheckpointError, match=r"could not be downloaded.*acestep-download acestep-v15-turbo"):
        fetch(order("acestep-v15-turbo"))


def test_an_error_is_one_sentence_with_what_to_do(into):
    nobody = Order("acestep-v15-turbo", into, lambda: [HuggingFace("http://127.0.0.1:9")])
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1:9.*HTTPS_PROXY.*Or copy it to") as caught:
        fetch(nobody)
    assert "\n" not in str(caught.value)


def test_a_model_without_what_it_needs_beside_it(order, hub, into):
    fetch(order("acestep-v15-turbo", alone=True))
    assert {file.partition("/")[0] for file in sent(hub)} == {"acestep-v15-turbo"}


def test_what_is_here_can_be_compared_with_the_hub(order, hub, into):
    fetch(order("acestep-v15-turbo"))
    (into / "vae" / "config.json").write_text("{}")
    hub.asked.clear()
    fetch(order("acestep-v15-turbo"))
    assert sent(hub) == set()
    fetch(order("acestep-v15-turbo", again=True))
    assert sent(hub) == {"vae/config.json"}


def test_what_is_not_published_is_refused(order, into):
    with pytest.raises(CheckpointError, match="'my-model' is not published"):
        fetch(order("my-model"))


def acestep_download(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ours = ("ACESTEP_", "HF_", "MODELSCOPE_")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        [sys.executable, "-m", "acestep.catalog.download", *arguments],
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


def test_the_command_says_what_each_hub_said_in_one_line(hub, into):
    name, one, other = "acestep-5Hz-lm-4B", "http://127.0.0.1:9", hub.url
    environment = {"HF_ENDPOINT": one, "MODELSCOPE_ENDPOINT": other, "ACESTEP_DISABLE_TQDM": "1"}
    result = acestep_download(name, "--dir", str(into), "--download-source", "huggingface", **environment)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{name} could not be downloaded. {one}: ")
    assert f"; {other} shows no ACE-Step/{name}; " in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_the_command_fetches_from_either_hub(hub, into, source):
    both = {"HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url}
    result = acestep_download("vae", "--dir", str(into), "--download-source", source, **both)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == f"vae is in {into}"
    assert files(into) == {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    assert (into / ".cache" / "huggingface").exists() == (source == "huggingface")


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


def test_a_wrong_flag_is_named_as_the_flag(into):
    result = acestep_download("vae", "--dir", str(into), "--download-source", "here")
    assert result.returncode == 2
    assert result.stderr.startswith("--download-source='here' cannot be used; allowed: auto, huggingface")
