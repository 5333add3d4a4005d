"""The table of named compositions."""

from __future__ import annotations

from collections.abc import Mapping

from moesim.errors import ConfigError, Fault, UnknownNameError
from moesim.systems.compositions import caching, compressing, executing
from moesim.systems.compositions.types import Named, Shape, System, made
from moesim.systems.row import VARIANTS
from moesim.trace.types import RoutingTrace

_SYSTEMS = {s.name: s for s in (*caching.SYSTEMS, *compressing.SYSTEMS, *executing.SYSTEMS)}


def compositions() -> tuple[System, ...]:
    """Every named composition."""
    return tuple(_SYSTEMS.values())


def find(name: str) -> System:
    """The system of a name; case, blanks and signs do not matter.

    Raises
    ------
    ConfigError
        If there is none; the nearest names are told.
    """
    known = {_folded(s): s for s in _SYSTEMS}
    if _folded(name) not in known:
        raise UnknownNameError("system", name, list(_SYSTEMS))
    return _SYSTEMS[known[_folded(name)]]


def named(
    name: str,
    trace: RoutingTrace,
    slots: int,
    variant: str = "paper",
    values: Mapping[str, float] | None = None,
) -> Named:
    """A system as a composition for a trace.

    Parameters
    ----------
    name
        As in `compositions`; case, blanks and signs do not matter.
    trace
        What is replayed: its shape, and whether it has router weights.
    slots
        Experts that fast memory holds, all layers together.
    variant
        ``paper`` or ``code``; where no code was read, or it does what the paper says, both are the same.
    values
        Instead of assumed ones, by name.

    Raises
    ------
    ConfigError
        If system, variant or a value is unknown; the nearest names are told.

    Examples
    --------
    >>> from moesim.trace import load_trace
    >>> trace = load_trace("traces/gpt-oss-20b-synthetic.npz")
    >>> found = named("MoE-Infinity", trace, slots=192, variant="code")
    >>> found.composition.residency.rule, found.composition.predictor
    ('lfu', None)
    """
    if variant not in VARIANTS:
        raise ConfigError(Fault("is unknown", "--variant", variant, ", ".join(VARIANTS)))
    system = find(name)
    return made(system, variant, Shape.of(trace, slots), values or {})


def _folded(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
