"""Attention on some workers, experts on others."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.errors import Fault
from moesim.hardware.types import Hardware
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model


@dataclass(frozen=True, slots=True)
class Apart:
    """Workers of attention and workers of experts, between which micro-batches go back and forth.

    Parameters
    ----------
    attention
        Its data-parallel ranks are the workers of attention.
    experts
        Its ranks are the workers of experts.
    micro
        Micro-batches.

    Examples
    --------
    >>> found = Apart(Parallelism(tp=2, dp=4), Parallelism(dp=8, ep=8), 3)
    >>> found.world, str(found)
    (16, '4 x tp=2 attention, 8 experts, 3 micro-batches')
    """

    attention: Parallelism
    experts: Parallelism
    micro: int = 3

    @property
    def world(self) -> int:
        """Devices of both kinds."""
        return self.attention.world + self.experts.world

    def __str__(self) -> str:
        one = self.attention
        return f"{one.dp} x tp={one.tp} attention, {self.experts.stage} experts, {self.micro} micro-batches"

    def faults(
        self, model: Model | None = None, hardware: Hardware | None = None, redundant: int = 0
    ) -> list[Fault]:
        """Everything that keeps these workers from being laid out; see `Parallelism.faults`.

        Spare experts are on workers of experts.
        """
        sides = (("attention", self.attention.dp), ("expert", self.experts.stage))
        found = [
            Fault("must be a positive whole number", f"--{name}-workers", count, "1, 2, 3, ...")
            for name, count in sides
            if count < 1
        ]
        if not 1 <= self.micro <= 64:
            found.append(Fault("is out of range", "--micro-batches", self.micro, "1 to 64"))
        if found:
            return found
        # Ranks of attention hold no experts, so that only how heads and layers are cut matters.
        own = Parallelism(self.attention.tp, self.attention.pp).faults(model)
        found += [fault for fault in own if fault.where != "layout"]
        for fault in self.experts.faults(model, None, redundant):
            where = "--expert-workers" if fault.where == "--ep" else fault.where
            found.append(replace(fault, where=where))
        if model is not None and model.moe is None and self.experts.ep == 1:
            found.append(Fault(f"{model.name} has no experts", "--expert-workers", self.experts.ep))
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
