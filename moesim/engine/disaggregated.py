"""Latency and throughput when one pool of workers prefills and another decodes.

A request is prefilled by one of ``n_p`` workers, its cache crosses to one of ``n_d`` workers, and decodes
there without other prefills in its way. A closed loop of C clients settles where the rate of requests
satisfies both Little's law and the pools:

* ``TPOT = t_decode(X / n_d)`` with X the requests that decode, at most as many as the decode workers hold;
* ``X = rate x O x TPOT``, Little's law on the decode workers;
* ``C - X = rate x (P + q)`` on the others: P the lone prefill and hand-over, q the wait for a prefill worker,
  which grows without limit as the rate nears ``n_p / Q``, Q the seconds of a worker per prompt.

Where the decode workers are full, X is what they hold, and whoever is left waits for one of their places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.engine.deployment import Deployment
from moesim.engine.load import MOST_BUSY, Load
from moesim.engine.routing import Array
from moesim.engine.steady import Steady, sequences_that_fit

#: Share of its time that a prefill worker is busy, where as many are taken as the load needs.
BUSY = 0.7
#: Loads of a decode worker at which its step is timed, between which it is interpolated.
POINTS = 12
#: Times that the time per token is put right where the pools settle.
REFINED = 2
#: Of the interval in which the requests that decode are looked for.
HALVINGS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Equal workers.

    Parameters
    ----------
    deployment
        One of them.
    workers
        How many; None for as many as the load needs.
    """

    deployment: Deployment
    workers: int | None


def disaggregated(prefill: Side, decode: Side, load: Load, utilisation: float) -> Steady:
    """Steady state of a closed loop over both pools.

    Parameters
    ----------
    prefill, decode
        The pools.
    load
        The alternatives; concurrency is that of the whole deployment.
    utilisation
        Fraction of the memory an engine may use.

    Returns
    -------
    Steady
        Its `decode` is one step of one decode worker.
    """
    inputs, outputs = load.input_len, load.output_len
    context = inputs + outputs / 2.0
    memory = decode.deployment.memory(load.chunk_tokens, utilisation)
    one = np.maximum(sequences_that_fit(decode.deployment, load, memory), 1.0)
    decoders = (
        np.ceil(load.concurrency / one) if decode.workers is None else np.full(len(one), decode.workers)
    )
    limit = one * decoders
    traits = decode.deployment.traits

    prompt_s, prompt_bound_s, batched_s = prefill.deployment.prompts(load.input_len, load.chunk_tokens)
    hand_over = hand_over_s(prefill.deployment, decode.deployment, inputs)
    alone = traits.request_s + prompt_s + hand_over

    # TPOT at loads between one request and all of them, for every alternative.
    top = np.maximum(np.minimum(load.concurrency, limit), 1.0)
    grid = np.exp(np.linspace(0.0, 1.0, POINTS)[:, None] * np.log(top)[None, :])
    steps = decode.deployment.decode((grid / decoders).ravel(), np.tile(context, POINTS))
    tpot_grid = steps.token_s.reshape(POINTS, -1)
    if prefill.workers is None:
        fastest = load.concurrency / (alone + outputs * tpot_grid[-1])
        prefillers = np.maximum(np.ceil(fastest * batched_s / BUSY), 1.0)
    else:
        prefillers = np.full(len(one), float(prefill.workers))
    most = prefillers / batched_s
    curve = np.log(tpot_grid)
    for _ in range(REFINED):
        near, rate, queue = _settle(load, alone, curve, top, batched_s, most)
        step = decode.deployment.decode(np.maximum(near, 1.0) / decoders, context)
        # What was interpolated is put right where it is needed.
        curve = curve + np.log(step.token_s) - _between(curve, top, np.log(near))
    tpot = step.token_s
    running = np.minimum(rate * outputs * tpot, top)
    # The queue at t = 0 passes: it is in the mean of a benchmark, and in no steady state.
    start_up = np.zeros(len(one))
    if load.request_rate is None:
        start_up = load.queue_s(traits, np.maximum(load.concurrency - 1.0, 0.0), 1.0 / most)
    # Whoever finds the decode workers full waits as long as Little's law says, prefill included.
    full = (load.concurrency > limit) & np.isclose(running, limit)
    rounds = np.where(full, (load.concurrency / limit - 1.0) * outputs, 0.0)
    return Steady(
        ttft_fixed_s=np.maximum(alone + queue - rounds * tpot, 0.0) + start_up,
        ttft_steps=rounds + traits.first_steps + load.wait_steps + 1.0,
        tpot_s=tpot,
        running=running,
        limit=limit,
        prefill_s=batched_s / prefillers,
        prompt_s=prompt_s,
        decode=step,
        bound_ttft_s=prompt_bound_s,
        bound_tpot_s=step.bound_s,
    )


def hand_over_s(prefill: Deployment, decode: Deployment, tokens: Array) -> Array:
    """Seconds to move the cache of a prompt from its prefill worker to a decode worker.

    Every device of either worker has a link of its own, over the network between nodes or, where there is
    none, the scale-up fabric. A device sends or receives what it keeps of the prompt; whichever side keeps
    more on each device takes longer. What is replicated, as a latent cache is, crosses once per receiver.
    """
    hardware = prefill.hardware
    link = hardware.scale_out or hardware.scale_up
    each = np.maximum(prefill.cache_bytes(tokens), decode.cache_bytes(tokens))
    return np.asarray(link.latency_s + each / (link.bandwidth_bytes_per_s * link.efficiency))


def _settle(
    load: Load, alone: Array, curve: Array, top: Array, prompt_s: Array, most: Array
) -> tuple[Array, Array, Array]:
    """Requests that decode, requests per second, and wait for a prefill worker, ``[batches]`` each.

    Parameters
    ----------
    load
        The alternatives.
    alone
        Seconds of a request before it decodes, if none is in its way.
    curve
        Logarithm of the time per token with 1 to `top` requests decoding, evenly spaced in logarithm,
        ``[points, batches]``.
    top
        Requests that decode at most.
    prompt_s
        Seconds of a prefill worker per prompt.
    most
        Prompts per second of all prefill workers.
    """
    low, high = np.full(len(top), np.log(1e-6)), np.log(top)

    # A request finds the system as it is without itself: one alone waits for nobody, and none for more
    # prompts than there are.
    others = np.maximum(load.concurrency - 1.0, 0.0)

    def state(x: Array) -> tuple[Array, Array]:
        rate = np.exp(x - _between(curve, top, x)) / load.output_len
        # Arrivals at the prefill pool are nearly Poisson, its service nearly constant: M/D/1 per worker.
        busy = np.minimum(rate / most, MOST_BUSY)
        queue = others / load.concurrency * busy / (2.0 * (1.0 - busy)) * prompt_s
        return rate, np.minimum(queue, others / most)

    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        rate, queue = state(middle)
        too_many = (rate * (alone + queue) + np.exp(middle) > load.concurrency) | (rate >= most)
        low, high = np.where(too_many, low, middle), np.where(too_many, middle, high)
    return np.exp(high), *state(low)


def _between(curve: Array, top: Array, x: Array) -> Array:
    """Interpolate a curve over 1 to `top`, evenly spaced in logarithm, at logarithms `x`."""
    points, column = len(curve), np.arange(len(top))
    place = np.clip(x / np.maximum(np.log(top), 1e-300) * (points - 1), 0.0, points - 1.0)
    k = np.minimum(place.astype(np.int64), points - 2)
    return np.asarray(curve[k, column] + (place - k) * (curve[k + 1, column] - curve[k, column]))
