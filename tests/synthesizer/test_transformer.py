import pytest
import torch
from torch import nn

from acestep.synthesizer.conditioning import Condition
from acestep.synthesizer.transformer import Transformer
from tests.synthesizer import toy

WIDTH = 32


def condition(frames: int, lengths: tuple[int, ...], seed: int = 0) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    songs, longest = len(lengths), max(lengths)
    return Condition(
        states=torch.randn(songs, longest, WIDTH, generator=generator),
        mask=torch.arange(longest) < torch.tensor(lengths)[:, None],
        context=torch.randn(songs, frames, toy.CHANNELS + toy.MASK_CHANNELS, generator=generator),
    )


def noise(songs: int, frames: int) -> torch.Tensor:
    return torch.randn(songs, frames, toy.CHANNELS, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("frames", [40, 51, 6])
def test_an_unpadded_song_moves_as_the_module_itself_says(base, frames):
    transformer, told = Transformer(base.transformer), condition(frames, (11,))
    latents = noise(1, frames)

    with torch.inference_mode():
        attended = transformer.attend(told)
        for t in (1.0, 0.3):
            expected = base.transformer(
                hidden_states=latents,
                timestep=torch.tensor([t]),
                timestep_r=torch.tensor([t]),
                encoder_hidden_states=told.states,
                context_latents=told.context,
            ).sample
            found = transformer.velocity(latents, t, attended)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_padding_is_not_heard(base):
    transformer, told, latents = Transformer(base.transformer), condition(40, (11, 4)), noise(2, 40)
    before = transformer.velocity(latents, 0.5, transformer.attend(told))

    told.states[1, 4:] = 1e3
    after = transformer.velocity(latents, 0.5, transformer.attend(told))
    torch.testing.assert_close(after, before)

    told.states[1, 3] = -told.states[1, 3]
    source_latents = transformer.velocity(latents, 0.5, transformer.attend(told))
    assert torch.equal(source_latents[0], before[0])
    assert not torch.allclose(source_latents[1], before[1])


@torch.inference_mode()
def test_a_song_in_a_batch_moves_as_it_does_alone(base):
    transformer, told, latents = Transformer(base.transformer), condition(40, (11, 4)), noise(2, 40)
    together = transformer.velocity(latents, 0.5, transformer.attend(told))

    short = Condition(told.states[1:, :4], told.mask[1:, :4], told.context[1:])
    alone = transformer.velocity(latents[1:], 0.5, transformer.attend(short))

    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_first_songs_of_what_is_attended(base):
    transformer, told, latents = Transformer(base.transformer), condition(40, (11, 4, 7)), noise(3, 40)
    attended = transformer.attend(told)
    assert attended.songs == 3

    first = transformer.velocity(latents[:2], 0.5, attended.first(2))

    torch.testing.assert_close(first, transformer.velocity(latents, 0.5, attended)[:2], atol=1e-6, rtol=1e-5)


class Counting(nn.Module):
    """What an adapter does: stands in the place of a projection, and adds to it."""

    def __init__(self, inner: nn.Module, calls: list[str], name: str) -> None:
        super().__init__()
        self.inner, self.calls, self.name = inner, calls, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(self.name)
        out: torch.Tensor = self.inner(x)
        return out


def test_every_projection_may_be_wrapped(tmp_path):
    modules = toy.write_published(tmp_path).load()
    calls: list[str] = []
    projections = [(n, m) for n, m in modules.transformer.named_modules() if isinstance(m, nn.Linear)]
    for name, module in projections:
        parent, _, child = name.rpartition(".")
        setattr(modules.transformer.get_submodule(parent), child, Counting(module, calls, name))
    transformer = Transformer(modules.transformer)

    with torch.inference_mode():
        attended = transformer.attend(condition(40, (5,)))
        once = set(calls)
        for _ in range(2):
            calls.clear()
            transformer.velocity(noise(1, 40), 0.5, attended)
            assert len(calls) == len(set(calls))
            assert set(calls) | once == {name for name, _ in projections}
            assert not set(calls) & once  # what is done once is not done again in a step


@torch.inference_mode()
def test_bfloat16_weights_give_float32_velocities(tmp_path):
    modules = toy.write_published(tmp_path).load(torch.bfloat16)
    transformer, told = Transformer(modules.transformer), condition(40, (11, 4))
    told = Condition(told.states.bfloat16(), told.mask, told.context.bfloat16())
    velocity = transformer.velocity(noise(2, 40), 0.5, transformer.attend(told))
    assert velocity.dtype == torch.float32
    assert velocity.isfinite().all()
