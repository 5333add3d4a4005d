"""Find layouts: every one that fits the devices is priced, those that do not fit are counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.hardware.types import Hardware
from moesim.model import Model
from moesim.training.iteration import Costs, Iteration, iterate
from moesim.training.layout import TrainLayout
from moesim.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Space:
    """What is searched; an empty tuple takes what makes sense for model and machine.

    Parameters
    ----------
    tp, cp, pp, ep, etp, vpp, micro_batch, zero
        Values to try. Data parallelism takes the devices that are left.
    recompute
        Ways to recompute.
    """

    tp: tuple[int, ...] = ()
    cp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    ep: tuple[int, ...] = ()
    etp: tuple[int, ...] = (1,)
    vpp: tuple[int, ...] = ()
    micro_batch: tuple[int, ...] = (1, 2, 4)
    zero: tuple[int, ...] = (1,)
    recompute: tuple[str, ...] = ("none", "selective", "full")


@dataclass(frozen=True, slots=True)
class Found:
    """One layout that works.

    Parameters
    ----------
    efficient
        Whether no other is at least as fast in at most as much memory, and better in one of the two.
    """

    layout: TrainLayout
    recipe: Recipe
    iteration: Iteration = field(repr=False)
    efficient: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """Layouts, fastest first, and why others were left out.

    Parameters
    ----------
    found
        All that fit.
    rejected
        How many did not, by reason.
    nearest
        Of those that memory alone keeps out, the least bytes per device that one needs; None if there is
        none.
    tried
        How many there were.
    """

    found: tuple[Found, ...]
    rejected: dict[str, int]
    nearest: float | None
    tried: int


def search(
    model: Model,
    hardware: Hardware,
    recipe: Recipe,
    space: Space | None = None,
    *,
    causal_halved: bool = False,
) -> Search:
    """Price every layout of a space on all devices of a machine.

    Parameters
    ----------
    recipe
        Batch, sequence, precision and the rest; micro-batch, sharding, schedule and recomputation are
        searched.
    space
        What to try.

    Raises
    ------
    InfeasibleError
        If nothing fits.
    """
    space = space or Space()
    costs = Costs(model, hardware)
    found: list[Found] = []
    rejected: Counter[str] = Counter()
    nearest: float | None = None
    tried = 0
    for layout, way in candidates(model, hardware, recipe, space):
        tried += 1
        try:
            done = iterate(model, hardware, layout, way, causal_halved=causal_halved, costs=costs)
        except ConfigError as error:
            rejected[_reason(error.faults[0])] += 1
        except InfeasibleError as error:
            rejected[error.resource] += 1
            nearest = error.needed if nearest is None else min(nearest, error.needed)
        else:
            found.append(Found(layout, way, done))
    if not found:
        _nothing(hardware, rejected, nearest, tried)
    found.sort(key=lambda f: (f.iteration.step_s, f.iteration.memory.total, str(f.layout)))
    return Search(tuple(_marked(found)), dict(rejected.most_common()), nearest, tried)


def _reason(fault: Fault) -> str:
    return f"{fault.where}: {fault.message}"


def _nothing(hardware: Hardware, rejected: Counter[str], nearest: float | None, tried: int) -> None:
    capacity = hardware.device.memory.capacity_bytes
    if nearest is None:
        why = "; ".join(f"{reason} ({count})" for reason, count in rejected.most_common(3))
        raise ConfigError(f"none of {tried} layouts can be laid out: {why}")
    raise InfeasibleError(
        f"none of {tried} layouts fits: the smallest needs {nearest / 1e9:.1f} GB per device, "
        f"{capacity / 1e9:.1f} GB are there",
        resource=f"memory {hardware.device.memory.name}",
        needed=nearest,
        available=capacity,
        details={"rejected": dict(rejected)},
    )


def _marked(found: Sequence[Found]) -> Iterator[Found]:
    """Mark what nothing faster undercuts in memory; `found` is sorted by time."""
    least = float("inf")
    for one in found:
        memory = one.iteration.memory.total
        yield replace(one, efficient=memory < least)
        least = min(least, memory)


def candidates(
    model: Model, hardware: Hardware, recipe: Recipe, space: Space
) -> Iterator[tuple[TrainLayout, Recipe]]:
    """Every layout of a space that uses all devices."""
    world, domain = hardware.num_devices, hardware.domain
    moe = model.moe
    for tp in space.tp or _powers(domain):
        for cp in space.cp or _powers(max(1, recipe.seq // 8192)):
            for pp in space.pp or [p for p in _divisors(world) if p <= model.num_layers]:
                if world % (tp * cp * pp):
                    continue
                dp = world // (tp * cp * pp)
                for ep in space.ep or (_divisors(moe.num_experts) if moe else [1]):
                    for etp in space.etp:
                        if (tp * cp * dp) % (ep * etp):
                            continue
                        yield from _ways(model, TrainLayout(tp, cp, pp, dp, ep, etp), recipe, space)


def _ways(
    model: Model, layout: TrainLayout, recipe: Recipe, space: Space
) -> Iterator[tuple[TrainLayout, Recipe]]:
    for micro in space.micro_batch:
        if recipe.global_batch % (layout.dp * micro):
            continue
        count = recipe.global_batch // (layout.dp * micro)
        per_rank = model.num_layers // layout.pp
        for vpp in space.vpp or _stages(layout.pp, per_rank, count):
            for zero in space.zero:
                for recompute in space.recompute:
                    schedule = "interleaved" if vpp > 1 else "1f1b"
                    if recipe.schedule == "dualpipe":
                        schedule = "dualpipe"
                    way = replace(
                        recipe, micro_batch=micro, zero=zero, recompute=recompute, schedule=schedule
                    )
                    yield replace(layout, vpp=vpp), way


def _stages(pp: int, per_rank: int, count: int) -> list[int]:
    return [v for v in _divisors(per_rank) if v == 1 or (pp > 1 and count % pp == 0)]


def _powers(limit: int) -> list[int]:
    return [2**i for i in range(limit.bit_length()) if 2**i <= limit]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
