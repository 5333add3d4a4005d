"""The nouns of a plan: what is promised, for which traffic, what may be rented, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moesim.hardware import Hardware
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.parallelism import Parallelism
from moesim.model import Model
from moesim.prediction import Engine
from moesim.requests import RequestTrace

#: What became of a candidate: memory too small; a provable bound misses a limit; the steady state misses one
#: or cannot keep up; it holds in steady state; the simulator agrees; the simulator disagrees.
UNFIT, BEYOND_BOUND, TOO_SLOW, RANKED, CONFIRMED, REFUTED = (
    "unfit",
    "beyond-bound",
    "too-slow",
    "ranked",
    "confirmed",
    "refuted",
)


@dataclass(frozen=True, slots=True)
class Slo:
    """A promise: so many of all requests stay below every limit.

    Parameters
    ----------
    limits
        Seconds by ``ttft_s``, ``tpot_s``, ``e2el_s``.
    attainment
        Share of requests that must meet all limits at once.
    name
        Of a preset; empty otherwise.
    """

    limits: Mapping[str, float]
    attainment: float = 0.99
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Requests to serve, and their mean rate.

    Parameters
    ----------
    requests
        A trace, or made up; what the simulator replays.
    request_rate
        Requests per second, on average.
    """

    requests: RequestTrace
    request_rate: float


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """Something that could be rented and started.

    Parameters
    ----------
    hardware
        As many nodes as one replica (or one pair of pools) needs.
    layout
        Of one replica, or two pools.
    replicas
        How many of it.
    redundant
        Physical experts beyond one of each.
    """

    model: Model
    hardware: Hardware
    layout: Parallelism | Disaggregated
    replicas: int
    engine: Engine
    redundant: int = 0

    @property
    def devices(self) -> int:
        """Devices of all replicas that are rented: whole nodes."""
        each = -(-self.layout.world // self.hardware.devices_per_node) * self.hardware.devices_per_node
        if self.hardware.devices_per_node % self.layout.world == 0:
            fitting = self.hardware.devices_per_node // self.layout.world
            return -(-self.replicas // fitting) * self.hardware.devices_per_node
        return each * self.replicas


@dataclass(frozen=True, slots=True, eq=False)
class Assessment:
    """What is known of a candidate.

    Parameters
    ----------
    status
        One of the names above.
    reason
        Which limit or resource decides, and by how much; empty where nothing is wrong.
    metrics
        Means and percentiles in seconds, throughputs, ``attainment``, by name, as far as they are known.
    interval
        Lowest and highest value expected, by metric.
    usd_per_hour
        None without a price.
    """

    candidate: Candidate
    status: str
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    usd_per_hour: float | None = None
