"""Adapters of random weights, as those who train them write them."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoKrConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def write_lora(folder: Path, transformer: Any, seed: int = 0, **config: Any) -> PeftModel:
    """Write an adapter for a copy of `transformer` as PEFT does; returns the copy, adapted."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": list(ATTENTION), "init_lora_weights": False}
    adapted = get_peft_model(copy.deepcopy(transformer), LoraConfig(**(settings | config)))
    if config.get("use_dora"):  # a magnitude that was learned, not the weight's own
        for name, tensor in adapted.named_parameters():
            if "lora_magnitude_vector" in name:
                tensor.data *= 1.1
    adapted.save_pretrained(folder)
    return adapted


def write_lokr(folder: Path, transformer: Any, seed: int = 0, **config: Any) -> PeftModel:
    """As `write_lora`, a LoKr."""
    torch.manual_seed(seed)
    settings = {"r": 4, "alpha": 6, "target_modules": list(ATTENTION), "init_weights": False}
    adapted = get_peft_model(copy.deepcopy(transformer), LoKrConfig(**(settings | config)))
    adapted.save_pretrained(folder)
    return adapted


def as_published(folder: Path) -> None:
    """Give a written adapter the names that it would have, had it been trained on the published modules."""
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file({_published(name): tensor for name, tensor in load_file(weights).items()}, weights)
    settings = json.loads(config.read_text())
    settings["target_modules"] = [_published(name) for name in settings["target_modules"]]
    config.write_text(json.dumps(settings))


def _published(name: str) -> str:
    for ours, theirs in {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "o_proj"}.items():
        name = name.replace(ours, theirs)
    return name
