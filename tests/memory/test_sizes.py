"""Counted weights against those of the real classes, which cost nothing on the meta device."""

from typing import Any

import pytest
from torch import nn

from acestep.checkpoints import NANO_FOLDER, PUBLISHED, read_json
from acestep.memory.published import PLANNERS, TEXT_ENCODER, VAE, published_dit
from acestep.memory.sizes import DitSize, QwenSize, VaeSize
from acestep.memory.stored import Matrices
from tests.memory.classes import config_of, dit_modules, oobleck, qwen
from tests.synthesizer import toy

TURBO = published_dit("acestep-v15-turbo", is_turbo=True)
XL = published_dit("acestep-v15-xl-sft", is_turbo=False)


def count(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.state_dict().values())


@pytest.mark.parametrize("size", [TURBO, XL], ids=["2B", "XL"])
def test_published_dits_count_as_their_classes_do(size: DitSize) -> None:
    modules = dit_modules(size)
    transformer = modules.pop("transformer")
    assert size.transformer == count(transformer)
    assert size.layers * size.layer.crossed == sum(map(count, transformer.layers))  # type: ignore[arg-type]
    assert size.conditioning == sum(map(count, modules.values()))


def matrices(layers: Any) -> Matrices:
    """What a packer packs of these layers."""
    found = [layer.weight for layer in layers.modules() if type(layer) is nn.Linear]
    return Matrices(
        sum(weight.numel() for weight in found),
        sum(len(weight) for weight in found),
        max(weight.numel() for weight in found),
    )


@pytest.mark.parametrize("size", [TURBO, XL], ids=["2B", "XL"])
def test_the_matrices_of_a_dit_are_counted(size: DitSize) -> None:
    assert size.matrices == matrices(dit_modules(size)["transformer"].layers)
    assert size.matrices.weights > 0.9 * size.transformer


@pytest.mark.parametrize("size", PLANNERS, ids=lambda size: size.name)
def test_the_matrices_of_a_planner_are_counted(size: QwenSize) -> None:
    assert size.matrices == matrices(qwen(size).layers)


@pytest.mark.parametrize("size", [*PLANNERS, TEXT_ENCODER], ids=lambda size: size.name)
def test_language_models_count_as_their_class_does(size: QwenSize) -> None:
    assert size.trunk == count(qwen(size))
    assert size.weights == size.trunk


def test_an_untied_head_is_counted() -> None:
    config = {**qwen(TEXT_ENCODER).config.to_dict(), "tie_word_embeddings": False}
    size = QwenSize.of("any", config)
    assert size.weights - size.trunk == size.vocabulary * size.layer.width


@pytest.mark.parametrize("size", [VAE, VaeSize(8, 8, 64, (1, 1, 2, 2, 4), (2, 4, 4, 6, 10))])
def test_the_vae_counts_as_its_class_does(size: VaeSize) -> None:
    vae = oobleck(size)
    assert size.weights == count(vae)
    assert size.hop == vae.hop_length


def test_published_files_are_as_large_as_counted() -> None:
    """To 1 %, which is what the rounding in the registry leaves."""
    for name, bytes_counted in {
        "acestep-v15-turbo": 2 * (TURBO.transformer + TURBO.conditioning),
        "acestep-v15-xl-sft": 2 * (XL.transformer + XL.conditioning),
        TEXT_ENCODER.name: 2 * TEXT_ENCODER.trunk,
        "vae": 2 * VAE.weights,
        **{planner.name: 2 * planner.weights for planner in PLANNERS},
    }.items():
        assert bytes_counted == pytest.approx(PUBLISHED[name].size, rel=0.01), name


def test_configs_on_disk_are_read() -> None:
    size = DitSize.of("acestep-nano", read_json(NANO_FOLDER / "config.json"))
    modules = dit_modules(size)
    transformer = modules.pop("transformer")
    assert (size.transformer, size.conditioning) == (count(transformer), sum(map(count, modules.values())))
    text = QwenSize.of("text", read_json(NANO_FOLDER / "text_encoder" / "config.json"))
    assert text.trunk == count(qwen(text))


def test_toys_too() -> None:
    config = {**config_of(XL), **toy.LAYER, **toy.DIT, **toy.ENCODER, **toy.POOLER, "fsq_dim": 32}
    config |= {f"encoder_{name}": None for name in ("hidden_size", "intermediate_size")}
    config |= {f"encoder_num_{name}": None for name in ("attention_heads", "key_value_heads")}
    size = DitSize.of("toy", config)
    assert size.encoder == size.layer
    modules = dit_modules(size)
    assert size.transformer == count(modules["transformer"])
