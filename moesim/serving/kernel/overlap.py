"""Makespans of layers whose parts run beside each other, as closed loops over layers."""

from __future__ import annotations

import numpy as np

from moesim.compiled import compiled


@compiled
def two_batch_s(layers: int, attention: float, there: float, experts: float, back: float) -> float:
    """Makespan of `moesim.engine.timeline.two_batch_layers`, whose pace is soon the same layer by layer.

    Parameters
    ----------
    layers
        With routed experts.
    attention, there, experts, back
        Seconds of one layer for one half batch.
    """
    compute, network, done_a, done_b = 0.0, 0.0, 0.0, 0.0
    lag_a, lag_b, lag = -1.0, -1.0, -1.0
    end = 0.0
    for layer in range(layers):
        before = end
        compute = max(compute, done_a) + attention
        network = max(network, compute) + there
        sent_a = network
        compute = max(compute, done_b) + attention
        network = max(network, compute) + there
        sent_b = network
        compute = max(compute, sent_a) + experts
        network = max(network, compute) + back
        done_a = network
        compute = max(compute, sent_b) + experts
        network = max(network, compute) + back
        done_b = network
        end = max(compute, network)
        change = max(abs(end - done_a - lag_a), abs(end - done_b - lag_b), abs(end - compute - lag))
        if change < 1e-12 * end:
            return end + (layers - 1 - layer) * (end - before)
        lag_a, lag_b, lag = end - done_a, end - done_b, end - compute
    return end


@compiled
def ping_pong_s(
    layers: int, micro: int, attention: float, there: float, experts: float, back: float
) -> float:
    """Micro-batches that go from workers of attention to workers of experts and back, layer by layer.

    All four are streams of their own: links carry both ways at once.
    """
    home = np.zeros(micro)
    a, t, e, b = 0.0, 0.0, 0.0, 0.0
    for _ in range(layers):
        for i in range(micro):
            a = max(a, home[i]) + attention
            t = max(t, a) + there
            e = max(e, t) + experts
            b = max(b, e) + back
            home[i] = b
    return b
