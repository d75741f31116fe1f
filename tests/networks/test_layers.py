"""The layers against those of transformers and diffusers, with the same weights."""

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from diffusers.models.normalization import RMSNorm as DiffusersRMSNorm
from diffusers.models.transformers.ace_step_transformer import AceStepMLP
from torch import Tensor, nn
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3Attention,
    Qwen3MLP,
    Qwen3RMSNorm,
    Qwen3RotaryEmbedding,
    apply_rotary_pos_emb,
)

from acestep.networks.layers import (
    Attention,
    GatedMLP,
    RMSNorm,
    attend,
    attend_within,
    band_mask,
    rotary_tables,
    rotate,
)

WIDTH, HEADS, KV_HEADS, HEAD_DIM, LENGTH = 48, 4, 2, 16, 23
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
DTYPES = sorted(ROUNDING, key=str)


def qwen_config(bias: bool = False) -> Qwen3Config:
    return Qwen3Config(
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        attention_bias=bias,
        rope_parameters={"rope_type": "default", "rope_theta": 12_345.0},
        attn_implementation="eager",
    )


def randomized(module: nn.Module) -> nn.Module:
    for parameter in module.requires_grad_(False).parameters():
        parameter.normal_(0, 0.5)
    return module.eval()


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(dtype)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == wanted.dtype
    rounding = ROUNDING[wanted.dtype]
    torch.testing.assert_close(found, wanted, rtol=rounding, atol=rounding)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("theirs", [Qwen3RMSNorm, DiffusersRMSNorm])
def test_norm(theirs, dtype):
    reference = randomized(theirs(HEAD_DIM, eps=0.1)).to(dtype)
    ours = RMSNorm(HEAD_DIM, eps=0.1).to(dtype)
    ours.load_state_dict(reference.state_dict())
    x = draw(2, 3, HEAD_DIM, dtype=dtype)
    with torch.inference_mode():
        assert_close(ours(x), reference(x))


def test_a_norm_of_nothing_is_nothing_and_large_numbers_do_not_overflow() -> None:
    norm = RMSNorm(4, eps=1e-6).requires_grad_(False)
    assert norm(torch.zeros(1, 4)).tolist() == [[0, 0, 0, 0]]
    assert norm(torch.full((1, 4), 3e15)).tolist() == [[1, 1, 1, 1]]
    half = norm.to(torch.bfloat16)(torch.full((1, 4), 3e15, dtype=torch.bfloat16))
    assert half.tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("reference", [Qwen3MLP(qwen_config()), AceStepMLP(WIDTH, 96)])
def test_mlp(reference):
    randomized(reference)
    ours = GatedMLP(WIDTH, 96)
    ours.load_state_dict(reference.state_dict())
    x = draw(2, LENGTH, WIDTH)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), reference(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotation_as_in_qwen(dtype):
    positions = torch.arange(LENGTH)
    x = draw(2, HEADS, LENGTH, HEAD_DIM, dtype=dtype)
    tables = Qwen3RotaryEmbedding(qwen_config())(x, positions[None])
    wanted, _ = apply_rotary_pos_emb(x, x, *tables)
    cos, sin = rotary_tables(positions, HEAD_DIM, 12_345.0)
    assert_close(rotate(x, (cos, sin)), wanted)
    assert_close(rotate(x, (cos.to(dtype), sin.to(dtype))), wanted)


def test_rotation_as_in_diffusers():
    positions = torch.arange(LENGTH, dtype=torch.float32)
    tables = get_1d_rotary_pos_embed(
        HEAD_DIM, positions, theta=12_345.0, use_real=True, repeat_interleave_real=False
    )
    x = draw(2, HEADS, LENGTH, HEAD_DIM)
    wanted = apply_rotary_emb(x, tables, use_real_unbind_dim=-2)
    assert_close(rotate(x, rotary_tables(positions, HEAD_DIM, 12_345.0)), wanted)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal, bias):
    config = qwen_config(bias)
    reference = randomized(Qwen3Attention(config, 0))
    ours = Attention(WIDTH, HEADS, KV_HEADS, HEAD_DIM, config.rms_norm_eps, bias)
    ours.load_state_dict(reference.state_dict())
    x, positions = draw(2, LENGTH, WIDTH), torch.arange(LENGTH)
    tables = Qwen3RotaryEmbedding(config)(x, positions[None])
    mask = torch.full((1, 1, LENGTH, LENGTH), -torch.inf).triu(1) if causal else None
    rotary = rotary_tables(positions, HEAD_DIM, 12_345.0)
    with torch.inference_mode():
        wanted, _ = reference(x, tables, mask)
        torch.testing.assert_close(ours(x, rotary, causal=causal), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours(x, rotary, mask), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_heads_share_keys_with_and_without_a_mask(kv_heads):
    queries, keys = draw(2, 4, 5, 8), draw(2, kv_heads, 7, 8)
    copied = keys.repeat_interleave(4 // kv_heads, dim=1)
    wanted = (queries @ copied.transpose(2, 3) * 8**-0.5).softmax(-1) @ copied
    torch.testing.assert_close(attend(queries, keys, keys), wanted)
    torch.testing.assert_close(attend(queries, keys, keys, torch.zeros(5, 7)), wanted)


@pytest.mark.parametrize("length", [10, 64, 65, 200, 256])
@pytest.mark.parametrize(("window", "heads"), [(8, 4), (63, 2), (1, 1)])
def test_banded_attention_is_that_under_the_mask_of_its_window(length, window, heads):
    queries = draw(2, 4, length, 8)
    keys, values = draw(2, heads, length, 8), draw(2, heads, length, 8)
    position = torch.arange(length)
    far = (position[:, None] - position).abs() > window
    mask = torch.zeros(length, length).masked_fill(far, float("-inf"))

    band = band_mask(length, window, queries)

    assert (band is None) == (not far.any())
    if band is not None:
        found = attend_within(queries, keys, values, band)
        torch.testing.assert_close(found, attend(queries, keys, values, mask), atol=1e-6, rtol=1e-6)


def test_no_window_is_no_band():
    assert band_mask(1000, None, torch.zeros(1)) is None


def test_layers_can_be_trained() -> None:
    # Computing in place must not touch what the way back needs.
    norm, mlp = RMSNorm(WIDTH, 1e-6), GatedMLP(WIDTH, 96)
    attention = Attention(WIDTH, HEADS, KV_HEADS, HEAD_DIM, 1e-6)
    rotary, band = rotary_tables(torch.arange(200), HEAD_DIM, 1e4), band_mask(200, 8, torch.zeros(1))

    def loss() -> Tensor:
        x = norm(draw(1, 200, WIDTH))
        mixed: Tensor = mlp(x + attention(x, rotary, band=band))
        return mixed.square().mean()

    (gradient,) = torch.autograd.grad(loss(), norm.weight)
    with torch.no_grad():
        norm.weight[3] += 1e-2
        above = loss()
        norm.weight[3] -= 2e-2
        slope = float(above - loss()) / 2e-2
    assert float(gradient[3]) == pytest.approx(slope, rel=1e-2)
