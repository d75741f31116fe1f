"""Where in beat and bar a moment of a piece is: what both of nano's models are asked while they learn.

What is asked, and with what weight, is each model's affair.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.nano.composer import Piece


def beat_angles(seconds: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """Sines and cosines of beat and bar, `[B, N, 4]`, at `seconds` `[N]` or `[B, N]` into each piece."""
    metre = torch.tensor([(piece.bpm / 60, int(piece.time_signature)) for piece in pieces])
    beats = metre[:, :1] * seconds
    turns = 2 * torch.pi * torch.stack([beats, beats / metre[:, 1:]], dim=-1)
    return torch.cat([turns.sin(), turns.cos()], dim=-1)
