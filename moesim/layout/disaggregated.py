"""One pool of workers that prefills, another that decodes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.errors import Fault
from moesim.hardware.types import Hardware
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model


@dataclass(frozen=True, slots=True)
class Workers:
    """Equal workers.

    Parameters
    ----------
    layout
        Of one of them.
    count
        How many.
    """

    layout: Parallelism
    count: int = 1

    @property
    def world(self) -> int:
        """Devices of all of them."""
        return self.count * self.layout.world

    def __str__(self) -> str:
        return f"{self.count} x ({self.layout})"


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """Workers that prefill and workers that decode.

    Examples
    --------
    >>> pools = Disaggregated(Workers(Parallelism(tp=4), 2), Workers(Parallelism(dp=8, ep=8)))
    >>> pools.world, str(pools)
    (16, '2 x (tp=4 pp=1 dp=1 ep=1) prefill, 1 x (tp=1 pp=1 dp=8 ep=8) decode')
    """

    prefill: Workers
    decode: Workers

    @property
    def world(self) -> int:
        """Devices of both pools."""
        return self.prefill.world + self.decode.world

    def __str__(self) -> str:
        return f"{self.prefill} prefill, {self.decode} decode"

    def faults(
        self, model: Model | None = None, hardware: Hardware | None = None, redundant: int = 0
    ) -> list[Fault]:
        """Everything that keeps these pools from being laid out; see `Parallelism.faults`.

        Spare experts are those of decode workers.
        """
        found = []
        for name, pool, spare in (("prefill", self.prefill, 0), ("decode", self.decode, redundant)):
            found += [
                replace(fault, message=f"{name} workers: {fault.message}")
                for fault in pool.layout.faults(model, None, spare)
            ]
            if pool.count < 1:
                found.append(Fault("must be at least 1", f"--{name}-workers", pool.count, "1, 2, 3, ..."))
        if not found and hardware is not None and self.world > hardware.num_devices:
            nodes = -(-self.world // hardware.devices_per_node)
            found.append(
                Fault(
                    f"{self.world} devices are asked for, {hardware.name} with {hardware.nodes} node(s) has "
                    f"{hardware.num_devices}",
                    "layout",
                    str(self),
                    f"at most {hardware.num_devices} devices, or --nodes {nodes}",
                )
            )
        return found
