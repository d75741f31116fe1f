"""Questions that a model is asked while it learns: what the words say, and where in beat and bar it is.

Learned from the music alone, both take longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.nano.composer import MAX_BPM, MIN_BPM
from training.nano.music.instruments import INSTRUMENTS
from training.nano.music.piece import LEAD_IN, Facts
from training.nano.music.styles import STYLES
from training.nano.theory import KEY_SCALES, Key

_NEAR_BPM = 1.0  # neighbours in tempo are to be neighbours for the model
_STYLES = tuple(style.name for style in STYLES)
_METRES = ("2", "3", "4", "6")
_DENSITIES = ("sparse", "medium", "dense")
_NAMES = tuple(INSTRUMENTS)
_KEYS = tuple(Key.parse(name) for name in KEY_SCALES)
_NONE = -100


class FactHeads(nn.Module):
    """One linear reading of a text's mean state for each fact."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = {
            "bpm": MAX_BPM - MIN_BPM + 1,
            "key": len(KEY_SCALES),
            "style": len(_STYLES),
            "metre": len(_METRES),
            "density": len(_DENSITIES),
            "energy": 3,
        }
        self.choices = nn.ModuleDict({name: nn.Linear(width, size) for name, size in self.sizes.items()})
        self.sounds = nn.Linear(width, len(_NAMES) + 4)
        self.length = nn.Linear(width, 1)

    def loss(self, states: Tensor, mask: Tensor, facts: Sequence[Facts]) -> Tensor:
        """How badly facts are read from their texts' `states` `[B, L, D]`, `mask` `[B, L]`."""
        shares = mask / mask.sum(dim=1, keepdim=True)
        state = (states * shares[..., None]).sum(dim=1).float()
        entropy = nn.functional.cross_entropy
        grid = torch.arange(MIN_BPM, MAX_BPM + 1)
        bpm = torch.tensor([each.bpm for each in facts])
        near = torch.softmax(-(((grid[None] - bpm[:, None]) / _NEAR_BPM) ** 2) / 2, dim=1)
        loss = entropy(self.choices["bpm"](state), near)
        for name, values in _indices(facts).items():
            if (values != _NONE).any():
                loss = loss + entropy(self.choices[name](state), values, ignore_index=_NONE)
        wanted = _sounds(facts)
        loss = loss + 8 * nn.functional.binary_cross_entropy_with_logits(self.sounds(state), wanted)
        length = torch.tensor([each.place.whole for each in facts]).log()
        off_length: Tensor = (self.length(state)[:, 0] - length).square().mean()
        return loss + off_length


class MusicHeads(nn.Module):
    """Asks the middle of the transformer for the beat, and for what is to sound."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.clock = nn.Linear(width, 4)
        self.sounds = nn.Linear(width, len(_NAMES) + 4)
        self.scale = nn.Linear(width, 12)

    def off_beat(self, middle: Tensor, seconds: Tensor, facts: Sequence[Facts], counted: Tensor) -> Tensor:
        """`middle` `[B, N, D]` at `seconds` `[B, N]` of the pieces; only `counted` `[B]` songs are asked."""
        off = (self.clock(middle).float() - beat_angles(seconds, facts)).square().mean(dim=(1, 2))
        return _mean(off, counted)

    def off_tune(self, middle: Tensor, facts: Sequence[Facts], counted: Tensor) -> Tensor:
        state, unlike = middle.mean(dim=1), nn.functional.binary_cross_entropy_with_logits
        sounds = unlike(self.sounds(state).float(), _sounds(facts), reduction="none").mean(dim=1)
        keyed = torch.tensor([each.key_scale is not None for each in facts])
        scale = unlike(self.scale(state).float(), _scales(facts), reduction="none").mean(dim=1)
        return _mean(sounds, counted) + _mean(scale, counted & keyed)


def beat_angles(seconds: Tensor, facts: Sequence[Facts]) -> Tensor:
    """Sines and cosines of beat and bar, `[B, N, 4]`, at `seconds` `[B, N]` of the pieces."""
    metre = torch.tensor([(each.bpm / 60, float(each.beats)) for each in facts])
    beats = metre[:, :1] * (seconds - LEAD_IN)
    turns = 2 * torch.pi * torch.stack([beats, beats / metre[:, 1:]], dim=-1)
    return torch.cat([turns.sin(), turns.cos()], dim=-1)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    mean: Tensor = (values * counted).sum() / counted.sum().clamp_min(1)
    return mean


def _indices(facts: Sequence[Facts]) -> dict[str, Tensor]:
    def place(names: tuple[str, ...], value: str | None) -> int:
        return _NONE if value is None else names.index(value)

    keys = [_NONE if each.key_scale is None else _KEYS.index(Key.parse(each.key_scale)) for each in facts]
    return {
        "key": torch.tensor(keys),
        "style": torch.tensor([place(_STYLES, each.style) for each in facts]),
        "metre": torch.tensor([place(_METRES, each.time_signature) for each in facts]),
        "density": torch.tensor([place(_DENSITIES, each.density) for each in facts]),
        "energy": torch.tensor([each.energy for each in facts]),
    }


def _sounds(facts: Sequence[Facts]) -> Tensor:
    rows = [
        [
            *(float(name in each.heard) for name in _NAMES),
            float(each.has_drums),
            float(each.has_percussion),
            float(each.place.starts),
            float(each.place.ends),
        ]
        for each in facts
    ]
    return torch.tensor(rows)


def _scales(facts: Sequence[Facts]) -> Tensor:
    scales = torch.zeros(len(facts), 12)
    for row, each in enumerate(facts):
        if each.key_scale is not None:
            scales[row, list(Key.parse(each.key_scale).scale())] = 1.0
    return scales
