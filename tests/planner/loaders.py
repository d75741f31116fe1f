"""The backends as tests load them: on the CPU, with short sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from acestep.planner.backends.pt import load_torch_language_model
from acestep.planner.backends.vllm import load_vllm_language_model
from acestep.planner.language_model import LanguageModel
from acestep.weights.safetensors import LoadTarget

CPU = torch.device("cpu")


class Load(Protocol):
    def __call__(self, folder: Path, sequences: int = 4, length: int = 512) -> LanguageModel: ...


def load_on_torch(folder: Path, sequences: int = 4, length: int = 512) -> LanguageModel:
    return load_torch_language_model(folder, LoadTarget(CPU, torch.float32), sequences, length)


def load_in_bfloat16(folder: Path, sequences: int = 4, length: int = 512) -> LanguageModel:
    return load_torch_language_model(folder, LoadTarget(CPU, torch.bfloat16), sequences, length)


def load_on_vllm(folder: Path, sequences: int = 4, length: int = 512) -> LanguageModel:
    return load_vllm_language_model(folder, LoadTarget(CPU, torch.float32), sequences, length)
