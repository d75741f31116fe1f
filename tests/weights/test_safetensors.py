"""Tensors out of a file: where they lie, so that products with them do not depend on the file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from acestep.weights.safetensors import LoadTarget, TensorIndex, fill, read_tensors, without_memory

CPU = torch.device("cpu")
ROWS, COLUMNS = 96, 64


class Model(nn.Module):
    """A matrix behind three numbers: in a file, it begins at no multiple of 16 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.empty(3))
        self.matrix = nn.Parameter(torch.empty(ROWS, COLUMNS))


@pytest.fixture(scope="module")
def written() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"before": torch.zeros(3), "matrix": torch.randn(ROWS, COLUMNS, generator=generator)}


@pytest.fixture(params=["fill", "read_tensors"])
def read(request: pytest.FixtureRequest, tmp_path: Path, written: dict[str, Tensor]) -> Tensor:
    file = tmp_path / "model.safetensors"
    save_file(written, file)
    target = LoadTarget(CPU, torch.float32)
    if request.param == "read_tensors":
        return read_tensors(file, target)["matrix"]
    with torch.device("meta"):
        model = Model()
    fill(model, TensorIndex.of(tmp_path), target)
    return model.matrix


def test_a_matrix_begins_where_torch_would_have_it_begin(read: Tensor, written: dict[str, Tensor]) -> None:
    assert read.data_ptr() % 64 == 0
    assert torch.equal(read, written["matrix"])


def test_products_are_those_of_a_matrix_out_of_no_file(read: Tensor, written: dict[str, Tensor]) -> None:
    """On AMD's processors one row times a matrix rounds by where the matrix begins."""
    for rows in (1, 2, 3, 25):
        x = torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(rows))
        assert torch.equal(functional.linear(x, read), functional.linear(x, written["matrix"]))


def test_what_waits_for_a_gpu_stays_in_its_file(tmp_path: Path, written: dict[str, Tensor]) -> None:
    file = tmp_path / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in written.items()}, file)
    matrix = read_tensors(file, LoadTarget(CPU, torch.bfloat16))["matrix"]
    assert matrix.data_ptr() % 4 == 2, "torch's own memory begins at a multiple of 64"


def test_modules_without_memory_have_the_shapes_of_others_and_what_follows_is_drawn():
    def build() -> nn.Module:
        return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Embedding(4, 5), "c": nn.Conv1d(2, 2, 3)})

    with without_memory():
        empty = build()
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}
    drawn = build().state_dict()
    assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == {
        name: tensor.shape for name, tensor in drawn.items()
    }
    assert all(tensor.std() > 0 for tensor in drawn.values())
