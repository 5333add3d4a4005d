"""Requests and routing in, steps out; and what the steps load the experts with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from moesim.batching.assign import WRAP, Sequences, nearest_sequences, trace_rows
from moesim.batching.kernel import count_steps
from moesim.batching.scheduler import schedule
from moesim.batching.types import Batcher, Steps, StepTime
from moesim.errors import ConfigError, Fault
from moesim.requests import RequestTrace
from moesim.trace.limits import size_fault
from moesim.trace.types import DECODE, LoadCounts, RoutingTrace


def batch_requests(
    trace: RoutingTrace,
    requests: RequestTrace,
    batcher: Batcher | None = None,
    *,
    step_time: float | StepTime,
    sequence: npt.NDArray[np.int64] | None = None,
    overrun: str = WRAP,
    seed: int = 0,
) -> Steps:
    """Interleave requests into the steps an engine runs, each token with recorded routing.

    Parameters
    ----------
    trace
        Where the routing comes from.
    requests
        Who arrives when.
    batcher
        How steps are formed; None for the defaults.
    step_time
        Seconds of every step, or what prices one.
    sequence
        Routing sequence of each request, int64 ``[requests]``; None for the nearest lengths, none used twice
        before all are used once.
    overrun
        What a request longer than its sequence does: ``wrap`` starts over, ``resample`` goes on with other
        sequences.
    seed
        Seed of ``resample``.

    Returns
    -------
    Steps
        ``metadata`` has ``sequences``, ``reused_sequences`` (requests whose sequence an earlier request had)
        and ``tokens_beyond_sequence``.

    Raises
    ------
    ConfigError
        If an option is wrong, or the steps would not fit in memory.
    """
    if trace.num_tokens >= 2**31:
        raise ConfigError(
            Fault("has too many tokens to point into", "trace", trace.num_tokens, "below 2**31")
        )
    rules = batcher or Batcher()
    found = Sequences.of(trace)
    if sequence is None:
        needed = requests.input_tokens.astype(np.int64) + requests.output_tokens - 1
        sequence = nearest_sequences(needed, found.tokens)
    elif sequence.shape != (len(requests),) or sequence.min() < 0 or sequence.max() >= len(found):
        allowed = f"whole numbers [{len(requests)}] from 0 to {len(found) - 1}"
        raise ConfigError(Fault("does not name a sequence of each request", "sequence", allowed=allowed))
    plan = schedule(requests, rules, step_time)
    rows, beyond = trace_rows(plan, requests, found, sequence, overrun, seed)
    reused = len(requests) - len(np.unique(sequence))
    return Steps(
        step_ptr=plan.step_ptr,
        start_s=plan.start_s,
        seconds=plan.seconds,
        request=plan.request,
        position=plan.position,
        phase=plan.phase,
        row=rows,
        requests=len(requests),
        batcher=rules,
        warnings=(*requests.warnings, *_notes(trace, found, plan.phase)),
        metadata={
            "sequences": len(found),
            "reused_sequences": reused,
            "tokens_beyond_sequence": beyond,
            "overrun": overrun,
            "trace": trace.source,
            "model": trace.model,
            "requests": requests.source,
        },
    )


def step_counts(steps: Steps, trace: RoutingTrace, *, every: int = 1) -> LoadCounts:
    """How often each expert is chosen in each step.

    Parameters
    ----------
    steps, trace
        Steps, and the trace they were made from.
    every
        Neighbouring steps that are counted as one.

    Returns
    -------
    LoadCounts
        ``[ceil(steps / every), layers, experts]``; every step sums to ``tokens x top_k`` in each layer.

    Raises
    ------
    ConfigError
        If the counts would not fit in memory, or the trace is another one.
    """
    steps.check(trace)
    if every < 1:
        raise ConfigError(Fault("must be at least 1", "every", every))
    shape = (-(-len(steps) // every), len(trace.moe_layer_ids), trace.num_experts)
    fault = size_fault(int(np.prod(shape, dtype=np.int64)) * 8, "the loads of all steps")
    if fault:
        raise ConfigError(replace(fault, allowed=f"{fault.allowed}; count more steps as one with every"))
    counts = np.zeros(shape)
    count_steps(trace.topk_ids, steps.row, steps.step_ptr, every, counts)
    return LoadCounts(
        counts=counts,
        moe_layer_ids=trace.moe_layer_ids,
        top_k=trace.top_k,
        model=trace.model,
        source=f"{len(steps)} steps of {steps.requests} requests over {trace.source or 'a routing trace'}",
        licence=trace.licence,
        warnings=steps.warnings,
        metadata={"steps_per_row": str(every)},
    )


def _notes(trace: RoutingTrace, found: Sequences, phase: npt.NDArray[np.int8]) -> list[str]:
    both = not found.one_phase.any()
    if both:
        return []
    of_decode = trace.phase[found.order[found.parts[found.one_phase, 0]]] == DECODE
    notes = []
    if of_decode.any() and (phase != DECODE).any():
        notes.append(
            f"{of_decode.sum()} of {len(found)} sequences have no prefill: decoded tokens stand for it"
        )
    if (~of_decode).any() and (phase == DECODE).any():
        missing = (~of_decode).sum()
        notes.append(f"{missing} of {len(found)} sequences have no decoding: prompt tokens stand for it")
    return notes
