from collections.abc import Iterator

import numpy as np
import pytest
import torch

from acestep.catalog.checkpoints import Checkpoint
from acestep.codec.codec import load_codec
from acestep.codec.oobleck import OobleckCodec
from acestep.engine.torch_models import place_model
from acestep.engine.torch_renderer import TorchRenderer
from acestep.memory.plan import MemoryPlan
from acestep.synthesizer.loading import load_synthesizer
from acestep.weights.offload import OffloadManager
from acestep.weights.safetensors import DeviceMover, LoadTarget
from tests.engine.test_model_offload import networks, plans, renderer, sizes_of, songs
from tests.engine.test_torch_models import write_checkpoint, write_oobleck
from tests.pretended_gpu import CPU, kernels_of_a_gpu, movable, pretended

SECOND = torch.device("cuda:1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("toy"), write_oobleck)


def load(checkpoint: Checkpoint) -> TorchRenderer:
    entry = LoadTarget(CPU, torch.bfloat16)
    modules = load_synthesizer(checkpoint.dit, checkpoint.text_encoder, checkpoint.tokenizer, entry)
    # A CPU decodes in pieces, which round otherwise; in bfloat16 too far to compare.
    return renderer(modules, load_codec(checkpoint.vae, CPU, torch.float32))


def settled(checkpoint: Checkpoint, plan: MemoryPlan) -> TorchRenderer:
    """A model that was loaded in main memory, where `plan` has it."""
    model = load(checkpoint)
    for name, network in networks(model).items():
        if plan.placement(name) != "resident":
            movable(network, SECOND)
    modules = model.synthesizer._conditioner._modules
    settled = place_model(modules, model.codec, plan, SECOND, OffloadManager(DeviceMover(SECOND)))
    return renderer(settled, model.codec)


def some_plans(checkpoint: Checkpoint) -> Iterator[MemoryPlan]:
    """All stay; all but the DiT go; all go, and of the DiT a layer at a time comes."""
    every = list(plans(sizes_of(checkpoint)))
    yield from (every[0], every[-3], every[-1])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_songs_are_the_same_as_on_the_cpu_wherever_weights_are(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_of_a_gpu(monkeypatch)
    expected = songs(load(checkpoint))
    for plan in some_plans(checkpoint):
        with pretended(monkeypatch):
            model = settled(checkpoint, plan)
            assert model.takes_batches
            for song, same in zip(expected, songs(model), strict=True):
                np.testing.assert_allclose(song, same, atol=1e-4)
            assert isinstance(model.codec, OobleckCodec)
            away = {
                name
                for name, network in networks(model).items()
                if CPU in {weight.device for weight in network.parameters()}
            }
        # The VAE came last, to decode.
        assert away == {
            part.name for part in plan.parts if part.placement != "resident" and part.name != "VAE"
        }
