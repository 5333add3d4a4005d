"""A row: one published figure of a system, and how moesim arrives at the same quantity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from moesim.trace.types import RoutingTrace

#: Whether a row follows what the paper says or what the released code does.
VARIANTS = ("paper", "code")
#: Why a row is not reproduced: its source leaves out what decides it; we model the same thing and arrive
#: elsewhere; or we have no model of it.
CAUSES = ("missing specification", "disagreement", "our limit")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as somebody published it.

    Parameters
    ----------
    metric, unit
        What it is; ``x`` is a gain over the baseline, ``fraction`` a part saved.
    value
        The figure; None where the text that is held has none.
    high
        The upper end, where a range was published. The lower end is what is compared.
    baseline
        What a gain is over.
    grade
        ``P`` read in the primary text, ``S`` in notes on it, ``/SIM`` simulated by its authors.
    source, locator
        Where it is, and where in there.
    towards
        Where only a direction is claimed and `value` is None: 1 for more than `neutral`, -1 for less.
    """

    metric: str
    unit: str
    value: float | None
    high: float | None = None
    baseline: str = ""
    grade: str = "P"
    source: str = ""
    locator: str = ""
    towards: int = 0

    @property
    def neutral(self) -> float | None:
        """The value that means neither gain nor loss; None for a figure that is no gain."""
        return {"x": 1.0, "fraction": 0.0}.get(self.unit)


@dataclass(frozen=True, slots=True)
class Assumption:
    """A number that the source does not give.

    Parameters
    ----------
    name
        As `Row.compute` asks for it.
    value
        What is taken.
    low, high
        What would be plausible too.
    why
        Where value and range come from.
    """

    name: str
    value: float
    low: float
    high: float
    why: str

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.name}: {self.value} is outside {self.low} to {self.high}")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What a row is computed from.

    Parameters
    ----------
    values
        Of the assumptions, by name.
    trace
        Routing that the user gave; None takes what is bundled or generated.
    seed
        Of everything random.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    trace: RoutingTrace | None = None
    seed: int = 0

    def __getitem__(self, name: str) -> float:
        return self.values[name]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of a system.

    Parameters
    ----------
    system
        Its name, as in ``moesim reproduce NAME``.
    name
        Of the row, unique in its system.
    figure
        What was published.
    compute
        Ours, in the unit of the figure; None where moesim has no model of it, for the `reason` given.
    kind
        ``offload``, ``cpu-gpu``, ``near-data``, ``wafer``, ``npu``, ``compression``, ``routing``,
        ``serving``, ``storage``, ``training``, ``placement``, ``planning``.
    slots
        The decisions that the system is made of.
    hardware, workload
        What the figure was measured on and with.
    assumed
        Everything that the source does not give, each with a range.
    routing
        The routing that is used where no trace is given; empty if the row needs none.
    headline
        Whether this is the one row that counts for its system.
    variant
        One of `VARIANTS`.
    reason
        Why ours differs, or what is missing.
    cause
        One of `CAUSES`, of a row that is not reproduced.
    claims
        The lines of ``claims.csv`` that the row answers.
    """

    system: str
    name: str
    figure: Figure
    compute: Callable[[Case], float] | None
    kind: str
    slots: str
    hardware: str = ""
    workload: str = ""
    assumed: tuple[Assumption, ...] = ()
    routing: str = ""
    headline: bool = False
    variant: str = "paper"
    reason: str = ""
    cause: str = ""
    claims: tuple[str, ...] = ()

    def central(self) -> dict[str, float]:
        """Assumptions as taken."""
        return {a.name: a.value for a in self.assumed}
