"""Seconds, bytes and hops of one MoE layer on a wafer, given who computes what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape
from moesim.cost.roofline import at, soft_max
from moesim.fabric import grid_loads
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
        Tokens of each expert on each die, float64 ``[experts, dies]``.
    reads
        Times that a die reads an expert's weights, float64 ``[experts, dies]``; zero without tokens.
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
        Of the busiest link.
    fill_s
        From the first request to the first line, of the die that waits longest.
    hops
        Links that weights cross, in readings of one expert: the sum of Manhattan distances.
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
    fill_s: float
    hops: float
    local_bytes: float
    remote_bytes: float
    written_bytes: float
    loads: Floats


def sources(hops: Ints, held: Bools) -> Ints:
    """From where each die reads each expert: the nearest die that holds it, of equals the first.

    Parameters
    ----------
    hops
        ``[dies, dies]``.
    held
        Which die holds which expert, ``[experts, dies]``; somebody holds each.

    Returns
    -------
    ndarray
        int64 ``[experts, dies]``.

    Examples
    --------
    >>> line = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    >>> sources(line, np.array([[True, False, False], [True, False, True]])).tolist()
    [[0, 0, 0], [0, 0, 2]]
    """
    if (held.sum(axis=1) == 1).all():
        return np.broadcast_to(held.argmax(axis=1)[:, None], held.shape)
    far = np.iinfo(np.int64).max
    return np.asarray(np.where(held[:, None, :], hops[None], far).argmin(axis=-1), np.int64)


def layer_cost(
    wafer: Wafer,
    shape: ExpertShape,
    work: Work,
    held: Bools,
    *,
    written: Bools | None = None,
    exchange: bool = False,
) -> LayerCost:
    """Price one layer.

    All dies work at once. A die multiplies its tokens; its memory gives weights to it and to whoever else
    reads them there, and the cache in front of the memory spares what it can hold of an expert that is read
    again. Weights from elsewhere come over the mesh, first along a row, then along a column, with a
    command for each line the other way. The layer takes as long as its slowest die or its busiest link, and
    the time to the first line.

    Parameters
    ----------
    wafer
        The machine.
    shape
        One expert.
    work
        Who computes what.
    held
        Which die holds which expert, bool ``[experts, dies]``.
    written
        Experts that a die writes to its own memory as they come in, bool ``[experts, dies]``.
    exchange
        Whether tokens travel too: from all dies evenly to where they are computed, and back.

    Returns
    -------
    LayerCost
    """
    dies, hops = wafer.dies, wafer.hops()
    weight = shape.weight_bytes
    source = sources(hops, held)
    reader = np.broadcast_to(np.arange(dies), source.shape)
    pair = source * dies + reader
    readings = np.bincount(pair.ravel(), work.reads.ravel(), dies * dies).reshape(dies, dies)
    remote = readings.copy()
    np.fill_diagonal(remote, 0.0)
    traffic = remote * weight
    commands = traffic.T * (COMMAND_BYTES / LINE_BYTES)
    pairs = work.tokens.sum(axis=0)
    moved = traffic + commands
    if exchange:
        there = np.broadcast_to(pairs / dies * shape.hidden * 2.0, (dies, dies))
        moved = moved + there + there.T
    loads = np.asarray(grid_loads(moved, wafer.shape), np.float64)
    link_s = float(loads.max(initial=0.0)) / wafer.link_bytes_per_s

    again = 1.0 - min(1.0, wafer.cache.capacity_bytes / weight)
    experts = np.broadcast_to(np.arange(len(source))[:, None], source.shape)
    asked = np.bincount((experts * dies + source).ravel(), work.reads.ravel(), source.size)
    asked = asked.reshape(source.shape)
    from_memory = np.where(asked > 0, 1.0 + np.maximum(asked - 1.0, 0.0) * again, 0.0)
    kept = np.zeros(dies) if written is None else written.sum(axis=0) * weight
    data = from_memory.sum(axis=0) * weight + kept + pairs * shape.bytes_per_pair
    flops = pairs * shape.flops_per_pair
    curve = wafer.efficiency
    compute = flops / (wafer.flops_per_s * at(curve.compute, np.maximum(flops, 1.0)))
    memory = data / (wafer.memory_bytes_per_s * at(curve.memory, np.maximum(data, 1.0)))
    busy = np.where(compute + memory > 0, curve.floor_s, 0.0) + soft_max(compute, memory, curve.sharpness)

    away = np.where(work.reads > 0, hops[source, reader], -1)
    cache = wafer.cache
    fill = 0.0
    if (away >= 0).any():
        fill = cache.hit_s + cache.miss_s + wafer.memory_s + 2.0 * float(away.max()) * wafer.hop_s
        fill += cache.write_s if written is not None and written.any() else 0.0
    crossed = float((remote * hops).sum())
    return LayerCost(
        seconds=max(float(busy.max(initial=0.0)), link_s) + fill,
        compute_s=compute,
        memory_s=memory,
        link_s=link_s,
        fill_s=fill,
        hops=crossed,
        local_bytes=float(np.trace(readings)) * weight,
        remote_bytes=float(remote.sum()) * weight,
        written_bytes=float(kept.sum()),
        loads=loads,
    )
