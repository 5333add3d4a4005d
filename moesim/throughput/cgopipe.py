"""CGOPipe, the schedule of MoE-Lightning (arXiv:2411.11217, section 4.1, algorithm 1), as max-plus clocks.

For each layer and micro-batch j, in this order: bring the attention output of j back to the GPU, bring one
page of the next layer's weights (each layer's are cut into as many pages as there are micro-batches), project
and run the experts of j, make queries, keys and values of j + 2, send them to the CPU, attend there.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

#: Micro-batches that run ahead of the experts.
AHEAD = 2

#: Micro-batches of layers that are laid out one by one; longer runs go on as their last half went.
MOST = 4_000_000


@dataclass(frozen=True, slots=True)
class Pieces:
    """Seconds of one micro-batch in one layer.

    Parameters
    ----------
    post
        Output projection, router and experts, on the GPU.
    pre
        Queries, keys and values of the micro-batch that runs ahead, on the GPU.
    gpu_attention
        Attention on the GPU; 0 where the CPU attends.
    cpu_attention
        Attention on the CPU; 0 where the GPU attends.
    send, receive
        Queries, keys and values to the host; attention outputs, or the cache itself, from it.
    page, stage
        One page of weights over the link, and its copy into pinned memory before that.
    head
        Output head, once per step.
    memory
        Of host memory that staging, the link and CPU attention want together.
    """

    post: float
    pre: float
    gpu_attention: float
    cpu_attention: float
    send: float
    receive: float
    page: float
    stage: float
    head: float
    memory: float = 0.0


def decode_seconds(layers: int, micro_batches: int, steps: int, pieces: Pieces) -> float:
    """Seconds from idle until so many decode steps are done and the link rests.

    Six clocks run: GPU, link in, link out, CPU attention, copies into pinned memory, host memory. The pages
    of the first layer are brought first; those that the last one brings are for a step that would follow.

    Parameters
    ----------
    layers, micro_batches, steps
        How often.
    pieces
        How long each.

    Examples
    --------
    Bound by the link, four layers of three pages take what their pages take, once for each step and the first
    layer once more:

    >>> slow = Pieces(1, 1, 0, 1, 0, 0, page=10, stage=1, head=0)
    >>> decode_seconds(4, 3, 2, slow)
    271.0
    """
    numbers = np.array(astuple(pieces), dtype=np.float64)
    most = max(2, MOST // (layers * micro_batches))
    if steps <= most:
        return float(_run(layers, micro_batches, steps, numbers))
    half = float(_run(layers, micro_batches, most // 2, numbers))
    full = float(_run(layers, micro_batches, most, numbers))
    return full + (steps - most) * (full - half) / (most - most // 2)


@compiled
def _run(layers: int, micro_batches: int, steps: int, pieces: npt.NDArray[np.float64]) -> float:
    post, pre, gpu_attention, cpu_attention, send, receive, page, stage, head, memory = pieces
    per_step = layers * micro_batches
    total = steps * per_step
    ahead = min(AHEAD, micro_batches)
    # Only the last layer or two matter: rings instead of arrays of everything.
    ring = 2 * micro_batches + AHEAD
    done = np.zeros(ring)  # experts of each micro-batch of each layer
    ready = np.zeros(ring)  # its attention, where it is computed
    paged = np.zeros(ring)
    gpu = link_in = link_out = cpu = copier = host = 0.0
    for i in range(micro_batches):  # the first layer's pages
        copier += stage
        host += memory
        link_in = max(link_in, max(copier, host)) + page
        paged[(ring - micro_batches + i) % ring] = link_in
    for i in range(-ahead, total):
        if i >= 0:
            # The GPU needs what the CPU attended to, or the cache to attend itself.
            link_in = max(link_in, ready[i % ring]) + receive
            arrived = link_in
            # A page is staged when its place is free, one layer after it was last used.
            free = paged[(i + ring - micro_batches) % ring]
            copier = max(copier, free) + stage
            host = max(host, free) + memory
            link_in = max(link_in, max(copier, host)) + page
            paged[i % ring] = link_in
            # All pages of this layer came during the one before.
            last = (i // micro_batches) * micro_batches - 1
            gpu = max(max(gpu, arrived), paged[(last + ring) % ring]) + gpu_attention + post
            if (i + 1) % per_step == 0:
                gpu += head
            done[i % ring] = gpu
        j = i + ahead
        if j < total:
            start = done[(j - micro_batches) % ring] if j >= micro_batches else 0.0
            gpu = max(gpu, start) + pre
            link_out = max(link_out, gpu) + send
            if cpu_attention > 0.0:
                cpu = max(cpu, link_out) + cpu_attention
                ready[j % ring] = cpu
            else:
                ready[j % ring] = start
    return max(gpu, max(link_in, max(link_out, cpu)))
