"""A published model comes from a hub because a request names it."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import huggingface_hub.constants

from acestep.catalog.checkpoints import MAIN_REPO, NANO_FOLDER
from tests.checkpoint_folders import link_nano
from tests.fake_hub import FakeHub
from tests.live_server import QUICK, WarmServer

NAME, LOST = "acestep-v15-base-sft-fix-inst", "acestep-v15-turbo-rl"


def read_variables_again() -> None:
    """The hub's client has read them when it was imported."""
    importlib.reload(huggingface_hub.constants)


def test_a_model_is_downloaded_for_a_song(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    link_nano(root / "ACE-Step", NAME, acestep_notice="", acestep_defaults={"steps": 3})
    for part, name in (("vae", "vae"), ("text_encoder", "Qwen3-Embedding-0.6B")):
        shutil.copytree(NANO_FOLDER / part, root / MAIN_REPO / name)
    with FakeHub(root) as hub:
        env = {
            "ACESTEP_ON_DEMAND_MODEL_LOAD": "true",
            "ACESTEP_CHECKPOINTS_DIR": str(tmp_path / "checkpoints"),
            "ACESTEP_DOWNLOAD_SOURCE": "huggingface",
            "ACESTEP_INIT_LLM": "false",
            "HF_ENDPOINT": hub.url,
            "MODELSCOPE_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
        }
        with WarmServer(tmp_path / "data", env, read_variables_again) as live:
            live.wait_ready()

            def states() -> dict[str, str]:
                models = live.client.get("/v1/models").json()["data"]["models"]
                return {model["name"]: model["state"] for model in models}

            assert (states()[NAME], states()[LOST]) == ("absent", "absent")
            ((song,),) = live.wait_for([live.submit(**QUICK, model=NAME)])
            assert (song["error"], song["dit_model"], states()[NAME]) == (None, NAME, "ready")
            ((song,),) = live.wait_for([live.submit(**QUICK, model=LOST)])
            assert (song["error"], song["dit_model"], states()[LOST]) == (None, "acestep-nano", "failed")
            assert any(f"{LOST} could not be downloaded" in warning for warning in song["warnings"])
            asked = len(hub.asked)
            ((song,),) = live.wait_for([live.submit(**QUICK, model=LOST)])
            assert (song["dit_model"], len(hub.asked)) == ("acestep-nano", asked)
            assert any("It is not tried again for" in warning for warning in song["warnings"])
