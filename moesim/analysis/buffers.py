"""Who loses a place in an expert's buffer to whom: what one query of a batch does to the others.

With a capacity limit, an expert takes ``C = ceil(f k T / E)`` of the selections of a batch of T tokens, in
the order of the buffer, and drops the rest (GShard, arXiv:2006.16668; Switch, arXiv:2101.03961). What a query
gets then depends on the others of its batch ("Buffer Overflow in Mixture of Experts", arXiv:2402.05526). Two
questions are answered by counting, both exactly:

* would a selection that is dropped be kept if its request were alone, with as large a buffer?
* would it be kept without one other request s? It stands ``p`` places behind the first that is dropped, so it
  is if s holds more than ``p`` of the places before it.

What a dropped selection does to the layers behind it is not followed: routing stays that of the trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.analysis.displacing import displace, queued
from moesim.errors import ConfigError, Fault
from moesim.trace import RoutingTrace

#: How selections stand in line for an expert's buffer.
ORDERS = ("arrival", "random", "weight")


@dataclass(frozen=True, slots=True, eq=False)
class Displacement:
    """What capacity does to a trace; a *query* is one request in one batch.

    Parameters
    ----------
    capacity
        Places of an expert's buffer in a full batch.
    batches, queries, selections
        How many were looked at; selections are counted over layers and choices.
    dropped
        Selections that found no place.
    dropped_alone
        Those that would find none if their request were alone with the same buffers.
    displaced_queries
        Queries of which others displace a selection, in any layer.
    displaced_tokens
        Tokens likewise.
    influenced_pairs, pairs
        Ordered pairs of queries of a batch, and those where the first alone costs the second a selection.
    by_place
        Part of the queries that others displace a selection of, by their place in the batch, ``[requests]``.
    by_request
        Request ids and the queries of others that each displaces by itself, most first, ``[requests, 2]``.
    """

    capacity: int
    batches: int
    queries: int
    selections: int
    dropped: int
    dropped_alone: int
    displaced_queries: int
    displaced_tokens: int
    tokens: int
    influenced_pairs: int
    pairs: int
    by_place: npt.NDArray[np.float64]
    by_request: npt.NDArray[np.int64]

    @property
    def displaced_fraction(self) -> float:
        """Part of the queries whose experts the rest of the batch changes."""
        return self.displaced_queries / max(self.queries, 1)

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "capacity": self.capacity,
            "batches": self.batches,
            "queries": self.queries,
            "selections": self.selections,
            "dropped_fraction": self.dropped / max(self.selections, 1),
            "dropped_alone_fraction": self.dropped_alone / max(self.selections, 1),
            "displaced_query_fraction": self.displaced_fraction,
            "displaced_token_fraction": self.displaced_tokens / max(self.tokens, 1),
            "influenced_pair_fraction": self.influenced_pairs / max(self.pairs, 1),
            "by_place": self.by_place.tolist(),
            "top_displacers": [
                {"request": int(request), "queries": int(queries)}
                for request, queries in self.by_request[:10]
            ],
        }


def displacement(
    trace: RoutingTrace,
    capacity_factor: float,
    batch: int,
    *,
    tokens: int = 1,
    order: str = "arrival",
    first_choices_first: bool = True,
    max_batches: int | None = None,
    seed: int = 0,
) -> Displacement:
    """Replay a trace in batches under a capacity limit.

    Parameters
    ----------
    trace
        Whose routing.
    capacity_factor
        f in ``C = ceil(f k T / E)``: 1 has as many places as there are selections.
    batch
        Requests of a batch, drawn at random without repetition; each goes on until one of them ends.
    tokens
        Of each request in a batch: 1 is a decode step.
    order
        One of `ORDERS`: as requests stand in the batch; at random; or by router weight, heaviest first.
    first_choices_first
        Whether all first choices stand before all second ones (GShard), or a token's choices together.
    max_batches
        Look at no more.
    seed
        Of batches and orders.

    Raises
    ------
    ConfigError
        For settings that make no sense, or with fewer requests than a batch takes.

    Examples
    --------
    Three requests want the same of two experts, which has room for two of three: the last is displaced, and
    would not be without either of the others.

    >>> ids = np.zeros((3, 1, 1), np.uint8)
    >>> zero = np.zeros(3, np.int32)
    >>> trace = RoutingTrace(ids, np.arange(3, dtype=np.int32), 2, (0,), zero, zero.astype(np.int8))
    >>> found = displacement(trace, 1.0, 3)
    >>> found.capacity, found.dropped, found.dropped_alone, found.displaced_queries, found.influenced_pairs
    (2, 1, 0, 1, 2)
    """
    rows = _rows_of(trace)
    _check(trace, len(rows), capacity_factor, batch, tokens, order)
    rng = np.random.default_rng(seed)
    layers, top_k, experts = trace.topk_ids.shape[1], trace.top_k, trace.num_experts
    capacity = ceil(capacity_factor * top_k * batch * tokens / experts)
    turns = rng.permutation(len(rows))
    groups = [turns[i : i + batch] for i in range(0, len(turns) - batch + 1, batch)]
    totals = np.zeros(4, np.int64)
    places = np.zeros((2, batch), np.int64)
    by_request = np.zeros(len(rows), np.int64)
    batches = pairs = 0
    for group in groups:
        for start in range(0, min(len(rows[r]) for r in group) - tokens + 1, tokens):
            if batches == max_batches:
                break
            chosen = np.concatenate([rows[r][start : start + tokens] for r in group])
            owner = np.repeat(np.arange(batch), tokens)
            hit = np.zeros((batch, batch), np.bool_)
            hurt = np.zeros(len(chosen), np.bool_)
            for layer in range(layers):
                ids = trace.topk_ids[chosen, layer].astype(np.int64)
                line = queued(len(chosen), top_k, first_choices_first)
                if order == "random":
                    line = rng.permutation(line)
                elif order == "weight" and trace.topk_weights is not None:
                    weights = trace.topk_weights[chosen, layer].astype(np.float64).ravel()
                    line = line[np.argsort(-weights[line], kind="stable")]
                displace(ids, owner, line, capacity, experts, hit, hurt, totals)
            suffered = np.zeros(batch, np.bool_)
            np.logical_or.at(suffered, owner, hurt)
            totals[2] += int(suffered.sum())
            totals[3] += int(hurt.sum())
            places[0] += suffered
            places[1] += 1
            pairs += int(hit.sum())
            by_request[group] += hit.sum(axis=1)
            batches += 1
    ids = np.array([trace.request[r[0]] for r in rows], np.int64)
    best = np.argsort(-by_request, kind="stable")
    return Displacement(
        capacity=capacity,
        batches=batches,
        queries=batches * batch,
        selections=batches * batch * tokens * layers * top_k,
        dropped=int(totals[0]),
        dropped_alone=int(totals[1]),
        displaced_queries=int(totals[2]),
        displaced_tokens=int(totals[3]),
        tokens=batches * batch * tokens,
        influenced_pairs=pairs,
        pairs=batches * batch * (batch - 1),
        by_place=places[0] / np.maximum(places[1], 1),
        by_request=np.stack([ids[best], by_request[best]], axis=1),
    )


def _rows_of(trace: RoutingTrace) -> list[npt.NDArray[np.int64]]:
    """Rows of each request, in order."""
    order = np.argsort(trace.request, kind="stable")
    cuts = np.flatnonzero(np.diff(trace.request[order])) + 1
    return [np.asarray(part, np.int64) for part in np.split(order, cuts)] if len(order) else []


def _check(trace: RoutingTrace, requests: int, factor: float, batch: int, tokens: int, order: str) -> None:
    faults = []
    if not 0 < factor <= 1e6:
        faults.append(Fault("must be above 0", "--capacity-factor", factor, "0 to 1e6"))
    if not 2 <= batch <= requests:
        faults.append(Fault("too few requests for it", "--batch", batch, f"2 to {requests}"))
    if tokens < 1:
        faults.append(Fault("must be at least 1", "--tokens", tokens))
    if order not in ORDERS:
        faults.append(Fault("unknown order", "--order", order, ", ".join(ORDERS)))
    if order == "weight" and trace.topk_weights is None:
        faults.append(Fault("the trace has no router weights", "--order", order, "arrival, random"))
    if faults:
        raise ConfigError(faults)
