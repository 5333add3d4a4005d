"""What a plan for single steps is fitted to: batches of a trace, or the steps of a recording of loads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.placement.batches import draw_batches
from moesim.placement.held_out import FEW_REQUESTS, FOLDS
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.trace.types import LoadCounts, RoutingTrace

#: Steps that are drawn from each part of the requests. On recorded traces 400 batches in all cut up to twice
#: as much of greedy's excess as 128 did (`docs/placement-steps.md`).
STEPS = 128


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Loads of steps, and which part of the traffic each is from.

    Parameters
    ----------
    loads
        float64 ``[steps, layers, experts]``.
    folds
        int64 ``[steps]``.
    warnings
        What makes them poor evidence.
    """

    loads: FloatArray
    folds: IntArray
    warnings: tuple[str, ...] = ()


def steps_of(routing: RoutingTrace | LoadCounts, tokens: int, run: int = 1, seed: int = 0) -> Steps:
    """Take the steps that a plan has to hold for on average.

    Parameters
    ----------
    routing
        A trace, whose requests are dealt into parts, each of which forms batches of its own; or loads by
        step, of which evenly spaced ones are taken, their parts one after the other.
    tokens
        Tokens of a batch of a trace.
    run
        Neighbouring tokens of a request that a batch takes together; 1 mixes single ones, as decoding does.
    seed
        Of the draws.
    """
    if isinstance(routing, LoadCounts):
        chosen = np.unique(np.linspace(0, len(routing.counts) - 1, FOLDS * STEPS).round().astype(np.int64))
        loads = routing.counts[chosen]
        whole = ("the loads are one total, without steps that a plan could be fitted to",)
        return Steps(loads, np.arange(len(loads)) * FOLDS // len(loads), whole if len(loads) == 1 else ())
    requests = np.random.default_rng(seed).permutation(np.unique(routing.request))
    parts = [requests[i::FOLDS] for i in range(FOLDS) if len(requests[i::FOLDS])]
    drawn = [
        draw_batches(routing, tokens, STEPS, requests=part, run=run, resample=True, seed=seed + i)
        for i, part in enumerate(parts)
    ]
    few = f"{len(requests)} requests are few: what is fitted to less than {FEW_REQUESTS} varies on others"
    return Steps(
        np.concatenate(drawn),
        np.repeat(np.arange(len(parts)), STEPS),
        (few,) if len(requests) < FEW_REQUESTS else (),
    )
