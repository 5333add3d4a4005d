"""Latency and throughput of a serving engine at a load, without simulating it request by request.

A closed loop of C clients keeps C requests in the system. X of them run, as many as the cache holds; the
others wait. While a request decodes its O tokens, each of the other running requests starts once, and its
prefill, Q seconds when the engine is full, holds up everybody's decoding:

* ``TPOT = t_decode(X) + (X - 1) / O * Q``
* ``TTFT = r + P + t_decode / 2 + u (X - 1) / 2 * Q + wait``, with r what a request costs outside of steps,
  P the prefill of one prompt and its first token: a request arrives in the middle of a step, and at t = 0 all
  prompts queue, whose share in the mean is u.
* ``wait = (C / X - 1) * (residence)`` when the cache is full: Little's law on the queue before admission.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.engine.deployment import Decode, Deployment
from moesim.engine.load import Load
from moesim.engine.memory import MemoryUse
from moesim.engine.routing import Array


@dataclass(frozen=True, slots=True, eq=False)
class Steady:
    """Steady state of every alternative; arrays are ``[batches]``.

    Parameters
    ----------
    ttft_fixed_s, ttft_steps
        Mean time to first token, as seconds and as a number of times per output token beyond them.
    tpot_s
        Mean time per output token.
    running
        Requests that decode at once.
    limit
        Requests that the cache or the engine's cap lets run.
    prefill_s
        Engine time per prompt when prefills are batched.
    prompt_s
        Prefill of one prompt alone.
    decode
        A decode step at `running`.
    bound_ttft_s, bound_tpot_s
        What no schedule can beat at the same number of running requests.
    ttft_factor, tpot_factor
        What was applied to the physical times.
    """

    ttft_fixed_s: Array
    ttft_steps: Array
    tpot_s: Array
    running: Array
    limit: Array
    prefill_s: Array
    prompt_s: Array
    decode: Decode
    bound_ttft_s: Array
    bound_tpot_s: Array
    ttft_factor: Array | float = 1.0
    tpot_factor: Array | float = 1.0

    @property
    def ttft_s(self) -> Array:
        """Mean time to first token."""
        return np.asarray(self.ttft_factor * (self.ttft_fixed_s + self.ttft_steps * self.tpot_s))

    def corrected(self, tpot_factor: Array, ttft_factor: Array) -> Steady:
        """The state with what measured runs say beyond physics; nothing gets better than its bound.

        Parameters
        ----------
        tpot_factor, ttft_factor
            Measured over physical times. The second comes on top of what the first does to TTFT.
        """
        tpot = np.maximum(self.tpot_s * tpot_factor, self.bound_tpot_s)
        whole = self.ttft_fixed_s + self.ttft_steps * tpot
        ttft = np.maximum(ttft_factor, self.bound_ttft_s / whole)
        return replace(self, tpot_s=tpot, tpot_factor=tpot / self.tpot_s, ttft_factor=ttft)


def steady(deployment: Deployment, load: Load, memory: MemoryUse) -> Steady:
    """Steady state at a load.

    Parameters
    ----------
    deployment
        What steps cost.
    load
        The alternatives.
    memory
        What the cache may use.
    """
    inputs, outputs = load.input_len, load.output_len
    # On average a running request has its prompt and half of its output in the cache.
    context = inputs + outputs / 2.0
    limit = sequences_that_fit(deployment, load, memory)
    running = np.minimum(load.concurrency, limit)

    decode = deployment.decode(running, context)
    prompt_s, prompt_bound_s, batched_s = deployment.prompts(load.input_len, load.chunk_tokens)

    interference = np.maximum(running - 1.0, 0.0) / outputs * batched_s
    tpot = decode.token_s + interference
    traits = deployment.traits
    queue = load.queue_s(traits, np.maximum(running - 1.0, 0.0), batched_s)
    # Whoever finds another running arrives in the middle of a step.
    middle = np.clip(load.concurrency - 1.0, 0.0, 1.0) * decode.seconds / 2.0
    alone = traits.request_s + prompt_s + middle + queue
    # Requests that find the cache full wait for others to leave: Little's law.
    waves = np.maximum(load.concurrency / running - 1.0, 0.0)
    return Steady(
        ttft_fixed_s=(1.0 + waves) * alone,
        ttft_steps=waves * (outputs - 1.0) + traits.first_steps + load.wait_steps,
        tpot_s=tpot,
        running=running,
        limit=limit,
        prefill_s=batched_s,
        decode=decode,
        prompt_s=prompt_s,
        bound_ttft_s=prompt_bound_s,
        bound_tpot_s=decode.bound_s,
    )


def sequences_that_fit(deployment: Deployment, load: Load, memory: MemoryUse) -> Array:
    """Requests the whole deployment can decode at once, ``[batches]``; 0 where not even one fits.

    A request must fit with its whole output; many share the room with half of theirs on average.
    """
    whole = deployment.cache_bytes(load.input_len + load.output_len)
    mean = deployment.cache_bytes(load.input_len + load.output_len / 2.0)
    room = max(memory.cache_budget_bytes, 0.0)
    per_rank = np.where(room >= whole, np.maximum(np.floor(room / np.maximum(mean, 1.0)), 1.0), 0.0)
    return np.asarray(np.minimum(per_rank, load.max_sequences) * deployment.layout.dp)
