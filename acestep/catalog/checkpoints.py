"""Which models are published, which are complete on disk, and which one to load.

Reads JSON files and safetensors headers, never weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from acestep.errors import CheckpointError

Layout = Literal["published", "diffusers"]
Kind = Literal["dit", "planner", "part"]

DEFAULT_MODEL = "acestep-v15-turbo"
NANO_MODEL = "acestep-nano"
NANO_FOLDER = Path(__file__).resolve().parents[1] / "nano" / "weights"
SHARED_PARTS = ("vae", "Qwen3-Embedding-0.6B")  # what every published DiT needs beside it
MAIN_REPO = "ACE-Step/Ace-Step1.5"

_MB = 1_000_000
_WEIGHTS = ("model", "diffusion_pytorch_model")  # what transformers and diffusers call the file
_COMPUTED_CODECS = ("SineBankCodec", "ToneNoiseCodec")  # fixed formulas: a config.json is all they need
_WITHOUT_WEIGHTS = ("scheduler", "tokenizer")  # components of the diffusers layout


@dataclass(frozen=True, slots=True)
class Defaults:
    """A model's values for what a request leaves open."""

    steps: int
    guidance_scale: float
    shift: float


_TURBO = Defaults(steps=8, guidance_scale=1.0, shift=3.0)
_BASE = Defaults(
    steps=50, guidance_scale=7.0, shift=1.0
)  # the training registry's shift; the API once said 3


@dataclass(frozen=True, slots=True)
class Published:
    """A name on the hub. `size` is in bytes, rounded, of this folder only."""

    name: str
    repo: str
    size: int
    kind: Kind = "dit"
    is_turbo: bool = False
    layout: Layout = "published"

    @property
    def defaults(self) -> Defaults:
        """Hold until the model's own config.json is read."""
        return _TURBO if self.is_turbo else _BASE

    @property
    def needs(self) -> tuple[Published, ...]:
        """This, and the shared parts that it needs."""
        shared = SHARED_PARTS if self.kind == "dit" and self.layout == "published" else ()
        return (self, *(PUBLISHED[part] for part in shared))


def _registry() -> Iterable[Published]:
    yield Published(DEFAULT_MODEL, MAIN_REPO, 4_790 * _MB, is_turbo=True)
    plain = (
        "base",
        "sft",
        "turbo-shift1",
        "turbo-shift3",
        "turbo-continuous",
        "turbo-rl",
        "base-sft-fix-inst",
    )
    fixed = ("turbo-fix-inst-shift3", "turbo-fix-inst-shift-continuous", "turbo-fix-inst-shift-dynamic")
    for ending in (*plain, *fixed):
        name = f"acestep-v15-{ending}"
        yield Published(name, f"ACE-Step/{name}", 4_790 * _MB, is_turbo="turbo" in ending)
    for ending in ("xl-turbo", "xl-base", "xl-sft"):
        name = f"acestep-v15-{ending}"
        yield Published(name, f"ACE-Step/{name}", 9_980 * _MB, is_turbo="turbo" in ending)
    diffusers = "acestep-v15-xl-turbo-diffusers"
    yield Published(diffusers, f"ACE-Step/{diffusers}", 11_500 * _MB, is_turbo=True, layout="diffusers")
    yield Published("acestep-5Hz-lm-0.6B", "ACE-Step/acestep-5Hz-lm-0.6B", 1_330 * _MB, "planner")
    yield Published("acestep-5Hz-lm-1.7B", MAIN_REPO, 3_710 * _MB, "planner")
    yield Published("acestep-5Hz-lm-4B", "ACE-Step/acestep-5Hz-lm-4B", 8_400 * _MB, "planner")
    yield Published("vae", MAIN_REPO, 337 * _MB, "part")
    yield Published("Qwen3-Embedding-0.6B", MAIN_REPO, 1_200 * _MB, "part")


PUBLISHED: dict[str, Published] = {published.name: published for published in _registry()}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete model on disk.

    `dit` is the model's folder (in the diffusers layout the one with model_index.json).
    """

    name: str
    dit: Path
    layout: Layout
    vae: Path
    text_encoder: Path
    is_turbo: bool
    version: str
    notice: str
    defaults: Defaults

    @property
    def tokenizer(self) -> Path:
        return self.text_encoder if self.layout == "published" else self.dit / "tokenizer"


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that was chosen. Without a `checkpoint` it must be downloaded first.

    `notice` says why it is this one, where that may surprise; `problem` why it cannot be loaded.
    """

    name: str
    checkpoint: Checkpoint | None
    is_turbo: bool
    defaults: Defaults
    notice: str = ""
    problem: str = ""


def find(name: str, checkpoints_dir: Path) -> Checkpoint | None:
    """The model called `name` in `checkpoints_dir`, or at the path `name`, if there is such a folder.

    Raises CheckpointError with the missing files if it is incomplete.
    """
    folder = find_folder(name, checkpoints_dir, NANO_FOLDER if name == NANO_MODEL else None)
    if folder is None:
        return None
    if (folder / "model_index.json").is_file():
        return _diffusers(folder)
    return _published(folder, checkpoints_dir)


def require(name: str, checkpoints_dir: Path) -> Checkpoint:
    checkpoint = find(name, checkpoints_dir)
    if checkpoint is None:
        raise CheckpointError(f"There is no model {name!r}. {how_to_get(name, checkpoints_dir)}")
    return checkpoint


def is_whole(published: Published, checkpoints_dir: Path) -> bool:
    """Whether this name, and what it needs, is complete in `checkpoints_dir`."""
    if published.kind == "dit":
        try:
            return find(published.name, checkpoints_dir) is not None
        except CheckpointError:
            return False
    return not missing_files(checkpoints_dir / published.name, tokenizer=published.name != "vae")


def choose(
    config_path: str | None,
    checkpoints_dir: Path,
    has_gpu: Callable[[], bool],
    hub_reachable: Callable[[], bool],
) -> Choice:
    """Decide which model to load.

    A named model (`config_path`) is never replaced. Otherwise it is the default model if it is on disk, or
    there are a GPU and a hub that answers, else the bundled nano. The probes are asked only if needed. Raises
    CheckpointError with a remedy.
    """
    if config_path:
        return _named(config_path, checkpoints_dir, hub_reachable)
    try:
        checkpoint = find(DEFAULT_MODEL, checkpoints_dir)
        trouble = f"{DEFAULT_MODEL} is not in {checkpoints_dir}"
    except CheckpointError:
        checkpoint, trouble = None, f"{DEFAULT_MODEL} in {checkpoints_dir} is incomplete"
    if checkpoint:
        return as_choice(checkpoint)
    if not has_gpu():
        trouble += " and no GPU was found"
    elif hub_reachable():
        return _to_download(DEFAULT_MODEL)
    else:
        trouble += " and the hub cannot be reached"
    nano = require(NANO_MODEL, checkpoints_dir)
    return as_choice(
        nano, f"{trouble}: the small bundled model runs. {_command(DEFAULT_MODEL)} gets the real one."
    )


def how_to_get(name: str, checkpoints_dir: Path) -> str:
    if name == NANO_MODEL:
        return f"It comes with this package in {NANO_FOLDER}; install the package again."
    if _is_published_dit(name):
        return f"{_command(name)} gets it; or copy its folder to {checkpoints_dir / name}."
    known = ", ".join(name for name in PUBLISHED if _is_published_dit(name))
    return f"Give the folder of a model, or one of {known}, {NANO_MODEL}."


def find_folder(name: str, checkpoints_dir: Path, bundled: Path | None = None) -> Path | None:
    """The folder of `name`: in `checkpoints_dir`, a path, or `bundled` with the package."""
    path = Path(name).expanduser()
    candidates = [checkpoints_dir / path]  # an absolute path stays what it is
    if len(path.parts) > 1:
        candidates.append(path)
    if bundled is not None:
        candidates.append(bundled)
    for candidate in candidates:
        if candidate.is_dir() and any(candidate.iterdir()):
            return Path(os.path.abspath(candidate))  # noqa: PTH100 - a link keeps its own name, "a/.." goes
    return None


def is_bare(name: str) -> bool:
    """Whether this is a name and not a path."""
    return PurePath(name).name == name and not name.startswith(".")


def missing_files(folder: Path, *, tokenizer: bool = False) -> list[str]:
    """What a model folder lacks (config, weights, tokenizer), as paths from its parent."""
    if not (folder / "config.json").is_file():
        return [f"{folder.name}/config.json"] if folder.is_dir() else [f"{folder.name}/"]
    missing = []
    if tokenizer and not (folder / "tokenizer.json").is_file():
        missing.append(f"{folder.name}/tokenizer.json")
    if read_json(folder / "config.json").get("_class_name") not in _COMPUTED_CODECS:
        missing += _missing_weights(folder)
    return missing


def _published(folder: Path, checkpoints_dir: Path) -> Checkpoint:
    vae = _first_folder(folder / "vae", folder.parent / "vae", checkpoints_dir / "vae")
    text = "Qwen3-Embedding-0.6B"
    text_encoder = _first_folder(
        folder / "text_encoder", folder / text, folder.parent / text, checkpoints_dir / text
    )
    missing = missing_files(folder) + missing_files(vae) + missing_files(text_encoder, tokenizer=True)
    if not (folder / "silence_latent.pt").is_file():
        missing.append(f"{folder.name}/silence_latent.pt")
    _refuse_incomplete(folder, missing)
    return _checkpoint(folder, "published", vae, text_encoder, read_json(folder / "config.json"))


def _diffusers(folder: Path) -> Checkpoint:
    index = read_json(folder / "model_index.json")
    components = [part for part, origin in index.items() if isinstance(origin, list) and all(origin)]
    missing = [
        part for part in ("transformer", "condition_encoder", "vae", "text_encoder") if part not in index
    ]
    for part in components:
        if part not in _WITHOUT_WEIGHTS:
            missing += missing_files(folder / part)
        elif not (folder / part).is_dir():
            missing.append(f"{part}/")
    _refuse_incomplete(folder, missing)
    config = read_json(folder / "transformer" / "config.json")
    return _checkpoint(folder, "diffusers", folder / "vae", folder / "text_encoder", config)


def _missing_weights(folder: Path) -> list[str]:
    flaws = {file: _flaw(folder / file) for file in _weight_files(folder)}
    return [f"{folder.name}/{file}{flaw}" for file, flaw in flaws.items() if flaw is not None]


def _weight_files(folder: Path) -> list[str]:
    for stem in _WEIGHTS:
        if (folder / f"{stem}.safetensors").is_file():
            return [f"{stem}.safetensors"]
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            return sorted(set(read_json(index).get("weight_map", {}).values()))
    return [f"{_WEIGHTS[0]}.safetensors"]


def _flaw(weights: Path) -> str | None:
    # What is wrong with a safetensors file: "" if it is missing, None if nothing. Reads the header only.
    if not weights.is_file():
        return ""
    try:
        with safe_open(weights, framework="np"):
            return None
    except (SafetensorError, OSError):
        return " (cut short, or no safetensors file)"


def _refuse_incomplete(folder: Path, missing: list[str]) -> None:
    if missing:
        remedy = (
            f"{_command(folder.name)} completes it."
            if _is_published_dit(folder.name)
            else "Copy what is missing."
        )
        raise CheckpointError(f"The model in {folder} is incomplete; missing: {', '.join(missing)}. {remedy}")


def _checkpoint(
    folder: Path, layout: Layout, vae: Path, text_encoder: Path, config: dict[str, Any]
) -> Checkpoint:
    version = str(config.get("model_version") or "")
    is_turbo = bool(config.get("is_turbo", "turbo" in version))
    own = config.get("acestep_defaults") or {}
    usual = _TURBO if is_turbo else _BASE
    try:
        defaults = Defaults(
            steps=int(own.get("steps", usual.steps)),
            # Distillation has built the guidance of turbo models into their weights.
            guidance_scale=1.0 if is_turbo else float(own.get("guidance_scale", usual.guidance_scale)),
            shift=float(own.get("shift", usual.shift)),
        )
    except (AttributeError, TypeError, ValueError):
        raise CheckpointError(f"acestep_defaults in {folder}/config.json cannot be read: {own!r}") from None
    notice = str(config.get("acestep_notice") or "")
    name = NANO_MODEL if folder == NANO_FOLDER else folder.name
    return Checkpoint(name, folder, layout, vae, text_encoder, is_turbo, version, notice, defaults)


def _named(name: str, checkpoints_dir: Path, hub_reachable: Callable[[], bool]) -> Choice:
    broken: CheckpointError | None = None
    try:
        if checkpoint := find(name, checkpoints_dir):
            return as_choice(checkpoint)
    except CheckpointError as error:
        broken = error
    if not _is_published_dit(name):
        raise broken or CheckpointError(f"There is no model {name!r}. {how_to_get(name, checkpoints_dir)}")
    if hub_reachable():
        return _to_download(name)
    offline = f"{name} is not in {checkpoints_dir} and the hub cannot be reached."
    raise broken or CheckpointError(f"{offline} {how_to_get(name, checkpoints_dir)}")


def as_choice(checkpoint: Checkpoint, notice: str = "") -> Choice:
    return Choice(checkpoint.name, checkpoint, checkpoint.is_turbo, checkpoint.defaults, notice)


def _to_download(name: str) -> Choice:
    return Choice(name, None, PUBLISHED[name].is_turbo, PUBLISHED[name].defaults)


def _first_folder(*candidates: Path) -> Path:
    return next((folder for folder in candidates if folder.is_dir()), candidates[-1])


def _is_published_dit(name: str) -> bool:
    return name in PUBLISHED and PUBLISHED[name].kind == "dit"


def _command(name: str) -> str:
    return f"`uv run acestep-download {name}`"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError with the file if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: a JSON object is expected")
    return content
