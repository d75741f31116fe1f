"""The adapters on disk: small sets of weights (LoRA, LoKr) that teach a model a style.

Reads JSON and safetensors headers, never weights; knows nothing of torch, of HTTP, or of which adapter is
in use.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from acestep.catalog.adapter_settings import AdapterSettings, Kind, diffusers_settings, peft_settings
from acestep.catalog.lycoris import read_lycoris
from acestep.errors import CheckpointError

Shape = tuple[int, ...]

# What diffusers calls the parts of a layer; ours, which are those of the published files, come first.
DIFFUSERS_NAMES = {
    ".proj_in.1.": ".proj_in_conv.",
    ".proj_out.1.": ".proj_out_conv.",
    ".q_proj.": ".to_q.",
    ".k_proj.": ".to_k.",
    ".v_proj.": ".to_v.",
    ".o_proj.": ".to_out.0.",
    ".q_norm.": ".norm_q.",
    ".k_norm.": ".norm_k.",
}

_PEFT_CONFIG, _PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
_LOKR_WEIGHTS = "lokr_weights.safetensors"  # what the original's LoKr training writes
_PICKLE = "adapter_model.bin"
_WEIGHTS = (_PEFT_WEIGHTS, _DIFFUSERS_WEIGHTS, _LOKR_WEIGHTS)
_MARKS = (_PEFT_CONFIG, _DIFFUSERS_WEIGHTS, _LOKR_WEIGHTS, _PICKLE)

# In training the DiT may have been wrapped, compiled, or part of a larger module.
_WRAPPING = re.compile(r"^(base_model\.model\.)?(_orig_mod\.)?(decoder\.|transformer\.|diffusion_model\.)?")
_A: Mapping[Kind, str] = {"lora": "a LoRA", "lokr": "a LoKr"}
_PARTS = re.compile(r"(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(\.weight)?")
_DOWN, _UP, _MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
_KRONECKER = re.compile(r"(?P<layer>.+)\.(?P<part>lokr_(w1|w2)(_a|_b)?)")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of an adapter: its name in the file, and which part of which layer's update it is."""

    name: str
    layer: str
    part: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on disk, with every name in it understood.

    `version` changes when the files do. A LoKr has `settings` for PEFT. Each layer of `ranks` is updated
    by `alphas[layer] / rank` times B A
    (`use_rslora`: by the rank's square root); `use_dora`: with a magnitude of its own.
    """

    name: str
    file: Path
    version: tuple[int, ...]
    tensors: tuple[StoredTensor, ...]
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    use_rslora: bool = False
    use_dora: bool = False
    kind: Kind = "lora"
    settings: Mapping[str, int] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        """How many there are in its tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def check_fit(self, model: str, layers: Mapping[str, Shape]) -> None:
        """Raise CheckpointError that names the first tensor without a place among `layers` of `model`.

        `layers` are the shapes of the weights that adapters may sit on, by name.
        """
        for tensor in self.tensors:
            weight = layers.get(tensor.layer)
            what = f"{self.name}/{self.file.name}: tensor {tensor.name!r}"
            if weight is None:
                raise CheckpointError(f"{what} fits nowhere: {model} has no layer {tensor.layer!r}")
            if self.kind == "lokr":
                continue  # its shapes depend on all parts of a layer: see `_check_products`
            expected = self._expected(tensor, weight)
            if tensor.shape != expected:
                raise CheckpointError(
                    f"{what} has shape {list(tensor.shape)}; {model} asks for {list(expected)}"
                )

        if self.kind == "lokr":
            self._check_products(model, layers)

    def _check_products(self, model: str, layers: Mapping[str, Shape]) -> None:
        for layer in self.ranks:
            parts = {tensor.part: tensor.shape for tensor in self.tensors if tensor.layer == layer}
            rows = columns = 1
            for factor in ("lokr_w1", "lokr_w2"):
                whole = parts.get(factor) or (*parts[f"{factor}_a"][:1], *parts[f"{factor}_b"][1:])
                rows, columns = rows * whole[0], columns * math.prod(whole[1:])
            weight = layers[layer]
            if (rows, columns) != (weight[0], math.prod(weight[1:])):
                what = f"{self.name}/{self.file.name}: the Kronecker product of layer {layer!r}"
                raise CheckpointError(f"{what} is {rows} x {columns}; {model} asks for {list(weight)}")

    def _expected(self, tensor: StoredTensor, weight: Shape) -> Shape:
        rank = self.ranks[tensor.layer]
        if tensor.part == _DOWN:
            return (rank, *weight[1:])
        if tensor.part == _UP:
            return (weight[0], rank, *(1 for _ in weight[2:]))
        return weight[:1] if len(weight) == 2 else (1, weight[0], *(1 for _ in weight[2:]))


class AdapterFolder:
    """The adapters below `root`, in any depth; an adapter's name is its folder's path from there.

    Those in `others` are named by their absolute paths, and not listed. A folder that is not there, or no
    `root` at all, holds none. Links that lead out are not followed.
    """

    def __init__(self, root: Path | None, others: Sequence[Path] = ()) -> None:
        self._root = root
        self._others = tuple(others)
        self._read: dict[str, Adapter] = {}

    def __str__(self) -> str:
        return str(self._root or "")

    def names(self) -> tuple[str, ...]:
        """The names of all adapters in `root`, usable or not, in order."""
        if self._root is None:
            return ()
        found = (
            Path(folder).relative_to(self._root).as_posix()
            for folder, _, files in os.walk(self._root, followlinks=False)
            if any(mark in files for mark in _MARKS)
        )
        return tuple(sorted(name for name in found if name != "."))

    def name_of(self, path: str) -> str | None:
        """The name of the adapter at `path`: from `root`, or absolute; None if there is none."""
        if not path.strip():
            return None
        # In `root` nothing is opened by what was sent: it only picks one of the names that were found there.
        root = self._root or Path("/")
        wanted = os.path.normpath(os.path.join(root, path.strip()))  # noqa: PTH118 - as text, no links
        folder, file = os.path.split(wanted)
        wanted = folder if file in _WEIGHTS else wanted
        own = next((name for name in self.names() if wanted == str(root / name)), None)
        return own or (wanted if Path(path.strip()).is_absolute() and self._home(wanted) else None)

    def _home(self, name: str) -> Path | None:
        # The folder of this class that the adapter `name` is in.
        if self._root is not None and name in self.names():
            return self._root
        path = Path(name)
        try:
            if not path.is_absolute() or name != os.path.normpath(name):
                return None
            if not any((path / mark).is_file() for mark in _MARKS):
                return None
            real = path.resolve()
            return next((each for each in self._others if real.is_relative_to(each.resolve())), None)
        except (OSError, ValueError):  # a path of a thousand characters, or with a zero byte
            return None

    def find(self, name: str) -> Adapter:
        """The adapter called `name`. Raises CheckpointError that says what is wrong with it."""
        home = self._home(name)
        if home is None:
            raise CheckpointError(f"There is no adapter {name!r}. {self.remedy()}")
        try:
            known, version = self._read.get(name), _version(home / name)
            if known is None or known.version != version:
                known = self._read[name] = _read(home, name, version)
        except OSError as error:
            raise CheckpointError(f"{name}: cannot be read ({error.strerror})") from error
        return known

    def remedy(self) -> str:
        """What a user can do who wants an adapter that is not there."""
        there = ", ".join(self.names())
        put = "put its folder into ACESTEP_LORA_DIR, or name one that holds it in ACESTEP_LORA_ROOTS"
        return f"There are: {there}" if there else f"None is there: {put}"


def _read(root: Path, name: str, version: tuple[int, ...]) -> Adapter:
    folder = root / name
    for mark in (_PEFT_CONFIG, *_WEIGHTS):
        if not (folder / mark).resolve().is_relative_to(root.resolve()):
            raise CheckpointError(f"{name}/{mark} is a link that leads out of the adapters' folder")
    others = [mark for mark in (_LOKR_WEIGHTS, _DIFFUSERS_WEIGHTS) if (folder / mark).is_file()]
    is_peft = (folder / _PEFT_CONFIG).is_file() or not others
    file = folder / (_PEFT_WEIGHTS if is_peft else others[0])
    if not file.is_file():
        raise CheckpointError(f"{name}: {_why_not(folder)}")
    try:
        shapes, metadata = _header(file)
        if file.name == _LOKR_WEIGHTS:
            return _of_lycoris(name, file, version, shapes, metadata)
        config = folder / _PEFT_CONFIG
        settings = peft_settings(config) if is_peft else diffusers_settings(metadata, _DIFFUSERS_WEIGHTS)
        return _understood(name, file, version, shapes, settings)
    except CheckpointError as error:  # clients get to read it
        raise CheckpointError(str(error).replace(str(folder), name)) from error


def _version(folder: Path) -> tuple[int, ...]:
    stats = [path.stat() for mark in (*_MARKS, _PEFT_WEIGHTS) if (path := folder / mark).is_file()]
    return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_size))


def _why_not(folder: Path) -> str:
    if (folder / _PICKLE).is_file():
        return f"{_PICKLE} may run code when it is read; save the adapter as {_PEFT_WEIGHTS}"
    return f"{_PEFT_WEIGHTS} is missing"


def _header(file: Path) -> tuple[dict[str, Shape], Mapping[str, str]]:
    try:
        with safe_open(file, framework="np") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            return shapes, tensors.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error


def _understood(
    name: str, file: Path, version: tuple[int, ...], shapes: Mapping[str, Shape], settings: AdapterSettings
) -> Adapter:
    tensors: dict[tuple[str, str], StoredTensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    is_lora = settings.kind == "lora"
    for stored, shape in shapes.items():
        found = (_PARTS if is_lora else _KRONECKER).fullmatch(_WRAPPING.sub("", stored))
        if found is None or (found["part"] == _MAGNITUDE and not settings.use_dora):
            raise CheckpointError(
                f"{file}: tensor {stored!r} fits nowhere: it is no part of {_A[settings.kind]}"
            )
        layer, part = _own_name(found["layer"]), found["part"]
        if (layer, part) in tensors:
            twin = tensors[layer, part].name
            raise CheckpointError(f"{file}: tensor {stored!r} is for the same place as {twin!r}")
        tensors[layer, part] = StoredTensor(stored, layer, part, shape)
        if not is_lora:
            ranks[layer] = _by_pattern(found["layer"], settings.rank_pattern, settings.rank)
            alphas[layer] = _by_pattern(found["layer"], settings.alpha_pattern, settings.alpha)
        if part == _DOWN:
            rank = ranks[layer] = shape[0] if shape else 0
            told = _by_pattern(found["layer"], settings.rank_pattern, settings.rank)
            if rank < 1 or told not in (None, rank):
                raise CheckpointError(f"{file}: tensor {stored!r} has rank {rank}; its settings say {told}")
            alpha = _by_pattern(found["layer"], settings.alpha_pattern, settings.alpha)
            alphas[layer] = float(rank) if alpha is None else alpha
    parts = (_DOWN, _UP, *([_MAGNITUDE] if settings.use_dora else []))
    _check_complete(file, tensors, parts if is_lora else ())
    if not is_lora:
        _check_factors(file, tensors, ranks)
    return Adapter(
        name=name,
        file=file,
        version=version,
        tensors=tuple(tensors.values()),
        ranks=ranks,
        alphas=alphas,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        kind=settings.kind,
        settings=settings.own,
    )


def _of_lycoris(
    name: str, file: Path, version: tuple[int, ...], shapes: Mapping[str, Shape], metadata: Mapping[str, str]
) -> Adapter:
    found = read_lycoris(file, shapes, metadata)
    tensors: dict[tuple[str, str], StoredTensor] = {}
    for stored, (flat, part) in found.places.items():
        layer = _own_name(flat)
        if twin := tensors.get((layer, part)):
            raise CheckpointError(f"{file}: tensor {stored!r} is for the same place as {twin.name!r}")
        tensors[layer, part] = StoredTensor(stored, layer, part, shapes[stored])
    _check_complete(file, tensors, ())
    ranks = {_own_name(layer): rank for layer, rank in found.ranks.items()}
    _check_factors(file, tensors, ranks)
    return Adapter(
        name=name,
        file=file,
        version=version,
        tensors=tuple(tensors.values()),
        ranks=ranks,
        alphas={_own_name(layer): alpha for layer, alpha in found.alphas.items()},
        kind="lokr",
        settings=found.settings,
    )


def _check_factors(
    file: Path, tensors: Mapping[tuple[str, str], StoredTensor], layers: Iterable[str]
) -> None:
    # Each of the two factors of a product is there, whole or as a product itself.
    for layer in layers:
        for factor in ("lokr_w1", "lokr_w2"):
            halves = ((layer, f"{factor}_a") in tensors, (layer, f"{factor}_b") in tensors)
            if halves != ((layer, factor) not in tensors,) * 2:
                raise CheckpointError(
                    f"{file}: tensor {factor} of layer {layer!r} is missing, or there twice"
                )
            if any(not tensors[key].shape for key in tensors if key[0] == layer):
                raise CheckpointError(f"{file}: a tensor of layer {layer!r} has no rows")


def _own_name(layer: str) -> str:
    # What we call a layer that an adapter's file calls `layer`; our own names stay as they are.
    name = f".{layer}."
    for ours, theirs in DIFFUSERS_NAMES.items():
        name = name.replace(theirs, ours)
    return name[1:-1]


def _by_pattern(layer: str, patterns: Mapping[str, Any], otherwise: Any) -> Any:
    # The value of the first pattern that is the layer's name, or its end after a dot, as PEFT has it.
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return value
        except re.error as error:
            raise CheckpointError(f"{_PEFT_CONFIG}: pattern {pattern!r} cannot be used ({error})") from error
    return otherwise


def _check_complete(
    file: Path, tensors: Mapping[tuple[str, str], StoredTensor], parts: Iterable[str]
) -> None:
    if not tensors:
        raise CheckpointError(f"{file}: there is no tensor in it")
    for layer in {layer for layer, _ in tensors}:
        for part in parts:
            if (layer, part) not in tensors:
                raise CheckpointError(f"{file}: tensor {part} of layer {layer!r} is missing")
