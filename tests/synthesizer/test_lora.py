import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.catalog.adapters import AdapterFolder
from acestep.domain.song import AdapterUse
from acestep.errors import CheckpointError
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.lora import MAX_LOADED, TransformerAdapters
from acestep.synthesizer.synthesizer import Synthesizer
from acestep.weights.quantization import unpacked_parts
from tests.adapter_folders import ATTENTION, as_diffusers, write_lokr, write_lora, write_lycoris
from tests.synthesizer import toy

Write = Callable[..., Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> toy.Toy:
    return toy.write_published(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def pristine(written: toy.Toy) -> SynthesizerModules:
    return written.load()


@pytest.fixture
def modules(pristine: SynthesizerModules) -> SynthesizerModules:
    return replace(pristine, transformer=copy.deepcopy(pristine.transformer))


@pytest.fixture
def adapters(modules, tmp_path) -> TransformerAdapters:
    return TransformerAdapters("toy", modules.transformer, AdapterFolder(tmp_path))


@pytest.fixture
def write(pristine, tmp_path) -> Write:
    """Write an adapter called `name`, and return what PEFT itself makes of it."""
    return lambda name, seed=0, **config: write_lora(tmp_path / name, pristine.transformer, seed, **config)


def render(modules: SynthesizerModules, transformer: Any = None) -> Tensor:
    synthesizer = Synthesizer(
        replace(modules, transformer=transformer or modules.transformer), toy.FRAME_RATE
    )
    return synthesizer.render([toy.song()], lambda done, of: None, lambda: False).latents


def merged(adapted: Any) -> Any:
    return adapted.merge_and_unload().eval()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5)


KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "every layer": {"target_modules": "all-linear"},
    "convolution": {"target_modules": ["proj_in.1"]},
    "ranks": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {r".*\.1\.cross_attn\.k_proj": 3}},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_does_what_it_does_merged(kind, modules, adapters, write):
    plain = render(modules)
    adapted = write("pop", **KINDS[kind])
    adapters.apply([AdapterUse("pop")])
    song = render(modules)
    close(song, render(modules, merged(adapted)))
    assert not torch.allclose(song, plain, atol=1e-2)


@pytest.mark.parametrize("kind", ["attention", "dora"])
def test_the_names_of_diffusers_are_known(kind, modules, adapters, write, tmp_path):
    adapted = write("pop", **KINDS[kind])
    as_diffusers(tmp_path / "pop")
    stored = load_file(tmp_path / "pop" / "adapter_model.safetensors")
    assert "base_model.model.layers.0.cross_attn.to_out.0.lora_A.weight" in stored
    adapters.apply([AdapterUse("pop")])
    close(render(modules), render(modules, merged(adapted)))


def test_adapters_that_diffusers_saved(modules, adapters, written, tmp_path):
    trained = copy.deepcopy(written.parts["transformer"])
    torch.manual_seed(3)
    trained.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=["to_q"], init_lora_weights=False))
    trained.save_lora_adapter(tmp_path / "pop")
    assert [file.name for file in (tmp_path / "pop").iterdir()] == ["pytorch_lora_weights.safetensors"]
    trained.fuse_lora()
    trained.unload_lora()
    adapters.apply([AdapterUse("pop")])
    merged = copy.deepcopy(written.load().transformer)
    merged.load_state_dict({toy.our_name(name): tensor for name, tensor in trained.state_dict().items()})
    close(render(modules), render(modules, merged))


@pytest.mark.parametrize(
    "target",
    [
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "condition_embedder"),
        *("proj_in.1", r"time_embed\.linear_1", r"cross_attn\.k_proj", r"self_attn\.v_proj"),
    ],
)
def test_an_adapter_of_any_layer_changes_the_song(target, modules, adapters, write):
    plain = render(modules)
    adapted = write("pop", target_modules=rf"(.*\.)?{target}")
    adapters.apply([AdapterUse("pop")])
    song = render(modules)
    assert not torch.allclose(song, plain, atol=1e-4)
    close(song, render(modules, merged(adapted)))


def test_adapters_add_up_each_with_its_scale(modules, adapters, write, pristine):
    both = copy.deepcopy(pristine.transformer)
    for name, seed, scale in (("pop", 1, 0.5), ("jazz", 2, 1.5)):
        change = merged(write(name, seed)).state_dict()
        for weight, own in pristine.transformer.state_dict().items():
            both.state_dict()[weight].add_(scale * (change[weight] - own))
    adapters.apply([AdapterUse("pop", 0.5), AdapterUse("jazz", 1.5)])
    close(render(modules), render(modules, both))
    adapters.apply([AdapterUse("jazz", 1.5), AdapterUse("pop", 0.5)])
    close(render(modules), render(modules, both))


def test_without_adapters_a_song_is_the_same_to_the_bit(modules, adapters, write):
    before = render(modules)
    write("pop", 1, target_modules="all-linear")
    write("jazz", 2)
    for uses in ([AdapterUse("pop")], [AdapterUse("pop", 2.0), AdapterUse("jazz")], [AdapterUse("pop", 0.0)]):
        adapters.apply(uses)
        assert torch.equal(render(modules), before) == (uses[0].scale == 0.0)
        adapters.apply([])
        assert torch.equal(render(modules), before)


def test_only_the_adapters_of_a_song_act_on_it(modules, adapters, write):
    write("pop", 1)
    write("jazz", 2)
    wanted = [(AdapterUse("pop"),), (AdapterUse("jazz", 0.5),), (AdapterUse("pop"), AdapterUse("jazz")), ()]
    first: list[Tensor] = []
    again: list[Tensor] = []
    for songs in (first, again):
        for uses in wanted:
            adapters.apply(uses)
            songs.append(render(modules))
        wanted.reverse()
    for one, other in zip(first, reversed(again), strict=True):
        assert torch.equal(one, other)


def test_the_least_recently_used_is_dropped(modules, adapters, write):
    def parameters() -> int:
        return sum(tensor.numel() for tensor in modules.transformer.parameters())

    plain, before = parameters(), render(modules)
    names = [f"a{number}" for number in range(MAX_LOADED + 1)]
    for seed, name in enumerate(names):
        write(name, seed, r=1, target_modules=["q_proj"])
    adapters.apply([AdapterUse("a0")])
    one, song = parameters() - plain, render(modules)
    for name in [*names[1:-1], "a0", names[-1]]:
        adapters.apply([AdapterUse(name)])
    assert adapters.loaded == (*names[2:-1], "a0", names[-1])
    assert parameters() - plain == MAX_LOADED * one
    adapters.apply([AdapterUse("a1"), AdapterUse("a0")])
    assert adapters.loaded == (*names[3:-1], names[-1], "a1", "a0")
    adapters.apply([AdapterUse("a0")])
    assert torch.equal(render(modules), song)
    adapters.apply([])
    assert torch.equal(render(modules), before)


def test_adapters_stay_within_their_bytes(pristine, modules, write, tmp_path):
    write("pop", 1, r=2, target_modules=["q_proj"])
    write("jazz", 2, r=2, target_modules=["q_proj"])
    write("large", 3, r=8, target_modules=["q_proj"])
    folder = AdapterFolder(tmp_path)
    size = 4 * folder.find("pop").weights
    adapters = TransformerAdapters("toy", modules.transformer, folder, room=2 * size)
    adapters.apply([AdapterUse("pop")])
    adapters.apply([AdapterUse("jazz"), AdapterUse("pop")])
    assert set(adapters.loaded) == {"pop", "jazz"}
    with pytest.raises(CheckpointError, match=r"^large: there is no room for its .* MB"):
        adapters.apply([AdapterUse("large")])
    adapters = TransformerAdapters("toy", copy.deepcopy(pristine.transformer), folder, room=size)
    for name in ("pop", "jazz"):
        adapters.apply([AdapterUse(name)])
        assert adapters.loaded == (name,)
    with pytest.raises(CheckpointError, match="no room"):
        adapters.apply([AdapterUse("pop"), AdapterUse("jazz")])


def test_an_adapter_that_was_trained_again_is_loaded_again(modules, adapters, write, tmp_path):
    write("pop", 1)
    adapters.apply([AdapterUse("pop")])
    render(modules)
    adapted = write("pop", 2, r=5)
    adapters.apply([AdapterUse("pop")])
    close(render(modules), render(modules, merged(adapted)))
    assert adapters.loaded == ("pop",)


LOKRS: dict[str, dict[str, Any]] = {
    "attention": {},
    "both halves": {"decompose_both": True, "r": 1},
    "factor": {"decompose_factor": 4, "r": 2},
    "convolution": {"target_modules": ["proj_in.1", "q_proj"]},
    "alphas": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 3}},
}


@pytest.mark.parametrize("kind", LOKRS)
def test_a_lokr_does_what_it_does_merged(kind, modules, adapters, pristine, tmp_path):
    plain = render(modules)
    adapted = write_lokr(tmp_path / "kron", pristine.transformer, **LOKRS[kind])
    adapters.apply([AdapterUse("kron")])
    song = render(modules)
    close(song, render(modules, merged(adapted)))
    assert not torch.allclose(song, plain, atol=1e-3)
    adapters.apply([AdapterUse("kron", 0.0)])
    assert torch.equal(render(modules), plain)


def test_a_lokr_of_diffusers_names_is_read(modules, adapters, pristine, tmp_path):
    adapted = write_lokr(tmp_path / "kron", pristine.transformer)
    as_diffusers(tmp_path / "kron")
    adapters.apply([AdapterUse("kron")])
    close(render(modules), render(modules, merged(adapted)))


LYCORIS: dict[str, dict[str, Any]] = {
    "as the original trains": {},
    "both halves": {"decompose_both": True, "dim": 1},
    "a factor": {"factor": 2},
    "a factor that is not noted": {"factor": 2, "noted": False},
    "whole matrices": {"full_matrix": True, "alpha": 5.0},
    "a rank so high that all are whole": {"dim": 10_000},
    "half precision": {"dtype": torch.bfloat16},
    "all linear layers": {
        "targets": (*ATTENTION, "gate_proj", "up_proj", "down_proj", "time_proj", "linear_1")
    },
}


@pytest.mark.parametrize("kind", LYCORIS)
def test_a_lokr_of_lycoris_is_w1_kron_w2(kind, modules, adapters, pristine, tmp_path):
    plain = render(modules)
    adapted = write_lycoris(tmp_path / "kron", pristine.transformer, **LYCORIS[kind])
    adapters.apply([AdapterUse("kron")])
    song = render(modules)
    # Updates as large as these multiply what is rounded.
    torch.testing.assert_close(song, render(modules, adapted), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(song, plain, atol=0.1)
    adapters.apply([])
    assert torch.equal(render(modules), plain)


def test_lora_and_lokr_take_turns(modules, adapters, write, pristine, tmp_path):
    plain = render(modules)
    pop, kron = write("pop"), write_lokr(tmp_path / "kron", pristine.transformer)
    songs = {name: render(modules, merged(each)) for name, each in (("pop", pop), ("kron", kron))}
    for name in ("pop", "kron", "pop", "kron"):
        adapters.apply([AdapterUse(name)])
        assert adapters.loaded == (name,)
        close(render(modules), songs[name])
    adapters.apply([])
    assert torch.equal(render(modules), plain)
    with pytest.raises(CheckpointError, match="cannot act on the same song"):
        adapters.apply([AdapterUse("pop"), AdapterUse("kron")])
    assert torch.equal(render(modules), plain)


def test_a_lokr_of_another_shape_is_refused(modules, adapters, pristine, tmp_path):
    write_lokr(tmp_path / "kron", pristine.transformer)
    file = tmp_path / "kron" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("lokr_w1"))
    save_file({**tensors, name: tensors[name][1:].contiguous()}, file)
    with pytest.raises(CheckpointError, match="the Kronecker product of layer"):
        adapters.apply([AdapterUse("kron")])
    save_file({each: tensors[each] for each in tensors if each != name}, file)
    with pytest.raises(CheckpointError, match="tensor lokr_w1 of"):
        adapters.apply([AdapterUse("kron")])


def test_what_does_not_fit_is_refused_by_name_and_no_adapter_is_active(modules, adapters, write, tmp_path):
    before = render(modules)
    write("pop")
    other = toy.write_published(tmp_path / "other").load().transformer
    other.layers.append(copy.deepcopy(other.layers[0]))
    write_lora(tmp_path / "deeper", other)
    adapters.apply([AdapterUse("pop")])
    with pytest.raises(CheckpointError, match=r"tensor '.*layers\.3\..*' fits nowhere: toy has no layer"):
        adapters.apply([AdapterUse("pop"), AdapterUse("deeper")])
    assert torch.equal(render(modules), before)
    with pytest.raises(CheckpointError, match="There is no adapter 'folk'"):
        adapters.apply([AdapterUse("folk")])
    with pytest.raises(CheckpointError, match="peft_type IA3"):
        (tmp_path / "pop" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
        adapters.apply([AdapterUse("pop")])


def test_an_adapter_has_the_models_dtype(tmp_path, write):
    modules = toy.write_published(tmp_path / "model").load(torch.bfloat16)
    adapters = TransformerAdapters("toy", modules.transformer, AdapterFolder(tmp_path))
    write("pop")
    plain = render(modules)
    adapters.apply([AdapterUse("pop")])
    assert {tensor.dtype for tensor in modules.transformer.parameters()} == {torch.bfloat16}
    assert not any(tensor.requires_grad for tensor in modules.transformer.parameters())
    song = render(modules)
    assert song.isfinite().all() and not torch.equal(song, plain)


def test_the_layers_that_adapters_may_wrap(modules, adapters):
    assert adapters.layers["layers.0.cross_attn.k_proj"] == (16, 32)
    assert adapters.layers["proj_in.1"] == (32, 2 * toy.CHANNELS + toy.MASK_CHANNELS, 2)
    assert "proj_out.1" not in adapters.layers  # a transposed convolution, which PEFT does not support


class TestQuantized:
    """Adapters on layers that are packed in 8 bits, against the same layers unpacked."""

    @pytest.fixture(scope="class", params=["int8", "fp8"])
    def packed(self, request, tmp_path_factory) -> Any:
        return toy.write_published(tmp_path_factory.mktemp("base")).load(quantization=request.param)

    @pytest.fixture
    def modules(self, packed: SynthesizerModules) -> SynthesizerModules:
        return replace(packed, transformer=copy.deepcopy(packed.transformer))

    @pytest.fixture
    def unpacked(self, packed, pristine) -> Any:
        transformer = copy.deepcopy(pristine.transformer)
        weights = dict(packed.transformer.named_parameters())
        for name, weight in transformer.named_parameters():
            if parts := unpacked_parts(weights[name]):
                weight.data = parts[0].float() * parts[1][:, None]
        return transformer

    @pytest.mark.parametrize("kind", ["attention", "every layer", "convolution", "dora"])
    def test_they_do_what_they_do_unpacked(self, kind, modules, adapters, unpacked, tmp_path, recwarn):
        plain = render(modules)
        adapted = write_lora(tmp_path / "pop", unpacked, 0, **KINDS[kind])
        recwarn.clear()
        adapters.apply([AdapterUse("pop", 0.5)])
        adapters.apply([AdapterUse("pop")])
        song = render(modules)
        torch.testing.assert_close(song, render(modules, merged(adapted)), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(song, plain, atol=1e-2)
        adapters.apply([])
        assert torch.equal(render(modules), plain)
        assert not [each for each in recwarn if "merge" in str(each.message)]

    def test_they_are_on_the_devices_of_their_layers(self, modules, adapters, unpacked, tmp_path):
        write_lora(tmp_path / "pop", unpacked, 0, target_modules=["q_proj"])
        moved: Any = modules.transformer.layers[1].self_attn.q_proj.weight
        for name in moved.__tensor_flatten__()[0]:
            setattr(moved, name, getattr(moved, name).to("meta"))
        adapters.apply([AdapterUse("pop")])
        found = {
            layer: {weight.device.type for name, weight in module.named_parameters() if "lora_" in name}
            for layer, module in modules.transformer.named_modules()
            if isinstance(module, LoraLayer)
        }
        assert found.pop("layers.1.self_attn.q_proj") == {"meta"}
        assert set(map(tuple, found.values())) == {("cpu",)}
