"""Adapters (LoRA, LoKr) in the diffusion transformer: which are in memory, and which act on the next song."""

from __future__ import annotations

import logging
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from acestep.catalog.adapter_settings import Kind
from acestep.catalog.adapters import Adapter, AdapterFolder, Shape
from acestep.domain.song import MAX_ADAPTERS, AdapterUse
from acestep.errors import CheckpointError
from acestep.networks.transformer import Transformer
from acestep.weights.quantization import refresh_device
from acestep.weights.safetensors import LoadTarget, read_tensors

# PEFT takes seconds to import, and most songs have no adapter: the functions that need it import it.
if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.tuners.lokr import LoKrLayer
    from peft.tuners.lora import LoraLayer

log = logging.getLogger(__name__)

MIXED = "LoRA and LoKr adapters cannot act on the same song"

# Adapters that stay in memory: rank 64 on all attention of a 2 B model takes about 90 MB in bfloat16.
MAX_LOADED = 2 * MAX_ADAPTERS


@dataclass(frozen=True, slots=True)
class _LoadedAdapter:
    peft_name: str  # names of adapters may contain dots, which module names may not
    version: tuple[int, ...]
    size: int  # bytes


def adaptable_layers(transformer: Transformer) -> dict[str, Shape]:
    """The weight shapes of the layers that adapters may wrap, by name; before any is wrapped."""
    return {
        name: tuple(module.weight.shape)
        for name, module in transformer.named_modules()
        if type(module) in (nn.Linear, nn.Conv1d)
    }


class TransformerAdapters:
    """Wraps the layers of one loaded transformer in adapters."""

    # Adapters are computed beside the layers (`W x + scale * alpha / rank * B A x`), not merged into them: a
    # song without adapters then runs the same kernels on the same weights as before, and is the same to the
    # bit. Merging rank 16 into nano's attention and out again changed 10 % of those weights in float32, 29 %
    # in bfloat16; a copy to restore would be as large as the weights. The two thin products a layer cost
    # nothing that could be measured there (8 steps of 30 s, on a CPU).

    def __init__(
        self,
        name: str,
        transformer: Transformer,
        folder: AdapterFolder,
        room: int | None = None,
    ) -> None:
        self._name = name  # the model's
        self._transformer = transformer
        self._folder = folder
        self._room = room  # bytes of all adapters in memory
        self._layers = adaptable_layers(transformer)
        self._loaded: OrderedDict[str, _LoadedAdapter] = OrderedDict()  # the latest used last
        self._loads = 0
        self._kind: Kind = "lora"  # of all that are loaded
        self.is_idle = True  # no adapter is active

    @property
    def layers(self) -> Mapping[str, Shape]:
        return self._layers

    @property
    def loaded(self) -> tuple[str, ...]:
        """The names of the adapters in memory, the least recently used first."""
        return tuple(self._loaded)

    def apply(self, uses: Sequence[AdapterUse]) -> None:
        """Activate exactly these adapters, each with its scale.

        Raises CheckpointError for one that is missing, unreadable or does not fit; then none is active.
        """
        self.is_idle = False
        self._activate({})
        scales = {use.name: use.scale for use in uses if use.scale}
        self._change_kind(scales)
        self._activate({self._require(name, kept=scales): scale for name, scale in scales.items()})
        self.is_idle = not scales

    def _change_kind(self, names: Collection[str]) -> None:
        # PEFT cannot wrap a layer in two kinds of adapters: those of the other kind leave.
        kinds = {self._folder.find(name).kind for name in names}
        if len(kinds) > 1:
            raise CheckpointError(f"{', '.join(names)}: {MIXED}")
        if not kinds or kinds == {self._kind}:
            return
        for name in self.loaded:
            self._drop(name)
        adapted = _adapted_types()
        for parent in list(self._transformer.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, adapted):
                    setattr(parent, name, layer.get_base_layer())
        (self._kind,) = kinds

    def _require(self, name: str, kept: Collection[str]) -> str:
        adapter = self._folder.find(name)
        loaded = self._loaded.get(name)
        if loaded is not None and loaded.version != adapter.version:
            self._drop(name)  # its files have changed
            loaded = None
        if loaded is None:
            size = adapter.weights * self._bytes_per_weight
            self._make_room(adapter, size, kept)
            self._loads += 1
            loaded = _LoadedAdapter(f"adapter{self._loads}", adapter.version, size)
            self._load(adapter, loaded.peft_name)
            self._loaded[name] = loaded
        self._loaded.move_to_end(name)
        return loaded.peft_name

    def _load(self, adapter: Adapter, peft_name: str) -> None:
        from peft import inject_adapter_in_model, set_peft_model_state_dict

        adapter.check_fit(self._name, self._layers)
        like = next(self._transformer.parameters())
        stored = read_tensors(adapter.file, LoadTarget(like.device, like.dtype))
        state: dict[str, Tensor] = {}
        for tensor in adapter.tensors:
            ending = ".weight" if tensor.part in ("lora_A", "lora_B") else ""
            state[f"{tensor.layer}.{tensor.part}{ending}"] = stored[tensor.name]
        for module in self._transformer.modules():
            if type(module) is nn.Linear:
                refresh_device(module)  # PEFT puts an adapter on its layer's device
        with warnings.catch_warnings():
            # It is about merging, which is not done here.
            warnings.filterwarnings("ignore", "TorchaoLoraLinear was instantiated without")
            inject_adapter_in_model(
                _peft_config(adapter), self._transformer, peft_name, low_cpu_mem_usage=True, state_dict=state
            )
        try:
            result = set_peft_model_state_dict(self._transformer, state, peft_name, low_cpu_mem_usage=True)
        except RuntimeError as error:  # shapes that its settings do not give
            raise CheckpointError(f"{adapter.name}: its settings do not fit its tensors ({error})") from error
        finally:
            # PEFT collects the settings of all adapters here; each layer has its own.
            del self._transformer.peft_config
        if result.unexpected_keys:
            raise CheckpointError(f"{adapter.name}: tensor {result.unexpected_keys[0]!r} fits nowhere")
        self._transformer.eval().requires_grad_(False)
        log.info("Adapter %s is in memory", adapter.name)

    def _activate(self, scales: Mapping[str, float]) -> None:
        for layer in self._adapted():
            active = [peft_name for peft_name in scales if peft_name in layer.scaling]
            layer.enable_adapters(bool(active))
            layer.set_adapter(active, inference_mode=True)
            for peft_name in active:
                layer.set_scale(peft_name, scales[peft_name])

    def _make_room(self, adapter: Adapter, size: int, kept: Collection[str]) -> None:
        while not self._has_room(size):
            least_recent = next((name for name in self._loaded if name not in kept), None)
            if least_recent is None:
                raise CheckpointError(
                    f"{adapter.name}: there is no room for its {size / 1e6:.1f} MB: adapters may take up "
                    f"{(self._room or 0) / 1e6:.1f} MB together"
                )
            self._drop(least_recent)

    def _has_room(self, size: int) -> bool:
        taken = sum(each.size for each in self._loaded.values())
        return len(self._loaded) < MAX_LOADED and (self._room is None or taken + size <= self._room)

    @property
    def _bytes_per_weight(self) -> int:
        return int(next(self._transformer.parameters()).dtype.itemsize)

    def _drop(self, name: str) -> None:
        peft_name = self._loaded.pop(name).peft_name
        for layer in self._adapted():
            layer.delete_adapter(peft_name)

    def _adapted(self) -> Iterator[LoraLayer | LoKrLayer]:
        adapted = _adapted_types()
        return (module for module in self._transformer.modules() if isinstance(module, adapted))


def _adapted_types() -> tuple[type[LoraLayer], type[LoKrLayer]]:
    from peft.tuners.lokr import LoKrLayer
    from peft.tuners.lora import LoraLayer

    return LoraLayer, LoKrLayer


def _peft_config(adapter: Adapter) -> PeftConfig:
    from peft import LoKrConfig, LoraConfig

    # Each layer is named, so that PEFT guesses none.
    if adapter.kind == "lokr":
        return LoKrConfig(
            r=next(iter(adapter.ranks.values())),
            target_modules=list(adapter.ranks),
            rank_pattern={f"^{re.escape(layer)}": rank for layer, rank in adapter.ranks.items()},
            alpha_pattern={f"^{re.escape(layer)}": alpha for layer, alpha in adapter.alphas.items()},
            init_weights=False,
            inference_mode=True,
            **adapter.settings,
        )
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
