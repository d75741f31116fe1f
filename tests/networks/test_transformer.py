"""The transformer against the class of diffusers with the same weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from torch import nn

from acestep.networks.config import LayerConfig, SynthesizerConfig
from acestep.networks.transformer import Condition, DiTLayer, Transformer
from tests.synthesizer import toy

WIDTH = 32
LAYER = LayerConfig(**toy.LAYER)  # type: ignore[arg-type]
CONFIG = SynthesizerConfig(
    dit=replace(LAYER, layer_types=tuple(toy.LAYER_TYPES)),
    encoder=LAYER,
    pooler=LAYER,
    dit_layers=3,
    lyric_layers=0,
    timbre_layers=0,
    pooler_layers=0,
    patch_size=2,
    latent_channels=toy.CHANNELS,
    mask_channels=toy.MASK_CHANNELS,
    text_width=toy.TEXT_WIDTH,
    frames_per_code=4,
    code_levels=(4, 3),
)
CONFIGS = {
    "as published": CONFIG,
    "XL": replace(CONFIG, encoder=replace(LAYER, hidden_size=24), dit_layers=2),
    "no types": replace(CONFIG, dit=LAYER),
    "full": replace(CONFIG, dit=replace(LAYER, layer_types=("full_attention",) * 3)),
    "no window": replace(CONFIG, dit=replace(LAYER, sliding_window=None)),
    "biases": replace(CONFIG, dit=replace(LAYER, attention_bias=True)),
    "one head of keys": replace(CONFIG, dit=replace(LAYER, num_key_value_heads=1, head_dim=16)),
    "all heads of keys": replace(CONFIG, dit=replace(LAYER, num_key_value_heads=4)),
    "patches of 3": replace(CONFIG, patch_size=3),
    "other constants": replace(CONFIG, dit=replace(LAYER, rope_theta=1e6, rms_norm_eps=1e-2)),
}


def of_diffusers(config: SynthesizerConfig) -> Any:
    dit = config.dit
    torch.manual_seed(3)
    module = AceStepTransformer1DModel(
        **{name: getattr(dit, name) for name in toy.LAYER},
        attention_bias=dit.attention_bias,
        layer_types=list(dit.layer_types) or None,
        num_hidden_layers=config.dit_layers,
        in_channels=config.in_channels,
        audio_acoustic_hidden_dim=config.latent_channels,
        patch_size=config.patch_size,
        encoder_hidden_size=config.encoder.hidden_size,
    )
    for parameter in module.eval().requires_grad_(False).parameters():
        if parameter.ndim == 1:  # norms and biases, which begin as ones and zeros
            parameter.add_(torch.randn(parameter.shape) / 4)
    return module


def of_ours(config: SynthesizerConfig, theirs: Any) -> Transformer:
    with torch.device("meta"):
        transformer = Transformer(config)
    state = {toy.our_name(name): each for name, each in theirs.state_dict().items()}
    transformer.load_state_dict(state, assign=True)
    return transformer.eval().requires_grad_(False)


def velocity_of_diffusers(module: Any, latents: torch.Tensor, t: float, given: Condition) -> torch.Tensor:
    time = torch.full((len(latents),), t)
    states, context = given.states, given.context
    with torch.inference_mode():
        velocity: torch.Tensor = module(latents, time, time, states, context).sample
    return velocity


def condition(frames: int, lengths: tuple[int, ...], width: int = WIDTH) -> Condition:
    generator = torch.Generator().manual_seed(0)
    songs, longest = len(lengths), max(lengths)
    return Condition(
        states=torch.randn(songs, longest, width, generator=generator),
        mask=torch.arange(longest) < torch.tensor(lengths)[:, None],
        context=torch.randn(songs, frames, toy.CHANNELS + toy.MASK_CHANNELS, generator=generator),
    )


def noise(songs: int, frames: int) -> torch.Tensor:
    return torch.randn(songs, frames, toy.CHANNELS, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("frames", [300, 51, 6])
@pytest.mark.parametrize("name", CONFIGS)
def test_unpadded_songs_have_the_velocities_of_diffusers_class(name, frames):
    config = CONFIGS[name]
    theirs = of_diffusers(config)
    transformer = of_ours(config, theirs)
    given, latents = condition(frames, (11, 11), width=config.encoder.hidden_size), noise(2, frames)
    with torch.inference_mode():
        cache = transformer.cache(given)
        for t in (1.0, 0.3):
            expected = velocity_of_diffusers(theirs, latents, t, given)
            torch.testing.assert_close(
                transformer.velocity(latents, t, cache), expected, atol=1e-5, rtol=1e-5
            )


def test_a_layer_of_the_published_size_is_that_of_diffusers():
    layer = LayerConfig(2048, 6144, 16, 8, 128, 1e6, 1e-6, 128)
    config = replace(CONFIG, dit=layer, encoder=layer, dit_layers=1, latent_channels=64, mask_channels=64)
    theirs = of_diffusers(config)
    random = torch.Generator().manual_seed(1)
    given = Condition(
        states=torch.randn(1, 7, 2048, generator=random),
        mask=torch.ones(1, 7, dtype=torch.bool),
        context=torch.randn(1, 300, 128, generator=random),
    )
    latents = torch.randn(1, 300, 64, generator=random)
    transformer = of_ours(config, theirs)
    with torch.inference_mode():
        found = transformer.velocity(latents, 0.5, transformer.cache(given))
    torch.testing.assert_close(
        found, velocity_of_diffusers(theirs, latents, 0.5, given), atol=1e-5, rtol=1e-5
    )


@torch.inference_mode()
def test_the_residual_stream_is_never_strided(base, monkeypatch):
    strides: set[tuple[int, ...]] = set()

    def record(layer, x, *inputs, forward=DiTLayer.forward):
        mixed = forward(layer, x, *inputs)
        strides.update((x.stride(), mixed.stride()))
        return mixed

    monkeypatch.setattr(DiTLayer, "forward", record)
    transformer = base.transformer
    transformer.velocity(noise(2, 40), 0.5, transformer.cache(condition(40, (11, 11))))
    assert strides == {(20 * WIDTH, WIDTH, 1)}


@torch.inference_mode()
def test_a_song_without_padding_has_no_masks_but_those_of_its_windows(base):
    assert base.transformer.cache(condition(18, (11, 11))).band is None
    cache = base.transformer.cache(condition(300, (11, 11)))
    assert cache.cross_mask is None
    assert cache.band.shape == (64, 64 + 2 * 8)  # whatever the song's length


@torch.inference_mode()
def test_padding_does_not_count(base):
    transformer, given, latents = base.transformer, condition(40, (11, 4)), noise(2, 40)
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
    transformer, given, latents = base.transformer, condition(40, (11, 4)), noise(2, 40)
    together = transformer.velocity(latents, 0.5, transformer.cache(given))

    short = Condition(given.states[1:, :4], given.mask[1:, :4], given.context[1:])
    alone = transformer.velocity(latents[1:], 0.5, transformer.cache(short))

    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["as published", "XL", "one head of keys", "biases", "no window"])
@torch.inference_mode()
def test_unconditional_rows_are_those_of_songs_that_have_the_null_condition_for_all_words(name):
    config = CONFIGS[name]
    theirs = of_diffusers(config)
    transformer, latents = of_ours(config, theirs), noise(2, 51)
    given = condition(51, (11, 11), width=config.encoder.hidden_size)
    null = torch.randn(1, 1, config.encoder.hidden_size, generator=torch.Generator().manual_seed(4))
    cache = transformer.cache(replace(given, null=null))

    conditional, unconditional = transformer.velocity(latents, 0.5, cache).chunk(2)

    nothing = replace(given, states=null.expand_as(given.states))
    for found, condition_of in ((conditional, given), (unconditional, nothing)):
        expected = velocity_of_diffusers(theirs, latents, 0.5, condition_of)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    plain = transformer.velocity(latents, 0.5, cache.unguided())
    assert torch.equal(plain, transformer.velocity(latents, 0.5, transformer.cache(given)))


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
    transformer = modules.transformer

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
    transformer, given = modules.transformer, condition(40, (11, 4))
    given = Condition(given.states.bfloat16(), given.mask, given.context.bfloat16())
    velocity = transformer.velocity(noise(2, 40), 0.5, transformer.cache(given))
    assert velocity.dtype == torch.float32
    assert velocity.isfinite().all()


class TestCrossLogits:
    @torch.inference_mode()
    @pytest.mark.parametrize("lengths", [(11,), (11, 4)], ids=["alone", "padded"])
    def test_are_those_of_the_layer_itself(self, base, lengths):
        """Softmax and values on top give the input of the layer's output projection."""
        transformer, given = base.transformer, condition(40, lengths)
        cache, latents = transformer.cache(given), noise(len(lengths), 40)
        heads = {1: (0, 1, 2, 3)}
        inputs_of_projection: list[torch.Tensor] = []
        layer = base.transformer.layers[1].cross_attn

        def record(module, inputs, output):
            inputs_of_projection.append(inputs[0])

        hook = layer.o_proj.register_forward_hook(record)
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
        transformer, given, latents = base.transformer, condition(40, (11,)), noise(1, 40)
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
        transformer, given, latents = base.transformer, condition(40, (11,)), noise(1, 40)
        cache, runs = transformer.cache(given), []
        hook = base.transformer.layers[2].mlp.register_forward_hook(lambda *_: runs.append(2))
        list(transformer.cross_logits(latents, 0.5, cache, {1: (0,)}))
        hook.remove()
        assert runs == []
