"""Which kernel replays which rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from moesim.errors import ConfigError, Fault
from moesim.residency.kernels.accesses import Outcomes, PoolAccesses

Kernel = Callable[[PoolAccesses, Outcomes], None]

_HERE = "moesim.residency.kernels"


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a rule's kernel is, and what it wants.

    Parameters
    ----------
    kernel
        ``module:function`` below this package, loaded when it is first asked for: numba is slow to load.
    parameters
        Names it takes, with their defaults.
    weights
        Whether it reads router weights.
    cells
        Whether it asks in sequential lookup too which accesses are of one cell.
    """

    kernel: str
    parameters: Mapping[str, float]
    weights: bool = False
    cells: bool = True

    def load(self) -> Kernel:
        """The kernel."""
        module, _, name = self.kernel.partition(":")
        found: Kernel = getattr(import_module(f"{_HERE}.{module}"), name)
        return found


KERNELS: dict[str, Rule] = {
    "lru": Rule("lru:lru", {}, cells=False),
    "fifo": Rule("fifo:fifo", {}, cells=False),
    "lifo": Rule("lifo:lifo", {}, cells=False),
    # keep: counts outlive eviction; window: counts start anew with each request.
    "lfu": Rule("lfu:lfu", {"keep": 0, "window": 0}, cells=False),
    # bypass: an expert that is needed later than all that is held is used and not kept.
    "belady": Rule("belady:belady", {"bypass": 0}, cells=False),
    # alpha: part of the newest router weights.
    "mrs": Rule("mrs:mrs", {"alpha": 0.5}, weights=True),
    # keep: lookups are counted on after eviction; truncate: to whole numbers, as in fMoE's code.
    "p-freq": Rule("scored:p_freq", {"keep": 0, "truncate": 0}, weights=True),
    # Weights of recency, frequency, use at high precision, layer distance; high: its share of router weight.
    "hobbit": Rule("scored:hobbit", {"lru": 0.25, "lfu": 0.25, "lhu": 0.25, "fld": 0.25, "high": 0.6}, True),
    # frequency: lookups since the load multiply cost over size.
    "cost": Rule("scored:cost", {"frequency": 1}),
    # window: steps that are looked ahead.
    "sch": Rule("scored:sch", {"window": 16}),
    "eam": Rule("scored:eam", {}),
    # layers: from the present one on, that are kept if others can go; loaded: by the time of the load.
    "lru-ahead": Rule("scored:lru_ahead", {"layers": 3, "loaded": 0}),
    "static": Rule("lifo:static", {}, cells=False),
}


def rule_of(name: str) -> Rule:
    """The rule of that name.

    Raises
    ------
    ConfigError
        If no kernel replays it.
    """
    if name not in KERNELS:
        raise ConfigError(Fault("cannot be replayed", "rule", name, ", ".join(sorted(KERNELS))))
    return KERNELS[name]


def parameter_faults(name: str, parameters: Mapping[str, float]) -> list[Fault]:
    """What is wrong with the parameters of a rule that has a kernel."""
    allowed = KERNELS[name].parameters
    return [
        Fault(f"is no parameter of {name}", key, value, ", ".join(allowed) or "none")
        for key, value in parameters.items()
        if key not in allowed
    ]
