"""What counts as a whole checkpoint, and which model is chosen where."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acestep.catalog.checkpoints import (
    MAIN_REPO,
    NANO_FOLDER,
    PUBLISHED,
    Defaults,
    choose,
    find,
    is_whole,
    require,
)
from acestep.errors import CheckpointError
from tests.checkpoint_folders import write_diffusers, write_dit, write_json, write_nano, write_published

PARITY = Path(os.environ.get("ACESTEP_PARITY_DIR", Path(__file__).parents[3] / "shared" / "parity"))


def yes() -> bool:
    return True


def no() -> bool:
    return False


def never() -> bool:
    raise AssertionError("this probe must not be asked here")


def test_published_layout(tmp_path):
    folder = write_published(tmp_path, model_version="turbo")
    checkpoint = require("acestep-v15-turbo", tmp_path)
    assert (checkpoint.name, checkpoint.dit, checkpoint.layout) == ("acestep-v15-turbo", folder, "published")
    assert checkpoint.vae == tmp_path / "vae"
    assert checkpoint.text_encoder == checkpoint.tokenizer == tmp_path / "Qwen3-Embedding-0.6B"
    assert (checkpoint.is_turbo, checkpoint.version, checkpoint.notice) == (True, "turbo", "")
    assert checkpoint.defaults == Defaults(steps=8, guidance_scale=1.0, shift=3.0)


def test_config_decides_the_variant_not_the_name(tmp_path):
    write_published(tmp_path, "acestep-v15-turbo", is_turbo=False, model_version="base")
    checkpoint = require("acestep-v15-turbo", tmp_path)
    assert not checkpoint.is_turbo
    assert checkpoint.defaults == Defaults(steps=50, guidance_scale=7.0, shift=1.0)


def test_a_self_contained_folder_brings_its_own_parts_and_defaults(tmp_path):
    write_published(tmp_path)
    folder = write_nano(tmp_path)
    checkpoint = require("acestep-nano", tmp_path)
    assert (checkpoint.vae, checkpoint.text_encoder) == (folder / "vae", folder / "text_encoder")
    assert checkpoint.notice == "This is nano."
    assert checkpoint.defaults == Defaults(steps=16, guidance_scale=3.5, shift=1.0)


def test_diffusers_layout(tmp_path):
    folder = write_diffusers(tmp_path / "acestep-v15-xl-turbo-diffusers")
    checkpoint = require("acestep-v15-xl-turbo-diffusers", tmp_path)
    assert (checkpoint.layout, checkpoint.dit, checkpoint.is_turbo) == ("diffusers", folder, True)
    assert (checkpoint.vae, checkpoint.text_encoder) == (folder / "vae", folder / "text_encoder")
    assert checkpoint.tokenizer == folder / "tokenizer"


def test_sharded_weights(tmp_path):
    folder = write_published(tmp_path)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for shard in shards:
        shutil.copy(folder / "model.safetensors", folder / shard)
    (folder / "model.safetensors").unlink()
    write_json(
        folder / "model.safetensors.index.json", weight_map={"a": shards[0], "b": shards[1], "c": shards[1]}
    )
    assert find(folder.name, tmp_path)
    (folder / shards[1]).unlink()
    with pytest.raises(CheckpointError, match=shards[1]) as caught:
        find(folder.name, tmp_path)
    assert shards[0] not in str(caught.value)


@pytest.mark.parametrize("name", ["my-model", "no/such/folder", "/no/such/folder", "acestep-v15-turbo"])
def test_no_folder_is_no_checkpoint(tmp_path, name):
    (tmp_path / "acestep-v15-turbo").mkdir()  # an empty one is none either
    assert find(name, tmp_path) is None
    with pytest.raises(CheckpointError, match="There is no model"):
        require(name, tmp_path)


def test_by_path_with_parts_beside_it_or_in_the_checkpoints_folder(tmp_path, monkeypatch):
    elsewhere = write_published(tmp_path / "elsewhere", "my model")
    assert require(str(elsewhere), tmp_path / "none").vae == tmp_path / "elsewhere" / "vae"
    monkeypatch.chdir(tmp_path)
    assert require("./elsewhere/my model", tmp_path / "none").dit == elsewhere
    write_published(tmp_path / "checkpoints")
    alone = write_dit(tmp_path / "alone" / "mine", is_turbo=True)
    assert require(str(alone), tmp_path / "checkpoints").vae == tmp_path / "checkpoints" / "vae"


def test_a_linked_folder_keeps_the_name_of_the_link(tmp_path):
    real = write_published(tmp_path, "snapshot-1234")
    (tmp_path / "acestep-v15-turbo").symlink_to(real, target_is_directory=True)
    assert require("acestep-v15-turbo", tmp_path).name == "acestep-v15-turbo"


@pytest.mark.parametrize(
    "lost",
    [
        "acestep-v15-turbo/config.json",
        "acestep-v15-turbo/model.safetensors",
        "acestep-v15-turbo/silence_latent.pt",
        "vae/",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "Qwen3-Embedding-0.6B/",
        "Qwen3-Embedding-0.6B/tokenizer.json",
        "Qwen3-Embedding-0.6B/model.safetensors",
    ],
)
def test_an_incomplete_folder_names_what_is_missing(tmp_path, lost):
    write_published(tmp_path)
    path = tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError) as caught:
        find("acestep-v15-turbo", tmp_path)
    named = lost.replace("diffusion_pytorch_model", "model")
    assert f"missing: {named}." in str(caught.value)
    assert "acestep-download acestep-v15-turbo" in str(caught.value)
    assert not is_whole(PUBLISHED["acestep-v15-turbo"], tmp_path)


@pytest.mark.parametrize("part", ["transformer", "tokenizer", "audio_tokenizer"])
def test_an_incomplete_diffusers_folder_names_what_is_missing(tmp_path, part):
    folder = write_diffusers(tmp_path / "mine")
    shutil.rmtree(folder / part)
    with pytest.raises(CheckpointError, match=f"missing: {part}/"):
        find("mine", tmp_path)


def test_weights_that_were_cut_short_do_not_count(tmp_path):
    weights = write_published(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors \(cut short"):
        find("acestep-v15-turbo", tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_broken_config_is_named(tmp_path, text):
    config = write_published(tmp_path) / "config.json"
    config.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointError, match=r"acestep-v15-turbo/config\.json"):
        find("acestep-v15-turbo", tmp_path)


@pytest.mark.parametrize("defaults", [{"steps": "many"}, [8], {"shift": None}])
def test_broken_defaults_are_named(tmp_path, defaults):
    write_published(tmp_path, acestep_defaults=defaults)
    with pytest.raises(CheckpointError, match="acestep_defaults"):
        find("acestep-v15-turbo", tmp_path)


def test_a_turbo_model_has_no_guidance_of_its_own(tmp_path):
    write_published(tmp_path, acestep_defaults={"guidance_scale": 5.0, "shift": 2.0})
    defaults = require("acestep-v15-turbo", tmp_path).defaults
    assert (defaults.guidance_scale, defaults.shift) == (1.0, 2.0)


def test_registry():
    turbo, base, lm = (PUBLISHED[f"acestep-{name}"] for name in ("v15-turbo", "v15-base", "5Hz-lm-1.7B"))
    assert (turbo.repo, base.repo, lm.repo) == (MAIN_REPO, "ACE-Step/acestep-v15-base", MAIN_REPO)
    assert [part.name for part in base.needs] == ["acestep-v15-base", "vae", "Qwen3-Embedding-0.6B"]
    assert [part.name for part in lm.needs] == ["acestep-5Hz-lm-1.7B"]
    assert [part.name for part in PUBLISHED["acestep-v15-xl-turbo-diffusers"].needs] == [
        "acestep-v15-xl-turbo-diffusers"
    ]
    assert (turbo.is_turbo, base.is_turbo, PUBLISHED["acestep-v15-xl-turbo"].is_turbo) == (True, False, True)


def test_the_default_is_turbo_where_it_is_on_disk(tmp_path):
    write_published(tmp_path)
    choice = choose(None, tmp_path, never, never)
    assert choice.checkpoint == find("acestep-v15-turbo", tmp_path)
    assert (choice.name, choice.is_turbo, choice.notice) == ("acestep-v15-turbo", True, "")


@pytest.mark.parametrize("begun", [False, True])
def test_the_default_is_downloaded_for_a_gpu_if_the_hub_answers(tmp_path, begun):
    if begun:
        (write_published(tmp_path) / "model.safetensors").unlink()
    choice = choose(None, tmp_path, yes, yes)
    assert (choice.name, choice.checkpoint, choice.is_turbo) == ("acestep-v15-turbo", None, True)
    assert choice.defaults.steps == 8


@pytest.mark.parametrize(
    ("has_gpu", "hub_reachable", "why"),
    [(no, never, "no GPU was found"), (yes, no, "the hub cannot be reached")],
)
def test_otherwise_nano_runs_and_says_why(tmp_path, has_gpu, hub_reachable, why):
    write_nano(tmp_path)
    choice = choose(None, tmp_path, has_gpu, hub_reachable)
    assert choice.name == "acestep-nano"
    assert choice.checkpoint is not None
    assert choice.defaults.steps == 16
    assert f"acestep-v15-turbo is not in {tmp_path} and {why}" in choice.notice
    assert "acestep-download acestep-v15-turbo" in choice.notice


def test_an_incomplete_default_is_mentioned_when_nano_runs(tmp_path):
    (write_published(tmp_path) / "model.safetensors").unlink()
    write_nano(tmp_path)
    assert "is incomplete" in choose(None, tmp_path, no, never).notice


def test_a_named_model_on_disk_is_taken(tmp_path):
    write_published(tmp_path, "acestep-v15-base")
    choice = choose("acestep-v15-base", tmp_path, never, never)
    assert (choice.name, choice.is_turbo, choice.defaults.steps) == ("acestep-v15-base", False, 50)
    assert choice.checkpoint is not None


@pytest.mark.parametrize("begun", [False, True])
def test_a_named_published_model_is_downloaded(tmp_path, begun):
    if begun:
        (write_published(tmp_path, "acestep-v15-sft") / "model.safetensors").unlink()
    choice = choose("acestep-v15-sft", tmp_path, never, yes)
    assert (choice.name, choice.checkpoint, choice.is_turbo) == ("acestep-v15-sft", None, False)


def test_a_named_model_is_never_replaced(tmp_path):
    write_published(tmp_path)
    write_nano(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        choose("acestep-v15-base", tmp_path, never, no)
    text = str(caught.value)
    assert "the hub cannot be reached" in text
    assert "acestep-download acestep-v15-base" in text
    assert str(tmp_path / "acestep-v15-base") in text
    assert "ACESTEP_CONFIG_PATH" not in text  # it may be the second model, or one that a request names


@pytest.mark.parametrize("name", ["my-model", "acestep-5Hz-lm-1.7B", "vae"])
def test_a_name_that_is_no_published_dit_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="one of acestep-v15-turbo, acestep-v15-base"):
        choose(name, tmp_path, never, never)


def test_a_named_folder_that_is_incomplete_is_refused(tmp_path):
    folder = write_dit(tmp_path / "mine", is_turbo=True)
    with pytest.raises(CheckpointError, match=r"missing: vae/, Qwen3-Embedding-0\.6B/"):
        choose(str(folder), tmp_path, never, never)


@pytest.mark.skipif(not (NANO_FOLDER / "config.json").is_file(), reason="no bundled weights in this checkout")
def test_the_bundled_nano_is_found_by_name(tmp_path):
    checkpoint = require("acestep-nano", tmp_path)
    assert (checkpoint.name, checkpoint.dit) == ("acestep-nano", NANO_FOLDER)
    assert checkpoint.notice


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"no fixture in {PARITY} (ACESTEP_PARITY_DIR)")
def test_published_folders_as_they_are():
    assert require("acestep-v15-turbo", PARITY).is_turbo
    assert not require("acestep-v15-base", PARITY).is_turbo


def test_torch_stays_out():
    program = (
        "import sys, acestep.catalog.checkpoints, acestep.catalog.download; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
