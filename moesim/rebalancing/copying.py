"""How experts are copied while an engine serves, and how much longer steps take for it.

*Synchronous*: the engine stands still while the host solves and all layers are copied. *Asynchronous*: copies
run beside the steps, layer by layer through a staging buffer, and a layer changes over between steps once its
experts are there. Copies have the links to themselves while ranks compute; during dispatch and combine they
take a part of the bandwidth, and the exchange has the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.rebalancing.price import StepCost

FloatArray = npt.NDArray[np.float64]

#: Two flows alike that meet on a link have half of it each.
EQUAL_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Copying:
    """What a change of plan costs beside the bytes it moves.

    Parameters
    ----------
    async_steps
        Steps that pass at least before the first layer changes; None for synchronous copies.
    layers_per_step
        Layers that may change between two steps (``layer_updates_per_iter`` of TensorRT-LLM); 0 for any
        number.
    share
        Part of the links that copies take from an exchange they meet.
    host_s
        Seconds the host takes to find and hand out a plan: a stall, or with asynchronous copies a delay.

    Raises
    ------
    ConfigError
        With every value that is out of range.
    """

    async_steps: int | None = None
    layers_per_step: int = 0
    share: float = EQUAL_SHARE
    host_s: float = 0.0

    def __post_init__(self) -> None:
        found = []
        if self.async_steps is not None and self.async_steps < 0:
            found.append(Fault("is negative", "--async-steps", self.async_steps, "0 or more"))
        if self.layers_per_step < 0:
            found.append(Fault("is negative", "--layers-per-step", self.layers_per_step, "0 or more"))
        if not 0 < self.share < 1:
            found.append(Fault("must lie between 0 and 1", "--copy-share", self.share))
        if not 0 <= self.host_s < 1e12:
            found.append(Fault("must be a number of seconds", "--host-seconds", self.host_s, "0 or more"))
        if found:
            raise ConfigError(found)

    @property
    def synchronous(self) -> bool:
        """Whether the engine stands still meanwhile."""
        return self.async_steps is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "synchronous": self.synchronous,
            "async_steps": self.async_steps,
            "layers_per_step": self.layers_per_step,
            "share": self.share,
            "host_s": self.host_s,
        }


def beside(left_s: float, cost: StepCost, share: float) -> tuple[float, float]:
    """Copies beside one step.

    Parameters
    ----------
    left_s
        Seconds of copies that are left, with the links to themselves.
    cost
        The step without copies.
    share
        Part of the links that copies take from the exchange.

    Returns
    -------
    tuple
        Seconds of copies done, and seconds by which the step is longer.

    Examples
    --------
    >>> step = StepCost(experts_s=3.0, exchange_s=1.0, even_s=3.0, rest_s=0.0)
    >>> beside(2.5, step, 0.5), beside(100.0, step, 0.5)
    ((2.5, 0.625), (4.0, 1.0))
    """
    # A busy exchange lasts x / (1 - share), and lets copies of share / (1 - share) * x pass.
    ratio = share / (1.0 - share)
    most = cost.seconds - cost.exchange_s + ratio * cost.exchange_s
    done = min(left_s, most)
    # Exchanges lie between computations all through the step, so copies meet their part of them.
    return done, ratio * cost.exchange_s * (done / most if most > 0.0 else 0.0)


def seconds_lost(copy_s: float, cost: StepCost, copying: Copying) -> float:
    """Seconds that copies add to steps like this one, until they are over."""
    if copying.synchronous:
        return copying.host_s + copy_s
    done, longer = beside(np.inf, cost, copying.share)
    return copy_s * longer / done if done > 0.0 else 0.0


class Change:
    """A change of plan under way, layer by layer.

    Parameters
    ----------
    copy_s
        Seconds of the copies of each layer with the links to themselves, ``[layers]``.
    copying
        The rules; asynchronous ones.
    """

    def __init__(self, copy_s: FloatArray, copying: Copying) -> None:
        self._copying = copying
        self._ends = np.cumsum(copy_s)
        self._layers = len(copy_s)
        self._done_s = 0.0
        self._wait_s = copying.host_s
        self._wait_steps = copying.async_steps or 0
        self.changed = 0

    def step(self, cost: StepCost) -> float:
        """Copy beside one step; return the seconds by which it is longer."""
        self._wait_steps -= 1
        waited = min(self._wait_s, cost.seconds)
        self._wait_s -= waited
        if self._wait_s > 0.0:
            return 0.0
        busy = 1.0 - (waited / cost.seconds if cost.seconds > 0.0 else 0.0)
        part = StepCost(*(busy * s for s in (cost.experts_s, cost.exchange_s, cost.even_s, cost.rest_s)))
        done, longer = beside(float(self._ends[-1]) - self._done_s, part, self._copying.share)
        self._done_s += done
        return longer

    def ready(self) -> int:
        """Layers that have changed when the next step starts; call it once between two steps."""
        if self._wait_steps > 0 or self._wait_s > 0.0:
            return self.changed
        # Rounding in sums of seconds must not hold a layer back.
        here = int(np.searchsorted(self._ends, self._done_s * (1.0 + 1e-12) + 1e-15, side="right"))
        most = self._copying.layers_per_step or self._layers
        self.changed = min(here, self.changed + most)
        return self.changed

    @property
    def over(self) -> bool:
        """Whether all layers have changed."""
        return self.changed == self._layers
