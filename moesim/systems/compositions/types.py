"""What a named composition is made from, and what it comes with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from moesim.errors import ConfigError, Fault
from moesim.policy import Composition
from moesim.systems.row import Assumption
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True)
class Shape:
    """What a composition has to know of trace and memory.

    Parameters
    ----------
    layers, experts, top_k
        Of the model.
    weights
        Whether the trace has router weights.
    slots
        Experts that fast memory holds, all layers together.
    """

    layers: int
    experts: int
    top_k: int
    weights: bool
    slots: int

    @classmethod
    def of(cls, trace: RoutingTrace, slots: int) -> Shape:
        """That of a trace."""
        layers, top_k = trace.topk_ids.shape[1:]
        return cls(layers, trace.num_experts, top_k, trace.topk_weights is not None, slots)

    @property
    def per_layer(self) -> int:
        """Slots of a layer where each has as many, at least 1."""
        return max(self.slots // max(self.layers, 1), 1)


@dataclass(slots=True)
class Asked:
    """Collects what a builder has to assume and what it goes without.

    Parameters
    ----------
    values
        What the user sets instead of the assumed values, by name.
    assumed
        So far.
    lacks
        What the system knows and a trace does not, in words, with what stands in.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    assumed: list[Assumption] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)

    def take(self, name: str, value: float, low: float, high: float, why: str) -> float:
        """A number that no source gives for this trace: the user's, or else `value`."""
        self.assumed.append(Assumption(name, value, low, high, why))
        return float(self.values.get(name, value))

    def without(self, what: str) -> None:
        """Say what the trace does not hold."""
        self.lacks.append(what)


#: Makes the composition of one variant.
Builder = Callable[[Shape, Asked], Composition]


@dataclass(frozen=True, slots=True)
class System:
    """An entry of the table.

    Parameters
    ----------
    name
        As the user types it.
    summary
        Its slots in words.
    paper, code
        Builders of what the paper says and what the released code does; None where the two agree or no code
        was read.
    learns
        Whether it has tables that come from a disjoint trace.
    cached
        Whether fast memory keeps experts; else none stays after its use.
    """

    name: str
    summary: str
    paper: Builder
    code: Builder | None = None
    learns: bool = False
    cached: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """A composition with what it assumes.

    Parameters
    ----------
    system
        Its entry.
    variant
        ``paper`` or ``code``.
    composition
        To be replayed; `Composition.fit` first where the system learns.
    assumed
        Numbers that no source gives for this trace, with ranges.
    lacks
        What the trace does not hold.
    """

    system: System
    variant: str
    composition: Composition
    assumed: tuple[Assumption, ...]
    lacks: tuple[str, ...]


def made(system: System, variant: str, shape: Shape, values: Mapping[str, float]) -> Named:
    """Build one variant of an entry.

    Raises
    ------
    ConfigError
        If a value is set that the system does not assume, or cannot work with.
    """
    asked = Asked(values)
    if wrong := [
        Fault("is no number", "--assume", f"{n}={v}") for n, v in values.items() if not math.isfinite(v)
    ]:
        raise ConfigError(wrong)
    builder = system.code if variant == "code" and system.code is not None else system.paper
    try:
        composition = builder(shape, asked)
    except (ArithmeticError, ValueError) as error:
        if not values:
            raise
        given = ", ".join(f"{n}={v:g}" for n, v in values.items())
        raise ConfigError(Fault(f"does not take these values: {error}", system.name, given)) from error
    known = [a.name for a in asked.assumed]
    faults = [
        Fault(f"is no assumption of {system.name}", name, value, ", ".join(known) or "none")
        for name, value in values.items()
        if name not in known
    ]
    if faults:
        raise ConfigError(faults)
    return Named(system, variant, composition, tuple(asked.assumed), tuple(asked.lacks))
