"""Which tokens run in which step: requests, rules and a clock in, steps out; routing plays no part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.batching.kernel import PROMPTS, STATE, advance
from moesim.batching.types import MIXED, Batcher, StepLoad, StepTime
from moesim.errors import ConfigError, Fault
from moesim.requests import RequestTrace
from moesim.trace.limits import size_fault

_ROOM = 1 << 16
_TOKEN_BYTES = 4 + 4 + 1 + 4


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Steps without routing; fields as in `moesim.batching.types.Steps`."""

    step_ptr: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    request: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    phase: npt.NDArray[np.int8]


def schedule(requests: RequestTrace, batcher: Batcher, step_time: float | StepTime) -> Schedule:
    """Run the scheduler over all requests.

    Parameters
    ----------
    requests
        Who arrives when; a closed loop limits how many are served at once.
    batcher
        How steps are formed.
    step_time
        Seconds of every step, or what prices one.

    Raises
    ------
    ConfigError
        If a step's time is not positive and finite, or the steps would not fit in memory.

    Examples
    --------
    Two requests at once: 3 and 2 prompt tokens, 2 output tokens each, 4 tokens a step.

    >>> from moesim.requests import request_trace
    >>> steps = schedule(request_trace([0.0, 0.0], [3, 2], [2, 2]), Batcher(4, 4), 1.0)
    >>> steps.step_ptr.tolist(), steps.request.tolist(), steps.phase.tolist()
    ([0, 4, 6, 7], [0, 0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 1, 0, 1])
    """
    # The last output token is never fed back.
    prompt = requests.input_tokens.astype(np.int64)
    total = prompt + requests.output_tokens - 1
    tokens = int(total.sum())
    fault = size_fault(tokens * _TOKEN_BYTES, "the steps")
    if fault:
        raise ConfigError(Fault(fault.message, fault.where, f"{tokens} tokens", "fewer requests, or shorter"))
    fixed = None if callable(step_time) else _valid(float(step_time))
    most = min(batcher.max_sequences, requests.concurrency or batcher.max_sequences, len(requests))
    clock, state = np.zeros(1), np.zeros(STATE, np.int64)
    running, done = np.zeros(most, np.int64), np.zeros(len(requests), np.int64)
    request, position = np.empty(tokens, np.int32), np.empty(tokens, np.int32)
    phase = np.empty(tokens, np.int8)
    room = _ROOM if fixed is not None else 1
    ends, starts, lasted = [np.zeros(1, np.int64)], [np.zeros(0)], []
    while True:
        end, start = np.empty(room, np.int64), np.empty(room)
        ran = advance(
            requests.arrival_s,
            prompt,
            total,
            batcher.token_budget,
            most,
            batcher.policy == MIXED,
            fixed or 0.0,
            clock,
            state,
            running,
            done,
            request,
            position,
            phase,
            end,
            start,
        )
        if ran == 0:
            break
        ends.append(end[:ran])
        starts.append(start[:ran])
        if callable(step_time):
            load = StepLoad(*state[PROMPTS:].tolist())
            lasted.append(_valid(float(step_time(load))))
            clock[0] += lasted[-1]
    start_s = np.concatenate(starts)
    seconds = np.array(lasted) if fixed is None else np.full(len(start_s), fixed)
    return Schedule(np.concatenate(ends), start_s, seconds, request, position, phase)


def _valid(step_s: float) -> float:
    if not (math.isfinite(step_s) and step_s > 0):
        raise ConfigError(Fault("is no time of a step", "step_time", step_s, "seconds, more than 0"))
    return step_s
