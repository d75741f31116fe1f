"""The times at which a render visits the model: from 1 (noise) down to 0 (music).

Pure functions on floats; knows nothing of tensors or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from acestep.domain.song import Sampling
from acestep.errors import InvalidFieldError
from acestep.limits import TURBO_SHIFTS

# Turbo models were distilled at these steps (and TURBO_SHIFTS), and know no other times.
TURBO_STEPS = 8


def times(sampling: Sampling, is_turbo: bool) -> tuple[float, ...]:
    """The falling times of a render, the closing 0 included; one step lies between two neighbours.

    Stochastic steps on base models run over equal times whatever the shift; a free list stays as it is.
    Raises InvalidFieldError where the model cannot run what `sampling` asks for.
    """
    if sampling.timesteps is not None:
        free = free_times(sampling.timesteps)
        return nearest_turbo_times(free) if is_turbo else free
    if is_turbo:
        return turbo_times(sampling.steps, sampling.shift)
    return base_times(sampling.steps, 1.0 if sampling.infer_method == "sde" else sampling.shift)


def begun(schedule: Sequence[float], noise_strength: float) -> tuple[float, ...]:
    """What is left of falling times for a song that starts `noise_strength` of the way to its source.

    It starts at the time nearest to `1 - noise_strength`, but has one step at least.
    """
    if noise_strength == 0.0:
        return tuple(schedule)
    start = min(schedule[:-1], key=lambda t: abs(t - (1.0 - noise_strength)))
    return tuple(t for t in schedule if t <= start)


def base_times(steps: int, shift: float) -> tuple[float, ...]:
    """`steps` equal steps, shifted: above 1, more of them lie near the noise, where the form is decided."""
    if steps < 1:
        raise InvalidFieldError("inference_steps", steps, "1 or more")
    return tuple(shifted((steps - step) / steps, shift) for step in range(steps + 1))


def turbo_times(steps: int, shift: float) -> tuple[float, ...]:
    """The table of the nearest shift that turbo knows; with fewer steps, the nearest times turbo knows."""
    if not 1 <= steps <= TURBO_STEPS:
        raise InvalidFieldError("inference_steps", steps, f"1 to {TURBO_STEPS} on a turbo model")
    nearest_shift = min(TURBO_SHIFTS, key=lambda known: abs(known - shift))
    return nearest_turbo_times(base_times(steps, nearest_shift))


def free_times(timesteps: Sequence[float]) -> tuple[float, ...]:
    """A user's own list: falling, in 0..1; zeros at its end may be there or not.

    How many there may be is the model's matter, and `acestep.limits` has seen to it.
    """
    kept = list(timesteps)
    while kept and kept[-1] == 0.0:
        kept.pop()
    in_range = all(0.0 < t <= 1.0 for t in kept)
    if not (kept and in_range and all(a > b for a, b in pairwise(kept))):
        allowed = "one or more falling values above 0, at most 1"
        raise InvalidFieldError("timesteps", ", ".join(map(str, timesteps)), allowed)
    return (*kept, 0.0)


def nearest_turbo_times(free: Sequence[float]) -> tuple[float, ...]:
    """Each time moved to the nearest that turbo knows; two that meet become one step."""
    known = {t for shift in TURBO_SHIFTS for t in base_times(TURBO_STEPS, shift)[:-1]}
    moved = [min(known, key=lambda t: abs(t - wanted)) for wanted in free[:-1]]
    return (*dict.fromkeys(moved), 0.0)


def shifted(u: float, shift: float) -> float:
    """Bend `u` in 0..1 towards 1; the ends stay."""
    return shift * u / (1.0 + (shift - 1.0) * u)
