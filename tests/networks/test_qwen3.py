"""Qwen3 and its tokenizer against those of transformers, with the same files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3Model
from transformers import Qwen3Config as TransformersConfig

from acestep.catalog.checkpoints import NANO_FOLDER
from acestep.errors import CheckpointError
from acestep.networks.qwen3 import Qwen3, Qwen3Config, encode, load_tokenizer
from tests.planner.toy import rewrite_json

TEXTS = (
    "",
    "# Caption\nslow piano, 120 bpm\n",
    "夜の歌 naïve  café\n\n[Verse]",
    "a<|endoftext|> <|im_end|>b<think><|audio_code_3|>",
    "x" * 40 + " hello world" * 20,
)
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 5}


def write(folder: Path, **settings: Any) -> Any:
    """A model of transformers, saved with its config."""
    torch.manual_seed(4)
    model = Qwen3Model(TransformersConfig(**{**SIZES, "initializer_range": 0.2, **settings})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            parameter.data.normal_(1, 0.3)
    model.save_pretrained(folder)
    return model


def load(folder: Path) -> Qwen3:
    ours = Qwen3(Qwen3Config.read(folder / "config.json"))
    ours.load_state_dict(load_file(folder / "model.safetensors"))
    return ours.requires_grad_(False).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rms_norm_eps": 0.1},
        {"attention_bias": True},
        {**SLIDING, "max_window_layers": 1},
        {**SLIDING, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        {"sliding_window": 5, "max_window_layers": 0},  # named, but not used
    ],
    ids=str,
)
def test_states_are_those_of_transformers(tmp_path, settings):
    reference = write(tmp_path, **settings)
    ids = torch.randint(97, (2, 13), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = reference(ids).last_hidden_state
        found = load(tmp_path)(ids)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_padding_at_the_end_changes_nothing_before_it(tmp_path):
    reference, ours = write(tmp_path, **SLIDING, max_window_layers=1), load(tmp_path)
    ids = torch.randint(97, (2, 13), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(13) < torch.tensor([[13], [9]])).long()
    with torch.inference_mode():
        wanted = reference(ids, attention_mask=mask).last_hidden_state
        found = ours(ids)
    torch.testing.assert_close(found[mask == 1], wanted[mask == 1], rtol=1e-4, atol=1e-5)


def test_older_files_have_the_base_of_rotation_elsewhere(tmp_path):
    reference = write(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    rewrite_json(tmp_path / "config.json", rope_parameters=None, rope_theta=500_000)
    with torch.inference_mode():
        wanted = reference(torch.tensor([[1, 2, 3]])).last_hidden_state
        torch.testing.assert_close(load(tmp_path)(torch.tensor([[1, 2, 3]])), wanted, rtol=1e-4, atol=1e-5)


def test_a_layer_of_published_size(tmp_path):
    # Of the text encoder and the planner of 0.6 B.
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "head_dim": 128}
    rope = {"rope_type": "default", "rope_theta": 1_000_000}
    more = {"num_key_value_heads": 8, "num_hidden_layers": 1, "rope_parameters": rope}
    reference, ours = write(tmp_path, **sizes, **more, initializer_range=0.03), load(tmp_path)
    ids = torch.randint(97, (1, 256), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = reference(ids).last_hidden_state
        torch.testing.assert_close(ours(ids), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("folder", [NANO_FOLDER / "text_encoder", NANO_FOLDER.parent / "acestep-nano-lm"])
def test_the_bundled_models_agree_with_transformers(folder):
    config = Qwen3Config.read(folder / "config.json")
    ours = Qwen3(config).eval()
    tensors = {
        name.removeprefix("model."): tensor.float()
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    ours.load_state_dict(tensors)
    reference = Qwen3Model.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(config.vocab_size, (2, 70), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        wanted = reference(ids).last_hidden_state
        torch.testing.assert_close(ours(ids), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; 'qwen3' is expected"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; 'silu' is expected"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"head_dim": "16"}, "head_dim is '16'; a whole number from 1 on is expected"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4; a divisor of 6 heads is expected"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'; a number above 0 is expected"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'; 'default' is expected"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type is 'linear'; 'default' is expected"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0; a number above 0 is expected"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]; an object is expected"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types is .*; a list of 3 times full_attention"),
        (
            {**SLIDING, "layer_types": ["chunked_attention"] * 3},
            "full_attention or sliding_attention",
        ),
        ({"layer_types": ["full_attention"] * 2}, "a list of 3 times full_attention is expected"),
        ({**SLIDING, "sliding_window": 0}, "sliding_window is 0; a whole number from 1 on"),
    ],
)
def test_a_setting_that_is_wrong_or_not_supported_is_named_with_its_value(tmp_path, changes, what):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3", **SIZES}))
    Qwen3Config.read(path)
    rewrite_json(path, **changes)
    with pytest.raises(CheckpointError, match=r"config\.json: .*" + what):
        Qwen3Config.read(path)


def test_settings_that_are_left_out_are_those_of_transformers(tmp_path):
    path = tmp_path / "config.json"
    sizes = {name: size for name, size in SIZES.items() if name not in ("head_dim", "num_key_value_heads")}
    path.write_text(json.dumps({"model_type": "qwen3", **sizes}))
    found, wanted = Qwen3Config.read(path), TransformersConfig(**sizes, num_key_value_heads=None)
    for name in ("head_dim", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps"):
        assert getattr(found, name) == getattr(wanted, name)
    assert found.rope_theta == wanted.rope_parameters["rope_theta"] == 10_000
    assert not found.tie_word_embeddings and not found.attention_bias
    assert found.windows == (None, None, None)


def write_tokenizer(folder: Path, closes: bool = False) -> None:
    backend = Tokenizer(models.BPE(vocab={}, merges=[]))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("l", "l"), ("Ġ", "h"), ("ll", "o")]
    pieces = [*letters, *map("".join, merges)]
    backend = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(pieces)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    if closes:
        end = backend.token_to_id("<|endoftext|>")
        backend.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing("$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]),
            ]
        )
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>").save_pretrained(folder)


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_offsets_are_those_of_transformers(tmp_path, text, closes):
    write_tokenizer(tmp_path, closes)
    theirs, ours = PreTrainedTokenizerFast.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    for most in (1, 2, 17, 4096):
        wanted = theirs(text, truncation=True, max_length=most, return_offsets_mapping=True)
        ids, offsets, count = encode(ours, text, most)
        assert (ids, offsets) == (wanted.input_ids, wanted.offset_mapping)
        assert count == len(theirs(text).input_ids)


@pytest.mark.parametrize("folder", [NANO_FOLDER / "text_encoder", NANO_FOLDER.parent / "acestep-nano-lm"])
def test_the_bundled_tokenizers_agree_with_transformers(folder):
    theirs, ours = PreTrainedTokenizerFast.from_pretrained(folder), load_tokenizer(folder)
    for text in TEXTS:
        ids = theirs(text).input_ids
        assert encode(ours, text, 4096)[0] == ids
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


def test_tokens_that_only_the_config_names_get_the_ids_of_transformers(tmp_path):
    write_tokenizer(tmp_path)
    size = load_tokenizer(tmp_path).get_vocab_size()
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    rewrite_json(
        tmp_path / "tokenizer_config.json",
        added_tokens_decoder={
            str(size + 1): {"content": "<|second|>", "special": False, **flags},
            str(size): {"content": "<|first|>", "special": True, **flags},
            str(size - 1): {"content": "<|im_end|>", "special": True, **flags},
        },
    )
    theirs, ours = PreTrainedTokenizerFast.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    text = "a<|second|>b<|first|><|im_end|>"
    assert encode(ours, text, 99)[0] == theirs(text).input_ids
    assert ours.token_to_id("<|second|>") == size + 1


def test_a_file_that_cuts_and_pads_does_neither(tmp_path):
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(path))
    assert len(encode(load_tokenizer(tmp_path), "abcde", 99)[0]) == 5
    assert len(encode(load_tokenizer(tmp_path), "a", 99)[0]) == 1


def test_the_files_closing_token_stays_whatever_the_config_says(tmp_path):
    # Published configs have this flag of an older class, which ignored it.
    write_tokenizer(tmp_path, closes=True)
    rewrite_json(tmp_path / "tokenizer_config.json", add_bos_token=False)
    tokenizer = load_tokenizer(tmp_path)
    assert encode(tokenizer, "ab", 99)[0][-1] == tokenizer.token_to_id("<|endoftext|>")


@pytest.mark.parametrize("content", [None, "{}", "no JSON"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is not a tokenizer"):
        load_tokenizer(tmp_path)
