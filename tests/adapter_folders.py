"""Adapters of random weights, as those who train them write them."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoKrConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


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


def write_lycoris(
    folder: Path, transformer: Any, dim: int = 2, alpha: float = 3.0, factor: int = -1, **how: Any
) -> Any:
    """Write a LoKr as LyCORIS does; returns a copy of `transformer` with the update in its weights.

    A weight is updated by W1 kron W2 times alpha / dim; both are stored whole, or as products of rank `dim`.
    """
    generator = torch.Generator().manual_seed(7)
    adapted, tensors, dtype = copy.deepcopy(transformer), {}, how.get("dtype", torch.float32)
    for name, module in adapted.named_modules():
        if not name.endswith(how.get("targets", ATTENTION)):
            continue
        (rows, more_rows), (columns, more_columns) = (_sizes(size, factor) for size in module.weight.shape)
        key = "lycoris_" + name.replace(".", "_")
        halves = []
        for half, shape in (("lokr_w1", (rows, columns)), ("lokr_w2", (more_rows, more_columns))):
            is_small = half == "lokr_w1" and not how.get("decompose_both")
            if how.get("full_matrix") or is_small or dim >= max(shape) / 2:
                whole = tensors[f"{key}.{half}"] = (0.2 * torch.randn(shape, generator=generator)).to(dtype)
            else:
                down = tensors[f"{key}.{half}_a"] = torch.randn(shape[0], dim, generator=generator).to(dtype)
                up = tensors[f"{key}.{half}_b"] = torch.randn(dim, shape[1], generator=generator).to(dtype)
                whole = down.float() @ up.float()
            halves.append(whole.float())
        is_whole = f"{key}.lokr_w1" in tensors and f"{key}.lokr_w2" in tensors
        tensors[f"{key}.alpha"] = torch.tensor(float(dim) if is_whole else alpha).to(dtype)
        scale = 1.0 if is_whole else alpha / dim
        module.weight.data += torch.kron(*halves) * scale
    folder.mkdir(parents=True)
    config = {"linear_dim": dim, "linear_alpha": alpha, "factor": factor}
    metadata = {"algo": "lokr", "format": "lycoris", "lokr_config": json.dumps(config)}
    save_file(tensors, folder / "lokr_weights.safetensors", metadata if how.get("noted", True) else {})
    return adapted


def _sizes(size: int, factor: int) -> tuple[int, int]:
    # The two numbers nearest to each other, of which the smaller is at most the factor.
    most = size if factor == -1 else factor
    small = max(n for n in range(1, size + 1) if size % n == 0 and n * n <= size and n <= most)
    return small, size // small


def as_diffusers(folder: Path) -> None:
    """Give a written adapter the names that it would have, had it been trained on diffusers' modules."""
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file({_diffusers(name): tensor for name, tensor in load_file(weights).items()}, weights)
    settings = json.loads(config.read_text())
    settings["target_modules"] = [_diffusers(name) for name in settings["target_modules"]]
    config.write_text(json.dumps(settings))


def _diffusers(name: str) -> str:
    for ours, theirs in {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0"}.items():
        name = name.replace(ours, theirs)
    return name
