"""Counted weights against those of the real classes, which cost nothing on the meta device."""

from importlib.util import find_spec
from typing import Any, get_args

import pytest
from torch import nn

from acestep.catalog.checkpoints import NANO_FOLDER, PUBLISHED, read_json
from acestep.errors import SettingError
from acestep.memory import sizes
from acestep.memory.configs import PLANNERS, TEXT_ENCODER, VAE, published_dit
from acestep.memory.sizes import DitSize, Matrices, QwenSize, Stored, VaeSize, check_quantization
from acestep.settings.types import Quantization
from tests.memory.classes import config_of, dit_modules, oobleck, qwen
from tests.synthesizer import toy

TURBO = published_dit("acestep-v15-turbo", is_turbo=True)

XL = published_dit("acestep-v15-xl-sft", is_turbo=False)


def count(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.state_dict().values())


@pytest.mark.parametrize("size", [TURBO, XL], ids=["2B", "XL"])
def test_published_dits_count_as_their_classes_do(size: DitSize) -> None:
    modules = dit_modules(size)
    assert size.transformer == count(modules.decoder)
    assert size.layers * size.layer.crossed == sum(map(count, modules.decoder.layers))
    assert size.conditioning == count(modules) - count(modules.decoder)


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
    assert size.matrices == matrices(dit_modules(size).decoder.layers)
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
    assert size.hop == vae.config.hop_length


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
    transformer = count(modules.decoder)
    assert (size.transformer, size.conditioning) == (transformer, count(modules) - transformer)
    text = QwenSize.of("text", read_json(NANO_FOLDER / "text_encoder" / "config.json"))
    assert text.trunk == count(qwen(text))


def test_toys_too() -> None:
    config = {**config_of(XL), **toy.LAYER, **toy.DIT, **toy.ENCODER, **toy.POOLER, "fsq_dim": 32}
    config |= {f"encoder_{name}": None for name in ("hidden_size", "intermediate_size")}
    config |= {f"encoder_num_{name}": None for name in ("attention_heads", "key_value_heads")}
    size = DitSize.of("toy", config)
    assert size.encoder == size.layer
    modules = dit_modules(size)
    assert size.transformer == count(modules.decoder)


TEN = Matrices(weights=1000, rows=10, largest=200)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (Stored(2), 2400),
        (Stored(2, "int8"), 1000 + 10 * 5 + 200 * 2),
        (Stored(4, "int8"), 1000 + 10 * 5 + 200 * 4),
        (Stored(2, "fp8"), 1000 + 10 * 4 + 200 * 2),
    ],
)
def test_matrices_are_packed_and_the_rest_is_not(way: Stored, expected: int) -> None:
    assert way.size(1200, TEN) == expected


def test_as_many_matrices_in_each_layer() -> None:
    assert TEN.times(3) == Matrices(3000, 30, 200)


def test_nothing_is_unpacked_that_is_not_packed() -> None:
    assert Stored(2).unpacking(100) == Stored(2).workspace([(10, 10)], by_pieces=False) == 0


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_planner_unpacks_its_largest_matrix_or_on_a_cpu_a_piece_of_it(kind: Quantization) -> None:
    way = Stored(4, kind)
    assert way.workspace([(2048, 4096), (2048, 12_288), (6144, 2048)], by_pieces=False) == 4 * 2048 * 12_288
    assert way.workspace([(2048, 4096), (2048, 12_288), (6144, 2048)], by_pieces=True) == 4 * 2**18
    assert way.workspace([(64, 128), (8, 16)], by_pieces=True) == 4 * 64 * 128, "no more than there is"
    assert way.workspace([(4, 2**20)], by_pieces=True) == 4 * 2**20, "no less than a row"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_what_can_be(device: str) -> None:
    for quantization in get_args(get_args(Quantization)[0]):
        check_quantization(quantization, [device])


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_fp8_is_refused_where_it_cannot_be(device: str) -> None:
    check_quantization("int8", [device])
    with pytest.raises(SettingError, match=rf"^ACESTEP_QUANTIZATION='fp8' .*: int8 or none on {device}$"):
        check_quantization("fp8", ["cuda", device])


def test_a_mac_chooses_its_gpu_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    check_quantization("fp8", ["cpu"])
    with pytest.raises(SettingError, match=r"int8 or none on mps$"):
        check_quantization("fp8", ["auto"])


def test_the_remedy_is_named_where_torchao_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, *rest: Any) -> Any:
        return None if name == "torchao" else find_spec(name, *rest)

    monkeypatch.setattr(sizes, "find_spec", find)
    check_quantization("none", ["auto"])
    with pytest.raises(SettingError) as diagnosis:
        check_quantization("int8", ["auto"])
    assert str(diagnosis.value) == (
        "ACESTEP_QUANTIZATION='int8' cannot be used; allowed: "
        "none, or any after `uv sync --extra quantization`, which installs torchao"
    )
