"""The adapters on disk: small sets of weights (LoRA, LoKr) that teach a model a style.

Reads JSON and safetensors headers, never weights; knows nothing of torch, of HTTP, or of which adapter is
in use.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError

Shape = tuple[int, ...]
Kind = Literal["lora", "lokr"]

# What the published models' files call the parts of a layer; ours, which are diffusers', come first.
PUBLISHED_NAMES = {
    ".proj_in_conv.": ".proj_in.1.",
    ".proj_out_conv.": ".proj_out.1.",
    ".to_q.": ".q_proj.",
    ".to_k.": ".k_proj.",
    ".to_v.": ".v_proj.",
    ".to_out.0.": ".o_proj.",
    ".norm_q.": ".q_norm.",
    ".norm_k.": ".k_norm.",
}

_PEFT_CONFIG, _PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
_LOKR_WEIGHTS = "lokr_weights.safetensors"  # what the original's LoKr training writes
_PICKLE = "adapter_model.bin"
_MARKS = (_PEFT_CONFIG, _DIFFUSERS_WEIGHTS, _LOKR_WEIGHTS, _PICKLE)

# In training the DiT may have been wrapped, compiled, or part of a larger module.
_WRAPPING = re.compile(r"^(base_model\.model\.)?(_orig_mod\.)?(decoder\.|transformer\.|diffusion_model\.)?")
_A: Mapping[Kind, str] = {"lora": "a LoRA", "lokr": "a LoKr"}
_PARTS = re.compile(r"(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(\.weight)?")
_DOWN, _UP, _MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
_KRONECKER = re.compile(r"(?P<layer>.+)\.(?P<part>lokr_(w1|w2)(_a|_b)?)")
# Settings of PEFT that change what the tensors mean.
_OTHER_KINDS = (
    *("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config", "arrow_config"),
    *("alora_invocation_tokens", "layer_replication"),
)
# Ways to begin a training that leave the model's own weights alone; others (PiSSA, OLoRA, …) change them.
_HARMLESS_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


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


@dataclass(frozen=True, slots=True)
class _Settings:
    # What a file's own settings say; patterns are matched against the layers' stored names.
    alpha: float | None  # None: as large as the rank
    alpha_pattern: Mapping[str, float]
    rank: int | None  # None: whatever the tensors say
    rank_pattern: Mapping[str, int]
    use_rslora: bool = False
    use_dora: bool = False
    kind: Kind = "lora"
    own: Mapping[str, int] = field(default_factory=dict)  # of a LoKr


class AdapterFolder:
    """The adapters below `root`, in any depth; an adapter's name is its folder's path from there.

    A folder that is not there, or no `root` at all, holds none. Links that lead out are not followed.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._read: dict[str, Adapter] = {}

    def __str__(self) -> str:
        return str(self._root or "")

    def names(self) -> tuple[str, ...]:
        """The names of all adapters, usable or not, in order."""
        if self._root is None:
            return ()
        found = (
            Path(folder).relative_to(self._root).as_posix()
            for folder, _, files in os.walk(self._root, followlinks=False)
            if any(mark in files for mark in _MARKS)
        )
        return tuple(sorted(name for name in found if name != "."))

    def name_of(self, path: str) -> str | None:
        """The name of the adapter at `path`: from the folder, or absolute; None if there is none."""
        if self._root is None or not path.strip():
            return None
        # Nothing is opened by what was sent: it only picks one of the names that were found here.
        wanted = os.path.normpath(os.path.join(self._root, path.strip()))  # noqa: PTH118 - as text, no links
        folder, file = os.path.split(wanted)
        wanted = folder if file in (_PEFT_WEIGHTS, _DIFFUSERS_WEIGHTS) else wanted
        return next((name for name in self.names() if wanted == str(self._root / name)), None)

    def find(self, name: str) -> Adapter:
        """The adapter called `name`. Raises CheckpointError that says what is wrong with it."""
        if self._root is None or name not in self.names():
            raise CheckpointError(f"There is no adapter {name!r}. {self.remedy()}")
        try:
            known, version = self._read.get(name), _version(self._root / name)
            if known is None or known.version != version:
                known = self._read[name] = _read(self._root, name, version)
        except OSError as error:
            raise CheckpointError(f"{name}: cannot be read ({error.strerror})") from error
        return known

    def remedy(self) -> str:
        """What a user can do who wants an adapter that is not there."""
        there = ", ".join(self.names())
        return f"There are: {there}" if there else "None is there: put its folder into ACESTEP_LORA_DIR"


def _read(root: Path, name: str, version: tuple[int, ...]) -> Adapter:
    folder = root / name
    for mark in (_PEFT_CONFIG, _PEFT_WEIGHTS, _DIFFUSERS_WEIGHTS):
        if not (folder / mark).resolve().is_relative_to(root.resolve()):
            raise CheckpointError(f"{name}/{mark} is a link that leads out of the adapters' folder")
    file = folder / (_PEFT_WEIGHTS if (folder / _PEFT_CONFIG).is_file() else _DIFFUSERS_WEIGHTS)
    if not file.is_file():
        raise CheckpointError(f"{name}: {_why_not(folder)}")
    try:
        shapes, metadata = _header(file)
        settings = _peft_settings(folder) if file.name == _PEFT_WEIGHTS else _diffusers_settings(metadata)
        return _understood(name, file, version, shapes, settings)
    except CheckpointError as error:  # clients get to read it
        raise CheckpointError(str(error).replace(str(folder), name)) from error


def _version(folder: Path) -> tuple[int, ...]:
    stats = [path.stat() for mark in (*_MARKS, _PEFT_WEIGHTS) if (path := folder / mark).is_file()]
    return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_size))


def _why_not(folder: Path) -> str:
    if (folder / _LOKR_WEIGHTS).is_file():
        return f"{_LOKR_WEIGHTS} is LyCORIS's form of a LoKr; save the adapter as PEFT does, {_PEFT_WEIGHTS}"
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


def _peft_settings(folder: Path) -> _Settings:
    path = folder / _PEFT_CONFIG
    config = read_json(path)
    kind = str(config.get("peft_type")).upper()
    if kind == "LOKR":
        return _lokr_settings(config, str(path))
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type {kind} cannot be used; allowed: LORA, LOKR")
    return _settings(config, str(path))


def _lokr_settings(config: Mapping[str, Any], source: str) -> _Settings:
    plain = {key: config.get(key) for key in ("r", "rank_pattern", "alpha_pattern")}
    settings = _settings({**plain, "lora_alpha": config.get("alpha")}, source)
    factor = config.get("decompose_factor", -1)
    if settings.rank is None or settings.alpha is None or type(factor) is not int:
        raise CheckpointError(f"{source}: r, alpha and decompose_factor must be numbers")
    if config.get("use_effective_conv2d"):
        raise CheckpointError(f"{source}: use_effective_conv2d cannot be used")
    own = {"decompose_both": bool(config.get("decompose_both")), "decompose_factor": factor}
    return replace(settings, kind="lokr", own=own)


def _diffusers_settings(metadata: Mapping[str, str]) -> _Settings:
    # What diffusers notes in the file's header, if it is recent; without it alpha is the rank.
    try:
        noted = dict(json.loads(metadata.get("lora_adapter_metadata", "{}")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{_DIFFUSERS_WEIGHTS}: its metadata cannot be read ({error})") from error
    settings = {key.removeprefix("transformer."): value for key, value in noted.items()}
    return _settings(settings, f"{_DIFFUSERS_WEIGHTS}, metadata")


def _settings(config: Mapping[str, Any], source: str) -> _Settings:
    start = config.get("init_lora_weights")
    if start not in _HARMLESS_STARTS:
        raise CheckpointError(
            f"{source}: init_lora_weights {start!r} changes the model's own weights; convert the adapter "
            "to a plain LoRA"
        )
    if kind := next((setting for setting in _OTHER_KINDS if config.get(setting)), None):
        raise CheckpointError(f"{source}: {kind} makes it more than a plain LoRA, and cannot be used")
    try:
        alpha, rank = config.get("lora_alpha"), config.get("r")
        alphas, ranks = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
        return _Settings(
            alpha=None if alpha is None else float(alpha),
            alpha_pattern={str(pattern): float(value) for pattern, value in alphas.items()},
            rank=None if rank is None else int(rank),
            rank_pattern={str(pattern): int(value) for pattern, value in ranks.items()},
            use_rslora=bool(config.get("use_rslora")),
            use_dora=bool(config.get("use_dora")),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: rank or alpha cannot be read ({error})") from error


def _understood(
    name: str, file: Path, version: tuple[int, ...], shapes: Mapping[str, Shape], settings: _Settings
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
    for ours, theirs in PUBLISHED_NAMES.items():
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
