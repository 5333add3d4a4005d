"""When the last expert of a cell is done, given who computes each and in which order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

Seconds = npt.NDArray[np.float64]


@compiled
def makespan(
    where: npt.NDArray[np.int8],
    order: npt.NDArray[np.int64],
    gpu_s: Seconds,
    cpu_s: Seconds,
    load_s: Seconds,
    near_s: Seconds,
    free: Seconds,
    cpu_start_s: float,
) -> float:
    """Seconds from now until the last access is computed.

    Four resources, each doing one thing at a time in the given order: a load takes the link, then its expert
    the GPU. A deferred access is computed for the next layer, so this one does not wait for it.

    Parameters
    ----------
    where
        Who computes each access: 0 GPU, 1 GPU after a load, 2 CPU, 3 near-data unit, 4 deferred, int8
        ``[n]``.
    order
        Accesses in the order in which they start on their resource, a permutation, int64 ``[n]``.
    gpu_s, cpu_s, load_s, near_s
        Seconds of each access on each resource, float64 ``[n]``.
    free
        Seconds from now at which GPU, CPU, link and near-data unit are free, float64 ``[4]``.
    cpu_start_s
        Seconds that the first access on the CPU costs beside its own.

    Returns
    -------
    float
        Seconds; 0 where nothing is computed.

    Examples
    --------
    Two misses of which one is loaded in 3 s while the CPU takes 4 s for the other:

    >>> two = np.ones(2)
    >>> makespan(np.array([1, 2], np.int8), np.arange(2), two, 4 * two, 3 * two, two, np.zeros(4), 0.5)
    4.5
    """
    gpu, cpu, link, near = free[0], free[1], free[2], free[3]
    end = 0.0
    started = False
    for i in order:
        if where[i] == 0:
            gpu += gpu_s[i]
            end = max(end, gpu)
        elif where[i] == 1:
            link += load_s[i]
            gpu = max(gpu, link) + gpu_s[i]
            end = max(end, gpu)
        elif where[i] == 2:
            if not started:
                cpu += cpu_start_s
                started = True
            cpu += cpu_s[i]
            end = max(end, cpu)
        elif where[i] == 3:
            near += near_s[i]
            end = max(end, near)
    return end
