"""The hierarchical roofline (MoE-Lightning, arXiv:2411.11217, section 3.2): work on a GPU, data on a CPU.

Level i computes (the GPU), level j holds the data (host memory). A computation of intensity ``I_i`` FLOP per
byte of its own level and ``I_j`` per byte that comes from the other reaches, in the paper's equation 7,

    P_i = min(P_peak_i, B_i I_i, B_ji I_j).

Below the first turning point it is better done where the data lie; beyond the second the link no longer
matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.throughput.machine import Machine

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Roofline:
    """Two levels and the link between them.

    Parameters
    ----------
    near_flops, near_bytes
        Peak and bandwidth of the level that would compute (GPU), FLOP/s and bytes/s.
    far_flops, far_bytes
        Those of the level that holds the data (CPU).
    link_bytes
        Bandwidth of the link from there.
    """

    near_flops: float
    near_bytes: float
    far_flops: float
    far_bytes: float
    link_bytes: float

    @classmethod
    def of(cls, machine: Machine) -> Roofline:
        """That of a box, at what it sustains."""
        return cls(
            machine.gpu_flops,
            machine.gpu_weights,
            machine.cpu_flops,
            machine.cpu_weights,
            machine.link_in,
        )

    def near(self, near_intensity: npt.ArrayLike, far_intensity: npt.ArrayLike) -> Floats:
        """FLOP/s that the near level reaches (equation 7).

        Examples
        --------
        >>> roofline = Roofline(100.0, 10.0, 4.0, 2.0, 1.0)
        >>> roofline.near([5.0, 50.0, 50.0], [3.0, 3.0, 500.0]).tolist()
        [3.0, 3.0, 100.0]
        """
        own = self.near_bytes * np.asarray(near_intensity, dtype=np.float64)
        across = self.link_bytes * np.asarray(far_intensity, dtype=np.float64)
        return np.asarray(np.minimum(self.near_flops, np.minimum(own, across)))

    def far(self, far_intensity: npt.ArrayLike) -> Floats:
        """FLOP/s of doing it where the data lie: the plain roofline of the far level."""
        own = self.far_bytes * np.asarray(far_intensity, dtype=np.float64)
        return np.asarray(np.minimum(self.far_flops, own))

    def first_turn(self, far_intensity: float) -> float:
        """P1: the intensity ``I_j`` below which the far level is the better place (equation 9).

        ``I_j = min(P_j, B_j I_j) / B_ji``: what comes over the link is worth no more than what the far level
        computes itself. While the far level is bound by its memory, the link is always the slower one, and
        the turning point lies where the far level's compute roof is met.
        """
        return float(self.far(far_intensity) / self.link_bytes)

    def first_turn_at_peak(self) -> float:
        """P1 with the far level at its peak: beyond this intensity moving data to the near level can pay."""
        return self.far_flops / self.link_bytes

    def second_turn(self, near_intensity: float) -> float:
        """P2: the intensity ``I_j`` beyond which the link no longer binds (equation 10)."""
        return min(self.near_flops, self.near_bytes * near_intensity) / self.link_bytes

    def balance(self, near_intensity: float) -> float:
        """The ``I_j`` at which link and near memory bind alike (equation 11): ``B_i I_i = B_ji I_j``."""
        return self.near_bytes * near_intensity / self.link_bytes
