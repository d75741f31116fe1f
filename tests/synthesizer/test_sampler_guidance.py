import math
from typing import Any

import numpy as np
import pytest
import torch

from acestep.domain.song import Tuning
from acestep.synthesizer.sampler import (
    AdaptiveProjectedGuidance,
    angle_domain_guidance,
    classifier_free_guidance,
    guided_velocity,
)

SHAPE = (2, 9, 3)
ANYWHERE = torch.zeros(SHAPE), 0.5  # latents and time, which APG does not use

Pair = tuple[torch.Tensor, torch.Tensor]


def random(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def apg(scale: float, momentum: float = -0.75, eta: float = 0.0) -> AdaptiveProjectedGuidance:
    """With the published values by default."""
    return AdaptiveProjectedGuidance(scale, Tuning(momentum=momentum, eta=eta))


def apg_by_hand(pairs: list[Pair], scale: float, momentum: float = -0.75, eta: float = 0.0) -> torch.Tensor:
    """The published rule, song by song and channel by channel, for the last of several steps."""
    running = np.zeros(SHAPE)
    for conditional, null in pairs:
        running = (conditional - null).double().numpy() + momentum * running
    out = conditional.double().numpy().copy()
    for song in range(SHAPE[0]):
        for channel in range(SHAPE[2]):
            push, line = running[song, :, channel], out[song, :, channel]
            push = push * min(1.0, 2.5 / float(np.linalg.norm(push)))
            unit = line / np.linalg.norm(line)
            out[song, :, channel] = line + (scale - 1.0) * (push - (1.0 - eta) * (push @ unit) * unit)
    return torch.from_numpy(out).float()


@pytest.mark.parametrize(("momentum", "eta"), [(-0.75, 0.0), (-0.5, 0.0), (0.0, 0.3), (0.5, 1.0)])
def test_apg_follows_the_published_rule(momentum: float, eta: float):
    guidance = apg(7.0, momentum, eta)
    pairs = [(random(step), random(step + 10)) for step in range(3)]
    for count, (conditional, null) in enumerate(pairs, start=1):
        guided = guidance(conditional, null, *ANYWHERE)
        torch.testing.assert_close(guided, apg_by_hand(pairs[:count], 7.0, momentum, eta))


def test_apg_without_momentum_and_projection_is_plain_guidance():
    conditional = random(1)
    null = conditional - 0.1 * random(2)
    guided = apg(3.0, momentum=0.0, eta=1.0)(conditional, null, *ANYWHERE)
    torch.testing.assert_close(guided, null + 3.0 * (conditional - null))


def test_apg_does_not_stretch_a_small_difference_to_its_largest_norm():
    conditional = random(1)
    null = conditional + 1e-3 * random(2)
    guided = apg(3.0)(conditional, null, *ANYWHERE)
    torch.testing.assert_close(guided, apg_by_hand([(conditional, null)], 3.0))
    assert (guided - conditional).abs().max() < 0.02


def test_apg_drops_the_part_parallel_to_the_condition():
    conditional = random(1)
    guided = apg(7.0)(conditional, 0.8 * conditional, *ANYWHERE)
    torch.testing.assert_close(guided, conditional, atol=1e-5, rtol=1e-5)


def test_apg_of_zeros_is_zero():
    zeros = torch.zeros(SHAPE)
    assert torch.equal(apg(7.0)(zeros, zeros, *ANYWHERE), zeros)


ADG = Tuning(guidance="adg")


def turned(
    conditional: torch.Tensor, null: torch.Tensor, scale: float, t: float = 0.5, tuning: Tuning = ADG
) -> torch.Tensor:
    """What ADG makes of two predictions of the data, which it takes as velocities."""
    latents = random(99).double()[: len(null), : null.shape[1], : null.shape[2]]
    guide = angle_domain_guidance(scale, tuning)
    guided = guide((latents - conditional) / t, (latents - null) / t, latents, t)
    return latents - t * guided


def frame(*channels: float) -> torch.Tensor:
    return torch.tensor([[channels]], dtype=torch.float64)


def at_angle(angle: float, length: float = 2.0) -> torch.Tensor:
    """A frame of two channels at an angle to (1, 0)."""
    return length * frame(math.cos(angle), math.sin(angle))


def adg_by_hand(conditional: np.ndarray, null: np.ndarray, scale: float) -> np.ndarray:
    """The published rule for one frame whose angles are neither flat nor straight."""
    lengths = np.linalg.norm(conditional) * np.linalg.norm(null)
    old = np.arccos(conditional @ null / lengths)
    new = min((scale - 1.0 + 1e-3) * old, 3.14 / 6)
    difference = conditional - null
    aside = difference - (difference @ null) / (null @ null) * null
    guided: np.ndarray = np.cos(new) * conditional + aside * np.sin(new) / np.sin(old)
    return guided


@pytest.mark.parametrize("scale", [1.1, 1.5, 7.0])
@pytest.mark.parametrize("t", [1.0, 0.1])
def test_adg_follows_the_published_rule_frame_by_frame(scale, t):
    conditional, null = random(1).double(), random(2).double()
    found = turned(conditional, null, scale, t)
    for song in range(SHAPE[0]):
        for time in range(SHAPE[1]):
            expected = adg_by_hand(conditional[song, time].numpy(), null[song, time].numpy(), scale)
            np.testing.assert_allclose(found[song, time].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_adg_multiplies_a_small_angle_and_keeps_the_length():
    out = turned(at_angle(0.01), frame(1.0, 0.0), scale=4.0)[0, 0]
    assert math.atan2(out[1], out[0]) == pytest.approx(0.01 + 3.001 * 0.01, rel=1e-2)
    assert out.norm() == pytest.approx(2.0, rel=1e-2)


def test_adg_turns_by_thirty_degrees_at_most():
    # At a right angle to the null prediction both terms of the rule point along the conditional one.
    out = turned(at_angle(math.pi / 2), frame(1.0, 0.0), scale=7.0)[0, 0]
    assert out.tolist() == pytest.approx([0.0, 2 * (math.cos(3.14 / 6) + math.sin(3.14 / 6))])


@pytest.mark.parametrize("angle", [5e-4, math.pi - 5e-4])
def test_adg_uses_its_plain_weight_where_the_sine_vanishes(angle):
    out = turned(at_angle(angle), frame(1.0, 0.0), scale=7.0)[0, 0]
    cosine = math.cos(min(6.001 * angle, 3.14 / 6))
    aside = 2 * math.sin(angle)
    assert out.tolist() == pytest.approx([2 * math.cos(angle) * cosine, aside * cosine + aside * 6.001])


def test_adg_ignores_the_length_of_the_null_prediction():
    conditional, null = random(1).double(), random(2).double()
    torch.testing.assert_close(turned(conditional, 3.0 * null, 5.0), turned(conditional, null, 5.0))


def test_adg_keeps_predictions_that_agree():
    data = random(1).double()
    torch.testing.assert_close(turned(data, data, 7.0), data)


def test_adg_of_zeros_is_zero_in_their_precision():
    zeros = torch.zeros(SHAPE)
    assert torch.equal(angle_domain_guidance(7.0, ADG)(zeros, zeros, zeros, 0.5), zeros)


@pytest.mark.parametrize(
    ("tuning", "angle"),
    [
        (Tuning(guidance="adg"), 3.14 / 6),
        (Tuning(guidance="adg", angle_limit=0.2), 0.2),
        (Tuning(guidance="adg_w_norm", angle_limit=0.3), 0.3),
        (Tuning(guidance="adg_w_norm"), 3.14 / 3),
        (Tuning(guidance="adg_wo_clip"), 1.601 * 1.2),
    ],
)
def test_each_variant_of_adg_has_its_largest_angle(tuning: Tuning, angle: float) -> None:
    # At 1.2 radians from (1, 0), with weight 1.601.
    x, y = 2 * math.cos(1.2), 2 * math.sin(1.2)
    expected = torch.tensor(
        [x * math.cos(angle), y * math.cos(angle) + y * math.sin(angle) / math.sin(1.2)], dtype=torch.float64
    )
    out = turned(at_angle(1.2), frame(1.0, 0.0), scale=2.6, tuning=tuning)[0, 0]
    if tuning.guidance == "adg_w_norm":  # one frame: each channel keeps its absolute value
        assert out.tolist() == pytest.approx((expected.sign() * torch.tensor([x, y]).abs()).tolist())
    else:
        assert out.tolist() == pytest.approx(expected.tolist())


def test_adg_with_norm_keeps_the_norm_of_each_channel_over_time() -> None:
    conditional, null = random(1).double(), random(2).double()
    out = turned(conditional, null, 7.0, tuning=Tuning(guidance="adg_w_norm"))
    torch.testing.assert_close(out.norm(dim=1), conditional.norm(dim=1))
    assert not torch.allclose(out, conditional)


def test_cfg_goes_beyond_the_conditional_velocity() -> None:
    guide = classifier_free_guidance(3.0)
    out = guide(torch.tensor([[[2.0]]]), torch.tensor([[[0.5]]]), *ANYWHERE)
    assert out.item() == 0.5 + 3.0 * 1.5


@pytest.mark.parametrize(("limit", "expected"), [(0.0, 8.0), (1.0, 1.0), (4.0, 4.0), (9.0, 8.0)])
def test_apg_limits_the_norm_of_the_guidance(limit: float, expected: float) -> None:
    # The difference has norm 8 over time, across the conditional velocity, and is added once at scale 2.
    conditional = torch.tensor([[[1.0], [0.0]]])
    null = conditional - torch.tensor([[[0.0], [8.0]]])
    out = AdaptiveProjectedGuidance(2.0, Tuning(norm_limit=limit))(conditional, null, *ANYWHERE)
    assert out.flatten().tolist() == pytest.approx([1.0, expected])


class FakeCache:
    def __init__(self, is_guided: bool) -> None:
        self.is_guided = is_guided

    def unguided(self) -> "FakeCache":
        return FakeCache(False)


class FakeTransformer:
    """Records whether it was guided; the velocity is 5, and 3 without condition."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, bool]] = []

    def velocity(self, latents: torch.Tensor, t: float, cache: FakeCache) -> torch.Tensor:
        self.calls.append((t, cache.is_guided))
        conditional, null = torch.full_like(latents, 5.0), torch.full_like(latents, 3.0)
        return torch.cat([conditional, null]) if cache.is_guided else conditional


@pytest.mark.parametrize(
    ("t", "guided"), [(1.0, False), (0.71, False), (0.7, True), (0.5, True), (0.2, True), (0.19, False)]
)
def test_guidance_acts_inside_its_interval_only(t, guided):
    transformer: Any = FakeTransformer()
    cache: Any = FakeCache(True)
    latents = torch.zeros(2, 4, 1)

    def guidance(conditional, null, at, time):
        assert at is latents
        assert time == t
        return conditional - null

    velocity = guided_velocity(transformer, cache, guidance, (0.2, 0.7))

    out = velocity(latents, t)

    assert transformer.calls == [(t, guided)]
    assert torch.equal(out, torch.full((2, 4, 1), 2.0 if guided else 5.0))
