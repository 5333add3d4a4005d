"""When a pipeline is done: a schedule evaluated exactly, as max-plus algebra over its tasks.

A task starts when its rank is free and what it needs has arrived: a forward pass needs the stage before, a
backward pass the stage behind and its own forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.ops.table import Array
from moesim.training.schedule import BACKWARD, BOTH, FORWARD, INPUT, WEIGHT, Ints, Schedule


@dataclass(frozen=True, slots=True, eq=False)
class StageTimes:
    """Seconds of one micro-batch on each stage, ``[stages]``.

    Parameters
    ----------
    forward_s, backward_s
        Of a whole pass.
    weight_s
        The part of the backward pass that makes weight gradients.
    hidden_s
        What a forward and a backward pass side by side save.
    hop_s
        From one rank to the next.
    """

    forward_s: Array
    backward_s: Array
    weight_s: Array
    hidden_s: Array
    hop_s: float = 0.0

    @classmethod
    def even(cls, stages: int, forward_s: float, backward_s: float, weight_s: float = 0.0) -> StageTimes:
        """Equal stages."""
        ones = np.ones(stages)
        return cls(ones * forward_s, ones * backward_s, ones * weight_s, ones * 0.0)


def run_schedule(schedule: Schedule, times: StageTimes) -> tuple[Array, Array]:
    """When each rank is done and how long it worked, ``[ranks]`` each, in seconds.

    Raises
    ------
    ValueError
        If the orders of the ranks wait for each other.

    Examples
    --------
    >>> from moesim.training.schedule import one_forward_one_backward
    >>> done, busy = run_schedule(one_forward_one_backward(4, 8), StageTimes.even(4, 1.0, 2.0))
    >>> float(done.max()), busy.tolist()
    (33.0, [24.0, 24.0, 24.0, 24.0])
    """
    done, busy, complete = _run(
        schedule.order,
        schedule.tasks,
        schedule.rank_of,
        schedule.first,
        schedule.last,
        schedule.micro_batches,
        times.forward_s,
        times.backward_s,
        times.weight_s,
        times.hidden_s,
        times.hop_s,
    )
    if not complete:
        raise ValueError("the ranks wait for each other")
    return done, busy


def in_flight(schedule: Schedule) -> npt.NDArray[np.int64]:
    """Micro-batches whose activations a rank holds, by stage, when it holds most, ``[ranks, stages]``.

    >>> from moesim.training.schedule import one_forward_one_backward
    >>> in_flight(one_forward_one_backward(4, 8)).max(axis=1).tolist()
    [4, 3, 2, 1]
    """
    return _held(schedule.order, schedule.tasks, schedule.stages)


@compiled
def _held(order: Ints, tasks: Ints, stages: int) -> npt.NDArray[np.int64]:
    found = np.zeros((len(order), stages), np.int64)
    for rank in range(len(order)):
        held = np.zeros(stages, np.int64)
        total = most = 0
        for place in range(tasks[rank]):
            kind, stage = order[rank, place, 0], order[rank, place, 1]
            if kind in (FORWARD, BOTH):
                held[stage] += 1
                total += 1
            if total > most:
                most = total
                found[rank] = held
            if kind == BOTH:
                held[order[rank, place, 3]] -= 1
                total -= 1
            # Input gradients free nothing yet: weight gradients need the same activations.
            if kind in (BACKWARD, WEIGHT):
                held[stage] -= 1
                total -= 1
    return found


@compiled
def _run(
    order: Ints,
    tasks: Ints,
    rank_of: Ints,
    first: npt.NDArray[np.bool_],
    last: npt.NDArray[np.bool_],
    micro_batches: int,
    forward_s: Array,
    backward_s: Array,
    weight_s: Array,
    hidden_s: Array,
    hop_s: float,
) -> tuple[Array, Array, bool]:
    ranks, stages = len(order), len(rank_of)
    ahead = np.full((stages, micro_batches), -1.0)
    behind = np.full((stages, micro_batches), -1.0)
    free, busy = np.zeros(ranks), np.zeros(ranks)
    place = np.zeros(ranks, np.int64)
    moving = True
    while moving:
        moving = False
        for rank in range(ranks):
            while place[rank] < tasks[rank]:
                kind, stage, micro, stage_b, micro_b = order[rank, place[rank]]
                start = free[rank]
                seconds = 0.0
                if kind == WEIGHT:
                    seconds = weight_s[stage]
                if kind in (FORWARD, BOTH):
                    seconds += forward_s[stage]
                    if not first[stage]:
                        before = ahead[stage - 1, micro]
                        if before < 0.0:
                            break
                        start = max(start, before + (hop_s if rank_of[stage - 1] != rank else 0.0))
                if kind in (BACKWARD, INPUT, BOTH):
                    at = stage_b if kind == BOTH else stage
                    m = micro_b if kind == BOTH else micro
                    seconds += backward_s[at] - (weight_s[at] if kind == INPUT else 0.0)
                    if ahead[at, m] < 0.0:
                        break
                    start = max(start, ahead[at, m])
                    if not last[at]:
                        before = behind[at + 1, m]
                        if before < 0.0:
                            break
                        start = max(start, before + (hop_s if rank_of[at + 1] != rank else 0.0))
                    if kind == BOTH:
                        seconds -= hidden_s[stage]
                    behind[at, m] = start + seconds
                if kind in (FORWARD, BOTH):
                    ahead[stage, micro] = start + seconds
                free[rank] = start + seconds
                busy[rank] += seconds
                place[rank] += 1
                moving = True
    complete = True
    for rank in range(ranks):
        complete = complete and place[rank] == tasks[rank]
    return free, busy, complete
