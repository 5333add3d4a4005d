"""In which precision an expert is wanted: when it is missed, when it is fetched ahead, and for good."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace

#: The level of an access that is left out.
SKIP = -1


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Precisions of the accesses of given steps.

    Parameters
    ----------
    bits
        Bits per weight of each level, best first, float64 ``[levels]``. Where levels are `nested`, those of
        the level and of all levels it is built on.
    wanted
        Level of each access, int8 ``[accesses]``; `SKIP` leaves it out.
    misses_only
        Whether the level is only what a miss loads: what is resident in a better one is used as it is.
    prefetch_level
        Level in which experts are fetched ahead; the static level of the expert where `static` is given.
    static
        Level of each expert for good, int8 ``[layers, experts]``, or None where it is chosen per access.
    nested
        Whether a level is the next lower one plus a residual, so that only the difference is loaded.
    """

    bits: npt.NDArray[np.float64]
    wanted: npt.NDArray[np.int8]
    misses_only: bool = False
    prefetch_level: int = 0
    static: npt.NDArray[np.int8] | None = None
    nested: bool = False


@runtime_checkable
class Precision(Protocol):
    """Says in how many bits an expert is wanted."""

    def fit(self, train: RoutingTrace) -> Precision:
        """The same with its tables learnt from `train`, which shares no request with what is replayed."""
        ...

    def levels(self, steps: Steps) -> Levels:
        """Levels of every access of the steps."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Every expert in the same precision, always: what is read from the model, or QMoE's ratio.

    Parameters
    ----------
    bits
        Bits per weight, scales and zero points included.

    Examples
    --------
    QMoE stores 16-bit weights at a twentieth (Frantar and Alistarh 2023, arXiv 2310.16795: 20.07x).

    >>> round(Constant(16 / 20.07).bits, 3)
    0.797
    """

    bits: float = 16.0

    def __post_init__(self) -> None:
        if not 0 < self.bits < math.inf:
            raise ConfigError(Fault("is no width", "bits", self.bits, "above 0"))

    def fit(self, train: RoutingTrace) -> Constant:  # noqa: ARG002
        """Itself; nothing is learnt."""
        return self

    def levels(self, steps: Steps) -> Levels:
        """Level 0 everywhere."""
        return Levels(np.array([self.bits]), np.zeros(steps.accesses, np.int8))
