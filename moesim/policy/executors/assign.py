"""One door to every compiled rule, so that a replay loop calls one function."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.policy.executor import KINDS
from moesim.policy.executors.clocks import listed, three_clock
from moesim.policy.executors.makespan import makespan
from moesim.policy.executors.optimum import balanced, optimum
from moesim.policy.executors.simple import cheapest, load_all, masked, resident_first
from moesim.policy.executors.sorting import johnson
from moesim.policy.executors.sums import coldest_prefix, hottest, least_longer_sum

Seconds = npt.NDArray[np.float64]
_GPU = KINDS.index("gpu")
_CHEAPEST = KINDS.index("cheapest")
_CHEAPEST_MAX = KINDS.index("cheapest-max")
_THREE_CLOCK = KINDS.index("three-clock")
_THREE_CLOCK_CODE = KINDS.index("three-clock-code")
_SPLIT = KINDS.index("split")
_PREFIX = KINDS.index("prefix")
_MASK = KINDS.index("mask")
_DEFER = KINDS.index("defer")
_BALANCED = KINDS.index("balanced")
_OPTIMUM = KINDS.index("optimum")


@compiled
def assign(
    kind: int,
    tokens: npt.NDArray[np.int32],
    resident: npt.NDArray[np.bool_],
    gpu_s: Seconds,
    cpu_s: Seconds,
    load_s: Seconds,
    near_s: Seconds,
    free: Seconds,
    parameters: Seconds,
    where: npt.NDArray[np.int8],
    order: npt.NDArray[np.int64],
) -> float:
    """Decide who computes each access of a cell, and in which order.

    Parameters
    ----------
    kind
        Place of the rule in `KINDS`.
    tokens
        Tokens of each access, int32 ``[n]``.
    resident
        Whether its weights are in GPU memory, bool ``[n]``.
    gpu_s, cpu_s, load_s, near_s
        Seconds of each access on GPU, CPU, link and near-data unit, float64 ``[n]``.
    free
        Seconds from now at which GPU, CPU, link and near-data unit are free, float64 ``[4]``.
    parameters
        `Executor.vector` of the rule.
    where
        Filled with 0 GPU, 1 GPU after a load, 2 CPU, 3 near-data unit, 4 CPU for the next layer, int8
        ``[n]``.
        The rule ``defer`` reads 4 on entry as: may be deferred.
    order
        Filled with the accesses in the order in which they start on their resource, int64 ``[n]``.

    Returns
    -------
    float
        Seconds from now until the last access is computed, deferred ones left out.
    """
    start = parameters[0]
    if kind == _GPU:
        load_all(resident, where)
        resident_first(where, order)
    elif kind == _CHEAPEST:
        cheapest(resident, gpu_s, cpu_s, load_s, where)
        resident_first(where, order)
    elif kind == _CHEAPEST_MAX:
        least_longer_sum(resident, gpu_s, cpu_s, load_s, where)
        resident_first(where, order)
    elif kind == _THREE_CLOCK:
        three_clock(tokens, resident, gpu_s, cpu_s, load_s, free, start, where, order)
    elif kind == _THREE_CLOCK_CODE:
        if _several(tokens, parameters[1]):
            load_all(resident, where)
            resident_first(where, order)
        else:
            listed(tokens, resident, gpu_s, cpu_s, load_s, start, where, order)
    elif kind == _SPLIT:
        hottest(tokens, resident, parameters[2], parameters[3], parameters[4], where)
        johnson(resident, gpu_s, load_s, order)
    elif kind == _PREFIX:
        coldest_prefix(tokens, resident, gpu_s, load_s, near_s, where)
        johnson(resident, gpu_s, load_s, order)
    elif kind == _MASK:
        # Selections over experts per token are the tokens of the step.
        if parameters[2] > 0 and tokens.sum() >= parameters[2] * parameters[1]:
            load_all(resident, where)
        else:
            masked(resident, where, False)
        resident_first(where, order)
    elif kind == _DEFER:
        masked(resident, where, True)
        resident_first(where, order)
    elif kind == _BALANCED:
        balanced(tokens, resident, gpu_s, cpu_s, load_s, near_s, free, start, where, order)
    elif kind == _OPTIMUM:
        optimum(resident, gpu_s, cpu_s, load_s, near_s, free, start, where, order)
    else:
        raise ValueError("no such executor")
    return makespan(where, order, gpu_s, cpu_s, load_s, near_s, free, start)


@compiled
def _several(tokens: npt.NDArray[np.int32], top_k: float) -> bool:
    """Whether a cell serves more than one token."""
    for count in tokens:
        if count > 1:
            return True
    return bool(top_k > 0 and tokens.sum() > top_k)
