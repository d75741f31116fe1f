from importlib.util import find_spec
from typing import Any, get_args

import pytest

from acestep.errors import SettingError
from acestep.memory import stored
from acestep.memory.stored import Matrices, Stored, check_quantization
from acestep.setting_kinds import Quantization

TEN = Matrices(weights=1000, rows=10, largest=200)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (Stored(2), 2400),
        (Stored(2, "int8"), 1000 + 10 * 5 + 200 * 2),
        (Stored(4, "int8"), 1000 + 10 * 5 + 200 * 4),
        (Stored(2, "fp8"), 1000 + 10 * 4 + 200 * 2),
    ],
)
def test_matrices_are_packed_and_the_rest_is_not(way: Stored, expected: int) -> None:
    assert way.size(1200, TEN) == expected


def test_as_many_matrices_in_each_layer() -> None:
    assert TEN.times(3) == Matrices(3000, 30, 200)


def test_nothing_is_unpacked_that_is_not_packed() -> None:
    assert Stored(2).unpacking(100) == Stored(2).bench([(10, 10)], by_pieces=False) == 0


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_planner_unpacks_its_largest_matrix_or_on_a_cpu_a_piece_of_it(kind: Quantization) -> None:
    way = Stored(4, kind)
    assert way.bench([(2048, 4096), (2048, 12_288), (6144, 2048)], by_pieces=False) == 4 * 2048 * 12_288
    assert way.bench([(2048, 4096), (2048, 12_288), (6144, 2048)], by_pieces=True) == 4 * 2**18
    assert way.bench([(64, 128), (8, 16)], by_pieces=True) == 4 * 64 * 128, "no more than there is"
    assert way.bench([(4, 2**20)], by_pieces=True) == 4 * 2**20, "no less than a row"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_what_can_be(device: str) -> None:
    for quantization in get_args(get_args(Quantization)[0]):
        check_quantization(quantization, [device])


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_fp8_is_refused_where_it_cannot_be(device: str) -> None:
    check_quantization("int8", [device])
    with pytest.raises(SettingError, match=rf"^ACESTEP_QUANTIZATION='fp8' .*: int8 or none on {device}$"):
        check_quantization("fp8", ["cuda", device])


def test_a_mac_chooses_its_gpu_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    check_quantization("fp8", ["cpu"])
    with pytest.raises(SettingError, match=r"int8 or none on mps$"):
        check_quantization("fp8", ["auto"])


def test_the_remedy_is_named_where_torchao_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, *rest: Any) -> Any:
        return None if name == "torchao" else find_spec(name, *rest)

    monkeypatch.setattr(stored, "find_spec", find)
    check_quantization("none", ["auto"])
    with pytest.raises(SettingError) as refusal:
        check_quantization("int8", ["auto"])
    assert str(refusal.value) == (
        "ACESTEP_QUANTIZATION='int8' cannot be used; allowed: "
        "none, or any after `uv sync --extra quantization`, which installs torchao"
    )
