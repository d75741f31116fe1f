"""How much memory one plan takes: the weights of its parts, and what each stage needs beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from acestep.domain.song import MAX_DURATION
from acestep.memory.plan import STAGES, Device, MemoryPlan, Placement, PlanPart, Sizes, Stage
from acestep.memory.sizes import DitSize, Layer, QwenSize, VaeSize


@dataclass(frozen=True, slots=True)
class PlacedWeights:
    """Weights that share a placement, in bytes.

    `most` is on the device at once where they are not resident: a layer, or one of several models. `scratch`
    is the part of `size` that is allocated on the device, not moved there.
    """

    name: str
    placement: Placement
    size: int
    stage: Stage
    most: int = 0
    scratch: int = 0

    def held(self, stage: Stage) -> int:
        if self.placement == "resident":
            return self.size
        if stage != self.stage:
            return 0
        return self.most or self.size

    @property
    def moved(self) -> int:
        """Bytes moved to the device when their stage begins; streamed, in each step."""
        if self.placement == "resident":
            return 0
        return self.size if self.placement == "streamed" else (self.most or self.size) - self.scratch


@dataclass(frozen=True, slots=True)
class PlannerCache:
    """Texts at once, tokens of each, and the longest song in seconds for which these are enough."""

    sequences: int = 0
    length: int = 0
    seconds: float = MAX_DURATION


@dataclass(frozen=True, slots=True)
class PlannerLoad:
    planner: QwenSize | None = None
    cache: PlannerCache = PlannerCache()


@dataclass(frozen=True, slots=True)
class Placements:
    """Of encoders and VAE (`side`), of the DiTs (`core`), and of the planner."""

    side: Placement
    core: Placement
    planner: Placement


@dataclass(frozen=True, slots=True)
class LargestRequest:
    """`batch` songs of `seconds` at once, decoded by tiles of so many latent frames."""

    seconds: float
    batch: int
    tile: int


@dataclass(frozen=True, slots=True)
class PlacedModels:
    """All weights in their places; the planner's, if there is one, are the last.

    `held`: bytes of weights that are on the device in each stage, and of the planner's own work.
    """

    weights: tuple[PlacedWeights, ...]
    planner_load: PlannerLoad
    device: Device
    held: Mapping[Stage, int]

    def peak(self, workspace: Mapping[Stage, int]) -> int:
        """The most bytes at once where stages need `workspace` beside weights."""
        return max(held + workspace[stage] for stage, held in self.held.items()) + self.device.reserve

    def plan(self, limits: LargestRequest, workspace: Mapping[Stage, int]) -> MemoryPlan:
        """The plan for requests up to `limits`, for which stages need `workspace`."""
        planner, cache, device = self.planner_load.planner, self.planner_load.cache, self.device
        stage = max(self.held, key=lambda name: self.held[name] + workspace[name])
        parts = [PlanPart(part.name, part.placement, part.size, part.held(stage)) for part in self.weights]
        work = self.held[stage] + workspace[stage] - sum(part.held for part in parts)
        parts.append(PlanPart("work", "resident", work, work))
        parts.append(PlanPart("reserve", "resident", device.reserve, device.reserve))
        return MemoryPlan(
            parts=tuple(parts),
            stage=stage,
            peak=self.peak(workspace),
            max_batch=limits.batch,
            max_duration=limits.seconds,
            tile=limits.tile,
            planner=planner.name if planner else "",
            sequences=cache.sequences,
            length=cache.length,
            quantization=device.quantization,
        )


def place_models(
    sizes: Sizes, planner_load: PlannerLoad, placements: Placements, device: Device
) -> PlacedModels:
    weights = _place_weights(sizes, planner_load, placements, device)
    return PlacedModels(weights, planner_load, device, _held(weights, planner_load, device))


def _place_weights(
    sizes: Sizes, planner_load: PlannerLoad, placements: Placements, device: Device
) -> tuple[PlacedWeights, ...]:
    largest = max(sizes.dits, key=lambda dit: dit.transformer)
    layer = largest.layer
    stored, bytes_per_weight = device.stored(layer.width), device.formats.bytes_of(layer.width)
    dits = [device.stored(dit.layer.width).size(dit.transformer, dit.matrices) for dit in sizes.dits]
    one_layer = stored.size(largest.transformer_ends + layer.crossed, layer.crossed_matrices)
    encoders = [dit.conditioning * device.formats.bytes_of(dit.layer.width) for dit in sizes.dits]
    vae = sizes.vae.weights * device.formats.bytes_of_vae if sizes.vae else 0
    found = [
        PlacedWeights("text encoder", placements.side, sizes.text.trunk * bytes_per_weight, "read"),
        PlacedWeights("condition encoder", placements.side, sum(encoders), "condition", max(encoders)),
        PlacedWeights(
            "DiT",
            placements.core,
            sum(dits),
            "render",
            one_layer if placements.core == "streamed" else max(dits),
        ),
        PlacedWeights("VAE", placements.side, vae, "decode"),
    ]
    if sizes.adapters:  # beside the layers that they sit on; of a streamed DiT's, all may be in one layer
        adapters = sizes.adapters * bytes_per_weight
        found.append(
            PlacedWeights("adapters", placements.core, len(sizes.dits) * adapters, "render", adapters)
        )
    if planner := planner_load.planner:
        stored = device.stored(planner.layer.width)
        tokens = -(-planner_load.cache.length // device.cache_block) * device.cache_block
        held = stored.size(planner.weights, planner.matrices)
        kept = cache_size(planner, planner_load.cache.sequences, tokens, stored.bytes_per_weight)
        kept += stored.workspace(planner.joined, by_pieces=device.is_cpu)
        found.append(PlacedWeights("planner", placements.planner, held + kept, "write", scratch=kept))
    return tuple(found)


def _held(weights: Sequence[PlacedWeights], planner_load: PlannerLoad, device: Device) -> dict[Stage, int]:
    # One stage of one model is at work at any time, since one thread computes. A resident planner works
    # beside it in a thread of its own; an offloaded one has the device for itself.
    planner, length = planner_load.planner, planner_load.cache.length
    text = writing(planner, length, device.formats.bytes_of(planner.layer.width)) if planner else 0
    alone = planner is not None and weights[-1].placement == "offloaded"
    return {
        stage: sum(part.held(stage) for part in weights) + (text if stage == "write" or not alone else 0)
        for stage in STAGES
    }


def stage_workspace(sizes: Sizes, limits: LargestRequest, device: Device) -> dict[Stage, int]:
    """Bytes that each stage needs beside weights, with the DiT that needs the most."""
    batch = 1 if device.is_cpu else limits.batch  # a CPU renders songs one by one (decision 0010)
    loads = [
        (dit, Workload(batch, limits.seconds, device.formats.bytes_of(dit.layer.width))) for dit in sizes.dits
    ]
    sound = Workload(batch, limits.seconds, device.formats.bytes_of_vae)
    return {
        "write": 0,
        "read": max(reading(sizes.text, load) for _, load in loads),
        "condition": max(conditioning(dit, load) for dit, load in loads),
        "render": max(
            rendering(dit, load)
            + device.stored(dit.layer.width).unpacking(dit.layer.crossed_matrices.largest)
            for dit, load in loads
        ),
        "decode": decoding(sizes.vae, limits.tile, sound, by_pieces=device.is_cpu),
    }


def plan_with_models(
    plan: MemoryPlan, sizes: Sizes, at_work: DitSize, limits: LargestRequest, device: Device
) -> MemoryPlan:
    """`plan` with the models of `sizes` in place of its own, while `at_work` makes its largest request.

    The planner of `plan` is among those of `sizes`.
    """
    planner = next((each for each in sizes.planners if each.name == plan.planner), None)
    planner_load = PlannerLoad(planner, PlannerCache(plan.sequences, plan.length))
    lm = plan.placement("planner") if planner else "resident"
    ways = Placements(plan.placement("text encoder"), plan.placement("DiT"), lm)
    need = stage_workspace(replace(sizes, dits=(at_work,)), limits, device)
    return place_models(sizes, planner_load, ways, device).plan(limits, need)


# What a request may bring at most (synthesizer.conditioning): tokens of caption and lyrics, and the timbre.
_CAPTION, _LYRICS, _TIMBRE = 256, 2048, 1

_CODEC_RATE = 25  # latent frames a second of all published models, and of nano

_FLOAT, _LONG = 4, 8  # bytes of float32 and int64

_SINE_BANK = 64 * 2**20  # nano's codec works in pieces of 250 frames, whatever the song

_VAE_PIECE = 4096  # samples that a block of the VAE takes at a time on a CPU (networks.oobleck)

# Frames that a tile sees to each side beside its own, as `codec.oobleck.receptive_frames` counts them.
_SEEN = 11

# The planner's cache has at least so many rows (planner.backends.decoder.EVEN_ROWS), two a guided text.
_LEAST_ROWS = 4


@dataclass(frozen=True, slots=True)
class Workload:
    batch: int
    seconds: float
    bytes_per_weight: int

    @property
    def frames(self) -> int:
        return math.ceil(self.seconds * _CODEC_RATE)


def rendering(dit: DitSize, load: Workload) -> int:
    """Bytes of the diffusion transformer's work; guidance doubles its rows."""
    rows = load.batch * (1 if dit.is_turbo else 2)
    patches = -(-load.frames // dit.patch)
    words = _CAPTION + _LYRICS + _TIMBRE
    layer = dit.layer
    crossed = dit.layers * layer.keys_values * words * load.batch
    context = load.batch * load.frames * (dit.in_channels - dit.channels)
    kept = (crossed + context) * load.bytes_per_weight
    # Noise, latents, velocity, and what guidance and the step keep of them.
    kept += 6 * rows * load.frames * dit.channels * _FLOAT
    # The states come in at the encoder's width and are widened before any layer sees them.
    states = load.batch * words * (dit.encoder.width + layer.width) * load.bytes_per_weight
    # Where songs of a batch are padded, a GPU's kernels want as many keys and values as there are queries.
    queries = layer.heads * layer.head
    padded = load.batch * words * 2 * queries + rows * patches * (2 * layer.width + 2 * queries)
    working = max(rows * patches * _widest(layer), padded) * load.bytes_per_weight
    return kept + states + working


def conditioning(dit: DitSize, load: Workload) -> int:
    """Bytes of the condition encoder on the longest lyrics, or the audio tokenizer on the longest cover."""
    layer, words = dit.encoder, _CAPTION + _LYRICS + _TIMBRE
    # Songs are encoded one by one; of the others there are texts and states, which are padded at the end.
    songs = load.batch * words * (dit.text_width + 2 * layer.width)
    lyrics = _LYRICS * _widest(layer) + songs
    # A code stands for `pool` frames, which one token more looks at.
    frames = load.frames + load.frames // dit.pool
    cover = frames * (_widest(layer) + 2 * layer.width)
    return max(lyrics, cover) * load.bytes_per_weight


def reading(text: QwenSize, load: Workload) -> int:
    """Bytes of the text encoder on the longest captions; of the lyrics it only embeds the tokens."""
    words = load.batch * (_CAPTION * _widest(text.layer) + (_CAPTION + _LYRICS) * text.layer.width)
    return words * load.bytes_per_weight + load.batch * _CAPTION * _CAPTION * (load.bytes_per_weight + _LONG)


def decoding(vae: VaeSize | None, tile: int, load: Workload, by_pieces: bool = False) -> int:
    """Bytes of a tile in the VAE, beside the sound of a whole song and its normalised copy."""
    sound = 2 * 2 * load.frames * (vae.hop if vae else 1920) * _FLOAT
    if vae is None:
        return sound + _SINE_BANK
    # One frame more stands for what does not grow with the tile.
    numbers = (tile + 2 * _SEEN + 1) * _frame(vae, by_pieces)
    if by_pieces:
        numbers += 5 * _VAE_PIECE * max(narrow for narrow, _, _ in vae.blocks(vae.decoder_channels))
    return sound + numbers * load.bytes_per_weight


def _frame(vae: VaeSize, by_pieces: bool) -> int:
    # The most numbers that one latent frame becomes in the VAE, in the decoder or the encoder. A block keeps
    # its input, and where it works in pieces its output. Otherwise, a residual unit in it keeps its own input
    # at its peak, and the input and the output of a convolution.
    samples, widest = vae.hop, 0
    for narrow, broad, ratio in vae.blocks(max(vae.channels, vae.decoder_channels)):
        long, short = narrow * samples, broad * samples // ratio
        widest = max(widest, long + short if by_pieces else max(4 * long, 3 * long + short))
        samples //= ratio
    return widest + vae.sounds * vae.hop


def _widest(layer: Layer) -> int:
    # Numbers that a token is at its widest in a layer: in its feed-forward part, or between rotations.
    queries = layer.heads * layer.head
    inner = 3 * layer.width + 2 * layer.inner
    # Queries are turned in float32.
    attention = 2 * layer.width + 4 * queries + layer.keys_values
    return max(inner, attention)


def cache_size(planner: QwenSize, sequences: int, length: int, bytes_per_weight: int) -> int:
    """Bytes of the planner's cache: guided texts of `length` tokens, a multiple of the backend's block."""
    rows = max(2 * sequences, _LEAST_ROWS)
    return rows * min(length, planner.longest) * planner.token * bytes_per_weight


def writing(planner: QwenSize, length: int, bytes_per_weight: int) -> int:
    """Bytes of the planner's work on a prompt that fills its cache, which is the most it needs."""
    layer = planner.layer
    queries = layer.heads * layer.head
    token = 2 * layer.width + queries * 4 + layer.keys_values + 3 * layer.inner
    return min(length, planner.longest) * token * bytes_per_weight
