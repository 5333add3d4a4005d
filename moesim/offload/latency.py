"""From the ends of steps to what users see: first tokens, gaps between tokens, tokens per second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.policy import Steps
from moesim.trace import RoutingTrace

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Latency:
    """Latencies of the requests of a replay.

    Parameters
    ----------
    ttft_s
        From the start of a request's first step to the end of its last prefill step, mean over requests; None
        without prefill.
    tpot_s
        Between two tokens of a request, mean over decoded tokens; None without decoding.
    tpot_p50_s, tpot_p99_s
        Quantiles of the same.
    output_throughput
        Tokens per second: one per decoded token, and one per prefill.
    output_tokens
        How many these are.
    """

    ttft_s: float | None
    tpot_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    output_throughput: float
    output_tokens: int


def latency_of(ends: F8, steps: Steps, trace: RoutingTrace) -> Latency:
    """Latencies of a trace replayed in steps that end at `ends`, ``[steps]``."""
    step = np.repeat(np.arange(steps.num_steps), steps.step_tokens)
    begins = np.concatenate([[0.0], ends[:-1]])
    request, position = trace.request[steps.rows], trace.position[steps.rows]
    decoded = trace.phase[steps.rows] == 1
    order = np.lexsort((position, request))
    step, request, decoded = step[order], request[order], decoded[order]
    first = np.ones(len(step), np.bool_)
    first[1:] = request[1:] != request[:-1]
    # A token that follows another of its request came after it; one without starts with its own step.
    since = np.where(first, begins[step], np.concatenate([[0.0], ends[step[:-1]]]))
    gaps = (ends[step] - since)[decoded]
    last_prefill = ~decoded & np.concatenate([first[1:] | decoded[1:], [True]])
    began = np.maximum.accumulate(np.where(first, np.arange(len(step)), 0))
    waits = (ends[step] - begins[step[began]])[last_prefill]
    tokens = int(decoded.sum() + last_prefill.sum())

    def of(values: F8, what: float | None = None) -> float | None:
        if not len(values):
            return None
        return float(values.mean() if what is None else np.quantile(values, what))

    return Latency(
        of(waits),
        of(gaps),
        of(gaps, 0.5),
        of(gaps, 0.99),
        tokens / float(ends[-1]) if len(ends) else 0.0,
        tokens,
    )
