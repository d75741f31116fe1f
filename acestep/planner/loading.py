from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError
from acestep.planner.language_model import Vocabulary
from acestep.planner.lexicon import read_lexicon
from acestep.weights.safetensors import LoadTarget, TensorIndex, fill

END_OF_TURN = "<|im_end|>"

# The codebook of the published audio tokenizer (FSQ levels 8*8*8*5*5*5). The tokenizers have tokens up to
# <|audio_code_65534|>, of which the rest is unused.
_MOST_CODES = 64_000
_REMEDY = "Use a folder as published, such as acestep-5Hz-lm-1.7B, whole."


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModelParts:
    name: str
    model: Qwen3Model
    head: Tensor  # [vocabulary, hidden]; in small models the embedding itself
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary


def load_language_model(folder: Path, target: LoadTarget) -> LanguageModelParts:
    """Raises CheckpointError with the file, and the tensor or setting, that is wrong."""
    tokenizer, vocabulary, config = read_facts(folder)
    model, head = _load_weights(folder, config, target)
    return LanguageModelParts(folder.name, model, head, tokenizer, vocabulary)


def read_facts(folder: Path) -> tuple[PreTrainedTokenizerFast, Vocabulary, Qwen3Config]:
    """All of a folder but its weights."""
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
    """Raises CheckpointError if there is no chat template, end of turn or audio code."""
    path = folder / "tokenizer.json"
    read_json(path)  # raises for a broken file, with its name
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
    return tokenizer, replace(_find_codes(ids, path), lexicon=read_lexicon(folder))


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


def _load_weights(folder: Path, config: Qwen3Config, target: LoadTarget) -> tuple[Qwen3Model, Tensor]:
    index = TensorIndex.of(folder)
    # A model that was saved without its head has no prefix.
    prefix = "model." if any(name.startswith("model.") for name in index.files) else ""
    with torch.device("meta"):
        model = Qwen3Model(config)
        is_tied = config.tie_word_embeddings
        head = None if is_tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    if is_tied:  # some files have it twice
        index.files.pop("lm_head.weight", None)
    model.rotary_emb = type(model.rotary_emb)(config)  # computed, and in no file

    def stored_name(name: str) -> str:
        return prefix + name.removeprefix("model.") if name.startswith("model.") else name

    parts = {"model": model} if head is None else {"model": model, "lm_head": head}
    fill(nn.ModuleDict(parts), index, target, stored_name, packed="model.layers")
    return model, model.embed_tokens.weight if head is None else head.weight
