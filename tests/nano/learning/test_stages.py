from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch
from torch import nn

from training.nano.learning.stages import Stage


def seconds() -> Callable[[], float]:
    ticks = count()
    return lambda: float(next(ticks))


def test_a_stage_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    stage = Stage("test", 10 / 60, tmp_path / "test.pt", {"layer": layer}, seconds())
    assert [step for step, _ in stage.steps()] == list(range(9))
    nn.init.zeros_(layer.weight)
    again = Stage("test", 20 / 60, tmp_path / "test.pt", {"layer": layer}, seconds())
    assert layer.weight.item() != 0.0
    assert next(step for step, _ in again.steps()) == 9


def test_a_stage_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    parts = {"layer": nn.Linear(1, 1)}
    list(Stage("test", 5 / 60, tmp_path / "test.pt", parts, seconds()).steps())
    assert list(Stage("test", 5 / 60, tmp_path / "test.pt", parts, seconds()).steps()) == []
    assert torch.load(tmp_path / "test.pt", weights_only=True)["spent"] >= 5
