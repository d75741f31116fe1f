"""Which device is meant, on machines of several kinds."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from acestep.device import probes
from acestep.device.probes import PROBES, cpu_flags, device_name, has_gpu
from acestep.memory.plan import GB


def test_an_explicit_device_needs_no_look_at_the_machine() -> None:
    assert not has_gpu("cpu")
    assert has_gpu("cuda:1")


@pytest.mark.parametrize(
    ("wish", "meant"),
    [
        ("cuda", "cuda:0"),
        ("cuda:0", "cuda:0"),
        ("cuda:1", "cuda:1"),
        ("xpu", "xpu:0"),
        ("mps", "mps"),
        ("cpu", "cpu"),
    ],
)
def test_one_device_has_one_name(wish: str, meant: str) -> None:
    assert device_name(wish) == meant


@pytest.mark.parametrize(
    ("system", "has_gpu", "meant"),
    [("Linux", True, "cuda:0"), ("Linux", False, "cpu"), ("Darwin", True, "mps"), ("Darwin", False, "cpu")],
)
def test_auto_is_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, system: str, has_gpu: bool, meant: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(probes, "has_gpu", lambda _: has_gpu)
    assert device_name("auto") == meant


def test_what_the_cpu_can_do(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    assert cpu_flags(listing) == frozenset()
    listing.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(listing) == {"fpu", "avx2", "amx_bf16"}


def test_this_machine_says_how_much_memory_it_has() -> None:
    there = PROBES.main_memory()
    assert there is not None and there > GB // 4
    free = PROBES.gpu_free(0)
    assert free is None or free > 0
