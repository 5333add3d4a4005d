"""Pools: who shares slots, what is there at first, and the accesses of each pool in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy import Residency, Steps
from moesim.residency.kernels.accesses import PoolAccesses
from moesim.trace.types import RoutingTrace

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Who shares slots.

    Parameters
    ----------
    of
        Pool of each expert, int64 ``[layers, experts]``.
    slots
        Slots of each pool, int64 ``[pools]``.
    """

    of: Ints
    slots: Ints

    def members(self, pool: int) -> Ints:
        """``layer * experts + expert`` of the experts of a pool, ascending, int64."""
        return np.flatnonzero(self.of.reshape(-1) == pool)


def pools_of(
    residency: Residency,
    layers: int,
    num_experts: int,
    slots: npt.ArrayLike,
    devices: npt.ArrayLike | None = None,
) -> Pools:
    """The pools of a residency.

    Parameters
    ----------
    layers, num_experts
        Of the trace.
    slots
        Slots of each pool, ``[pools]``; a single number is that of every pool.
    devices
        Device of each expert, ``[experts]`` or ``[layers, experts]``; for ``pool="device"`` alone.

    Raises
    ------
    ConfigError
        With everything that does not fit.
    """
    faults = []
    of = np.zeros((layers, num_experts), np.int64)
    if residency.pool == "layer":
        of += np.arange(layers)[:, None]
    if residency.pool == "device":
        if devices is None:
            faults.append(Fault("is needed for pools per device", "devices"))
        else:
            given = np.asarray(devices)
            if given.shape not in {(num_experts,), (layers, num_experts)} or given.min(initial=0) < 0:
                shapes = f"[{num_experts}] or [{layers}, {num_experts}], from 0"
                faults.append(Fault("has another shape", "devices", list(given.shape), shapes))
            else:
                of = np.broadcast_to(given, of.shape).astype(np.int64)
    elif devices is not None:
        faults.append(Fault("is for pools per device", "devices", residency.pool))
    pools = int(of.max(initial=-1)) + 1
    wanted = np.asarray(slots, np.int64)
    if wanted.ndim == 0:
        wanted = np.full(pools, wanted)
    if not faults and wanted.shape != (pools,):
        faults.append(Fault("has another length", "slots", wanted.tolist(), f"one of each of {pools} pools"))
    if wanted.min(initial=0) < 0:
        faults.append(Fault("is below 0", "slots", wanted.tolist()))
    if faults:
        raise ConfigError(faults)
    return Pools(of, wanted)


def starts_of(
    residency: Residency, pools: Pools, popular: npt.ArrayLike | None = None, seed: int = 0
) -> list[npt.NDArray[np.int32]]:
    """What is in each pool at first, by member, in the order in which it came: the most wanted last.

    Parameters
    ----------
    popular
        How often each expert was chosen in a disjoint trace, ``[layers, experts]``; for ``start="popular"``.
    seed
        Of ``start="random"``.
    """
    layers, experts = pools.of.shape
    # Rank of every expert, the most wanted first; expert before layer, so that every layer has its part.
    order = (np.arange(layers)[:, None] + np.arange(experts)[None, :] * layers).astype(np.float64)
    if residency.start == "random":
        order = np.random.default_rng(seed).permutation(layers * experts).reshape(layers, experts) * 1.0
    elif residency.start == "popular":
        if popular is None:
            raise ConfigError(Fault("is needed to start with the most popular experts", "popular"))
        counts = np.asarray(popular, np.float64)
        if counts.shape != (layers, experts):
            raise ConfigError(Fault("has another shape", "popular", counts.shape, f"[{layers}, {experts}]"))
        rank = np.empty(layers * experts)
        rank[np.lexsort((order.reshape(-1), -counts.reshape(-1)))] = np.arange(layers * experts)
        order = rank.reshape(layers, experts)
    found = []
    for pool, slots in enumerate(pools.slots):
        if residency.start == "empty":
            found.append(np.zeros(0, np.int32))
            continue
        wanted = np.argsort(order.reshape(-1)[pools.members(pool)], kind="stable")
        found.append(wanted[:slots][::-1].astype(np.int32))
    return found


@compiled
def _take(
    experts: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating],
    starts: Ints,
    layers: int,
    num_experts: int,
    local: npt.NDArray[np.int32],
    turn: npt.NDArray[np.int32],
    first: int,
    stride: int,
    items: npt.NDArray[np.integer],
    taken: npt.NDArray[np.float32],
    cells: Ints,
    cell_layers: npt.NDArray[np.int32],
    cell_steps: npt.NDArray[np.int32],
    requests: Ints,
) -> tuple[int, int, int]:
    """Fill in the accesses of the pool whose members `local` numbers; how many there are, cells, requests.

    `turn` numbers the requests of steps, in order. Every `stride`-th cell from `first` on is looked at: those
    of one layer, or all. With arrays of length 0 it only counts.
    """
    n, m, q = 0, 0, 0
    before = np.int32(-1)
    for cell in range(first, len(starts) - 1, stride):
        step, layer = cell // layers, cell % layers
        begin = n
        for i in range(starts[cell], starts[cell + 1]):
            member = local[layer * num_experts + experts[i]]
            if member >= 0:
                if n < len(items):
                    items[n] = member
                if n < len(taken):
                    taken[n] = weights[i]
                n += 1
        if n > begin:
            if q == 0 or turn[step] != before:
                if q < len(requests):
                    requests[q] = begin
                q += 1
                before = turn[step]
            if m < len(cells):
                cells[m] = begin
                cell_layers[m] = layer
                cell_steps[m] = step
            m += 1
    return n, m, q


def _of_steps(steps: Steps, members: Ints, want_weights: bool, want_cells: bool) -> dict[str, object]:
    local = np.full(steps.layers * steps.num_experts, -1, np.int32)
    local[members] = np.arange(len(members), dtype=np.int32)
    owners = np.unique(members // steps.num_experts)
    first, stride = (int(owners[0]), steps.layers) if len(owners) == 1 else (0, 1)
    kind = np.uint8 if local.max(initial=0) < 256 else np.uint16 if local.max(initial=0) < 65536 else np.int32
    weights = steps.weights if want_weights and steps.weights is not None else np.zeros(0, np.float32)
    turn = np.cumsum(np.diff(steps.request, prepend=steps.request[:1]) != 0).astype(np.int32)

    def run(n: int, m: int, q: int, kept: int) -> tuple[tuple[int, int, int], list[Any]]:
        arrays: list[Any] = [
            np.zeros(n, kind),
            np.zeros(kept, np.float32),
            np.zeros(m, np.int64),
            np.zeros(m, np.int32),
            np.zeros(m, np.int32),
            np.zeros(q, np.int64),
        ]
        sizes = _take(
            steps.experts,
            weights,
            steps.starts,
            steps.layers,
            steps.num_experts,
            local,
            turn,
            first,
            stride,
            *arrays,
        )
        return sizes, arrays

    if len(owners) == 1 and len(members) == steps.num_experts:
        lengths = steps.starts[first + 1 :: stride] - steps.starts[first:-1:stride]
        asked = turn[lengths > 0]
        n, m, q = int(lengths.sum()), len(asked), len(np.unique(asked))
    else:
        (n, m, q), _ = run(0, 0, 0, 0)
    _, (items, taken, cells, cell_layers, cell_steps, requests) = run(
        n, m if want_cells else 0, q, n if len(weights) else 0
    )
    return {
        "items": items,
        "cells": np.append(cells, n),
        "requests": np.append(requests, n),
        "cell_layers": cell_layers,
        "cell_steps": cell_steps,
        "weights": taken if len(weights) else None,
    }


def _of_layer(trace: RoutingTrace, layer: int, want_weights: bool, want_cells: bool) -> dict[str, object]:
    """The same of one layer of a trace, token by token: whole rows are copied."""
    tokens, _, top_k = trace.topk_ids.shape
    weights = trace.topk_weights
    changes = np.flatnonzero(np.diff(trace.request)) + 1
    cells = tokens if want_cells else 0
    return {
        "items": _column(trace.topk_ids, layer),
        "cells": np.arange(cells + 1, dtype=np.int64) * top_k,
        "requests": np.concatenate(([0] if tokens else [], changes, [tokens])).astype(np.int64) * top_k,
        "cell_layers": np.full(cells, layer, np.int32),
        "cell_steps": np.arange(cells, dtype=np.int32),
        "weights": _column(weights, layer).astype(np.float32)
        if want_weights and weights is not None
        else None,
    }


def _column(array: npt.NDArray[np.generic], layer: int) -> npt.NDArray[np.generic]:
    """``array[:, layer]`` in one piece, ``[tokens * top_k]``; a row is moved as one number if it can be."""
    width = array.shape[2] * array.itemsize
    if width in {1, 2, 4, 8} and array.flags.c_contiguous:
        rows = array.view(f"u{width}")[:, layer, 0]
        return np.ascontiguousarray(rows).view(array.dtype)
    return np.ascontiguousarray(array[:, layer]).reshape(-1)


def accesses_of(
    steps: Steps | RoutingTrace,
    residency: Residency,
    pools: Pools,
    starts: list[npt.NDArray[np.int32]],
    want_weights: bool = False,
    want_cells: bool = True,
) -> Iterator[PoolAccesses]:
    """The accesses of one pool after the other; one at a time is held in memory.

    Parameters
    ----------
    steps
        Steps, or a trace that is replayed token by token, which is read in place.
    starts
        Of `starts_of`.
    want_weights
        Whether router weights are taken along.
    want_cells
        Whether cells are, which sequential lookup may do without.
    """
    layers, num_experts = pools.of.shape
    by_layer = isinstance(steps, RoutingTrace)
    if isinstance(steps, RoutingTrace) and residency.pool != "layer":
        steps = _plain(steps)
        by_layer = False
    for pool, slots in enumerate(pools.slots):
        members = pools.members(pool)
        if by_layer:
            assert isinstance(steps, RoutingTrace)
            found = _of_layer(steps, pool, want_weights, want_cells)
        else:
            assert isinstance(steps, Steps)
            found = _of_steps(steps, members, want_weights, want_cells)
        yield PoolAccesses(
            members=members,
            slots=int(slots),
            start=starts[pool],
            batch=residency.lookup == "token_batch",
            reset=residency.reset == "request",
            parameters=residency.parameters,
            layers=layers,
            num_experts=num_experts,
            **found,  # type: ignore[arg-type]
        )


def _plain(trace: RoutingTrace) -> Steps:
    """Steps of one token whose ids are those of the trace, not copied; of no use but here."""
    tokens, layers, top_k = trace.topk_ids.shape
    weights = trace.topk_weights
    empty = np.zeros(0, np.int32)
    return Steps(
        experts=trace.topk_ids.reshape(-1),  # type: ignore[arg-type]
        tokens=empty,
        weights=None if weights is None else weights.reshape(-1),  # type: ignore[arg-type]
        starts=np.arange(tokens * layers + 1, dtype=np.int64) * top_k,
        layers=layers,
        num_experts=trace.num_experts,
        request=trace.request.astype(np.int32),
        phase=trace.phase,
        step_tokens=empty,
        context=np.zeros(0, np.float32),
        rows=np.zeros(0, np.int64),
    )
