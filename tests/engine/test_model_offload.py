"""Songs are the same wherever weights are, and no more weights are on the device than planned.

The device is simulated: a weight that is not on it is NaN, which no song survives, and its bytes are counted.
"""

import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from acestep.catalog.adapters import AdapterFolder
from acestep.catalog.checkpoints import Checkpoint, read_json
from acestep.codec.codec import Codec, load_codec
from acestep.domain.latents import SourceLatents
from acestep.domain.song import AudioClip, Sampling
from acestep.engine.renderer import Renderer
from acestep.engine.torch_models import LoadContext, load_model, offloads, place_model
from acestep.engine.torch_renderer import TorchRenderer
from acestep.memory.number_formats import NumberFormats
from acestep.memory.plan import Abilities, Device, MemoryPlan, Sizes, Wishes
from acestep.memory.search import options
from acestep.memory.sizes import DitSize, QwenSize, VaeSize
from acestep.settings.types import Quantization
from acestep.synthesizer.loading import SynthesizerModules, load_synthesizer
from acestep.synthesizer.lora import TransformerAdapters
from acestep.synthesizer.synthesizer import Synthesizer
from acestep.weights.offload import OffloadGroup, OffloadManager
from acestep.weights.safetensors import DeviceMover, LoadTarget
from tests.engine.test_torch_models import EXPECTED, write_checkpoint, write_oobleck
from tests.synthesizer import toy

CPU = torch.device("cpu")
SILENCE = 15_000  # frames that the plan counts with; the toy holds fewer


class Counting:
    """A simulated device that counts bytes."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def home(self, data: Tensor) -> Tensor:
        return data

    def bring(self, home: Tensor) -> Tensor:
        with torch.inference_mode(False):
            copy = home.clone()
        self.now += copy.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(copy.untyped_storage(), self._gone, copy.nbytes)
        return copy

    def away(self, home: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return torch.full((), torch.nan).expand_as(home)

    def _gone(self, size: int) -> None:
        self.now -= size


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("toy"), write_oobleck)


def sizes_of(checkpoint: Checkpoint) -> Sizes:
    return Sizes(
        dits=(DitSize.of("toy", read_json(checkpoint.dit / "config.json")),),
        text=QwenSize.of("text", read_json(checkpoint.text_encoder / "config.json")),
        vae=VaeSize.of(read_json(checkpoint.vae / "config.json")),
    )


def plans(sizes: Sizes) -> Iterator[MemoryPlan]:
    """All resident, and each way to move something; toys are too small for a budget that asks for streams."""
    for offload in (False, True):
        for offload_dit in (False, True):
            wishes = Wishes(offload=offload, offload_dit=offload_dit)
            plan = options(sizes, wishes, Device(NumberFormats("float32")), Abilities(offload=True))[0]
            yield plan
            if offload_dit:
                streamed = (
                    replace(part, placement="streamed") if part.name == "DiT" else part for part in plan.parts
                )
                yield replace(plan, parts=tuple(streamed))


def load(checkpoint: Checkpoint, quantization: Quantization = "none") -> tuple[SynthesizerModules, Codec]:
    target = LoadTarget(CPU, torch.float32, quantization)
    modules = load_synthesizer(checkpoint.dit, checkpoint.text_encoder, checkpoint.tokenizer, target)
    return modules, load_codec(checkpoint.vae, CPU, torch.float32)


def renderer(modules: SynthesizerModules, codec: Codec) -> TorchRenderer:
    adapters = TransformerAdapters("toy", modules.transformer, AdapterFolder(None))
    synthesizer = Synthesizer(modules, frame_rate=codec.sample_rate / codec.hop_length)
    return TorchRenderer(synthesizer, codec, adapters, modules.placement)


def placed(checkpoint: Checkpoint, plan: MemoryPlan, mover: Counting) -> TorchRenderer:
    modules, codec = load(checkpoint)
    return renderer(place_model(modules, codec, plan, CPU, OffloadManager(mover)), codec)


def songs(model: Renderer) -> list[np.ndarray]:
    """Songs that use every module, in more than one order: from words, from codes, half a cover."""
    guided = Sampling(steps=2, guidance_scale=3.0, shift=1.0)
    cover = replace(guided, cover_strength=0.5)
    wave = 0.3 * np.sin(np.arange(round(4 * model.sample_rate)) * 2.4)
    source = AudioClip(np.stack([wave, wave]).astype(np.float32), model.sample_rate)
    sources = SourceLatents(model.encode(source))
    rendered = []
    for plan, sound in (
        (toy.song(sampling=guided), SourceLatents()),
        (toy.song(sampling=guided, audio_codes=(1, 2, 3)), SourceLatents()),
        (toy.song(sampling=cover, task_type="cover"), sources),
    ):
        (latents_,) = model.render([plan], lambda *_: None, lambda: False, [sound])
        rendered.append(model.decode(latents_, 4.0, lambda _: None).samples)
    return rendered


def promised(plan: MemoryPlan, sizes: Sizes) -> int:
    """Bytes of weights on the device when most are, as the plan counts them."""
    dit = sizes.dits[0]
    stays = comes = 0
    for part in plan.parts:
        if part.name in ("work", "reserve"):
            continue
        size = part.size - (4 * SILENCE * dit.channels if part.name == "condition encoder" else 0)
        if part.placement == "resident":
            stays += size
        elif part.placement == "offloaded":
            comes = max(comes, size)
        else:
            comes = max(comes, 4 * (dit.transformer_ends + dit.layer.crossed))
    return stays + comes


def test_songs_are_the_same_wherever_weights_are(checkpoint: Checkpoint) -> None:
    sizes = sizes_of(checkpoint)
    expected = songs(renderer(*load(checkpoint)))
    seen = set()
    for plan in plans(sizes):
        mover = Counting()
        model = placed(checkpoint, plan, mover)
        for song, same in zip(expected, songs(model), strict=True):
            np.testing.assert_array_equal(song, same)
        stays = sum(
            weight.nbytes
            for name, network in networks(model).items()
            if plan.placement(name) == "resident"
            for weight in network.parameters()
        )
        assert stays + mover.most == pytest.approx(promised(plan, sizes), rel=0.05)
        seen.add(tuple(part.placement for part in plan.parts))
    assert len(seen) >= 6


def networks(model: TorchRenderer) -> dict[str, torch.nn.Module]:
    modules = model.synthesizer._conditioner._modules
    encoders = (modules.condition_encoder, modules.audio_tokenizer, modules.audio_token_detokenizer)
    return {
        "text encoder": modules.text_encoder,
        "condition encoder": torch.nn.ModuleList(encoders),
        "DiT": modules.transformer,
        "VAE": model.codec.vae,  # type: ignore[attr-defined]
    }


def test_a_render_that_is_stopped_leaves_no_layer_behind(checkpoint: Checkpoint) -> None:
    sizes, mover = sizes_of(checkpoint), Counting()
    plan = next(plan for plan in plans(sizes) if plan.placement("DiT") == "streamed")
    model = placed(checkpoint, plan, mover)
    expected = songs(model)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.render([toy.song()], stop, lambda: False)
    for song, same in zip(expected, songs(model), strict=True):
        np.testing.assert_array_equal(song, same)


def test_loading_follows_the_plan(checkpoint: Checkpoint) -> None:
    every = list(plans(sizes_of(checkpoint)))
    assert [offloads(plan) for plan in every] == [False, *[True] * (len(every) - 1)]
    expected = songs(load_model(checkpoint, "cpu", EXPECTED).renderer)
    for plan in every[1:]:
        moving = load_model(checkpoint, "cpu", EXPECTED, LoadContext(plan=plan))
        for song, same in zip(expected, songs(moving.renderer), strict=True):
            np.testing.assert_array_equal(song, same)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_weights_are_offloaded(checkpoint: Checkpoint, kind: Quantization) -> None:
    sizes = sizes_of(checkpoint)
    device = Device(NumberFormats("float32"), quantization=kind)
    base = options(sizes, Wishes(offload=True, offload_dit=True), device, Abilities(offload=True))[0]
    expected = None
    for placement in ("resident", "offloaded", "streamed"):
        parts = (replace(part, placement=placement) if part.name == "DiT" else part for part in base.parts)
        plan, mover = replace(base, parts=tuple(parts)), Counting()
        modules, codec = load(checkpoint, plan.quantization)
        dit = sum(weight.nbytes for weight in OffloadGroup("resident", [modules.transformer]).everything())
        assert dit == next(part.size for part in plan.parts if part.name == "DiT")
        rendered = songs(renderer(place_model(modules, codec, plan, CPU, OffloadManager(mover)), codec))
        expected = expected or rendered
        for song, same in zip(expected, rendered, strict=True):
            np.testing.assert_array_equal(song, same)


def test_quantized_songs_differ_a_little(checkpoint: Checkpoint) -> None:
    plan = next(plans(sizes_of(checkpoint)))
    plain = songs(load_model(checkpoint, "cpu", EXPECTED, LoadContext(plan=plan)).renderer)
    packed = songs(
        load_model(checkpoint, "cpu", EXPECTED, LoadContext(plan=replace(plan, quantization="int8"))).renderer
    )
    for song, other in zip(plain, packed, strict=True):
        assert 0 < np.linalg.norm(song - other) < 0.05 * np.linalg.norm(song)


def test_weights_are_kept_in_main_memory() -> None:
    mover, weight = DeviceMover(torch.device("meta")), torch.ones(3)
    home = mover.home(weight)
    assert mover.bring(home).device.type == "meta"
    assert mover.away(home) is home
