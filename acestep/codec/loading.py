"""Which codec a folder holds, and building it."""

from __future__ import annotations

from pathlib import Path

import torch

from acestep.catalog.checkpoints import read_json
from acestep.codec import sine_bank
from acestep.codec.codec import Codec
from acestep.codec.oobleck import DEFAULT_TILE_FRAMES, OobleckCodec
from acestep.codec.sine_bank import SineBankCodec
from acestep.errors import CheckpointError


def load_codec(
    folder: Path, device: torch.device, dtype: torch.dtype, tile_frames: int = DEFAULT_TILE_FRAMES
) -> Codec:
    """Load the codec of a `vae/` folder; raises CheckpointError where none of ours fits.

    What is decoded in pieces has pieces of `tile_frames`.
    """
    path = folder / "config.json"
    name = read_json(path).get("_class_name")
    if name == sine_bank.CLASS_NAME:
        return SineBankCodec.load(folder, device)
    if name == "AutoencoderOobleck":
        return OobleckCodec.load(folder, device, dtype, tile_frames)
    known = f"AutoencoderOobleck, {sine_bank.CLASS_NAME}"
    raise CheckpointError(f"{path}: _class_name is {name!r}; known are {known}")
