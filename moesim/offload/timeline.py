"""A fixed pattern of operations on resources, repeated step after step: max-plus, without an event queue.

Each operation begins when its resource is free and the operations it names have ended:
``end = max(free[resource], end of needs) + seconds``. Where everything is known beforehand this is all that
happens, and a step costs a few additions and comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """Operations of one step, in the order in which each resource does them.

    Parameters
    ----------
    resource
        That does each operation, int64 ``[operations]``.
    back
        How many operations before it those are that it needs, counted over steps; 0 is none, int64
        ``[operations, needs]``.
    """

    resource: I8
    back: I8

    def __post_init__(self) -> None:
        faults = []
        if len(self.resource) != len(self.back):
            faults.append(
                Fault("needs a row for each operation", "back", len(self.back), str(len(self.resource)))
            )
        if (self.resource < 0).any():
            faults.append(Fault("is negative", "resource", int(self.resource.min()), "0 or more"))
        if (self.back < 0).any():
            faults.append(Fault("looks into the future", "back", int(self.back.min()), "0 or more"))
        if faults:
            raise ConfigError(faults)

    def ends(self, seconds: F8) -> F8:
        """When each step is done.

        Parameters
        ----------
        seconds
            Of each operation of each step, ``[steps, operations]``.

        Returns
        -------
        ndarray
            End of the last of each step's operations, ``[steps]``.

        Examples
        --------
        A load of 3 s on resource 1 for each run of 2 s on resource 0; loads do not wait for runs:

        >>> pattern = Pattern(np.array([1, 0]), np.array([[0], [1]]))
        >>> pattern.ends(np.tile([3.0, 2.0], (3, 1))).tolist()
        [5.0, 8.0, 11.0]
        """
        done = np.zeros(1 << int(max(self.back.max(initial=0), 1)).bit_length())
        free = np.zeros(int(self.resource.max(initial=0)) + 1)
        return np.asarray(_ends(self.resource, self.back, np.ascontiguousarray(seconds), free, done))


@compiled
def _ends(resource: I8, back: I8, seconds: F8, free: F8, done: F8) -> F8:
    steps, operations = seconds.shape
    needs = back.shape[1]
    mask = np.int64(len(done) - 1)
    ends = np.empty(steps)
    number = np.int64(0)
    for step in range(steps):
        last = 0.0
        for k in range(operations):
            start = free[resource[k]]
            for need in range(needs):
                distance = back[k, need]
                if 0 < distance <= number:
                    start = max(start, done[(number - distance) & mask])
            end = start + seconds[step, k]
            free[resource[k]] = end
            done[number & mask] = end
            last = max(last, end)
            number += 1
        ends[step] = last
    return ends


def stream_layers(compute_s: F8, load_s: float, ring: int) -> F8:
    """Whole layers on a ring of slots: when a layer has run, the one `ring` layers on takes its slot.

    SE-MoE's ring (Shen et al. 2022, arXiv 2205.10034, section on inference), and with a ring of 2 what
    DeepSpeed's ZeRO-Inference does: all experts of a layer cross the link in every step, whoever asks for
    them; with a ring of 1 nothing overlaps. After the ring has filled, a layer takes the longer of load and
    run.

    Parameters
    ----------
    compute_s
        Seconds of each layer in each step, ``[steps, layers]``.
    load_s
        Of all experts of a layer over the link.
    ring
        Layers that the device holds.

    Returns
    -------
    ndarray
        When each step is done, ``[steps]``.

    Examples
    --------
    >>> stream_layers(np.full((2, 4), 2.0), 3.0, 2).tolist()
    [14.0, 26.0]
    >>> stream_layers(np.full((2, 4), 2.0), 3.0, 1).tolist()
    [20.0, 40.0]
    """
    if ring < 1 or load_s < 0:
        raise ConfigError(Fault("is too small", "ring, load_s", (ring, load_s), "at least 1 and 0"))
    steps, layers = compute_s.shape
    if ring >= layers:  # each layer stays once it is there
        loads = np.zeros((steps, layers))
        loads[0] = load_s
    else:
        loads = np.full((steps, layers), load_s)
    seconds = np.stack([loads, compute_s], axis=2).reshape(steps, 2 * layers)
    # A load needs the run `ring` layers before it (two operations a layer), a run needs its own load.
    back = np.tile([[2 * ring - 1], [1]], (layers, 1))
    return Pattern(np.tile([1, 0], layers), back).ends(seconds)
