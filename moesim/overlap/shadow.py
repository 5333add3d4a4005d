"""FasterMoE's shadowing (PPoPP 2022): copy a busy expert to every device instead of sending its tokens.

With `B_w` tokens for the expert of device ``w``, a layer of a transformer with inner width ``a H`` takes

``3 * 4 B_w a H**2 / P + 4 B_w H b / W``

on the busiest device, forward and backward: three times two GEMMs, and four exchanges. A shadowed expert's
tokens stay where they are; its parameters go to all devices and its gradients back, ``2 * 2 a H**2 b / W``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.engine.routing import Array


@dataclass(frozen=True, slots=True)
class ShadowLayer:
    """A MoE layer with one expert to a device.

    Parameters
    ----------
    hidden, ratio
        Outer width ``H``, and inner over outer width ``a``.
    flops_per_s
        ``P``.
    bandwidth_bytes_per_s
        ``W``, of one device.
    element_bytes
        ``b``.
    """

    hidden: int
    ratio: float
    flops_per_s: float
    bandwidth_bytes_per_s: float
    element_bytes: float = 4.0

    @property
    def compute_s(self) -> float:
        """Of one token, forward and backward."""
        return 3.0 * 4.0 * self.ratio * self.hidden**2 / self.flops_per_s

    @property
    def exchange_s(self) -> float:
        """Of one token, four times."""
        return 4.0 * self.hidden * self.element_bytes / self.bandwidth_bytes_per_s

    @property
    def shadow_s(self) -> float:
        """Of one expert's parameters and gradients."""
        return 2.0 * 2.0 * self.ratio * self.hidden**2 * self.element_bytes / self.bandwidth_bytes_per_s

    def seconds(self, loads: Array, shadows: int) -> tuple[float, float]:
        """Computation and communication with the busiest experts shadowed.

        Parameters
        ----------
        loads
            Tokens of each expert, from all devices together, ``[devices]``.
        shadows
            Experts that are everywhere.
        """
        order = np.sort(np.asarray(loads, dtype=np.float64))[::-1]
        everywhere = order[:shadows].sum() / len(order)
        busiest = float(order[shadows]) if shadows < len(order) else 0.0
        compute = (busiest + everywhere) * self.compute_s
        return compute, busiest * self.exchange_s + shadows * self.shadow_s

    def shadows_of(self, loads: Array) -> int:
        """How many to shadow, as the released code does: one by one, until the next one does not pay."""
        chosen, best = 0, sum(self.seconds(loads, 0))
        while chosen < len(loads) and sum(self.seconds(loads, chosen + 1)) < best:
            chosen += 1
            best = sum(self.seconds(loads, chosen))
        return chosen

    def best_shadows(self, loads: Array) -> int:
        """How many are best, by trying all numbers."""
        return int(np.argmin([sum(self.seconds(loads, n)) for n in range(len(loads) + 1)]))

    def pays(self, loads: Array) -> bool:
        """Whether shadowing the busiest expert pays, by the condition of the paper.

        Copying it takes less than what the layer then spends less on its busiest device.
        """
        return sum(self.seconds(loads, 1)) < sum(self.seconds(loads, 0))


def smart_bound(compute_s: float, exchange_s: float) -> float:
    """How many times as fast a layer can get by overlap alone: ``(comm + comp) / max(comm, comp)``.

    >>> smart_bound(2.0, 3.0)
    1.6666666666666667
    """
    return (compute_s + exchange_s) / max(compute_s, exchange_s)


def smart_seconds(compute_s: float, exchange_s: float, groups: int) -> float:
    """Seconds of a layer that is exchanged by groups, each worked on as soon as its tokens are there.

    The first group's tokens, which are the device's own, are there at once, and the last results are its
    own: only one group's exchange on either side is in sight of the rest.

    >>> smart_seconds(2.0, 2.0, 4)
    2.5
    """
    return max(compute_s, exchange_s) + min(compute_s, exchange_s) / groups


def topology_limit(tokens: float, local_bytes_per_s: float, network_bytes_per_s: float, nodes: int) -> float:
    """Tokens that the topology-aware gate lets cross nodes: ``W_net / (M W_local) B``.

    >>> topology_limit(4096, 12.5e9, 6.25e9, 2)
    1024.0
    """
    return network_bytes_per_s / (nodes * local_bytes_per_s) * tokens
