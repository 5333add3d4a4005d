"""What traffic asks of a deployment."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.routing import Array
from moesim.engine.traits import Traits

#: Beyond this share of its time no queue is stable.
MOST_BUSY = 1.0 - 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Traffic of several alternatives; arrays are float64 ``[batches]``.

    Parameters
    ----------
    input_len, output_len
        Tokens per request.
    concurrency
        Requests in the system of the whole deployment.
    chunk_tokens
        Tokens that a data-parallel rank prefills in one step.
    max_sequences
        Sequences that a data-parallel rank decodes at most.
    request_rate
        Requests per second of an open loop; None for a closed one.
    wait_steps
        Decode steps that a request waits on average before the engine takes it in, beyond half of the running
        one: half of SGLang's ``--scheduler-recv-interval``, TensorRT-LLM's ``batch_wait_timeout_iters``. One
        number, or one of each alternative.
    """

    input_len: Array
    output_len: Array
    concurrency: Array
    chunk_tokens: float = 8192.0
    max_sequences: float = 1024.0
    request_rate: Array | None = None
    wait_steps: Array | float = 0.0

    def part(self, chosen: npt.NDArray[np.bool_]) -> Load:
        """Some of the alternatives."""
        return replace(
            self,
            input_len=self.input_len[chosen],
            output_len=self.output_len[chosen],
            concurrency=self.concurrency[chosen],
            request_rate=None if self.request_rate is None else self.request_rate[chosen],
            wait_steps=np.broadcast_to(self.wait_steps, chosen.shape)[chosen],
        )

    def at(self, concurrency: Array) -> Load:
        """The same requests, with so many of them in the system."""
        return replace(self, concurrency=concurrency)

    def repeated(self, times: int) -> Load:
        """All alternatives, several times over."""
        return replace(
            self,
            input_len=np.tile(self.input_len, times),
            output_len=np.tile(self.output_len, times),
            concurrency=np.tile(self.concurrency, times),
            request_rate=None if self.request_rate is None else np.tile(self.request_rate, times),
            wait_steps=np.tile(np.broadcast_to(self.wait_steps, self.input_len.shape), times),
        )

    def queue_s(self, traits: Traits, rivals: Array, prompt_s: Array) -> Array:
        """Mean wait for other prompts: those that started together, or those that arrived just before.

        Parameters
        ----------
        rivals
            Other requests that start together in a closed loop.
        prompt_s
            Seconds per prompt when prompts queue. Arrivals are nearly Poisson and the service nearly
            constant: the wait is that of M/D/1.
        """
        if self.request_rate is None:
            return np.asarray(traits.start_up * rivals / 2.0 * prompt_s)
        busy = np.minimum(self.request_rate * prompt_s, MOST_BUSY)
        return np.asarray(busy / (2.0 * (1.0 - busy)) * prompt_s)
