import pytest
import torch
from torch import nn

from acestep.synthesizer.transformer import Condition, Transformer
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
def test_an_unpadded_song_has_the_velocity_of_the_module_itself(base, frames):
    transformer, given = Transformer(base.transformer), condition(frames, (11,))
    latents = noise(1, frames)

    with torch.inference_mode():
        cache = transformer.cache(given)
        for t in (1.0, 0.3):
            expected = base.transformer(
                hidden_states=latents,
                timestep=torch.tensor([t]),
                timestep_r=torch.tensor([t]),
                encoder_hidden_states=given.states,
                context_latents=given.context,
            ).sample
            found = transformer.velocity(latents, t, cache)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_padding_does_not_count(base):
    transformer, given, latents = Transformer(base.transformer), condition(40, (11, 4)), noise(2, 40)
    before = transformer.velocity(latents, 0.5, transformer.cache(given))

    given.states[1, 4:] = 1e3
    after = transformer.velocity(latents, 0.5, transformer.cache(given))
    torch.testing.assert_close(after, before)

    given.states[1, 3] = -given.states[1, 3]
    changed = transformer.velocity(latents, 0.5, transformer.cache(given))
    assert torch.equal(changed[0], before[0])
    assert not torch.allclose(changed[1], before[1])


@torch.inference_mode()
def test_a_song_has_the_same_velocity_alone_and_in_a_batch(base):
    transformer, given, latents = Transformer(base.transformer), condition(40, (11, 4)), noise(2, 40)
    together = transformer.velocity(latents, 0.5, transformer.cache(given))

    short = Condition(given.states[1:, :4], given.mask[1:, :4], given.context[1:])
    alone = transformer.velocity(latents[1:], 0.5, transformer.cache(short))

    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_cache_of_the_first_songs(base):
    transformer, given, latents = Transformer(base.transformer), condition(40, (11, 4, 7)), noise(3, 40)
    cache = transformer.cache(given)
    assert cache.batch == 3

    first = transformer.velocity(latents[:2], 0.5, cache.first(2))

    torch.testing.assert_close(first, transformer.velocity(latents, 0.5, cache)[:2], atol=1e-6, rtol=1e-5)


class Counting(nn.Module):
    """Takes the place of a projection, as an adapter does, and records its calls."""

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
        cache = transformer.cache(condition(40, (5,)))
        once = set(calls)
        for _ in range(2):
            calls.clear()
            transformer.velocity(noise(1, 40), 0.5, cache)
            assert len(calls) == len(set(calls))
            assert set(calls) | once == {name for name, _ in projections}
            assert not set(calls) & once  # the cache is not computed again in a step


@torch.inference_mode()
def test_bfloat16_weights_give_float32_velocities(tmp_path):
    modules = toy.write_published(tmp_path).load(torch.bfloat16)
    transformer, given = Transformer(modules.transformer), condition(40, (11, 4))
    given = Condition(given.states.bfloat16(), given.mask, given.context.bfloat16())
    velocity = transformer.velocity(noise(2, 40), 0.5, transformer.cache(given))
    assert velocity.dtype == torch.float32
    assert velocity.isfinite().all()


class TestCrossLogits:
    @torch.inference_mode()
    @pytest.mark.parametrize("lengths", [(11,), (11, 4)], ids=["alone", "padded"])
    def test_are_those_of_the_layer_itself(self, base, lengths):
        """Softmax and values on top give the input of the layer's output projection."""
        transformer, given = Transformer(base.transformer), condition(40, lengths)
        cache, latents = transformer.cache(given), noise(len(lengths), 40)
        heads = {1: (0, 1, 2, 3)}
        inputs_of_projection: list[torch.Tensor] = []
        layer = base.transformer.layers[1].cross_attn

        def record(module, inputs, output):
            inputs_of_projection.append(inputs[0])

        hook = layer.to_out[0].register_forward_hook(record)
        transformer.velocity(latents, 0.5, cache)
        hook.remove()

        weights = [logits.softmax(-1) for logits in transformer.cross_logits(latents, 0.5, cache, heads)]
        assert len(weights) == 4
        values = cache.cross[1][1].repeat_interleave(2, dim=1)
        mixed = torch.cat([weight @ values[:, head] for head, weight in enumerate(weights)], dim=-1)
        torch.testing.assert_close(mixed, inputs_of_projection[0], atol=1e-5, rtol=1e-4)
        if len(lengths) > 1:
            assert not weights[0][1, :, 4:].any()  # padding is not attended to

    @torch.inference_mode()
    def test_are_in_the_order_of_layers_and_heads(self, base):
        transformer, given, latents = Transformer(base.transformer), condition(40, (11,)), noise(1, 40)
        cache = transformer.cache(given)
        one_by_one = [
            logits
            for layer, head in ((0, 1), (0, 3), (2, 2))
            for logits in transformer.cross_logits(latents, 0.5, cache, {layer: (head,)})
        ]
        together = list(transformer.cross_logits(latents, 0.5, cache, {0: (1, 3), 2: (2,)}))
        assert [tuple(logits.shape) for logits in together] == [(1, 20, 11)] * 3
        for found, expected in zip(together, one_by_one, strict=True):
            assert torch.equal(found, expected)

    @torch.inference_mode()
    def test_need_no_layers_above(self, base):
        transformer, given, latents = Transformer(base.transformer), condition(40, (11,)), noise(1, 40)
        cache, runs = transformer.cache(given), []
        hook = base.transformer.layers[2].mlp.register_forward_hook(lambda *_: runs.append(2))
        list(transformer.cross_logits(latents, 0.5, cache, {1: (0,)}))
        hook.remove()
        assert runs == []
