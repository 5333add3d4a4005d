"""Steps to replay: which experts the tokens of each step choose, in the order in which they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.routing import DECODE, TOKEN_BUDGET, Draw, LoadSource
from moesim.errors import ConfigError, Fault
from moesim.trace.types import LoadCounts, RoutingTrace, count_ids

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Stepwise:
    """Routing, step by step.

    Parameters
    ----------
    counts
        Token-expert selections, float64 ``[steps, layers, experts]``.
    tokens
        Tokens of each step, int64 ``[steps]``.
    rows
        For token-level routing, the rows of `trace` that each step holds.
    trace
        Token-level routing; None where only counts are known.
    source
        Where it comes from.
    """

    counts: FloatArray
    tokens: IntArray
    rows: tuple[IntArray, ...] | None = None
    trace: RoutingTrace | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.counts)

    def draw(self, step: int) -> Draw:
        """The batch of a step: single tokens where they are known and few enough, else counts."""
        tokens = int(self.tokens[step])
        if self.trace is not None and self.rows is not None:
            rows = self.rows[step]
            if len(rows) * self.trace.topk_ids[0].size <= TOKEN_BUDGET:
                return Draw(self.trace.topk_ids[rows].astype(np.int64), self.counts[step], tokens)
        return Draw(None, self.counts[step], tokens)

    def then(self, other: Stepwise) -> Stepwise:
        """These steps, followed by others; single tokens are given up where only one side has them."""
        counts = np.concatenate([self.counts, other.counts])
        tokens = np.concatenate([self.tokens, other.tokens])
        source = ", then ".join(filter(None, (self.source, other.source)))
        if self.trace is not None and self.trace is other.trace and self.rows and other.rows:
            return Stepwise(counts, tokens, self.rows + other.rows, self.trace, source)
        return Stepwise(counts, tokens, source=source)

    def part(self, start: int, stop: int) -> Stepwise:
        """Some of the steps."""
        rows = None if self.rows is None else self.rows[start:stop]
        return Stepwise(self.counts[start:stop], self.tokens[start:stop], rows, self.trace, self.source)


def steps_of_rows(trace: RoutingTrace, rows: Sequence[IntArray]) -> Stepwise:
    """Steps that hold given rows of a trace, as `moesim.batching.Steps` names them."""
    counts = np.stack([count_ids(trace.topk_ids[part], trace.num_experts) for part in rows])
    sizes = np.array([len(part) for part in rows], dtype=np.int64)
    return Stepwise(counts.astype(np.float64), sizes, tuple(rows), trace, trace.source)


def cut(trace: RoutingTrace, tokens: int) -> Stepwise:
    """Batches of `tokens` tokens in the order of the trace; what is left at the end is dropped.

    Raises
    ------
    ConfigError
        If the trace has no whole batch.
    """
    if not 1 <= tokens <= trace.num_tokens:
        allowed = f"1 to {trace.num_tokens}, the tokens of the trace"
        raise ConfigError(Fault("does not fit", "--tokens-per-step", tokens, allowed))
    whole = trace.num_tokens // tokens * tokens
    return steps_of_rows(trace, np.split(np.arange(whole), whole // tokens))


def in_turn(trace: RoutingTrace, sequences: int) -> Stepwise:
    """Steps of continuous batching: `sequences` requests at once, a token of each per step.

    A request that ends makes room for the next one of the trace. The steps in which the last ones run out are
    dropped, so all have as many tokens.

    Raises
    ------
    ConfigError
        If the trace has fewer requests.
    """
    order = np.argsort(trace.request, kind="stable")
    bounds = np.flatnonzero(np.r_[True, np.diff(trace.request[order]) != 0, True])
    requests = len(bounds) - 1
    if not 1 <= sequences <= requests:
        allowed = f"1 to {requests}, the requests of the trace"
        raise ConfigError(Fault("does not fit", "--tokens-per-step", sequences, allowed))
    at, end = bounds[:sequences].copy(), bounds[1 : sequences + 1].copy()
    waiting, rows = sequences, []
    while True:
        rows.append(order[at])
        at += 1
        for seat in np.flatnonzero(at == end).tolist():
            if waiting == requests:
                return steps_of_rows(trace, rows)
            at[seat], end[seat] = bounds[waiting], bounds[waiting + 1]
            waiting += 1


def sampled(loads: LoadCounts, tokens: int, steps: int, top_k: int, seed: int = 0) -> Stepwise:
    """Steps whose tokens follow recorded loads, drawn independently of each other."""
    source, rng = LoadSource.of(loads, top_k), np.random.default_rng(seed)
    counts = np.stack([source.draw(tokens, DECODE, rng).counts for _ in range(steps)])
    return Stepwise(counts, np.full(steps, tokens, dtype=np.int64), source=loads.source)


def recorded(loads: LoadCounts, top_k: int) -> Stepwise:
    """The steps of load counts as they were recorded.

    Raises
    ------
    ConfigError
        If a step has no load.
    """
    tokens = np.round(loads.counts.sum(axis=2).max(axis=1) / top_k).astype(np.int64)
    if not tokens.all():
        raise ConfigError(Fault(f"step {int(tokens.argmin())} has no load", loads.source or "trace"))
    return Stepwise(loads.counts, tokens, source=loads.source)
