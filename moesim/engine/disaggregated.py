"""Latency and throughput when one pool of workers prefills and another decodes.

A request is prefilled by one of ``n_p`` workers, its cache crosses to one of ``n_d`` workers, and decodes
there without other prefills in its way. A closed loop of C clients settles where the rate of requests
satisfies both Little's law and the pools:

* ``TPOT = t_decode(X / n_d)`` with X the requests that decode;
* the rate is at most ``n_p / Q``, Q the seconds of a worker per prompt;
* ``X = rate x O x TPOT``, and what does not decode is in TTFT: prefill, hand-over, or a queue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.engine.deployment import Deployment
from moesim.engine.load import Load
from moesim.engine.routing import Array
from moesim.engine.steady import Steady, prefill_times, sequences_that_fit

#: Share of its time that a prefill worker is busy, where as many are taken as the load needs.
BUSY = 0.7
#: Loads of a decode worker at which its step is timed, between which it is interpolated.
POINTS = 12


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

    prompt_s, prompt_bound_s, batched_s = prefill_times(prefill.deployment, load)
    hand_over = hand_over_s(prefill.deployment, decode.deployment, inputs)
    alone = traits.request_s + prompt_s + hand_over

    # TPOT at loads between one request and all of them, for every alternative.
    top = np.minimum(load.concurrency, limit)
    grid = np.exp(np.linspace(0.0, 1.0, POINTS)[:, None] * np.log(np.maximum(top, 1.0))[None, :])
    steps = decode.deployment.decode((grid / decoders).ravel(), np.tile(context, POINTS))
    tpot_grid = steps.token_s.reshape(POINTS, -1)
    if prefill.workers is None:
        fastest = load.concurrency / (alone + outputs * tpot_grid[-1])
        prefillers = np.maximum(np.ceil(fastest * batched_s / BUSY), 1.0)
    else:
        prefillers = np.full(len(one), float(prefill.workers))
    most = prefillers / batched_s
    # X = rate x O x TPOT(X): the rate falls with X in a closed loop, so the two sides cross once.
    rate = np.minimum(most, load.concurrency / (alone + outputs * tpot_grid))
    excess = np.log(np.maximum(rate * outputs * tpot_grid, 1e-300)) - np.log(grid)
    running = np.minimum(_crossing(excess, np.log(grid)), top)

    step = decode.deployment.decode(running / decoders, context)
    tpot = step.token_s
    # Interpolated, it may exceed what prompts come from prefill.
    running = np.minimum(running, most * outputs * tpot)
    rate = np.minimum(most, running / (outputs * tpot))
    busy = np.minimum(rate / most, 1.0)
    # Arrivals at the prefill pool are nearly Poisson, its service nearly constant: M/D/1 per worker, and
    # never more in the queue than do not decode.
    queue = np.minimum(
        busy / (2.0 * np.maximum(1.0 - busy, 1e-9)) * batched_s,
        np.maximum(load.concurrency - running, 0.0) / rate,
    )
    start_up = np.zeros(len(one))
    if load.request_rate is None:
        start_up = load.queue_s(traits, np.maximum(load.concurrency - 1.0, 0.0), 1.0 / most)
    waves = np.maximum(load.concurrency / limit - 1.0, 0.0)
    collected = load.sent_first(traits) - 1.0
    return Steady(
        ttft_fixed_s=(1.0 + waves) * (alone + queue + start_up),
        ttft_steps=waves * (outputs - 1.0) + collected + 1.0,
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

    Every device of the prefill worker sends its part over the network between nodes, or over the scale-up
    link where there is no network; the fewer of both sides' devices limit it.
    """
    hardware = prefill.hardware
    link = hardware.scale_out or hardware.scale_up
    each = prefill.cache_bytes(tokens)
    senders = min(prefill.layout.tp, decode.layout.tp)
    share = prefill.layout.tp / senders
    return np.asarray(link.latency_s + each * share / (link.bandwidth_bytes_per_s * link.efficiency))


def _crossing(excess: Array, x: Array) -> Array:
    """Where a row-wise falling function of the grid crosses zero, ``[batches]``; its ends if it does not."""
    found = np.empty(excess.shape[1])
    for i in range(excess.shape[1]):
        below = np.flatnonzero(excess[:, i] <= 0.0)
        if not len(below):
            found[i] = x[-1, i]
            continue
        k = int(below[0])
        if k == 0:
            found[i] = x[0, i]
            continue
        a, b = excess[k - 1, i], excess[k, i]
        found[i] = x[k - 1, i] + (x[k, i] - x[k - 1, i]) * a / (a - b)
    return np.asarray(np.exp(found))
