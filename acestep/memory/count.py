"""How much memory one plan takes: the weights of its parts, and what each stage needs beside them.

Owns the peak: which weights are on the device in which stage, and who works at the same time. Pure; which of
the plans is the best is `search`'s affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from acestep.domain import MAX_DURATION
from acestep.memory.activations import Load, cache, conditioning, decoding, reading, rendering, writing
from acestep.memory.plan import Device, MemoryPlan, Part, Placement, Sizes, Stage
from acestep.memory.sizes import DitSize, QwenSize


@dataclass(frozen=True, slots=True)
class Weights:
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
        """Bytes of them on the device in a stage."""
        if self.placement == "resident":
            return self.size
        if stage != self.stage:
            return 0
        return self.most or self.size

    @property
    def moved(self) -> int:
        """Bytes that go to the device whenever their stage begins; where it is streamed, for each step."""
        if self.placement == "resident":
            return 0
        return self.size if self.placement == "streamed" else (self.most or self.size) - self.scratch


@dataclass(frozen=True, slots=True)
class Room:
    """The planner's cache: texts at once, tokens of each, and the seconds of song that they do for."""

    slots: int = 0
    length: int = 0
    seconds: float = MAX_DURATION


@dataclass(frozen=True, slots=True)
class Writer:
    """A planner and its room, or none."""

    planner: QwenSize | None = None
    room: Room = Room()


@dataclass(frozen=True, slots=True)
class Ways:
    """Where models are: encoders and VAE, the DiTs, the planner."""

    side: Placement
    core: Placement
    planner: Placement


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest request, and the tile of the VAE."""

    seconds: float
    batch: int
    tile: int


def weights(sizes: Sizes, writer: Writer, ways: Ways, device: Device) -> tuple[Weights, ...]:
    """What is placed, where; the planner, if there is one, is the last."""
    number, stored = device.number, device.stored
    largest = max(sizes.dits, key=lambda dit: dit.transformer)
    dits = [stored.size(dit.transformer, dit.matrices) for dit in sizes.dits]
    layer = largest.layer
    one_layer = stored.size(largest.transformer_ends + layer.crossed, layer.crossed_matrices)
    encoders = [dit.conditioning * number for dit in sizes.dits]
    vae = sizes.vae.weights * number if sizes.vae else 0
    found = [
        Weights("text encoder", ways.side, sizes.text.trunk * number, "read"),
        Weights("condition encoder", ways.side, sum(encoders), "condition", max(encoders)),
        Weights("DiT", ways.core, sum(dits), "render", one_layer if ways.core == "streamed" else max(dits)),
        Weights("VAE", ways.side, vae, "decode"),
    ]
    if sizes.adapters:  # beside the layers that they sit on; of a streamed DiT's, all may be in one layer
        adapters = sizes.adapters * number
        found.append(Weights("adapters", ways.core, len(sizes.dits) * adapters, "render", adapters))
    if planner := writer.planner:
        tokens = -(-writer.room.length // device.span) * device.span
        held = stored.size(planner.weights, planner.matrices)
        kept = cache(planner, writer.room.slots, tokens, number)
        kept += stored.bench(planner.joined, by_pieces=device.is_cpu)
        found.append(Weights("planner", ways.planner, held + kept, "write", scratch=kept))
    return tuple(found)


def working(sizes: Sizes, limits: Limits, device: Device) -> dict[Stage, int]:
    """What each stage needs beside weights, with whichever DiT of `sizes` needs the most."""
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


def counted(
    placed: Sequence[Weights], limits: Limits, need: dict[Stage, int], writer: Writer, device: Device
) -> MemoryPlan:
    """The plan for weights so placed, whose stages `need` so much.

    One stage of one model is at work at any time (one thread computes), and beside it the planner, which has
    a thread of its own; one that comes and goes has the device for itself instead.
    """
    planner, room = writer.planner, writer.room
    text = writing(planner, room.length, device.number) if planner else 0
    alone = planner is not None and placed[-1].placement == "offloaded"
    held = {}
    for stage, work in need.items():
        own = text if stage == "write" or not alone else 0
        held[stage] = sum(part.held(stage) for part in placed) + work + own
    stage = max(held, key=lambda name: held[name])
    parts = [Part(part.name, part.placement, part.size, part.held(stage)) for part in placed]
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


def recounted(plan: MemoryPlan, sizes: Sizes, at_work: DitSize, limits: Limits, device: Device) -> MemoryPlan:
    """`plan` with other models where its own are, beside its planner, while one of them makes so much.

    `sizes` has the models in memory, and the planner of `plan` among its planners.
    """
    planner = next((each for each in sizes.planners if each.name == plan.planner), None)
    writer = Writer(planner, Room(plan.slots, plan.length))
    lm = plan.placement("planner") if planner else "resident"
    ways = Ways(plan.placement("text encoder"), plan.placement("DiT"), lm)
    need = working(replace(sizes, dits=(at_work,)), limits, device)
    return counted(weights(sizes, writer, ways, device), limits, need, writer, device)
