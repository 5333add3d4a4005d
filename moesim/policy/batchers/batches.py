"""Requests in lock step: a batch is prefilled, then decodes one token of each request per step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.policy.batchers.gather import gather
from moesim.policy.batchers.requests import Requests, require
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches of requests: prompts one after the other, then one token of each request per step.

    One load serves all tokens of a step. A request that has ended leaves its place empty until the batch is
    done; the next batch begins then.

    Parameters
    ----------
    requests
        Requests of a batch.
    chunk
        Tokens of a prompt per step; 0 takes a prompt in one step.
    """

    requests: int = 1
    chunk: int = 0

    def __post_init__(self) -> None:
        require("batches", {"requests": (self.requests, 1), "chunk": (self.chunk, 0)})

    def form(self, trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
        """Steps of the batches, in order of the requests."""
        found = Requests.of(trace)
        rows, bounds = lock_step(found.rows, found.first, found.prompt, self.requests, self.chunk)
        return gather(trace, rows, bounds, kept)


@dataclass(frozen=True, slots=True)
class ZigZag:
    """FlexGen's block: several batches go through a layer while its weights are there.

    A load serves the tokens of all `batches`, so a step holds all requests of the block; each batch is
    computed on its own, so what one computation sees is `requests` tokens.

    Parameters
    ----------
    requests
        Requests of one batch.
    batches
        Batches of a block.
    chunk
        Tokens of a prompt per step; 0 takes a prompt in one step.
    """

    requests: int = 1
    batches: int = 1
    chunk: int = 0

    def __post_init__(self) -> None:
        numbers = {"requests": (self.requests, 1), "batches": (self.batches, 1), "chunk": (self.chunk, 0)}
        require("zig-zag", numbers)

    def form(self, trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
        """Steps of the blocks."""
        return Batches(self.requests * self.batches, self.chunk).form(trace, kept)


@dataclass(frozen=True, slots=True)
class ModuleBatches:
    """MoE-Gen: attention in small batches, experts over all tokens gathered from them.

    A step holds `requests`; its attention runs in batches of `attention`, its experts over batches of
    `experts` tokens each. A load serves all of them, so accesses are those of the whole step.

    Parameters
    ----------
    requests
        Requests gathered before the experts run.
    attention
        Requests of an attention batch, at most `requests`.
    experts
        Tokens of a batch of one expert; 0 takes all.
    chunk
        Tokens of a prompt per step; 0 takes a prompt in one step.
    """

    requests: int = 1
    attention: int = 1
    experts: int = 0
    chunk: int = 0

    def __post_init__(self) -> None:
        numbers = {
            "requests": (self.requests, 1),
            "attention": (self.attention, 1),
            "experts": (self.experts, 0),
            "chunk": (self.chunk, 0),
        }
        require("module batches", numbers)

    @property
    def attention_batches(self) -> int:
        """Attention batches of a full step."""
        return -(-self.requests // self.attention)

    def form(self, trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
        """Steps of `requests`."""
        return Batches(self.requests, self.chunk).form(trace, kept)


@compiled
def lock_step(
    rows: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    prompt: npt.NDArray[np.int64],
    size: int,
    chunk: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows by step, and the first of each step: prompts in chunks, then decode in lock step.

    Parameters
    ----------
    rows, first, prompt
        Of `Requests`.
    size
        Requests of a batch.
    chunk
        Tokens of a prompt per step; 0 is all.

    Returns
    -------
    tuple
        int64 ``[tokens]`` and int64 ``[steps + 1]``.

    Examples
    --------
    Two requests of one prompt token; the first decodes two tokens, the second one:

    >>> taken, bounds = lock_step(np.arange(5), np.array([0, 3, 5]), np.array([1, 1]), 2, 0)
    >>> taken.tolist(), bounds.tolist()
    ([0, 3, 1, 4, 2], [0, 1, 2, 4, 5])
    """
    taken = np.empty(len(rows), np.int64)
    bounds = np.empty(len(rows) + 1, np.int64)
    bounds[0] = 0
    out, steps = 0, 0
    requests = len(first) - 1
    for head in range(0, requests, size):
        tail = min(head + size, requests)
        longest = 0
        for r in range(head, tail):
            start = 0
            while start < prompt[r]:
                end = prompt[r] if chunk == 0 else min(prompt[r], start + chunk)
                for place in range(start, end):
                    taken[out] = rows[first[r] + place]
                    out += 1
                steps += 1
                bounds[steps] = out
                start = end
            longest = max(longest, first[r + 1] - first[r] - prompt[r])
        for turn in range(longest):
            for r in range(head, tail):
                place = first[r] + prompt[r] + turn
                if place < first[r + 1]:
                    taken[out] = rows[place]
                    out += 1
            steps += 1
            bounds[steps] = out
    return taken, bounds[: steps + 1].copy()
