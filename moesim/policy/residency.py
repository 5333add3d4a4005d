"""Which experts stay in fast memory: the rule that orders victims, and how accesses are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moesim.errors import ConfigError, Fault, nearest

#: What orders the experts of a pool; the first in this order leaves. Their modules say how.
RULES = (
    "lru",
    "fifo",
    "lifo",
    "lfu",
    "mrs",
    "p-freq",
    "hobbit",
    "cost",
    "eam",
    "lru-ahead",
    "belady",
    "sch",
    "static",
)
POOLS = ("layer", "global", "device")
LOOKUPS = ("sequential", "token_batch")
COLD = ("charge", "free", "fill")
RESETS = ("never", "request")
STARTS = ("empty", "first", "random", "popular")


@dataclass(frozen=True, slots=True)
class Residency:
    """A rule and its conditions; all of them change the hit ratio and are kept with the result.

    Parameters
    ----------
    rule
        One of `RULES`, or the name of a plug-in: victim = first in its order among what is not protected.
    pool
        What shares slots: ``layer`` each layer its own, ``device`` all layers whose experts sit on one
        device, ``global`` all layers.
    lookup
        ``sequential`` looks up and loads one expert after the other; ``token_batch`` looks all experts of a
        cell up before any is loaded, and none of them can push out another.
    cold
        Whether the first access to an expert of a pool is charged as a miss or counted as a hit (``free``);
        ``fill`` counts it as a hit while the pool has a free slot.
    reset
        Whether the pool goes back to its start, and its records are forgotten, when a request ends.
    start
        What is resident at first: nothing, the first experts, random ones, or the most popular of a
        disjoint trace.
    parameters
        Of the rule, by name.
    """

    rule: str = "lru"
    pool: str = "layer"
    lookup: str = "sequential"
    cold: str = "charge"
    reset: str = "never"
    start: str = "empty"
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = []
        for name, allowed in (
            ("rule", RULES),
            ("pool", POOLS),
            ("lookup", LOOKUPS),
            ("cold", COLD),
            ("reset", RESETS),
            ("start", STARTS),
        ):
            value = getattr(self, name)
            known: tuple[str, ...] = allowed
            if name == "rule" and value not in known:
                from moesim.policy.registry import plug_ins

                known = (*RULES, *plug_ins("residency"))
            if value not in known:
                near = nearest(value, list(known), 1)
                hint = f"; nearest: {near[0]}" if near else ""
                faults.append(Fault("is unknown", name, value, ", ".join(known) + hint))
        if faults:
            raise ConfigError(faults)
