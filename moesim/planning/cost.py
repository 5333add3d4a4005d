"""What a candidate costs, and what is minimised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesim.hardware import Hardware
from moesim.hardware.types import Price
from moesim.planning.candidates import Shape
from moesim.planning.types import Candidate, Space


@dataclass(frozen=True, slots=True)
class Tariff:
    """Prices of one device per hour, by hardware; None where devices are counted instead.

    Costs are compared only if all of them are known: a machine without a price is neither cheap nor dear.
    """

    usd_per_hour: Mapping[str, float] | None
    note: str

    @classmethod
    def of(cls, hardwares: Sequence[Hardware], prices: Mapping[str, Price] | None) -> Tariff:
        """Prices that were given, or else those of the descriptions."""
        known = (
            {h.name: h.device.price for h in hardwares}
            if prices is None
            else {h.name: prices.get(h.name) for h in hardwares}
        )
        without = [name for name, price in known.items() if price is None]
        if without:
            names = ", ".join(without)
            return cls(None, f"devices are minimised and no cost is stated: there is no price of {names}")
        texts = [
            f"{name} {price.usd_per_hour:g} USD per device and hour ({price.vendor}, {price.date})"
            for name, price in known.items()
            if price is not None
        ]
        return cls(
            {name: price.usd_per_hour for name, price in known.items() if price is not None},
            "prices: " + "; ".join(texts),
        )

    def usd(self, candidate: Candidate) -> float | None:
        """US dollars per hour of all nodes that are rented."""
        if self.usd_per_hour is None:
            return None
        return candidate.devices * self.usd_per_hour[candidate.hardware.name]

    def cost(self, candidate: Candidate) -> float:
        """What is minimised."""
        usd = self.usd(candidate)
        return float(candidate.devices) if usd is None else usd

    def per_device(self, shape: Shape) -> float:
        """Of one device, in the same unit."""
        one = shape.candidate(shape.engine, 1)
        return self.cost(one) / one.devices

    def affordable(self, candidate: Candidate, space: Space) -> bool:
        """Whether a candidate stays within the budget."""
        if space.most_devices is not None and candidate.devices > space.most_devices:
            return False
        usd = self.usd(candidate)
        return usd is None or space.most_usd_per_hour is None or usd <= space.most_usd_per_hour

    def replicas_within(self, shape: Shape, cost: float, space: Space, *, cheaper: bool = False) -> int:
        """Most replicas of a shape that stay within a cost, and within the budget; see `nodes_within`."""
        limit = self.nodes_within(shape, cost, space, cheaper=cheaper)
        node, world = shape.hardware.devices_per_node, shape.layout.world
        return limit * (node // world) if world <= node else limit // -(-world // node)

    def nodes_within(self, shape: Shape, cost: float, space: Space, *, cheaper: bool = False) -> int:
        """Most nodes of a shape's machine that stay within a cost, and within the budget.

        Parameters
        ----------
        cheaper
            Whether the cost itself is too much.
        """
        one = shape.candidate(shape.engine, 1)
        node = shape.hardware.devices_per_node
        each = self.cost(one) / one.devices
        devices = cost / each
        limit = int(devices / node * (1.0 + 1e-12)) if devices < 1e12 else 10**12
        if cheaper and limit * node * each >= cost * (1.0 - 1e-12):
            limit -= 1
        if space.most_devices is not None:
            limit = min(limit, space.most_devices // node)
        if space.most_usd_per_hour is not None and self.usd_per_hour is not None:
            limit = min(limit, int(space.most_usd_per_hour / (each * node) * (1.0 + 1e-12)))
        return limit
