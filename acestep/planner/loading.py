"""From a folder on disk to a language model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError
from acestep.planner.language_model import Vocabulary
from acestep.weights.safetensors import LoadTarget, TensorIndex, fill

END_OF_TURN = "<|im_end|>"

# The codebook of the published audio tokenizer (FSQ levels 8*8*8*5*5*5). Their tokenizers hold tokens up to
# <|audio_code_65534|>, which mean nothing.
_MOST_CODES = 64_000
_REMEDY = "Use a folder as published, such as acestep-5Hz-lm-1.7B, whole."


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModelParts:
    """What a folder holds. `head` is `[vocabulary, hidden]`; in small models it is the embedding itself."""

    name: str
    model: Qwen3Model
    head: Tensor
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary


def load_language_model(folder: Path, place: LoadTarget) -> LanguageModelParts:
    """Load a folder as published: config.json, model.safetensors (or shards), tokenizer, chat template.

    The matrices of its layers are quantized if `place` says so.
    Raises CheckpointError that names the file, and the tensor or setting, where something does not fit.
    """
    tokenizer, vocabulary, config = read_facts(folder)
    model, head = _load_weights(folder, config, place)
    return LanguageModelParts(folder.name, model, head, tokenizer, vocabulary)


def read_facts(folder: Path) -> tuple[PreTrainedTokenizerFast, Vocabulary, Qwen3Config]:
    """All of a folder but its weights. Raises CheckpointError as `load_language_model` does."""
    tokenizer, vocabulary = load_tokenizer(folder)
    config = _read_config(folder / "config.json")
    last_token = max(len(tokenizer), vocabulary.first_code_id + vocabulary.code_count) - 1
    if last_token >= config.vocab_size:
        raise CheckpointError(
            f"{folder / 'config.json'}: vocab_size is {config.vocab_size}, but tokenizer.json has tokens up"
            f" to {last_token}: they do not belong together. {_REMEDY}"
        )
    return tokenizer, vocabulary, config


def load_tokenizer(folder: Path) -> tuple[PreTrainedTokenizerFast, Vocabulary]:
    """The tokenizer exactly as tokenizer.json has it, and where its audio codes are.

    Raises CheckpointError where it has no chat template, end of turn or audio codes.
    """
    path = folder / "tokenizer.json"
    read_json(path)  # a broken file is told from here, by name
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is not a tokenizer ({error}). {_REMEDY}") from error
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"{folder}: neither tokenizer_config.json nor chat_template.jinja has a chat template. {_REMEDY}"
        )
    ids = tokenizer.get_vocab()
    if END_OF_TURN not in ids:
        raise CheckpointError(f"{path}: token {END_OF_TURN!r} is missing. {_REMEDY}")
    return tokenizer, _find_codes(ids, path)


def _find_codes(ids: dict[str, int], path: Path) -> Vocabulary:
    first = ids.get("<|audio_code_0|>")
    if first is None:
        raise CheckpointError(f"{path}: token '<|audio_code_0|>' is missing: not a planner. {_REMEDY}")
    count = 1
    while count < _MOST_CODES and ids.get(f"<|audio_code_{count}|>") == first + count:
        count += 1
    return Vocabulary(first_code_id=first, code_count=count, end_of_turn=END_OF_TURN)


def _read_config(path: Path) -> Qwen3Config:
    values = read_json(path)
    if values.get("model_type") != "qwen3":
        raise CheckpointError(
            f"{path}: model_type is {values.get('model_type')!r}; only 'qwen3' is known. {_REMEDY}"
        )
    config = Qwen3Config.from_dict(values)
    if set(config.layer_types) != {"full_attention"} or config.attention_bias:
        raise CheckpointError(f"{path}: sliding windows and attention biases are not supported. {_REMEDY}")
    return config


def _load_weights(folder: Path, config: Qwen3Config, place: LoadTarget) -> tuple[Qwen3Model, Tensor]:
    index = TensorIndex.of(folder)
    # A model that was saved without its head has no prefix.
    prefix = "model." if any(name.startswith("model.") for name in index.files) else ""
    parts: dict[str, Any] = {}
    with torch.device("meta"):
        parts["model"] = Qwen3Model(config)
        if not config.tie_word_embeddings:
            parts["lm_head"] = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    if config.tie_word_embeddings:  # some writers store it once more
        index.files.pop("lm_head.weight", None)
    parts["model"].rotary_emb = type(parts["model"].rotary_emb)(config)  # computed, and in no file

    def stored_name(name: str) -> str:
        return prefix + name.removeprefix("model.") if name.startswith("model.") else name

    fill(nn.ModuleDict(parts), index, place, stored_name, packed="model.layers")
    head = parts["lm_head"] if "lm_head" in parts else parts["model"].embed_tokens
    return parts["model"], head.weight
