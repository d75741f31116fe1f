from typing import Any

import numpy as np
import pytest
import torch

from acestep.synthesizer.guidance import AdaptiveProjectedGuidance, GuidedVelocity

SHAPE = (2, 9, 3)

Pair = tuple[torch.Tensor, torch.Tensor]


def random(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def by_hand(pairs: list[Pair], scale: float) -> torch.Tensor:
    """The published rule, song by song and channel by channel, for the last of several steps."""
    running = np.zeros(SHAPE)
    for conditional, null in pairs:
        running = (conditional - null).double().numpy() - 0.75 * running
    out = conditional.double().numpy().copy()
    for song in range(SHAPE[0]):
        for channel in range(SHAPE[2]):
            push, line = running[song, :, channel], out[song, :, channel]
            push = push * min(1.0, 2.5 / float(np.linalg.norm(push)))
            unit = line / np.linalg.norm(line)
            out[song, :, channel] = line + (scale - 1.0) * (push - (push @ unit) * unit)
    return torch.from_numpy(out).float()


def test_steps_follow_the_published_rule():
    guidance = AdaptiveProjectedGuidance(7.0)
    pairs = [(random(step), random(step + 10)) for step in range(3)]
    for count, (conditional, null) in enumerate(pairs, start=1):
        torch.testing.assert_close(guidance(conditional, null), by_hand(pairs[:count], 7.0))


def test_a_small_push_is_not_stretched_to_the_cap():
    conditional = random(1)
    null = conditional + 1e-3 * random(2)
    guided = AdaptiveProjectedGuidance(3.0)(conditional, null)
    torch.testing.assert_close(guided, by_hand([(conditional, null)], 3.0))
    assert (guided - conditional).abs().max() < 0.02


def test_what_only_makes_it_louder_is_left_out():
    conditional = random(1)
    guided = AdaptiveProjectedGuidance(7.0)(conditional, 0.8 * conditional)
    torch.testing.assert_close(guided, conditional, atol=1e-5, rtol=1e-5)


def test_silence_on_both_sides_stays_silence():
    zeros = torch.zeros(SHAPE)
    assert torch.equal(AdaptiveProjectedGuidance(7.0)(zeros, zeros), zeros)


class FakeAttended:
    def __init__(self, songs: int) -> None:
        self.songs = songs

    def first(self, songs: int) -> "FakeAttended":
        return FakeAttended(songs)


class Recorder:
    """A transformer that writes down how many songs it ran; its null songs move slower."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, int]] = []

    def velocity(self, latents: torch.Tensor, t: float, attended: FakeAttended) -> torch.Tensor:
        assert latents.shape[0] == attended.songs
        self.batches.append((t, attended.songs))
        return torch.cat([torch.full_like(latents[:2], 5.0), torch.full_like(latents[2:], 3.0)])


@pytest.mark.parametrize(
    ("t", "guided"), [(1.0, False), (0.71, False), (0.7, True), (0.5, True), (0.2, True), (0.19, False)]
)
def test_guidance_acts_inside_its_interval_only(t, guided):
    recorder: Any = Recorder()
    attended: Any = FakeAttended(4)
    velocity = GuidedVelocity(recorder, attended, lambda conditional, null: conditional - null, (0.2, 0.7))

    out = velocity(torch.zeros(2, 4, 1), t)

    assert recorder.batches == [(t, 4 if guided else 2)]
    assert torch.equal(out, torch.full((2, 4, 1), 2.0 if guided else 5.0))
