"""LoKr adapters as LyCORIS names and stores them. What they do to a model: tests/synthesizer/test_lora."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from acestep.catalog.adapters import Adapter, AdapterFolder
from acestep.errors import CheckpointError

FLAT = "lycoris_layers_3_self_attn_q_proj"
SHAPES = {"lokr_w1": (2, 2), "lokr_w2_a": (8, 3), "lokr_w2_b": (3, 4)}  # of a layer of 16 x 8


def written(folder: Path, flat: str = FLAT, shapes: Any = None, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{flat}.{part}": np.ones(shape, np.float32) for part, shape in (shapes or SHAPES).items()}
    metadata = {"algo": "lokr", "lokr_config": json.dumps(more.pop("config", {}))}
    save_file(tensors | {f"{flat}.{name}": value for name, value in more.items()}, folder / FILE, metadata)


FILE = "lokr_weights.safetensors"


def found(folder: Path) -> Adapter:
    return AdapterFolder(folder.parent).find(folder.name)


@pytest.mark.parametrize(
    ("flat", "layer"),
    [
        ("layers_3_self_attn_q_proj", "layers.3.self_attn.q_proj"),
        ("layers_11_cross_attn_o_proj", "layers.11.cross_attn.o_proj"),
        ("layers_0_cross_attn_to_out_0", "layers.0.cross_attn.o_proj"),
        ("layers_0_mlp_gate_proj", "layers.0.mlp.gate_proj"),
        ("decoder_layers_0_mlp_down_proj", "layers.0.mlp.down_proj"),
        ("_orig_mod_layers_0_mlp_up_proj", "layers.0.mlp.up_proj"),
        ("time_embed_linear_1", "time_embed.linear_1"),
        ("time_embed_r_time_proj", "time_embed_r.time_proj"),
        ("condition_embedder", "condition_embedder"),
    ],
)
def test_names_get_their_dots_back(tmp_path: Path, flat: str, layer: str):
    written(tmp_path / "kron", f"lycoris_{flat}")
    adapter = found(tmp_path / "kron")
    assert {tensor.layer for tensor in adapter.tensors} == {layer}
    assert {tensor.name for tensor in adapter.tensors} == {f"lycoris_{flat}.{part}" for part in SHAPES}
    adapter.check_fit("toy", {layer: (16, 8)})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_the_scale_is_alpha_over_the_rank(tmp_path: Path, dtype: Any):
    written(tmp_path / "kron", alpha=np.array(6, dtype))
    adapter = found(tmp_path / "kron")
    assert (adapter.kind, adapter.ranks, adapter.alphas) == (
        "lokr",
        {"layers.3.self_attn.q_proj": 3},
        {"layers.3.self_attn.q_proj": 6.0},
    )
    assert adapter.settings == {"decompose_both": False, "decompose_factor": 2}


@pytest.mark.parametrize(
    ("shapes", "alpha", "config", "scale"),
    [
        (SHAPES, None, {}, 1.0),
        ({"lokr_w1": (4, 2), "lokr_w2": (4, 4)}, 64.0, {}, 1.0),
        ({"lokr_w1": (4, 2), "lokr_w2": (4, 4)}, None, {"rs_lora": True}, 1.0),
        ({"lokr_w1": (4, 2), "lokr_w2": (4, 4)}, 64.0, {"rs_lora": True, "linear_dim": 16}, 4.0),
        ({"lokr_w1_a": (4, 1), "lokr_w1_b": (1, 2), "lokr_w2": (4, 4)}, 3.0, {}, 3.0),
    ],
)
def test_scales_of_whole_matrices(tmp_path: Path, shapes: Any, alpha: Any, config: Any, scale: float):
    more: dict[str, Any] = {} if alpha is None else {"alpha": np.array(alpha, np.float32)}
    written(tmp_path / "kron", shapes=shapes, config=config, **more)
    adapter = found(tmp_path / "kron")
    (rank,), (stored,) = adapter.ranks.values(), adapter.alphas.values()
    assert stored / rank == scale


@pytest.mark.parametrize(
    ("shapes", "config", "factor"),
    [
        ({"lokr_w1": (4, 2), "lokr_w2": (4, 4)}, {}, -1),
        ({"lokr_w1": (2, 2), "lokr_w2": (8, 4)}, {"factor": 2}, 2),
        ({"lokr_w1": (2, 2), "lokr_w2": (8, 4)}, {}, 2),
        ({"lokr_w1": (4, 2), "lokr_w2": (4, 4)}, {"factor": "much"}, -1),
        ({"lokr_w1": (1, 1), "lokr_w2": (16, 8)}, {"factor": 1}, 1),
    ],
)
def test_the_factor_is_what_gives_these_shapes(tmp_path: Path, shapes: Any, config: Any, factor: int):
    written(tmp_path / "kron", shapes=shapes, config=config)
    assert found(tmp_path / "kron").settings["decompose_factor"] == factor


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dora_scale": np.ones((16, 1), np.float32)}, f"{FLAT}.dora_scale' cannot be used"),
        ({"lokr_t2": np.ones((3, 3, 2), np.float32)}, f"{FLAT}.lokr_t2' cannot be used"),
        ({"diff_b": np.ones(16, np.float32)}, f"{FLAT}.diff_b' cannot be used"),
        ({"alpha": np.ones(2, np.float32)}, f"{FLAT}.alpha' is not one number"),
        ({"shapes": {"lokr_w1": (2, 2), "lokr_w2": (8, 4, 3)}}, f"{FLAT}.lokr_w2' cannot be used"),
        (
            {"shapes": {"lokr_w1": (2, 2), "lokr_w2_a": (8, 3)}},
            "lokr_w2 of layer 'layers.3.self_attn.q_proj'",
        ),
        ({"shapes": {"lokr_w1": (8, 2), "lokr_w2": (2, 4)}}, "no factor of PEFT gives its shape [8, 2]"),
        ({"shapes": {**SHAPES, "lokr_w2": (8, 4)}}, "lokr_w2 of layer"),
        ({"flat": "lora_te_layers_3"}, "'lora_te_layers_3.lokr_w1' cannot be used"),
        (
            {
                "config": {"rs_lora": True},
                "shapes": {"lokr_w1": (4, 2), "lokr_w2": (4, 4)},
                "alpha": np.ones(1, np.float32),
            },
            "rs_lora",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path: Path, change: Any, words: str):
    written(tmp_path / "kron", **change)
    with pytest.raises(CheckpointError) as caught:
        found(tmp_path / "kron")
    assert words in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_layer_that_the_model_does_not_have_is_named(tmp_path: Path):
    written(tmp_path / "kron", "lycoris_text_model_encoder_layers_0_mlp_fc1")
    with pytest.raises(
        CheckpointError, match=r"'lycoris_text_model_encoder_layers_0_mlp_fc1\.lokr_w1' fits nowhere"
    ):
        found(tmp_path / "kron").check_fit("toy", {"layers.3.self_attn.q_proj": (16, 8)})


def test_two_names_of_one_layer(tmp_path: Path):
    folder = tmp_path / "kron"
    folder.mkdir()
    tensors = {
        f"lycoris_layers_3_self_attn_{name}.{part}": np.ones(shape, np.float32)
        for name in ("q_proj", "to_q")
        for part, shape in SHAPES.items()
    }
    save_file(tensors, folder / FILE)
    with pytest.raises(CheckpointError, match="is for the same place as"):
        found(folder)
