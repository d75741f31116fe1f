"""The backends as tests load them: on the CPU, in float32, with little room."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from acestep.planner.backends.pt import load_torch_language_model
from acestep.planner.backends.vllm import load_vllm_language_model
from acestep.planner.language_model import LanguageModel
from acestep.weights.safetensors import Placement

CPU = torch.device("cpu")


class Load(Protocol):
    def __call__(self, folder: Path, slots: int = 4, length: int = 512) -> LanguageModel: ...


def load_on_torch(folder: Path, slots: int = 4, length: int = 512) -> LanguageModel:
    return load_torch_language_model(folder, Placement(CPU, torch.float32), slots, length)


def load_on_vllm(folder: Path, slots: int = 4, length: int = 512) -> LanguageModel:
    return load_vllm_language_model(folder, CPU, slots, length)
