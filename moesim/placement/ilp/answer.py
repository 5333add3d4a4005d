"""What an exact method returns, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.placement.solvers.greedy import FloatArray, IntArray

#: ``optimal``: within the tolerance asked for, proven. ``feasible``: a plan that is not proven to be.
#: ``time limit``: a plan, and the time is over. ``none``: no plan was found.
STATUS = ("optimal", "feasible", "time limit", "none")


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a solver that is running.

    Parameters
    ----------
    layer
        MoE layer being solved; -1 where all layers are one problem.
    incumbent, bound
        Best objective found and best bound proven, in the unit of the objective; infinite if none.
    seconds
        Wall time since the method started.
    """

    layer: int
    incumbent: float
    bound: float
    seconds: float


Listener = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A plan, what it is worth and what is proven.

    Parameters
    ----------
    table
        physical_to_logical, int64 ``[layers, slots]``.
    value
        Of the objective, float64 ``[layers]``; or ``[1]`` where layers do not separate.
    bound
        What no plan can be below, of the shape and unit of `value`.
    kind
        The argument behind each bound.
    status
        One of `STATUS` for each.
    seconds
        Wall time.
    """

    table: IntArray
    value: FloatArray
    bound: FloatArray
    kind: tuple[str, ...]
    status: tuple[str, ...]
    seconds: float

    @property
    def gap(self) -> FloatArray:
        """``value / bound - 1``, of the shape of `value`: nothing is better by more."""
        some = self.bound > 0
        ratio = np.divide(self.value, self.bound, out=np.ones_like(self.value), where=some)
        ratio[~some & (self.value > 0)] = np.inf
        return np.maximum(ratio - 1.0, 0.0)
