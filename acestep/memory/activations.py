"""What the models need beside their weights while they work, by formula.

Owns the count of what lies in memory at the dearest moment of each stage, read off the code that runs
(`synthesizer.transformer`, `synthesizer.conditioning`, `codec.oobleck`, `planner.backends.decoder`) and held
against it by tests. Attention is assumed to be fused: it keeps no matrix of scores. Bytes throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from acestep.memory.sizes import DitSize, Layer, QwenSize, VaeSize

# What a request may bring at most (synthesizer.conditioning): tokens of caption and lyrics, and the timbre.
_CAPTION, _LYRICS, _TIMBRE = 256, 2048, 1
_CODEC_RATE = 25  # latent frames a second of all published models, and of nano
_FLOAT, _LONG = 4, 8  # bytes of float32 and int64
_SINE_BANK = 64 * 2**20  # nano's codec works in pieces of 250 frames, whatever the song
# Frames that a tile sees to each side beside its own, as `codec.oobleck.receptive_frames` counts them.
_SEEN = 11
# The planner's cache has at least so many rows (planner.backends.decoder.EVEN_ROWS), two a guided text.
_LEAST_ROWS = 4


@dataclass(frozen=True, slots=True)
class Load:
    """The largest request: `batch` songs of `seconds` at once; `number` is the bytes of a weight."""

    batch: int
    seconds: float
    number: int

    @property
    def frames(self) -> int:
        """Latent frames of a song."""
        return math.ceil(self.seconds * _CODEC_RATE)


def rendering(dit: DitSize, load: Load) -> int:
    """The diffusion transformer at work; guidance doubles its rows."""
    rows = load.batch * (1 if dit.is_turbo else 2)
    patches = -(-load.frames // dit.patch)
    words = _CAPTION + _LYRICS + _TIMBRE
    layer = dit.layer
    crossed = dit.layers * layer.keys_values * words * rows
    context = rows * load.frames * (dit.in_channels - dit.channels)
    kept = (crossed + context) * load.number
    # Noise, latents, velocity, and what guidance and the step keep of them.
    kept += 6 * rows * load.frames * dit.channels * _FLOAT
    narrowed = dit.window is not None and patches > dit.window + 1
    window = patches * patches * load.number if narrowed else 0
    building = patches * patches * (2 * _LONG + 1) if narrowed else 0
    # The states come in at the encoder's width and are widened before any layer sees them.
    states = rows * words * (dit.encoder.width + layer.width) * load.number
    working = rows * patches * _widest(layer) * load.number + window
    return kept + states + max(working, building)


def conditioning(dit: DitSize, load: Load) -> int:
    """The condition encoder on the longest lyrics, or the audio tokenizer on the longest cover."""
    rows, layer = load.batch, dit.encoder
    masks = _LYRICS * _LYRICS * (2 * _LONG + 1 + 3 * rows * load.number)
    lyrics = rows * _LYRICS * _widest(layer) * load.number + masks
    # A code stands for `pool` frames, which one token more looks at.
    frames = load.frames + load.frames // dit.pool
    cover = frames * (_widest(layer) + layer.width) * load.number
    return max(lyrics, cover)


def reading(text: QwenSize, load: Load) -> int:
    """The text encoder on the longest captions; of the lyrics it only looks the tokens up."""
    words = load.batch * (_CAPTION * _widest(text.layer) + (_CAPTION + _LYRICS) * text.layer.width)
    return words * load.number + load.batch * _CAPTION * _CAPTION * (load.number + _LONG)


def decoding(vae: VaeSize | None, tile: int, load: Load) -> int:
    """A tile in the VAE, beside the sound of a whole song: of two, where a repaint joins them."""
    sound = 2 * 2 * load.frames * (vae.hop if vae else 1920) * _FLOAT
    if vae is None:
        return sound + _SINE_BANK
    # One frame more stands for what does not grow with the tile.
    return sound + (tile + 2 * _SEEN + 1) * _frame(vae) * load.number


def _frame(vae: VaeSize) -> int:
    """Numbers that one latent frame is at its widest in the VAE, in decoder or encoder.

    A residual unit holds what came in, the two results that it is just between, and a copy; the block around
    it holds what it was given.
    """
    samples, widest = vae.hop, 0
    for narrow, broad, ratio in vae.blocks(max(vae.channels, vae.decoder_channels)):
        widest = max(widest, 5 * narrow * samples, 4 * narrow * samples + broad * samples // ratio)
        samples //= ratio
    return widest + vae.sounds * vae.hop


def _widest(layer: Layer) -> int:
    """Numbers that a token is at its widest in a layer: in its feed-forward part, or between rotations."""
    queries = layer.heads * layer.head
    inner = 3 * layer.width + 3 * layer.inner
    # Queries are turned in float32; the kernels want as many keys and values as there are queries.
    attention = 3 * layer.width + 8 * queries + layer.keys_values
    return max(inner, attention)


def cache(planner: QwenSize, slots: int, length: int, number: int) -> int:
    """The planner's cache: `slots` guided texts of `length` tokens (a multiple of the backend's span)."""
    rows = max(2 * slots, _LEAST_ROWS)
    return rows * min(length, planner.longest) * planner.token * number


def writing(planner: QwenSize, length: int, number: int) -> int:
    """The planner at its dearest: when it reads a prompt that fills its cache."""
    layer = planner.layer
    queries = layer.heads * layer.head
    token = 2 * layer.width + queries * 4 + layer.keys_values + 3 * layer.inner
    return min(length, planner.longest) * token * number
