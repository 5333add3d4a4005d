"""Read-ME: tokens wait in a queue per expert, and a batch is filled from the longest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy.batchers.gather import gather
from moesim.policy.batchers.requests import Requests, require
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True)
class ExpertQueues:
    """Batches of tokens that go to the same expert, as far as there are such.

    Read-ME routes a token once, before inference, for all layers. Where a trace has a choice per layer, the
    first choice in one of them stands for the queue. The next token of every running request waits in the
    queue of its expert; a batch is filled from the longest queue, first in first out, then from the next
    longest, until it has `tokens`. The token after a decoded one is known when its step is over, the one
    after a prompt token at once.

    Parameters
    ----------
    tokens
        Most tokens of a batch (MaxTokenLen).
    requests
        Requests that run at once; 0 is all.
    layer
        Which MoE layer's first choice names the queue.
    """

    tokens: int = 1
    requests: int = 0
    layer: int = 0

    def __post_init__(self) -> None:
        require(
            "expert queues",
            {"tokens": (self.tokens, 1), "requests": (self.requests, 0), "layer": (self.layer, 0)},
        )

    def form(self, trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
        """Steps until every request has ended."""
        layers = trace.topk_ids.shape[1]
        if self.layer >= layers:
            fault = Fault(
                "is no MoE layer of the trace", "expert queues.layer", self.layer, f"0 to {layers - 1}"
            )
            raise ConfigError(fault)
        found = Requests.of(trace)
        slot = np.zeros(len(trace.topk_ids), np.int64)
        if kept is not None:
            slot = np.argmax(kept[:, self.layer], axis=1)
        expert = trace.topk_ids[np.arange(len(slot)), self.layer, slot].astype(np.int64)
        most = self.requests or max(len(found.prompt), 1)
        rows, bounds = queued(
            found.rows, found.first, found.prompt, expert, trace.num_experts, self.tokens, most
        )
        return gather(trace, rows, bounds, kept)


@compiled
def queued(
    rows: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    prompt: npt.NDArray[np.int64],
    expert: npt.NDArray[np.int64],
    num_experts: int,
    tokens: int,
    most: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows by step, and the first of each step.

    Parameters
    ----------
    rows, first, prompt
        Of `Requests`.
    expert
        Queue of every row of the trace, int64 ``[tokens]``.
    num_experts
        Queues.
    tokens
        Tokens of a step.
    most
        Requests that run at once.

    Returns
    -------
    tuple
        int64 ``[tokens]`` and int64 ``[steps + 1]``.

    Examples
    --------
    Three requests of one token; the first and the last go to the same expert:

    >>> first, none = np.array([0, 1, 2, 3]), np.zeros(3, np.int64)
    >>> taken, bounds = queued(np.arange(3), first, none, np.array([1, 0, 1]), 2, 2, 3)
    >>> taken.tolist(), bounds.tolist()
    ([0, 2, 1], [0, 2, 3])
    """
    requests = len(first) - 1
    taken = np.empty(len(rows), np.int64)
    bounds = np.empty(len(rows) + 1, np.int64)
    bounds[0] = 0
    head = np.full(num_experts, -1, np.int64)
    tail = np.full(num_experts, -1, np.int64)
    length = np.zeros(num_experts, np.int64)
    after = np.full(max(requests, 1), -1, np.int64)
    at = np.zeros(max(requests, 1), np.int64)
    # Requests whose next token enters its queue before the next step.
    entering = np.empty(max(requests, 1), np.int64)
    entered = 0
    waiting = 0
    while waiting < min(most, requests):
        entering[entered] = waiting
        entered += 1
        waiting += 1
    out, steps = 0, 0
    while out < len(rows):
        for i in range(entered):
            r = entering[i]
            _enter(r, expert[rows[first[r] + at[r]]], head, tail, length, after)
        entered = 0
        left = tokens
        while left > 0:
            longest = 0
            for e in range(1, num_experts):
                if length[e] > length[longest]:
                    longest = e
            if length[longest] == 0:
                break
            while left > 0 and length[longest] > 0:
                r = head[longest]
                head[longest] = after[r]
                length[longest] -= 1
                taken[out] = rows[first[r] + at[r]]
                out += 1
                left -= 1
                at[r] += 1
                if first[r] + at[r] == first[r + 1]:
                    if waiting < requests:
                        entering[entered] = waiting
                        entered += 1
                        waiting += 1
                elif at[r] < prompt[r]:
                    _enter(r, expert[rows[first[r] + at[r]]], head, tail, length, after)
                else:
                    entering[entered] = r
                    entered += 1
        steps += 1
        bounds[steps] = out
    return taken, bounds[: steps + 1].copy()


@compiled
def _enter(
    request: int,
    queue: int,
    head: npt.NDArray[np.int64],
    tail: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
) -> None:
    """Put a request at the end of a queue."""
    after[request] = -1
    if length[queue] == 0:
        head[queue] = request
    else:
        after[tail[queue]] = request
    tail[queue] = request
    length[queue] += 1
