"""A language model folder as the published ones are laid out, of random weights and a few kilobytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Enough for a few merges, among them some that cross a line's end.
_TEXT = (
    "bpm: 120\ncaption: upbeat pop with bright synths, warm pads and a catchy chorus\nduration: 180\n",
    "keyscale: C major\nlanguage: en\ntimesignature: 4\n",
    "# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n",
    "# Caption\n# Lyric\n[Verse]\nhello world\n\n[Chorus]\nla la la\n",
)


@dataclass(frozen=True, slots=True)
class Toy:
    """Sizes of a toy; `codes` audio codes stand in the tokenizer."""

    codes: int = 100
    hidden: int = 32
    intermediate: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    positions: int = 2048
    words: int = 320
    tied: bool = True
    seed: int = 0


def write_toy(folder: Path, toy: Toy = Toy(), shard_size: str = "1GB") -> Path:
    """Write the folder and return it. The same `toy` gives the same weights."""
    tokenizer = write_tokenizer(folder, toy)
    config = Qwen3Config(
        vocab_size=-(-tokenizer.get_vocab_size() // 16) * 16,  # padded, as trained models often are
        hidden_size=toy.hidden,
        intermediate_size=toy.intermediate,
        num_hidden_layers=toy.layers,
        num_attention_heads=toy.heads,
        num_key_value_heads=toy.kv_heads,
        head_dim=toy.head_dim,
        max_position_embeddings=toy.positions,
        tie_word_embeddings=toy.tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        # Large enough that a next token depends on what came before, and not on the last one alone.
        initializer_range=2 * toy.hidden**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(toy.seed)
        Qwen3ForCausalLM(config).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def write_tokenizer(folder: Path, toy: Toy) -> Tokenizer:
    """Write the tokenizer alone, and return it."""
    tokenizer = _tokenizer(toy)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE)
    wrapped.save_pretrained(folder)
    return tokenizer


def _tokenizer(toy: Toy) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=toy.words, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    # As published: tokens of their own, yet not marked special.
    tokenizer.add_tokens(
        [AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")]
    )
    tokenizer.add_tokens(
        [AddedToken(f"<|audio_code_{n}|>", special=False, normalized=False) for n in range(toy.codes)]
    )
    return tokenizer


def rewrite_json(path: Path, **changes: object) -> None:
    """Change some values of a JSON file; None takes a key out."""
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
