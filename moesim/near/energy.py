"""Energy of stages: bytes along the path that each processor reads them, FLOPs, and bytes between devices.

What counts are the memory's cells and wires, the caches that bytes pass on their way to the main processor,
arithmetic and links, as in Duplex (arXiv:2409.01141, sections VI and VII-D); leakage and hosts are left out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.hardware.types import Hardware
from moesim.near.duplex import Stages

Array = npt.NDArray[np.float64]
#: Joules per byte that passes the second and first cache of the main processor, 0.3 and 0.16 pJ/bit. A unit
#: beside the memory has buffers of a hundredth of that (scale-snu/attacc_simulator@c600051 src/config.py).
CACHES = 8 * (0.3e-12 + 0.16e-12)


def joules(stages: Stages, hardware: Hardware) -> Array:
    """Energy of stages, all devices together, ``[stages]``.

    Parameters
    ----------
    stages
        What is read, computed and sent.
    hardware
        Names the constants: its memory, the path of the processor beside it, arithmetic, the link.

    Raises
    ------
    ValueError
        Where the description names no energy for one of them.
    """
    device = hardware.device
    main, memory, unit = device.processor, device.memory, device.processors[-1]
    path = unit.energy_per_byte.get(memory.name, memory.energy_per_byte)
    link = hardware.scale_up.energy_per_byte
    flop = main.energy_per_flop.get("bf16")
    if memory.energy_per_byte is None or path is None or link is None or flop is None:
        raise ValueError(f"{hardware.name} does not say what bytes, FLOPs and messages cost")
    return np.asarray(
        stages.main_bytes * (memory.energy_per_byte.joules + CACHES)
        + stages.near_bytes * path.joules
        + stages.flops * flop.joules
        + stages.link_bytes * link.joules
    )
