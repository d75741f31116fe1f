"""Language model folders: what is read, and the errors for files that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from acestep.errors import CheckpointError
from acestep.planner.language_model import Message
from acestep.planner.loading import LanguageModelParts, load_language_model
from acestep.weights.safetensors import LoadTarget
from tests.planner.toy import Toy, rewrite_json, write_toy

CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModelParts:
    return load_language_model(folder, LoadTarget(CPU, dtype))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("lm") / "acestep-5Hz-lm-toy")


@pytest.fixture
def toy(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "toy"))


def read_prompt(parts: LanguageModelParts) -> tuple[int, ...]:
    return parts.chat.tokens([Message("user", "brief"), Message("assistant", "so")])


def rewrite_tensors(folder: Path, rename: Any) -> None:
    file = folder / "model.safetensors"
    save_file(rename(load_file(file)), file)


def logits(parts: LanguageModelParts, ids: list[int]) -> torch.Tensor:
    hidden: torch.Tensor = parts.model(torch.tensor([ids]))
    return hidden @ parts.head.t()


@pytest.mark.parametrize(("tied", "shard_size"), [(True, "1GB"), (False, "1GB"), (True, "40KB")])
def test_loads_what_transformers_loads(tmp_path: Path, tied: bool, shard_size: str) -> None:
    folder = write_toy(tmp_path / "toy", Toy(tied=tied), shard_size)
    assert (folder / "model.safetensors").exists() == (shard_size == "1GB")
    expected = Qwen3ForCausalLM.from_pretrained(folder).eval()(torch.tensor([[5, 9, 300]])).logits
    torch.testing.assert_close(logits(load(folder), [5, 9, 300]), expected)


def test_name_and_codes_are_read(whole: Path) -> None:
    parts = load(whole)
    assert parts.name == "acestep-5Hz-lm-toy"
    assert parts.vocabulary.code_count == 100
    assert parts.vocabulary.end_of_turn == "<|im_end|>"
    last = parts.vocabulary.first_code_id + 99
    spelled = [parts.chat.tokenizer.id_to_token(token) for token in (last - 99, last)]
    assert spelled == ["<|audio_code_0|>", "<|audio_code_99|>"]


def test_casts_to_the_dtype(whole: Path) -> None:
    parts = load(whole, torch.bfloat16)
    assert {parts.head.dtype, *(each.dtype for each in parts.model.parameters())} == {torch.bfloat16}


def test_codes_beyond_the_codebook_are_left_out(tmp_path: Path) -> None:
    folder = write_toy(tmp_path / "toy", Toy(codes=64_010, hidden=8, heads=1, kv_heads=1, layers=1))
    assert load(folder).vocabulary.code_count == 64_000


def test_codes_end_at_the_first_gap(toy: Path) -> None:
    path = toy / "tokenizer.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace("<|audio_code_40|>", "<|another|>"), encoding="utf-8"
    )
    assert load(toy).vocabulary.code_count == 40


def test_a_tied_head_may_be_stored_twice(toy: Path) -> None:
    rewrite_tensors(toy, lambda all_: all_ | {"lm_head.weight": all_["model.embed_tokens.weight"].clone()})
    parts = load(toy)
    assert parts.head is parts.model.embed_tokens.weight


def test_a_model_that_was_saved_without_its_head_has_no_prefix(whole: Path, toy: Path) -> None:
    rewrite_tensors(toy, lambda all_: {name.removeprefix("model."): each for name, each in all_.items()})
    torch.testing.assert_close(logits(load(toy), [7, 8]), logits(load(whole), [7, 8]))


def test_the_chat_template_may_be_in_the_tokenizer_config(toy: Path) -> None:
    template = (toy / "chat_template.jinja").read_text(encoding="utf-8")
    expected = read_prompt(load(toy))
    (toy / "chat_template.jinja").unlink()
    rewrite_json(toy / "tokenizer_config.json", chat_template=template)
    assert read_prompt(load(toy)) == expected


def without(name: str) -> Any:
    return lambda all_: {key: each for key, each in all_.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "file", "what"),
    [
        (lambda toy: (toy / "config.json").unlink(), "config.json", ""),
        (lambda toy: (toy / "tokenizer.json").unlink(), "tokenizer.json", ""),
        (lambda toy: (toy / "model.safetensors").unlink(), "model.safetensors", ""),
        (lambda toy: (toy / "chat_template.jinja").unlink(), "chat_template.jinja", "no.*chat template|nor"),
        (lambda toy: (toy / "tokenizer.json").write_text("{}"), "tokenizer.json", "not a tokenizer"),
        (lambda toy: rewrite_json(toy / "config.json", model_type="llama"), "config.json", "'llama'"),
        (lambda toy: rewrite_json(toy / "config.json", vocab_size=420), "config.json", "420"),
        (
            lambda toy: rewrite_json(toy / "config.json", attention_bias=True),
            "config.json",
            "attention_bias is True",
        ),
        (
            lambda toy: rewrite_json(
                toy / "config.json",
                use_sliding_window=True,
                sliding_window=9,
                layer_types=["sliding_attention"] * 2,
            ),
            "config.json",
            "sliding_window is 9",
        ),
        (
            lambda toy: rewrite_json(toy / "config.json", rope_parameters={"rope_type": "yarn"}),
            "config.json",
            "rope_type is 'yarn'",
        ),
        (
            lambda toy: (toy / "chat_template.jinja").write_text("{% for m in messages %}"),
            "toy",
            "chat template cannot be read",
        ),
        (lambda toy: rewrite_json(toy / "config.json", intermediate_size=65), "model.safetensors", "65"),
        (
            lambda toy: rewrite_tensors(toy, without("model.norm.weight")),
            "model.safetensors",
            "model.norm.weight.*missing",
        ),
        (
            lambda toy: rewrite_tensors(toy, lambda all_: all_ | {"extra": torch.zeros(2)}),
            "model.safetensors",
            "'extra' does not belong",
        ),
    ],
)
def test_what_does_not_fit_is_named(toy: Path, spoil: Any, file: str, what: str) -> None:
    spoil(toy)
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")) as raised:
        load(toy)
    assert raised.match(what)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|audio_code_0|>"])
def test_a_missing_token_is_named(toy: Path, token: str) -> None:
    path = toy / "tokenizer.json"
    text = json.dumps(json.loads(path.read_text(encoding="utf-8"))).replace(token, "<|other|>")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError) as raised:
        load(toy)
    assert token in str(raised.value)
