"""Tutel's switch between parallelisms of one layer (arXiv:2206.03382, Sec. 3.1).

With fewer experts than devices, ``W / E`` devices belong to an expert, and its parameters are cut over
them. For a step, ``r`` says how much of that cut stays:

* ``r = 1``: tokens go to one device of the expert, which first gathers all of its parameters;
* ``r = W / E``: parameters stay where they are, and every token goes to all devices of the expert;
* in between, tokens go to ``r`` devices, each of which gathers ``1 / r`` of the parameters;
* ``r = 0``: tokens stay, and every device gathers all experts.

As parameters lie the same way for every ``r``, it may change from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Switch:
    """A layer whose parallelism is to be chosen.

    Parameters
    ----------
    token_bytes
        What a device sends in one exchange when each token goes to one device per expert.
    expert_bytes
        Parameters of one expert.
    experts, devices
        Their numbers; as many devices to each expert.
    exchange
        Seconds of an all-to-all over all devices, from the bytes that each sends.
    gather
        Seconds of an all-gather, from the bytes that each has in the end, and its devices.
    """

    token_bytes: float
    expert_bytes: float
    experts: int
    devices: int
    exchange: Callable[[float], float]
    gather: Callable[[float, int], float]

    def __post_init__(self) -> None:
        if self.devices % self.experts:
            raise ValueError(f"{self.experts} experts do not divide over {self.devices} devices")

    @property
    def choices(self) -> tuple[int, ...]:
        """Values of r: 0, and what divides the devices of an expert."""
        group = self.devices // self.experts
        return (0, *(r for r in range(1, group + 1) if group % r == 0))

    def seconds(self, r: int) -> float:
        """Seconds of what is sent, forward: both exchanges and the gathering of parameters.

        >>> switch = Switch(4.0, 6.0, 2, 8, exchange=lambda b: b, gather=lambda b, n: b * (n - 1) / n)
        >>> {r: switch.seconds(r) for r in switch.choices}
        {0: 10.5, 1: 12.5, 2: 17.5, 4: 32.0}
        """
        if r == 0:
            return self.gather(self.experts * self.expert_bytes, self.devices)
        group = self.devices // self.experts
        gathered = self.gather(self.expert_bytes / r, group // r) if group > r else 0.0
        return 2.0 * self.exchange(r * self.token_bytes) + gathered

    def best(self) -> int:
        """The fastest choice; the smallest of equally fast ones."""
        return min(self.choices, key=lambda r: (self.seconds(r), r))
