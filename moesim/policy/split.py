"""Disjoint parts of a trace, and the guard that what was learnt from is not what is replayed.

Request numbers say nothing across files, so the guard compares content. A row of a trace is the path of one
token through all layers, a fingerprint of the text up to it; a run of `RUN` rows in a row that two requests
share is the same text. Many requests start with the same prompt honestly. A request is judged by the runs
that are its own: in no other request of its trace, and in at most one of the training trace. Where more than
half of these occur in the training trace it is leaked. A request that has none of its own, as one that is
repeated, is judged by all its runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.trace.types import RoutingTrace

#: Rows that are compared at a time.
RUN = 8
#: Part of a request's own runs that must be known from training for the request to count as leaked.
LEAK = 0.5

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def _rows(trace: RoutingTrace) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every row, whatever the order of the ids within a layer, uint64 ``[tokens]``."""
    ids = np.sort(trace.topk_ids, axis=2).reshape(trace.num_tokens, -1)
    found = np.zeros(trace.num_tokens, np.uint64)
    # Wrap-around is meant: a multiply and shift hash, column by column.
    with np.errstate(over="ignore"):
        for column in range(ids.shape[1]):
            found = (found ^ ids[:, column].astype(np.uint64)) * _MULTIPLIER
            found ^= found >> np.uint64(29)
    return found


def _runs(trace: RoutingTrace) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    """Hashes of all runs, and the request of each; a shorter request is one run in all."""
    # Rows of a request may stand apart, as batches were recorded; within it they are in order.
    order = np.argsort(trace.request, kind="stable")
    rows, request = _rows(trace)[order], trace.request[order]
    edges = np.flatnonzero(np.r_[True, request[1:] != request[:-1], True])
    hashes, owners = [], []
    with np.errstate(over="ignore"):
        for start, stop in pairwise(edges):
            part = rows[start:stop]
            length = min(RUN, len(part))
            count = len(part) - length + 1
            mixed = np.full(count, length, np.uint64)
            for offset in range(length):
                mixed = (mixed ^ part[offset : offset + count]) * _MULTIPLIER
                mixed ^= mixed >> np.uint64(31)
            hashes.append(mixed)
            owners.append(np.full(count, request[start], np.int32))
    if not hashes:
        return np.zeros(0, np.uint64), np.zeros(0, np.int32)
    return np.concatenate(hashes), np.concatenate(owners)


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a training trace and a replayed one have in common.

    Parameters
    ----------
    requests
        Requests of the replayed trace, and how many of them are leaked.
    leaked
        Their numbers.
    shared
        Part of all runs of the replayed trace that the training trace has too; what prompts share included.
    """

    requests: int
    leaked: tuple[int, ...]
    shared: float


def overlap(train: RoutingTrace, trace: RoutingTrace) -> Overlap:
    """Compare two traces of the same model by content.

    Examples
    --------
    >>> import numpy as np
    >>> ids = np.random.default_rng(0).integers(0, 16, (40, 4, 1)).astype(np.uint8)
    >>> request = np.repeat(np.arange(2, dtype=np.int32), 20)
    >>> place, phase = np.arange(40, dtype=np.int32), np.ones(40, np.int8)
    >>> both = RoutingTrace(ids, request, 16, (0, 1, 2, 3), place, phase)
    >>> train, test = split(both, 0.5, seed=1)
    >>> overlap(train, test).leaked, overlap(both, test).leaked
    ((), (0,))
    """
    hashes, owners = _runs(trace)
    if len(hashes) == 0:
        return Overlap(0, (), 0.0)
    taught, teachers = _runs(train)
    known = np.isin(hashes, taught)
    common = np.isin(hashes, np.r_[_repeated(hashes, owners), _repeated(taught, teachers)])
    numbers, index = np.unique(owners, return_inverse=True)
    own = np.bincount(index, ~common)
    part = np.where(
        own > 0,
        np.bincount(index, known & ~common) / np.maximum(own, 1),
        np.bincount(index, known) / np.bincount(index),
    )
    return Overlap(len(numbers), tuple(numbers[part > LEAK].tolist()), float(known.mean()))


def _repeated(hashes: npt.NDArray[np.uint64], owners: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
    """Runs that occur in two or more requests."""
    order = np.lexsort((owners, hashes))
    run, owner = hashes[order], owners[order]
    again = (run[1:] == run[:-1]) & (owner[1:] != owner[:-1])
    return np.unique(run[1:][again])


def require_disjoint(train: RoutingTrace, trace: RoutingTrace) -> Overlap:
    """Refuse to learn from what is replayed.

    Raises
    ------
    ConfigError
        When the traces are of differently shaped models, or when requests of `trace` stand in `train` too.
    """
    shape, wanted = train.topk_ids.shape[1:], trace.topk_ids.shape[1:]
    if shape != wanted or train.num_experts != trace.num_experts:
        raise ConfigError(
            Fault(
                "is of another model than what is replayed",
                "train",
                f"{shape[0]} layers, {train.num_experts} experts, top-{shape[1]}",
                f"{wanted[0]} layers, {trace.num_experts} experts, top-{wanted[1]}",
            )
        )
    found = overlap(train, trace)
    if found.leaked:
        names = ", ".join(map(str, found.leaked[:5])) + (", ..." if len(found.leaked) > 5 else "")
        raise ConfigError(
            Fault(
                f"holds {len(found.leaked)} of the {found.requests} requests that are replayed ({names}); "
                "tables learnt from them would know the answers",
                "train",
                allowed="a trace of other requests, or part of this one: moesim.policy.split",
            )
        )
    return found


def split(trace: RoutingTrace, fraction: float = 0.5, seed: int = 0) -> tuple[RoutingTrace, RoutingTrace]:
    """Two parts of a trace that share no request: the first to learn from, the second to replay.

    Parameters
    ----------
    trace
        Of at least two requests.
    fraction
        Part of the requests that goes into the first, rounded so that neither is empty.
    seed
        Of the draw.

    Returns
    -------
    tuple
        Rows in stored order, requests with their numbers; ``metadata["part"]`` says what they are. Requests
        of the same content go into the same part.
    """
    if not 0 < fraction < 1:
        raise ConfigError(Fault("is out of range", "fraction", fraction, "between 0 and 1"))
    rows, request = _rows(trace), trace.request
    numbers, index = np.unique(request, return_inverse=True)
    with np.errstate(over="ignore"):
        place = trace.position.astype(np.uint64) * _MULTIPLIER + np.uint64(1)
        content = np.zeros(len(numbers), np.uint64)
        np.add.at(content, index, rows * place)
    kinds, kind = np.unique(content, return_inverse=True)
    if len(kinds) < 2:
        message = "has a single request, which cannot be split; give a trace to learn from of its own"
        raise ConfigError(Fault(message, "trace", trace.source or None))
    drawn = np.random.default_rng(seed).permutation(len(kinds))
    count = min(max(math.floor(fraction * len(kinds) + 0.5), 1), len(kinds) - 1)
    first = np.isin(kind, drawn[:count])[index]
    label = f"{fraction:g} by request, seed {seed}"
    return taken(trace, first, f"first {label}"), taken(trace, ~first, f"rest of {label}")


def taken(trace: RoutingTrace, rows: npt.NDArray[np.bool_ | np.intp] | slice, part: str = "") -> RoutingTrace:
    """Some rows of a trace, in the order asked for; `part` goes into its metadata."""
    weights, tokens = trace.topk_weights, trace.token_id
    return replace(
        trace,
        topk_ids=trace.topk_ids[rows],
        request=trace.request[rows],
        position=trace.position[rows],
        phase=trace.phase[rows],
        topk_weights=None if weights is None else weights[rows],
        token_id=None if tokens is None else tokens[rows],
        metadata={**trace.metadata, "part": part} if part else trace.metadata,
    )
