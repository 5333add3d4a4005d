"""The nouns of a plan: what is promised, for which traffic, what may be rented, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moesim.errors import Fault
from moesim.hardware import Hardware
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.parallelism import Parallelism
from moesim.model import Model
from moesim.prediction import Engine
from moesim.requests import RequestTrace
from moesim.tabular import Tabular, rows_to_columns

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
        node, world = self.hardware.devices_per_node, self.layout.world
        fitting = node // world
        nodes = -(-self.replicas // fitting) if fitting else -(-world // node) * self.replicas
        return nodes * node


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


@dataclass(frozen=True, slots=True)
class Space:
    """What may be tried; every tuple lists alternatives.

    Parameters
    ----------
    nodes
        Nodes of one replica; empty for 1, 2, 4, ... as far as `max_devices` goes.
    max_devices
        Devices of one replica at most.
    tp, pp, dp, ep
        Degrees of parallelism; empty for all that are valid.
    dtypes, kv_dtypes
        Data types of weights and cache.
    redundant
        Physical experts beyond one of each.
    chunk_tokens, max_sequences
        Of `moesim.prediction.Engine`: tokens of a step, and sequences, of a data-parallel rank.
    modes
        ``aggregated``, ``disaggregated`` or both.
    engine
        All other settings.
    most_devices, most_usd_per_hour
        What all replicas together may take.
    """

    nodes: tuple[int, ...] = ()
    max_devices: int = 64
    tp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    dp: tuple[int, ...] = ()
    ep: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ("auto",)
    kv_dtypes: tuple[str, ...] = ("auto",)
    redundant: tuple[int, ...] = (0,)
    chunk_tokens: tuple[int, ...] = (2048, 8192, 16384)
    max_sequences: tuple[int, ...] = (64, 256, 1024)
    modes: tuple[str, ...] = ("aggregated",)
    engine: Engine = field(default_factory=Engine)
    most_devices: int | None = None
    most_usd_per_hour: float | None = None

    def faults(self) -> list[Fault]:
        """What is wrong with it."""
        found = self.engine.faults()
        for name in ("nodes", "tp", "pp", "dp", "ep", "chunk_tokens", "max_sequences"):
            found += [
                Fault("must be a positive whole number", f"--{name.replace('_', '-')}", value, "1, 2, 3, ...")
                for value in getattr(self, name)
                if value < 1
            ]
        found += [
            Fault("must not be negative", "--redundant", value, "0, 1, 2, ...")
            for value in self.redundant
            if value < 0
        ]
        for name, least in (("max_devices", 1), ("most_devices", 1), ("most_usd_per_hour", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                found.append(Fault(f"must be at least {least}", f"--{name.replace('_', '-')}", value))
        for name in ("dtypes", "kv_dtypes", "redundant", "chunk_tokens", "max_sequences", "modes"):
            if not getattr(self, name):
                found.append(Fault("lists nothing to try", f"--{name.replace('_', '-')}"))
        found += [
            Fault("unknown mode", "--modes", mode, ", ".join(MODES))
            for mode in self.modes
            if mode not in MODES
        ]
        return found


#: How prefill and decode share devices.
MODES = ("aggregated", "disaggregated")


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """Configurations that fail for one reason.

    Parameters
    ----------
    status
        Of all of them.
    what
        The limit or resource that decides: ``ttft_s``, ``memory hbm``, ``request rate``, ``budget``.
    count
        How many there are.
    nearest
        The one that misses by least.
    examples
        A few, nearest first.
    """

    status: str
    what: str
    count: int
    nearest: Assessment
    examples: tuple[Assessment, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PlanResult(Tabular):
    """A plan, and what else was looked at.

    Parameters
    ----------
    best
        The cheapest that holds.
    ranked
        By the steady state, cheapest first.
    confirmed, refuted
        What the simulator agreed with, cheapest first, and what it did not.
    pareto
        Those that no other beats in everything.
    refused
        Why the others fail.
    searched
        How many configurations there were, by what became of them.
    seconds
        CPU seconds of ``search`` and ``confirm``.
    notes
        What a reader has to know.
    slo, traffic
        What was promised, for which requests; None where it is not kept.
    """

    best: Assessment
    ranked: tuple[Assessment, ...]
    confirmed: tuple[Assessment, ...]
    refuted: tuple[Assessment, ...]
    pareto: tuple[Assessment, ...]
    refused: tuple[Refusal, ...]
    searched: Mapping[str, int]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    slo: Slo | None = None
    traffic: Traffic | None = None

    def to_dict(self) -> dict[str, Any]:
        """What ``moesim plan --json`` prints of it: no launch commands, nothing of what more would buy.

        Raises
        ------
        ValueError
            If promise or traffic were not kept.
        """
        from moesim.planning.document import document_of

        if self.slo is None or self.traffic is None:
            raise ValueError("a plan without its promise and traffic has no document")
        hardware = {one.candidate.hardware.name: one.candidate.hardware for one in (self.best, *self.ranked)}
        found = document_of(self, self.traffic, self.slo, list(hardware.values()))
        return {"kind": "plan", **found, "warnings": list(self.notes)}

    def columns(self) -> dict[str, list[Any]]:
        """A row per candidate, the best first; of those that fail, examples."""
        from moesim.planning.document import rows_of

        return rows_to_columns(rows_of(self))

    def _repr_html_(self) -> str:
        from moesim.planning.shown import html_of

        return html_of(self)
