"""Adapters whose names and shapes are all that counts, written without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LAYER = "layers.0.self_attn.q_proj"
RANK, WIDE, DEEP = 2, 6, 4
LAYERS = {LAYER: (WIDE, DEEP)}


def write_header(folder: Path, names: Mapping[str, tuple[int, ...]] | None = None, **config: Any) -> Path:
    """Write a PEFT folder for a model of one layer."""
    tensors: Mapping[str, tuple[int, ...]] = names or {
        f"base_model.model.{LAYER}.lora_A.weight": (RANK, DEEP),
        f"base_model.model.{LAYER}.lora_B.weight": (WIDE, RANK),
    }
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    save_file(arrays, folder / "adapter_model.safetensors")
    return folder
