"""One iteration of MoE-Lens as a pipeline over the layers (arXiv 2504.09345, section 6.4).

Sequences are in two groups that alternate. For each layer a group's decode attention runs on the CPU (C),
then the GPU does that layer's output projection and experts (GB) and the next layer's projections and the
attention of prompts (GA). While one group is on the CPU the other is on the GPU. Weights come layer by layer
into a buffer of two layers, ahead as far as that allows and on into the next iteration.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.throughput.gen_dag import Dag, Predecessor

Array = npt.NDArray[np.float64]

#: Layers whose weights the GPU holds.
BUFFER = 2


def pipeline(link_s: Array, cpu_s: Array, gpu_s: Array, *, layers: int, ahead: float) -> Array:
    """Seconds of iterations that follow others of their kind.

    Two equal iterations are laid end to end, and the second's part is returned: the first fills the pipeline.

    Parameters
    ----------
    link_s, cpu_s, gpu_s
        Seconds of an iteration on each resource, both groups together, ``[iterations]``.
    layers
        Over which they are spread evenly.
    ahead
        Part of the GPU's work that comes before a layer's decode attention (GA).

    Returns
    -------
    ndarray
        ``[iterations]``; at least the longest of the three.

    Examples
    --------
    A link that is slower than everything else is never idle:

    >>> pipeline(np.array([4.0]), np.array([1.0]), np.array([1.0]), layers=8, ahead=0.1).tolist()
    [4.0]
    """
    link_s, cpu_s, gpu_s = (np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (link_s, cpu_s, gpu_s))
    dag = Dag(len(link_s), capacity=2 * layers * 5 + 4)
    copy, attend, work = link_s / layers, cpu_s / (2 * layers), gpu_s / (2 * layers)
    used: list[tuple[int, ...]] = []
    first_end = np.zeros(len(link_s))
    waits: list[Predecessor] = [-1, -1]
    for iteration in range(2):
        # Prologue: projections of the first layer, for each group, behind the scheduler's barrier.
        barrier = list(waits)
        waits = [dag.add("gpu", ahead * work, barrier) for _ in range(2)]
        for layer in range(layers):
            freed: tuple[Predecessor, ...] = used[-BUFFER] if len(used) >= BUFFER else ()
            loaded = dag.add("link", copy, freed)
            # The last layer has no next one whose projections to do.
            part = work if layer + 1 < layers else (1.0 - ahead) * work
            attended = [dag.add("cpu", attend, [wait]) for wait in waits]
            done = tuple(dag.add("gpu", part, [loaded, a]) for a in attended)
            used.append(done)
            waits = list(done)
        if iteration == 0:
            first_end = dag.makespan().copy()
    return np.asarray(dag.makespan() - first_end)
