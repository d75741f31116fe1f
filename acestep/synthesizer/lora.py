"""Adapters in the diffusion transformer: which are in memory, and which act on the next song.

The transformer's own weights are never written to.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffusers import AceStepTransformer1DModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from acestep.catalog.adapters import Adapter, AdapterFolder, Shape
from acestep.domain.song import MAX_ADAPTERS, AdapterUse
from acestep.errors import CheckpointError
from acestep.weights.quantization import seat
from acestep.weights.safetensors import LoadTarget, read_tensors

log = logging.getLogger(__name__)

# Adapters that stay in memory: a rank of 64 on all attention of a 2 B model takes about 90 MB in bfloat16.
KEPT = 2 * MAX_ADAPTERS


@dataclass(frozen=True, slots=True)
class _Resident:
    slot: str  # PEFT's name for it; ours may hold dots, which module names may not
    version: tuple[int, ...]
    size: int  # bytes


def adaptable_layers(transformer: AceStepTransformer1DModel) -> dict[str, Shape]:
    """The shapes of the weights that adapters may sit on, by the layer's name, before any does."""
    return {
        name: tuple(module.weight.shape)
        for name, module in transformer.named_modules()
        if type(module) in (nn.Linear, nn.Conv1d)
    }


class TransformerAdapters:
    """Puts adapters around the layers of one loaded transformer.

    They are computed beside the layers (`W x + scale * alpha / rank * B A x`), not merged into them: then a
    song without adapters runs the same kernels on the same weights as before any adapter came, and is the
    same song to the bit. Merging rank 16 into nano's attention and taking it off again left 10 % of those
    weights changed in float32, 29 % in bfloat16; a copy to go back to would be as large as the weights. The
    update's own price, two thin products a layer, was lost in the noise there (8 steps of 30 s, on a CPU).
    """

    def __init__(
        self,
        name: str,
        transformer: AceStepTransformer1DModel,
        folder: AdapterFolder,
        room: int | None = None,
    ) -> None:
        """`name` is the model's, for what people get to read; `room` bytes is what all may take up."""
        self._name = name
        self._transformer = transformer
        self._folder = folder
        self._room = room
        self._layers = adaptable_layers(transformer)
        self._residents: OrderedDict[str, _Resident] = OrderedDict()  # the latest used last
        self._loads = 0
        self.is_idle = True  # none acts

    @property
    def layers(self) -> Mapping[str, Shape]:
        """The shapes of the weights that adapters may sit on, by the layer's name."""
        return self._layers

    @property
    def resident(self) -> tuple[str, ...]:
        """The names of the adapters in memory, the least recently used first."""
        return tuple(self._residents)

    def apply(self, uses: Sequence[AdapterUse]) -> None:
        """Let exactly these adapters act from now on, each with its scale.

        Raises CheckpointError where one is not there, cannot be read, or does not fit; then none acts.
        """
        self.is_idle = False
        self._switch({})
        acting = {use.name: use.scale for use in uses if use.scale}
        scales: dict[str, float] = {}
        for name, scale in acting.items():
            scales[self._slot(name, kept=acting)] = scale
        self._switch(scales)
        self.is_idle = not scales

    def _slot(self, name: str, kept: Collection[str]) -> str:
        """PEFT's name for an adapter, which is in memory then; those that are `kept` do not leave for it."""
        adapter = self._folder.find(name)
        resident = self._residents.get(name)
        if resident is not None and resident.version != adapter.version:
            self._drop(name)  # somebody trained it again
            resident = None
        if resident is None:
            size = adapter.weights * self._number
            self._make_room(adapter, size, kept)
            self._loads += 1
            resident = _Resident(f"adapter{self._loads}", adapter.version, size)
            self._load(adapter, resident.slot)
            self._residents[name] = resident
        self._residents.move_to_end(name)
        return resident.slot

    def _load(self, adapter: Adapter, slot: str) -> None:
        adapter.check_fit(self._name, self._layers)
        like = next(self._transformer.parameters())
        stored = read_tensors(adapter.file, LoadTarget(like.device, like.dtype))
        state: dict[str, Tensor] = {}
        for tensor in adapter.tensors:
            ending = "" if tensor.part == "lora_magnitude_vector" else ".weight"
            state[f"{tensor.layer}.{tensor.part}{ending}"] = stored[tensor.name]
        for module in self._transformer.modules():
            if type(module) is nn.Linear:
                seat(module)  # PEFT puts an adapter where its layer is
        with warnings.catch_warnings():
            # It concerns merging, which is not done here.
            warnings.filterwarnings("ignore", "TorchaoLoraLinear was instantiated without")
            inject_adapter_in_model(
                _config(adapter), self._transformer, slot, low_cpu_mem_usage=True, state_dict=state
            )
        result = set_peft_model_state_dict(self._transformer, state, slot, low_cpu_mem_usage=True)
        # PEFT gathers the settings of all adapters here; each layer knows its own.
        del self._transformer.peft_config
        if result.unexpected_keys:
            raise CheckpointError(f"{adapter.name}: tensor {result.unexpected_keys[0]!r} fits nowhere")
        self._transformer.eval().requires_grad_(False)
        log.info("Adapter %s is in memory", adapter.name)

    def _switch(self, scales: Mapping[str, float]) -> None:
        for layer in self._adapted():
            slots = [slot for slot in scales if slot in layer.scaling]
            layer.enable_adapters(bool(slots))
            layer.set_adapter(slots, inference_mode=True)
            for slot in slots:
                layer.set_scale(slot, scales[slot])

    def _make_room(self, adapter: Adapter, size: int, kept: Collection[str]) -> None:
        """Let those go that were not used for longest, until there is room for one more of `size` bytes."""
        while not self._has_room(size):
            idle = next((name for name in self._residents if name not in kept), None)
            if idle is None:
                raise CheckpointError(
                    f"{adapter.name}: there is no room for its {size / 1e6:.1f} MB: adapters may take up "
                    f"{(self._room or 0) / 1e6:.1f} MB together"
                )
            self._drop(idle)

    def _has_room(self, size: int) -> bool:
        taken = sum(each.size for each in self._residents.values())
        return len(self._residents) < KEPT and (self._room is None or taken + size <= self._room)

    @property
    def _number(self) -> int:
        """Bytes of an adapter's weight in memory."""
        return int(next(self._transformer.parameters()).dtype.itemsize)

    def _drop(self, name: str) -> None:
        slot = self._residents.pop(name).slot
        for layer in self._adapted():
            layer.delete_adapter(slot)

    def _adapted(self) -> Iterator[LoraLayer]:
        return (module for module in self._transformer.modules() if isinstance(module, LoraLayer))


def _config(adapter: Adapter) -> LoraConfig:
    """What PEFT must know of an adapter beside its tensors; each layer is named, none is guessed."""
    return LoraConfig(
        r=next(iter(adapter.ranks.values())),
        target_modules=list(adapter.ranks),
        rank_pattern={f"^{re.escape(layer)}": rank for layer, rank in adapter.ranks.items()},
        alpha_pattern={f"^{re.escape(layer)}": alpha for layer, alpha in adapter.alphas.items()},
        lora_dropout=0.0,
        init_lora_weights=False,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        inference_mode=True,
    )
