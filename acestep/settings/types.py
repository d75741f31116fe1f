"""Types of settings: how a variable's text is read, and how its field is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, StringConstraints

TRUE = ("1", "true", "yes", "y", "on")
FALSE = ("0", "false", "no", "n", "off")
DEVICES = "auto, cpu, cuda, cuda:N, mps, xpu"


def _to_bool(value: object) -> object:
    word = str(value).lower()
    if word not in TRUE + FALSE:
        raise ValueError
    return word in TRUE


def _to_bool_or_auto(value: object) -> object:
    return None if value is None or str(value).lower() == "auto" else _to_bool(value)


def lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _to_quantization(value: object) -> object:
    # Accepts torchao's and the original's names too.
    word = str(value).lower()
    return "none" if word in FALSE else word.removesuffix("_weight_only")


def _to_number_format(value: object) -> object:
    word = str(value).lower()
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(word, word)


def to_int(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def split(separator: str) -> BeforeValidator:

    def parts(value: object) -> object:
        return [part.strip() for part in value.split(separator)] if isinstance(value, str) else value

    return BeforeValidator(parts)


def _one_or_several(value: str) -> str:
    # Devices, separated by commas; several GPUs with their numbers, none twice.
    devices = [device.strip() for device in value.split(",")]
    alone = len(devices) == 1
    pattern = r"auto|cpu|cuda(:\d+)?|mps|xpu" if alone else r"cpu|cuda:\d+"
    on_gpus = [device for device in devices if device != "cpu"]
    if not all(re.fullmatch(pattern, device) for device in devices) or len(set(on_gpus)) < len(on_gpus):
        raise ValueError
    return ",".join(devices)


_COMPONENTS = ("dit", "vae", "text_encoder", "lm")


def mapped_gpus(mapping: str) -> dict[str, int]:
    """The numbers of a mapping by component: "dit", and "lm" where it has one. Empty for auto."""
    if mapping == "auto":
        return {}
    kind, _, number = mapping.partition(":")
    if kind == "single":
        return {"dit": int(number), "lm": int(number)}
    pairs = [part.strip().split(":") for part in mapping.split(",")]
    found = {component: int(number) for component, number in pairs}
    beside = {found[component] for component in ("vae", "text_encoder") if component in found}
    if len(found) < len(pairs) or not set(found) <= set(_COMPONENTS) or not beside <= {found["dit"]}:
        raise ValueError
    return {component: found[component] for component in ("dit", "lm") if component in found}


def _mapping(value: str) -> str:
    word = "".join(value.lower().split())
    if not re.fullmatch(r"auto|single:\d+|[a-z_]+:\d+(,[a-z_]+:\d+)*", word):
        raise ValueError
    try:
        mapped_gpus(word)
    except KeyError:
        raise ValueError from None
    return word


Switch = Annotated[bool, BeforeValidator(_to_bool)]
AutoSwitch = Annotated[bool | None, BeforeValidator(_to_bool_or_auto)]  # None: auto
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?|mps|xpu)$")]
Devices = Annotated[str, AfterValidator(_one_or_several)]
GpuMapping = Annotated[str, AfterValidator(_mapping)]
Origin = Annotated[str, StringConstraints(pattern=r"^(local|none|null|\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]
LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(lower)]
DownloadSource = Annotated[Literal["auto", "huggingface", "modelscope"], BeforeValidator(lower)]
Quantization = Annotated[Literal["none", "int8", "fp8"], BeforeValidator(_to_quantization)]
NumberFormat = Literal["float32", "bfloat16", "float16"]
NumberFormatWish = Annotated[Literal["auto", NumberFormat], BeforeValidator(_to_number_format)]
WaveletDefault = Annotated[Literal["off", "auto"], BeforeValidator(lower)]
LmBackend = Annotated[Literal["vllm", "pt", "mlx"], BeforeValidator(lower)]


def setting(
    default: object, allowed: str, meaning: str, *, shown: str = "", pending: str = "", **rules: Any
) -> Any:
    """A documented field: `shown` is the default in words, `pending` says what an effect waits for."""
    extra: dict[str, JsonValue] = {"allowed": allowed, "shown": shown, "pending": pending}
    return Field(default, description=meaning, json_schema_extra=extra, **rules)


def switch(default: bool | None, meaning: str, pending: str = "") -> Any:
    """None as the default: auto."""
    words = "true or false (1, yes, y, on, 0, no, n, off)"
    if default is None:
        return setting(None, f"auto, {words}", meaning, shown="auto", pending=pending)
    return setting(default, words, meaning, shown=str(default).lower(), pending=pending)


def number(
    default: float | None, low: float, high: float | None, unit: str, meaning: str, **more: Any
) -> Any:
    """A number from `low` to `high` (None: open), counted in `unit`."""
    span = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
    return setting(default, f"{span} {unit}".rstrip(), meaning, ge=low, le=high, **more)
