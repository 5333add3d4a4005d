"""What one part of a trace adds to its statistics, and how neighbouring parts add up.

A `Partial` is a sum over tokens, so any split of a trace gives the same whole. What spans a boundary (lags,
windows) is found from the tokens beside it: ``f(tail + head) - f(tail) - f(head)`` counts just what crosses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.analysis import kernels
from moesim.analysis.kept import Kept, keep, merge_kept
from moesim.errors import Fault, TraceError

Ids = npt.NDArray[np.uint16]
Ints = npt.NDArray[Any]
Sums = dict[str, npt.NDArray[np.int64]]

LAGS = (1, 2, 4, 16, 64)
DISTINCT = (8, 32, 128)
SEGMENTS = (4, 16, 64, 256)
#: Windows of time that loads are kept for.
WINDOWS = 16
#: Tokens beside a boundary that windows across it can reach.
EDGE = max(*LAGS, *DISTINCT, *SEGMENTS) - 1
#: What can be computed; each is one pass of one kernel over the trace.
FAMILIES = ("load", "locality", "coupling", "pairs", "segments", "cache", "sample")


@dataclass(frozen=True, slots=True)
class Spec:
    """What is computed of which trace; parts with equal specs can be merged.

    Parameters
    ----------
    layers, num_experts, top_k
        Shape of the trace.
    tokens
        Tokens of the whole trace, which set the bounds of its windows of time.
    families
        Some of `FAMILIES`.
    groups
        Groups of requests that sums are kept for, for the bootstrap; 1 for none.
    windows
        Windows of time that loads are kept for.
    seed
        Of the sample of tokens and requests.
    """

    layers: int
    num_experts: int
    top_k: int
    tokens: int
    families: tuple[str, ...] = FAMILIES
    groups: int = 1
    windows: int = WINDOWS
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """Sums over the tokens of one part of a trace.

    Parameters
    ----------
    spec
        What was asked.
    tokens
        Tokens of the part.
    sums
        Arrays that add up, by name.
    head, tail
        At most `EDGE` tokens at either end: ids ``[layers, tokens, top_k]`` and their requests.
    first, last
        When each expert was first and last chosen, counted in selections of the layer, int64
        ``[layers, experts]``; -1 for never.
    kept
        The sample.
    """

    spec: Spec
    tokens: int
    sums: Sums
    head: tuple[Ids, Ints]
    tail: tuple[Ids, Ints]
    first: npt.NDArray[np.int64] | None = None
    last: npt.NDArray[np.int64] | None = None
    kept: Kept = field(default_factory=Kept)


def partial(spec: Spec, ids: Ints, request: Ints, start: int) -> Partial:
    """Sums of one part.

    Parameters
    ----------
    spec
        What is wanted.
    ids
        Expert ids ``[tokens, layers, top_k]``, all below `num_experts`.
    request
        Request of each token ``[tokens]``; a change of it ends a run.
    start
        Row of the first token in the whole trace.

    Raises
    ------
    TraceError
        If an id is no expert.
    """
    n = len(request)
    by_layer: Ids = np.ascontiguousarray(ids.transpose(1, 0, 2), np.uint16)
    if by_layer.size and int(by_layer.max()) >= spec.num_experts:
        # The kernels index by id, unchecked.
        raise TraceError(
            Fault("is no expert", "topk_ids", int(by_layer.max()), f"0 to {spec.num_experts - 1}")
        )
    request = np.asarray(request)
    sums = _empty(spec)
    _add_pointwise(spec, by_layer, request, start, sums)
    _add_runs(spec, by_layer, request, sums)
    first = last = None
    if "cache" in spec.families:
        first = np.full((spec.layers, spec.num_experts), -1, np.int64)
        last = first.copy()
        for layer in range(spec.layers):
            kernels.reuse(by_layer[layer], spec.num_experts, sums["depth"][layer], first[layer], last[layer])
    kept = keep(by_layer, request, start, spec.seed) if "sample" in spec.families else Kept()
    head = by_layer[:, :EDGE].copy(), request[:EDGE].copy()
    tail = by_layer[:, max(0, n - EDGE) :].copy(), request[max(0, n - EDGE) :].copy()
    return Partial(spec, n, sums, head, tail, first, last, kept)


def merge(a: Partial, b: Partial) -> Partial:
    """The part that is `a` followed by `b`; `a`'s arrays are reused, so it must not be used again."""
    spec = a.spec
    for name, value in b.sums.items():
        a.sums[name] += value
    across = np.concatenate([a.tail[0], b.head[0]], 1), np.concatenate([a.tail[1], b.head[1]])
    if a.tokens and b.tokens:
        # Of two different requests, only windows of the whole trace reach across.
        reach = ("locality", "pairs", "segments") if a.tail[1][-1] == b.head[1][0] else ("locality",)
        edge = replace(spec, families=tuple(family for family in spec.families if family in reach))
        for (ids, request), sign in ((across, 1), (a.tail, -1), (b.head, -1)):
            extra = _empty(edge)
            _add_runs(edge, ids, request, extra)
            extra.pop("together", None)
            for name, value in extra.items():
                a.sums[name] += sign * value
    head, tail = a.head, b.tail
    if len(head[1]) < EDGE:
        head = across[0][:, :EDGE], across[1][:EDGE]
    if len(tail[1]) < EDGE:
        tail = across[0][:, -EDGE:], across[1][-EDGE:]
    first, last = a.first, a.last
    if a.first is not None and a.last is not None and b.first is not None and b.last is not None:
        for layer in range(spec.layers):
            _first_depths(a.last[layer], b.first[layer], a.sums["depth"][layer])
        shift = a.tokens * spec.top_k
        first = np.where(a.first >= 0, a.first, np.where(b.first >= 0, b.first + shift, -1))
        last = np.where(b.last >= 0, b.last + shift, a.last)
    kept = merge_kept(a.kept, b.kept)
    return Partial(spec, a.tokens + b.tokens, a.sums, head, tail, first, last, kept)


def _empty(spec: Spec) -> Sums:
    layers, experts, groups = spec.layers, spec.num_experts, spec.groups
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "load": {"load": (layers, spec.windows * groups, experts)},
        "locality": {
            "lag": (layers, groups, len(LAGS)),
            "lag_tokens": (groups, len(LAGS)),
            "distinct": (layers, groups, len(DISTINCT)),
            "across": (layers, len(DISTINCT)),
            "distinct_windows": (groups, len(DISTINCT)),
        },
        "coupling": {"joint": (max(0, layers - 1), 2, experts, experts)},
        "pairs": {"follow": (layers, experts, experts), "together": (layers, experts, experts)},
        "segments": {
            **{f"segment{m}": (layers, groups, m + 1) for m in SEGMENTS},
            **{f"best{m}": (layers, groups, 2) for m in SEGMENTS},
        },
        "cache": {"depth": (layers, experts)},
    }
    wanted = [shapes[family] for family in spec.families if family in shapes]
    return {name: np.zeros(shape, np.int64) for part in wanted for name, shape in part.items()}


def _add_pointwise(spec: Spec, ids: Ids, request: Ints, start: int, sums: Sums) -> None:
    if "load" in sums:
        window = (start + np.arange(len(request), dtype=np.int64)) * spec.windows // max(1, spec.tokens)
        slot = (window * spec.groups + request % spec.groups).astype(np.int32)
        for layer in range(spec.layers):
            kernels.count(ids[layer], slot, sums["load"][layer])
    if "joint" in sums:
        fold = (request & 1).astype(np.int32)
        for layer in range(spec.layers - 1):
            kernels.pair_up(ids[layer], ids[layer + 1], fold, sums["joint"][layer])


def _add_runs(spec: Spec, ids: Ids, request: Ints, sums: Sums) -> None:
    begin, end = runs(request)
    group = (request[begin] % spec.groups).astype(np.int32)
    length = end - begin
    if "lag" in sums:
        for i, lag in enumerate(LAGS):
            np.add.at(sums["lag_tokens"][:, i], group, np.maximum(length - lag, 0))
        for i, size in enumerate(DISTINCT):
            np.add.at(sums["distinct_windows"][:, i], group, np.maximum(length - size + 1, 0))
        for layer in range(spec.layers):
            kernels.locality(
                ids[layer],
                begin,
                end,
                group,
                DISTINCT,
                spec.num_experts,
                sums["lag"][layer],
                sums["distinct"][layer],
                sums["across"][layer],
            )
    if "follow" in sums:
        for layer in range(spec.layers):
            kernels.neighbours(ids[layer], begin, end, sums["follow"][layer], sums["together"][layer])
    if "segment4" in sums:
        for m in SEGMENTS:
            for layer in range(spec.layers):
                kernels.segments(
                    ids[layer],
                    begin,
                    end,
                    group,
                    m,
                    spec.num_experts,
                    sums[f"segment{m}"][layer],
                    sums[f"best{m}"][layer],
                )


def runs(request: Ints) -> tuple[Ints, Ints]:
    """First row, and row after the last, of each stretch of equal requests.

    >>> [r.tolist() for r in runs(np.array([4, 4, 2, 4]))]
    [[0, 2, 3], [2, 3, 4]]
    """
    if not len(request):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    edges = np.flatnonzero(np.diff(request)) + 1
    return np.r_[0, edges], np.r_[edges, len(request)]


def _first_depths(last: Ints, first: Ints, depth: Ints) -> None:
    """Depths of the second part's first selections, given when the first part chose each expert last.

    Above an expert are those that the first part chose later and the second has not chosen yet, and those
    that the second has.
    """
    order = np.argsort(first, kind="stable")
    order = order[first[order] >= 0]
    still = last.copy()
    for seen, e in enumerate(order):
        if last[e] >= 0:
            depth[seen + int((still > last[e]).sum())] += 1
        still[e] = -1
