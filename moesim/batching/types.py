"""How an engine forms batches, and the steps that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.trace.types import DECODE, RoutingTrace

MIXED, PREFILL_FIRST = "mixed", "prefill-first"
POLICIES = (MIXED, PREFILL_FIRST)


@dataclass(frozen=True, slots=True)
class Batcher:
    """Continuous batching, first come, first served, on one data-parallel rank.

    Every step, each running request decodes one token. Prompts are read in chunks that fill what is left of
    the token budget, the oldest request first; a waiting request enters when there is room for it.

    Parameters
    ----------
    token_budget
        The most tokens of one step (vLLM's ``max_num_batched_tokens``).
    max_sequences
        The most requests at once (``max_num_seqs``); at most `token_budget`, so that all can decode.
    policy
        ``mixed``: prompts share a step with decoding. ``prefill-first``: while there is a prompt to read and
        room for it, steps read prompts alone, and decoding waits.

    Raises
    ------
    ConfigError
        Naming every value that is wrong.
    """

    token_budget: int = 8192
    max_sequences: int = 256
    policy: str = MIXED

    def __post_init__(self) -> None:
        faults = []
        if not 1 <= self.token_budget < 2**31:
            faults.append(Fault("must be a positive number", "token_budget", self.token_budget))
        if not 1 <= self.max_sequences <= self.token_budget:
            allowed = (
                f"1 to the token budget, {self.token_budget}: every running request decodes in each step"
            )
            faults.append(Fault("is out of range", "max_sequences", self.max_sequences, allowed))
        if self.policy not in POLICIES:
            faults.append(Fault("is no policy", "policy", self.policy, ", ".join(POLICIES)))
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What one step holds, for a clock that prices it.

    Parameters
    ----------
    prompts, prefill_tokens
        Prompts of which a chunk is read, and the tokens of all chunks.
    past_tokens
        Tokens of these prompts that were read in earlier steps, all together.
    decode_tokens
        Decoded tokens; every decoding request has one.
    context_tokens
        Tokens that decoding looks back on, the new ones included, all together.
    """

    prompts: int
    prefill_tokens: int
    past_tokens: int
    decode_tokens: int
    context_tokens: int


#: Seconds that a step takes.
StepTime = Callable[[StepLoad], float]


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """The steps an engine runs: which tokens of which requests, and which row of the trace each takes.

    Parameters
    ----------
    step_ptr
        Tokens of step i are ``[step_ptr[i], step_ptr[i + 1])``, int64 ``[steps + 1]``.
    start_s, seconds
        When each step starts, and how long it takes, float64 ``[steps]``.
    request, position
        Request and place in it, int32 ``[tokens]``. Requests are numbered by arrival. Position 0 is the first
        token of the prompt; the last output token never passes through the model.
    phase
        0 prefill, 1 decode, int8 ``[tokens]``.
    row
        Row of the routing trace, int32 ``[tokens]``.
    requests
        How many requests there are.
    batcher
        How the steps were formed.
    warnings
        What had to be assumed.
    metadata
        What was counted on the way: requests that reuse a routing sequence, tokens beyond a sequence's end.
    """

    step_ptr: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    request: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    phase: npt.NDArray[np.int8]
    row: npt.NDArray[np.int32]
    requests: int
    batcher: Batcher
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.step_ptr) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens of all steps."""
        return int(self.step_ptr[-1])

    @property
    def tokens_per_step(self) -> npt.NDArray[np.int64]:
        """Tokens of each step, int64 ``[steps]``."""
        return np.diff(self.step_ptr)

    @property
    def decode_per_step(self) -> npt.NDArray[np.int64]:
        """Decoding requests of each step, int64 ``[steps]``."""
        # Not reduceat on int8, which would wrap round at 127.
        before = np.r_[0, np.cumsum(self.phase == DECODE)]
        return np.asarray(before[self.step_ptr[1:]] - before[self.step_ptr[:-1]])

    def step(self, i: int) -> slice:
        """Where the tokens of a step lie."""
        return slice(int(self.step_ptr[i]), int(self.step_ptr[i + 1]))

    def routing(self, trace: RoutingTrace) -> Iterator[npt.NDArray[np.unsignedinteger]]:
        """Logical expert ids of each step, ``[tokens, layers, top_k]``, in order.

        Raises
        ------
        ConfigError
            If the steps were not made from this trace.
        """
        self.check(trace)
        for i in range(len(self)):
            yield trace.topk_ids[self.row[self.step(i)]]

    def check(self, trace: RoutingTrace) -> None:
        """Raise `ConfigError` if the trace is too short to be the one these steps point into."""
        highest = int(self.row.max())
        if highest >= trace.num_tokens:
            what = f"has {trace.num_tokens} tokens, the steps take row {highest}"
            raise ConfigError(Fault(f"{what}: they were made from another trace", "trace"))
