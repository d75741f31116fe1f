from pathlib import Path

import pytest

from tests.planner.toy import Toy, rewrite_json, write_toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_toy(folder / "one")
    write_toy(folder / "two", Toy(seed=1))
    rewrite_json(write_toy(folder / "broken") / "config.json", intermediate_size=32)
    (folder / "partial").mkdir()
    (folder / "partial" / "config.json").write_text("{}")
    return folder
