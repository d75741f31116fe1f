"""The memory plan: what is placed where, and how large requests may be, so that a budget holds.

Owns the plan's shape, the order in which plans are better than one another, and the search. Pure: sizes,
wishes and a budget in, a plan or a refusal out. As every budget picks the best of those that fit, and a
larger budget fits all that a smaller one does, more memory never gives a worse plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from acestep.domain import MAX_BATCH, MAX_DURATION
from acestep.memory.activations import (
    Load,
    cache,
    conditioning,
    decoding,
    reading,
    rendering,
    writing,
)
from acestep.memory.sizes import DitSize, QwenSize, VaeSize
from acestep.memory.stored import Stored
from acestep.setting_kinds import Quantization

GB = 2**30
Placement = Literal["resident", "offloaded", "streamed"]
Stage = Literal["write", "read", "condition", "render", "decode"]

DURATIONS = (MAX_DURATION, 480.0, 360.0, 240.0, 120.0, 60.0)
_COMMON_DURATION = 240.0  # what a plan gives up other things for
BATCHES = (MAX_BATCH, 4, 2, 1)
_COMMON_BATCH = 2  # what is rendered when a request does not say
TILES = (512, 256, 128, 64)
# Texts that the planner writes at once, and tokens of each: 6,656 are a song of 600 s with the longest words
# (planner.backends.pt); half of that is enough for 240 s (1,200 codes) with 2,128 tokens of words.
ROOMS = ((4, 6656, MAX_DURATION), (2, 6656, MAX_DURATION), (2, 3328, _COMMON_DURATION))
_MODELS = ("text encoder", "condition encoder", "DiT", "VAE")
_STEPS = 8  # how often a streamed DiT is moved for one song of a turbo model
_BASE_STEPS = 50
# CUDA's context with its kernels, and the libraries' workspaces: 0.45 GB on cards seen, rounded up.
GPU_RESERVE = GB // 2
CPU_RESERVE = GB  # Python, torch and the server itself


@dataclass(frozen=True, slots=True)
class Abilities:
    """Which placements a version of the program can carry out."""

    offload: bool = False
    stream: bool = False
    offload_planner: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is to be placed: all DiTs that are loaded, and the text encoder and VAE that they share."""

    dits: tuple[DitSize, ...]
    text: QwenSize
    vae: VaeSize | None
    planners: tuple[QwenSize, ...] = ()  # to choose from; the smallest first
    adapters: int = 0  # weights of the adapters that each DiT may have in memory


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator decided; None: as the plan likes."""

    offload: bool | None = None  # what is neither DiT nor planner
    offload_dit: bool | None = None
    offload_planner: bool | None = None
    tile: int | None = None
    planner: bool | None = None  # whether there must be one


@dataclass(frozen=True, slots=True)
class Device:
    """Where models run: bytes of a weight, what is used up before any is there, and the cache's span.

    `quantization` is how the matrices of the DiT's and the planner's layers are stored.
    """

    number: int = 2
    reserve: int = GPU_RESERVE
    span: int = 1024
    moves: bool = True  # whether there is another memory to move models to
    quantization: Quantization = "none"

    @classmethod
    def cpu(cls) -> Device:
        """Main memory: float32, and nowhere to move anything."""
        return cls(number=4, reserve=CPU_RESERVE, span=32, moves=False)

    @property
    def stored(self) -> Stored:
        """How the weights are stored that can be packed."""
        return Stored(self.number, self.quantization)


@dataclass(frozen=True, slots=True)
class Part:
    """A row of the plan: `size` is all its bytes, `held` those of them that lie on the device at the peak."""

    name: str
    placement: Placement
    size: int
    held: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The decision. `peak` is the sum of what `parts` hold; `stage` is when that is.

    `planner` is "" where none fits or none is wanted. `slots` and `length` are the room of its cache.
    """

    parts: tuple[Part, ...]
    stage: Stage
    peak: int
    max_batch: int
    max_duration: float
    tile: int
    planner: str = ""
    slots: int = 0
    length: int = 0
    quantization: Quantization = "none"
    adapter_room: int | None = None  # bytes of the adapters of one DiT; None: as many as there are

    def placement(self, name: str) -> Placement:
        """Where the weights called `name` are."""
        return next(part.placement for part in self.parts if part.name == name)

    @property
    def settled(self) -> tuple[object, ...]:
        """What cannot change once models are loaded: where they are, and what they allow."""
        return (*self.places, self.max_batch, self.max_duration)

    @property
    def places(self) -> tuple[object, ...]:
        """Where models are, and the tile of the VAE."""
        return (*(self.placement(name) for name in _MODELS), self.tile)

    @property
    def writer(self) -> tuple[object, ...]:
        """The planner, where it is, and its room."""
        return (self.planner, self.planner and self.placement("planner"), self.slots, self.length)


@dataclass(frozen=True, slots=True)
class _Weights:
    """Weights that are placed as one; `most` is what is on the device at once where they do not stay.

    That is a layer, or of several models' weights those of one. `scratch` are those of `size` that are made
    on the device, not moved there.
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


@dataclass(frozen=True, slots=True)
class _Room:
    slots: int
    length: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Writer:
    planner: QwenSize | None
    room: _Room


@dataclass(frozen=True, slots=True)
class _Limits:
    seconds: float
    batch: int
    tile: int


Rank = tuple[float, ...]


def options(sizes: Sizes, wishes: Wishes, device: Device, abilities: Abilities) -> list[MemoryPlan]:
    """Every plan that keeps the wishes, the best first; none where they cannot be kept at any budget."""
    return _useful(_ranked(sizes, wishes, device, abilities))


def beside(
    plan: MemoryPlan, sizes: Sizes, wishes: Wishes, device: Device, abilities: Abilities
) -> list[MemoryPlan]:
    """Every plan that differs from `plan` in its planner and its adapters alone, the best first."""
    ranked = _ranked(sizes, wishes, device, abilities)
    return [other for other in ranked if other.settled == plan.settled]


def in_place_of(
    plan: MemoryPlan, sizes: Sizes, wishes: Wishes, device: Device, abilities: Abilities
) -> list[MemoryPlan]:
    """Every plan that has other models where those of `plan` are, beside its planner, the best first."""
    ranked = _ranked(sizes, wishes, device, abilities)
    return [other for other in ranked if (other.places, other.writer) == (plan.places, plan.writer)]


def _ranked(sizes: Sizes, wishes: Wishes, device: Device, abilities: Abilities) -> Iterator[MemoryPlan]:
    ranked: list[tuple[Rank, MemoryPlan]] = []
    working = {limits: _working(sizes, limits, device) for limits in _limits(sizes, wishes)}
    for planner, room in _planners(sizes, wishes):
        for weights in _placements(sizes, planner, room, wishes, _can(device, abilities), device):
            moved = sum(_moved(part, sizes) for part in weights)
            for limits, need in working.items():
                if limits.seconds <= room.seconds:
                    plan = _plan(weights, limits, need, _Writer(planner, room), device)
                    ranked.append((_rank(plan, sizes, moved), plan))
    # Of plans that are equally good, the smaller.
    ranked.sort(key=lambda each: (each[0], -each[1].peak), reverse=True)
    return (plan for _, plan in ranked)


def choose(plans: Sequence[MemoryPlan], budget: int) -> MemoryPlan | None:
    """The best plan within `budget` bytes, of `options`; None: there is none."""
    return next((plan for plan in plans if plan.peak <= budget), None)


def least(plans: Sequence[MemoryPlan]) -> int:
    """Bytes from which on one of `options` fits."""
    return min(plan.peak for plan in plans)


def _can(device: Device, abilities: Abilities) -> Abilities:
    return abilities if device.moves else Abilities()


def _useful(plans: Iterable[MemoryPlan]) -> list[MemoryPlan]:
    """Without those that are worse than another and no smaller: no budget chooses them."""
    kept: list[MemoryPlan] = []
    for plan in plans:
        if not kept or plan.peak < kept[-1].peak:
            kept.append(plan)
    return kept


def _planners(sizes: Sizes, wishes: Wishes) -> Iterator[tuple[QwenSize | None, _Room]]:
    if wishes.planner is not True:
        yield None, _Room(0, 0, MAX_DURATION)
    if wishes.planner is not False:
        for planner, room in product(sizes.planners, ROOMS):
            yield planner, _Room(*room)


def _placements(
    sizes: Sizes,
    planner: QwenSize | None,
    room: _Room,
    wishes: Wishes,
    can: Abilities,
    device: Device,
) -> Iterator[tuple[_Weights, ...]]:
    number, stored = device.number, device.stored
    largest = max(sizes.dits, key=lambda dit: dit.transformer)
    dits = [stored.size(dit.transformer, dit.matrices) for dit in sizes.dits]
    layer = largest.layer
    one_layer = stored.size(largest.transformer_ends + layer.crossed, layer.crossed_matrices)
    encoders = [dit.conditioning * number for dit in sizes.dits]
    text = sizes.text.trunk * number
    vae = sizes.vae.weights * number if sizes.vae else 0
    for side, core, lm in product(
        _ways(wishes.offload, can.offload),
        _dit_ways(wishes, can),
        _ways(wishes.offload_planner, can.offload_planner) if planner else ("resident",),
    ):
        weights = [
            _Weights("text encoder", side, text, "read"),
            _Weights("condition encoder", side, sum(encoders), "condition", max(encoders)),
            _Weights("DiT", core, sum(dits), "render", one_layer if core == "streamed" else max(dits)),
            _Weights("VAE", side, vae, "decode"),
        ]
        if sizes.adapters:  # beside the layers that they sit on; of a streamed DiT's, all may be in one layer
            adapters = sizes.adapters * number
            weights.append(_Weights("adapters", core, len(sizes.dits) * adapters, "render", adapters))
        if planner:
            tokens = -(-room.length // device.span) * device.span
            held = stored.size(planner.weights, planner.matrices)
            kept = cache(planner, room.slots, tokens, number) + stored.bench(planner.largest_joined)
            weights.append(_Weights("planner", lm, held + kept, "write", scratch=kept))
        yield tuple(weights)


def _ways(wish: bool | None, can: bool) -> tuple[Placement, ...]:
    ways: tuple[Placement, ...] = ("resident", "offloaded") if can else ("resident",)
    if wish is None:
        return ways
    return tuple(way for way in ways if (way != "resident") == wish)


def _dit_ways(wishes: Wishes, can: Abilities) -> tuple[Placement, ...]:
    ways = _ways(wishes.offload_dit, can.offload)
    return (*ways, "streamed") if can.stream and wishes.offload_dit is not False else ways


def _limits(sizes: Sizes, wishes: Wishes) -> Iterator[_Limits]:
    tiles = (wishes.tile,) if wishes.tile else TILES if sizes.vae else TILES[:1]
    for seconds, batch, tile in product(DURATIONS, BATCHES, tiles):
        yield _Limits(seconds, batch, tile)


def _working(sizes: Sizes, limits: _Limits, device: Device) -> dict[Stage, int]:
    """What each stage needs beside weights."""
    load, tile = Load(limits.batch, limits.seconds, device.number), limits.tile
    return {
        "write": 0,
        "read": reading(sizes.text, load),
        "condition": max(conditioning(dit, load) for dit in sizes.dits),
        "render": max(
            rendering(dit, load) + device.stored.unpacking(dit.layer.crossed_matrices.largest)
            for dit in sizes.dits
        ),
        "decode": decoding(sizes.vae, tile, load),
    }


def _plan(
    weights: tuple[_Weights, ...], limits: _Limits, need: dict[Stage, int], writer: _Writer, device: Device
) -> MemoryPlan:
    planner, room = writer.planner, writer.room
    text = writing(planner, room.length, device.number) if planner else 0
    # A planner that stays writes while another song is rendered; one that comes and goes has all to itself.
    alone = planner is not None and weights[-1].placement == "offloaded"
    held = {}
    for stage, work in need.items():
        own = text if stage == "write" or not alone else 0
        held[stage] = sum(part.held(stage) for part in weights) + work + own
    stage = max(held, key=lambda name: held[name])
    parts = [Part(part.name, part.placement, part.size, part.held(stage)) for part in weights]
    work = held[stage] - sum(part.held for part in parts)
    parts.append(Part("work", "resident", work, work))
    parts.append(Part("reserve", "resident", device.reserve, device.reserve))
    return MemoryPlan(
        parts=tuple(parts),
        stage=stage,
        peak=held[stage] + device.reserve,
        max_batch=limits.batch,
        max_duration=limits.seconds,
        tile=limits.tile,
        planner=planner.name if planner else "",
        slots=room.slots,
        length=room.length,
        quantization=device.quantization,
    )


def _moved(part: _Weights, sizes: Sizes) -> int:
    """Bytes that go to the device for one song."""
    if part.placement == "resident":
        return 0
    if part.placement == "offloaded":
        return (part.most or part.size) - part.scratch
    return part.size * (_STEPS if all(dit.is_turbo for dit in sizes.dits) else _BASE_STEPS)


def _rank(plan: MemoryPlan, sizes: Sizes, moved: int) -> Rank:
    """What counts, the most important first: larger is better.

    Songs of a common length, two at once; then nothing moved; then a planner, and a large one; then the rest.
    """
    names = [planner.name for planner in sizes.planners]
    return (
        min(plan.max_duration, _COMMON_DURATION),
        min(plan.max_batch, _COMMON_BATCH),
        -moved,
        names.index(plan.planner) + 1 if plan.planner else 0,
        plan.max_duration,
        plan.max_batch,
        plan.slots,
        plan.tile,
    )
