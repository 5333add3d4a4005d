"""Seconds, bytes and hops of one MoE layer on a wafer, given who computes what."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape
from moesim.cost.roofline import at, soft_max
from moesim.fabric import grid_loads
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.wafer.flow import fastest_in_order
from moesim.wafer.machine import COMMAND_BYTES, LINE_BYTES, Wafer

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Who computes what in one layer.

    Parameters
    ----------
    tokens
        Tokens of each expert on each die, float64 ``[experts, dies]``; a die that computes a part of an
        expert's columns for all its tokens counts that part of them.
    reads
        Times that a die reads an expert's weights, float64 ``[experts, dies]``; a part where it reads some
        columns alone, zero without tokens.
    """

    tokens: Floats
    reads: Floats


@dataclass(frozen=True, slots=True, eq=False)
class LayerCost:
    """What one layer takes.

    Parameters
    ----------
    seconds
        Of the slowest die or link.
    compute_s, memory_s
        Of each die, float64 ``[dies]``; memory serves its own die and all others that read from it.
    link_s
        Of the busiest link; with readings in order, until the last die has read all.
    linked
        Whether that is longer than any die computes or any memory reads.
    fill_s
        From the first request to the first line, of the die that waits longest.
    hops
        Sum of the Manhattan distances of all readings from other dies, whatever their size.
    byte_hops
        The same with each reading times its bytes.
    local_bytes, remote_bytes
        Weights read from a die's own memory and from other dies.
    written_bytes
        Weights of other dies' experts that are kept.
    loads
        Bytes on each link, in the order of `moesim.fabric.grid_links`.
    """

    seconds: float
    compute_s: Floats
    memory_s: Floats
    link_s: float
    linked: bool
    fill_s: float
    hops: float
    byte_hops: float
    local_bytes: float
    remote_bytes: float
    written_bytes: float
    loads: Floats


def layer_cost(
    wafer: Wafer,
    shape: ExpertShape,
    work: Work,
    owner: Ints,
    copies: Bools | None = None,
    *,
    written: Bools | None = None,
    in_order: bool = False,
    own_turns: bool = True,
    exchange: bool = False,
) -> LayerCost:
    """Price one layer.

    All dies work at once. A die reads its own copy of an expert, else the one where the expert lies. Its
    memory gives weights to it and to whoever else reads them there, and the cache in front of the memory
    spares what it can hold of an expert that is read again. Weights from elsewhere come over the mesh, first
    along a row, then along a column, with a command for each line the other way. The layer takes as long as
    its slowest die or what comes over links, the launch of a kernel, and the time to the first line.

    Parameters
    ----------
    wafer
        The machine.
    shape
        One expert.
    work
        Who computes what.
    owner
        Die where each expert lies, int64 ``[experts]``.
    copies
        What other dies keep of it, bool ``[experts, dies]``: all that they read of it.
    written
        Experts that a die writes to its own memory as they come in, bool ``[experts, dies]``.
    in_order
        Whether all dies read experts in the same order, one at a time, and so meet at the same memories;
        else readings are spread over the layer, and a link has as long as the layer for its bytes.
    own_turns
        Whether, in order, a die also waits for what it reads from its own memory; else that is read beside.
    exchange
        Whether tokens travel too: from all dies evenly to where they are computed, and back.

    Returns
    -------
    LayerCost
    """
    dies, hops = wafer.dies, wafer.hops()
    reads, weight = work.reads, shape.weight_bytes
    here = np.arange(dies)[None, :] == owner[:, None]
    if copies is not None:
        here = here | copies
    mine, theirs = np.where(here, reads, 0.0), np.where(here, 0.0, reads)
    new = np.zeros_like(reads) if written is None else np.where(written, np.minimum(reads, 1.0), 0.0)
    data = _memory_bytes(wafer, shape, work, owner, mine, theirs) + new * weight
    flops = work.tokens * shape.flops_per_pair
    curve = wafer.efficiency
    rate = wafer.flops_per_s * at(curve.compute, np.maximum(flops.sum(axis=0), 1.0))
    bandwidth = wafer.memory_bytes_per_s * at(curve.memory, np.maximum(data.sum(axis=0), 1.0))

    traffic = np.zeros((dies, dies))
    np.add.at(traffic, owner, theirs * weight)
    moved = traffic + traffic.T * (COMMAND_BYTES / LINE_BYTES)
    if exchange:
        there = work.tokens.sum(axis=0) / dies * shape.hidden * ACTIVATION_BYTES
        moved = moved + there + there[:, None]
    loads = np.asarray(grid_loads(moved, wafer.shape), np.float64)
    link_s = float(loads.max(initial=0.0)) / wafer.link_bytes_per_s
    if in_order:
        turns = mine if own_turns else np.zeros_like(mine)
        link_s = max(link_s, _in_order(wafer, weight, owner, turns, theirs))
    compute_s, memory_s = flops.sum(axis=0) / rate, data.sum(axis=0) / bandwidth
    busy = float(soft_max(compute_s, memory_s, curve.sharpness).max())
    seconds = max(busy, link_s)

    away = np.where(theirs > 0, hops[owner], 0)
    cache = wafer.cache
    fill = 0.0
    if reads.any():
        fill = cache.hit_s + cache.miss_s + wafer.memory_s + 2.0 * float(away.max()) * wafer.hop_s
        fill += cache.write_s if new.any() else 0.0
        seconds += curve.floor_s + fill
    return LayerCost(
        seconds=seconds,
        compute_s=compute_s,
        memory_s=memory_s,
        link_s=link_s,
        linked=link_s > busy,
        fill_s=fill,
        hops=float((away * np.ceil(theirs)).sum()),
        byte_hops=float((traffic * hops).sum()),
        local_bytes=float(mine.sum()) * weight,
        remote_bytes=float(theirs.sum()) * weight,
        written_bytes=float(new.sum()) * weight,
        loads=loads,
    )


def _memory_bytes(
    wafer: Wafer, shape: ExpertShape, work: Work, owner: Ints, mine: Floats, theirs: Floats
) -> Floats:
    """Bytes of each expert that each die's memory moves, ``[experts, dies]``.

    Readings of other dies join those of the die where the expert lies; of an expert that is read again, the
    cache spares the part that fits.
    """
    asked = mine.copy()
    asked[np.arange(len(owner)), owner] += theirs.sum(axis=1)
    again = 1.0 - min(1.0, wafer.cache.capacity_bytes / shape.weight_bytes)
    readings = np.minimum(asked, 1.0) + np.maximum(asked - 1.0, 0.0) * again
    return np.asarray(readings * shape.weight_bytes + work.tokens * shape.bytes_per_pair)


def _in_order(wafer: Wafer, weight: float, owner: Ints, mine: Floats, theirs: Floats) -> float:
    """Seconds until the last die has read its experts, one after the other."""
    return _in_order_of(wafer, weight, owner.tobytes(), mine.tobytes(), theirs.tobytes())


@functools.lru_cache(maxsize=1024)
def _in_order_of(wafer: Wafer, weight: float, owner: bytes, mine: bytes, theirs: bytes) -> float:
    # Readings do not change with tokens as long as experts have any: most layers of most steps are alike.
    here, away = (np.frombuffer(part).reshape(-1, wafer.dies) for part in (mine, theirs))
    source = np.where(here > 0, np.arange(wafer.dies), np.frombuffer(owner, np.int64)[:, None])
    data = (here + away) * weight
    bandwidth = wafer.memory_bytes_per_s * at(
        wafer.efficiency.memory, np.maximum(data.sum() / wafer.dies, 1.0)
    )
    # Commands of readings the other way take their part of a link.
    rate = wafer.link_bytes_per_s / (1.0 + COMMAND_BYTES / LINE_BYTES)
    return fastest_in_order(wafer.shape, data, source, float(bandwidth), rate)
