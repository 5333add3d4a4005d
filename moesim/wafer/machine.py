"""A wafer of dies as plain numbers: what one die computes and reads, and the mesh between them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import peak_flops_per_s
from moesim.errors import ConfigError, Fault
from moesim.fabric import grid_hops
from moesim.hardware.curves import Efficiency
from moesim.hardware.types import Cache, Hardware

Ints = npt.NDArray[np.int64]
#: Ways out of a die of a two-dimensional mesh; a link's bandwidth in a description is the sum over them.
WAYS = 4
#: What one remote request asks for: a line of the last cache of a GPU (NVIDIA, CUDA C++ Best Practices Guide,
#: "Coalesced access": 128-byte lines of four sectors).
LINE_BYTES = 128.0
#: Command and address of one remote request (arXiv:2510.05497, Table I).
COMMAND_BYTES = 16.0


@dataclass(frozen=True, slots=True)
class Wafer:
    """Equal dies in a rectangle, each with its own memory; neighbours are linked.

    Parameters
    ----------
    shape
        Rows and columns of dies. Die ``r * columns + c`` is in row r and column c.
    flops_per_s
        Peak of a die in the data type of the weights.
    memory_bytes_per_s, memory_s, memory_bytes
        Of a die's own memory: bandwidth, latency and capacity.
    link_bytes_per_s, hop_s
        Of one link between neighbours, each way.
    cache
        The last cache of a die, in front of its own memory, for whoever reads from there.
    efficiency
        Of grouped expert GEMMs; the curves of `moesim.hardware.curves`.
    """

    shape: tuple[int, int]
    flops_per_s: float
    memory_bytes_per_s: float
    memory_s: float
    memory_bytes: float
    link_bytes_per_s: float
    hop_s: float
    cache: Cache
    efficiency: Efficiency = Efficiency()  # noqa: RUF009 - frozen

    @classmethod
    def of(cls, hardware: Hardware, dtype: str = "bf16", efficiency: Efficiency | None = None) -> Wafer:
        """The wafer of a description.

        Parameters
        ----------
        hardware
            A machine whose accelerators are the dies of a mesh.
        dtype
            Data type of the weights.
        efficiency
            Taken in place of what the description says of ``expert_gemm``.

        Raises
        ------
        ConfigError
            Where the machine is no mesh of dies with caches; every fault is named.
        """
        link, device = hardware.scale_up, hardware.device
        faults = []
        if link.topology != "mesh" or len(link.shape) != 2:
            faults.append(Fault("is no two-dimensional mesh", "scale_up.topology", link.topology, "mesh"))
        elif link.shape[0] * link.shape[1] != hardware.num_devices:
            faults.append(Fault("does not hold the devices", "scale_up.shape", link.shape))
        if device.cache is None:
            faults.append(Fault("is missing; a wafer's dies have one", "device.cache"))
        if faults or device.cache is None:
            raise ConfigError(faults, hardware.path or hardware.name)
        processor, memory = device.processor, device.memory
        return cls(
            shape=(link.shape[0], link.shape[1]),
            flops_per_s=peak_flops_per_s(processor, dtype),
            memory_bytes_per_s=processor.bandwidth_bytes_per_s[memory.name],
            memory_s=memory.latency_s,
            memory_bytes=memory.capacity_bytes,
            link_bytes_per_s=link.bandwidth_bytes_per_s * link.efficiency / WAYS,
            hop_s=link.latency_s if link.hop_s is None else link.hop_s,
            cache=device.cache,
            efficiency=efficiency or processor.efficiency_of("expert_gemm", dtype),
        )

    @property
    def dies(self) -> int:
        """How many there are."""
        return self.shape[0] * self.shape[1]

    def hops(self) -> Ints:
        """Links between any two dies, the Manhattan distance, int64 ``[dies, dies]``."""
        return _hops(self.shape)


@functools.cache
def _hops(shape: tuple[int, int]) -> Ints:
    return np.asarray(grid_hops(shape), np.int64)


def spread(experts: int, dies: int) -> Ints:
    """Where experts lie: equally many on each die, in order, int64 ``[experts]``.

    >>> spread(8, 4).tolist(), spread(5, 2).tolist()
    ([0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 1, 1])
    """
    return np.arange(experts, dtype=np.int64) * dies // experts
