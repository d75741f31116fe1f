"""Make nano's planner: a small Qwen3 that learns to plan our own pieces, and to sketch them in nano's codes.

`uv run --group training python -m training.nano.planner` needs the pool and the weights that
`training.nano.train` leaves behind; it takes the minutes that it is given. Owns the model's sizes, its
tokenizer, the optimisation loop and the writing of the folder; what is said is `dialogues`'.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from acestep.catalog.planner_choice import NANO_PLANNER_FOLDER
from acestep.codec.sine_bank import SineBankConfig
from acestep.domain.song import CODES_A_SECOND
from acestep.planner.language_model import spelled
from acestep.planner.lexicon import write_lexicon
from acestep.planner.loading import END_OF_TURN
from acestep.synthesizer.audio_codes import AudioCodes
from acestep.synthesizer.loading import load_synthesizer
from acestep.weights.safetensors import LoadTarget
from training.nano.captions import lexicon
from training.nano.clock import Clock
from training.nano.composer import Piece
from training.nano.dataset import FRAME_RATE, Clip, examples
from training.nano.dialogues import Dialogue, dialogue
from training.nano.metronome import beat_angles
from training.nano.model import PAD, train_bpe
from training.nano.optimise import descend
from training.nano.pool import load_pool
from training.nano.theory import Key
from training.nano.train import HERE, to_latents

CHAT_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS = 2_048
_BATCH = 8
_SORTED = 8  # batches; a quarter of a batch was padding without
_PEAK_RATE = 2e-3
_SECONDS = (10, 15, 20, 30)
_WORD_WEIGHT = 4.0  # of a token of facts or lyrics, to a code's 1
_NOT_LEARNED = -100  # what cross-entropy ignores


@dataclass(frozen=True, slots=True, eq=False)
class CodedClips:
    """Clips as dialogues: crops of the pool, encoded by nano's audio tokenizer."""

    clips: list[Clip]
    codes: AudioCodes
    scale: SineBankConfig

    def dialogue(self, rng: random.Random) -> Dialogue:
        """A dialogue about a crop."""
        seconds = rng.choice(_SECONDS)
        example = next(examples(self.clips, seconds * FRAME_RATE, rng))
        codes = self.codes.tokenize(to_latents(example.decibels, self.scale))
        return dialogue(example.piece, seconds, codes, rng)

    def dialogues(self, rng: random.Random) -> Iterator[list[Dialogue]]:
        """Batches without end; dialogues of like length share one, so that little of it is padding."""
        while True:
            some = sorted((self.dialogue(rng) for _ in range(_BATCH * _SORTED)), key=_length)
            batches = [some[start : start + _BATCH] for start in range(0, len(some), _BATCH)]
            rng.shuffle(batches)
            yield from batches


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Tokens and labels of dialogues, `[B, L]`, and what each is about.

    `codes` `[B, L]` counts the audio codes up to here, at a code; elsewhere it is 0.
    """

    ids: Tensor
    labels: Tensor
    codes: Tensor
    pieces: tuple[Piece, ...]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=120.0, help="time for learning")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="where rendered music is kept")
    parser.add_argument("--weights", type=Path, default=HERE.parents[1] / "acestep/nano/weights")
    parser.add_argument("--out", type=Path, default=NANO_PLANNER_FOLDER)
    parser.add_argument("--resume", action="store_true", help="go on with the weights that are in --out")
    parser.add_argument("--lessons", type=int, default=1, help="a number; another one is other lessons")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    clips_as_codes = encode_clips(load_pool(arguments.work / "pool"), arguments.weights)
    if arguments.resume:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.out)
        model = Qwen3ForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    else:
        rng = random.Random(0)
        tokenizer = train_tokenizer(
            [clips_as_codes.dialogue(rng) for _ in range(1500)], clips_as_codes.codes.count
        )
        model = build(len(tokenizer))
    lessons = clips_as_codes.dialogues(random.Random(arguments.lessons))
    learn(model, tokenizer, lessons, Clock(arguments.minutes))
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    write_lexicon(arguments.out, lexicon())


def encode_clips(clips: list[Clip], weights: Path) -> CodedClips:
    """The clips as audio codes of the model in the folder `weights`."""
    text = weights / "text_encoder"
    modules = load_synthesizer(weights, text, text, LoadTarget(torch.device("cpu"), torch.float32))
    return CodedClips(clips, AudioCodes(modules), SineBankConfig.read(weights / "vae"))


def train_tokenizer(dialogues: Sequence[Dialogue], codes: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with single digits, the markers of the published planners, and `codes` audio codes."""
    said = (spelled(message.content) for each in dialogues for message in each.messages)
    words = (text for text in said if "<|audio_code_" not in text)
    tokenizer = train_bpe(words, _WORDS, (PAD, "<|im_start|>", END_OF_TURN))
    markers = ["<think>", "</think>", *(f"<|audio_code_{code}|>" for code in range(codes))]
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in markers])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END_OF_TURN, chat_template=CHAT_TEMPLATE
    )


def build(tokens: int) -> Qwen3ForCausalLM:
    """A Qwen3 of about three million weights."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=tokens,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=8_192,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
        )
    )


class Bearings(nn.Module):
    """Asks a planner that writes codes where in beat and bar it is, and in which scale; for training alone.

    To sketch in time is to count, and in key to remember. Learned from the codes alone that takes longer than
    all the rest.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self._clock = nn.Linear(width, 4)
        self._scale = nn.Linear(width, 12)

    def lost(self, hidden: Tensor, batch: Batch) -> Tensor:
        """How far the states `[B, L, D]` at codes are from knowing that; the rest is left out."""
        counted = (batch.codes > 0) & (batch.labels != _NOT_LEARNED)
        if not counted.any():
            return hidden.new_zeros(())
        beats = beat_angles(batch.codes / CODES_A_SECOND, batch.pieces)
        off_beat: Tensor = (self._clock(hidden) - beats).square().mean(dim=-1)[counted].mean()
        keys = torch.zeros(len(batch.pieces), 12)
        for row, piece in enumerate(batch.pieces):
            keys[row, list(Key.parse(piece.key_scale).scale())] = 1.0
        notes = keys[:, None].expand(-1, hidden.shape[1], -1)
        off_key = nn.functional.binary_cross_entropy_with_logits(self._scale(hidden)[counted], notes[counted])
        return off_beat + off_key


def learn(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Iterator[list[Dialogue]],
    clock: Clock,
) -> None:
    """Run AdamW on batches of dialogues until the time is up; only the answers are learned."""
    bearings = Bearings(model.config.hidden_size)
    weights = [*model.parameters(), *bearings.parameters()]
    optimizer = torch.optim.AdamW(weights, _PEAK_RATE, betas=(0.9, 0.98), fused=True)
    for step, done in clock.steps("planning"):
        rate = _PEAK_RATE * min(1.0, (step + 1) / 100) * min(1.0, max(0.02, (1.0 - done) / 0.5))
        learned = batch(tokenizer, next(lessons))
        said = model(input_ids=learned.ids, output_hidden_states=True)
        middle = said.hidden_states[2 * len(said.hidden_states) // 3]
        loss = surprise(said.logits, learned) + bearings.lost(middle, learned)
        clock.show(descend(optimizer, loss, rate))


def _length(said: Dialogue) -> int:
    """Roughly, in tokens: a code is one of its own, of some 18 letters; a word takes 4."""
    text = "".join(spelled(message.content) for message in said.messages) + said.answer
    codes = text.count("<|audio_code_")
    return codes + (len(text) - 18 * codes) // 4


def surprise(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the answers; `logits` `[B, L, V]`. A fact weighs more than a code: there are few."""
    wanted = batch.labels[:, 1:]
    loss = nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), wanted, ignore_index=_NOT_LEARNED, reduction="none"
    )
    weight = torch.where(batch.codes[:, 1:] > 0, 1.0, _WORD_WEIGHT) * (wanted != _NOT_LEARNED)
    mean: Tensor = (loss * weight).sum() / weight.sum()
    return mean


def batch(tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue]) -> Batch:
    """Dialogues as tokens, padded on the right, where a causal model does not look."""
    rows = []
    for each in dialogues:
        turns = [{"role": message.role, "content": spelled(message.content)} for message in each.messages]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(each.answer + END_OF_TURN, add_special_tokens=False)["input_ids"]
        rows.append((asked, answer))
    longest = max(len(asked) + len(answer) for asked, answer in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    labels = torch.full_like(ids, _NOT_LEARNED)
    for row, (asked, answer) in enumerate(rows):
        ids[row, : len(asked) + len(answer)] = torch.tensor(asked + answer)
        labels[row, len(asked) : len(asked) + len(answer)] = torch.tensor(answer)
    is_code = ids >= tokenizer.convert_tokens_to_ids("<|audio_code_0|>")
    return Batch(ids, labels, is_code.cumsum(dim=1) * is_code, tuple(each.piece for each in dialogues))


if __name__ == "__main__":
    main()
