import gc
from pathlib import Path

from torch import nn

from acestep.weights.shared_modules import SharedModules


def test_a_module_is_loaded_once_for_each_path_and_form(tmp_path: Path) -> None:
    shared = SharedModules()
    first = shared.get(tmp_path / "vae", "cpu", nn.Identity)
    assert shared.get(tmp_path / "vae", "cpu", nn.Identity) is first
    assert shared.get(tmp_path / "vae", "cuda", nn.Identity) is not first
    assert shared.get(tmp_path / "other", "cpu", nn.Identity) is not first


def test_a_link_and_its_target_are_one_module(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "vae")
    shared = SharedModules()
    module = shared.get(tmp_path / "vae", "cpu", nn.Identity)
    assert shared.get(tmp_path / "link", "cpu", nn.Identity) is module


def test_a_module_is_loaded_again_after_its_last_user_is_gone(tmp_path: Path) -> None:
    shared, loads = SharedModules(), []

    def load() -> nn.Module:
        loads.append(1)
        return nn.Identity()

    users = [shared.get(tmp_path, "cpu", load) for _ in range(2)]
    assert len(loads) == 1
    users.clear()
    gc.collect()
    shared.get(tmp_path, "cpu", load)
    assert len(loads) == 2
