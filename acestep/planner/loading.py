from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from acestep.errors import CheckpointError
from acestep.networks.qwen3 import Qwen3, Qwen3Config
from acestep.planner.backends.chat import Chat
from acestep.planner.language_model import Vocabulary
from acestep.planner.lexicon import read_lexicon
from acestep.weights.safetensors import LoadTarget, TensorIndex, fill, without_memory

END_OF_TURN = "<|im_end|>"

# The codebook of the published audio tokenizer (FSQ levels 8*8*8*5*5*5). The tokenizers have tokens up to
# <|audio_code_65534|>, of which the rest is unused.
_MOST_CODES = 64_000
_REMEDY = "Use a folder as published, such as acestep-5Hz-lm-1.7B, whole."


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModelParts:
    name: str
    model: Qwen3
    head: Tensor  # [vocabulary, hidden]; in small models the embedding itself
    chat: Chat
    vocabulary: Vocabulary


def load_language_model(folder: Path, target: LoadTarget) -> LanguageModelParts:
    """Raises CheckpointError with the file, and the tensor or setting, that is wrong."""
    chat, vocabulary, config = read_facts(folder)
    model, head = _load_weights(folder, config, target)
    return LanguageModelParts(folder.name, model, head, chat, vocabulary)


def read_facts(folder: Path) -> tuple[Chat, Vocabulary, Qwen3Config]:
    """All of a folder but its weights."""
    chat, vocabulary = load_chat(folder)
    config = _read_config(folder / "config.json")
    tokens = chat.tokenizer.get_vocab_size()
    last_token = max(tokens, vocabulary.first_code_id + vocabulary.code_count) - 1
    if last_token >= config.vocab_size:
        raise CheckpointError(
            f"{folder / 'config.json'}: vocab_size is {config.vocab_size}, but tokenizer.json has tokens up"
            f" to {last_token}: they do not belong together. {_REMEDY}"
        )
    return chat, vocabulary, config


def load_chat(folder: Path) -> tuple[Chat, Vocabulary]:
    """Raises CheckpointError if there is no chat template, end of turn or audio code."""
    try:
        chat = Chat.load(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_REMEDY}") from error
    path, ids = folder / "tokenizer.json", chat.tokenizer.get_vocab()
    if END_OF_TURN not in ids:
        raise CheckpointError(f"{path}: token {END_OF_TURN!r} is missing. {_REMEDY}")
    return chat, replace(_find_codes(ids, path), lexicon=read_lexicon(folder))


def _find_codes(ids: dict[str, int], path: Path) -> Vocabulary:
    first = ids.get("<|audio_code_0|>")
    if first is None:
        raise CheckpointError(f"{path}: token '<|audio_code_0|>' is missing: not a planner. {_REMEDY}")
    count = 1
    while count < _MOST_CODES and ids.get(f"<|audio_code_{count}|>") == first + count:
        count += 1
    return Vocabulary(first_code_id=first, code_count=count, end_of_turn=END_OF_TURN)


def _read_config(path: Path) -> Qwen3Config:
    try:
        config = Qwen3Config.read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_REMEDY}") from error
    window = max((each for each in config.windows if each is not None), default=0)
    for name, value in (("attention_bias", config.attention_bias), ("sliding_window", window)):
        if value:
            raise CheckpointError(f"{path}: {name} is {value}; a planner without is expected. {_REMEDY}")
    return config


def _load_weights(folder: Path, config: Qwen3Config, target: LoadTarget) -> tuple[Qwen3, Tensor]:
    index = TensorIndex.of(folder)
    # A model that was saved without its head has no prefix.
    prefix = "model." if any(name.startswith("model.") for name in index.files) else ""
    with without_memory():
        model = Qwen3(config)
        is_tied = config.tie_word_embeddings
        head = None if is_tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    if is_tied:  # some files have it twice
        index.files.pop("lm_head.weight", None)

    def stored_name(name: str) -> str:
        return prefix + name.removeprefix("model.") if name.startswith("model.") else name

    parts = {"model": model} if head is None else {"model": model, "lm_head": head}
    fill(nn.ModuleDict(parts), index, target, stored_name, packed="model.layers")
    return model, model.embed_tokens.weight if head is None else head.weight
