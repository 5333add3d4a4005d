"""Replay of a trace through a cache of experts: what hits, what does not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from dataclasses import replace as change
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy import RULES, Residency, Steps, token_steps
from moesim.residency.kernels.accesses import FIRST, FULL, HIT, Ids, Outcomes, PoolAccesses
from moesim.residency.kernels.table import parameter_faults, rule_of
from moesim.residency.pools import accesses_of, pools_of, starts_of
from moesim.shown import block, table
from moesim.tabular import Tabular
from moesim.trace.types import RoutingTrace

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Replayed(Tabular):
    """What a cache made of a trace.

    Parameters
    ----------
    residency
        The rule and its conditions.
    slots
        Slots of each pool, int64 ``[pools]``.
    hits, accesses
        By layer, int64 ``[layers]``. Where first accesses are free, they are hits.
    cold
        Accesses by layer that found an expert not there that had never been, int64 ``[layers]``; charged as
        misses or not.
    evictions
        By layer of what came in: misses for which something left a full pool, or that passed through it,
        int64 ``[layers]``.
    seconds
        The replay took, of this process's CPU time.
    expert_bytes
        Bytes of one expert, if they were given.
    """

    residency: Residency
    slots: Ints
    hits: Ints
    accesses: Ints
    cold: Ints
    evictions: Ints
    seconds: float
    expert_bytes: float | None = None

    @property
    def misses(self) -> Ints:
        """Accesses that are no hits, by layer, int64 ``[layers]``."""
        return self.accesses - self.hits

    @property
    def hit_ratio(self) -> float:
        """Hits over accesses, all layers."""
        return float(self.hits.sum() / max(self.accesses.sum(), 1))

    @property
    def bytes_moved(self) -> float | None:
        """Bytes that misses moved; None without the size of an expert."""
        return None if self.expert_bytes is None else float(self.misses.sum() * self.expert_bytes)

    def columns(self) -> dict[str, Any]:
        """A row per MoE layer."""
        return {
            "layer": np.arange(len(self.hits)),
            "hits": self.hits,
            "accesses": self.accesses,
            "cold": self.cold,
            "evictions": self.evictions,
            "hit_ratio": self.hits / np.maximum(self.accesses, 1),
        }

    def _repr_html_(self) -> str:
        moved = self.bytes_moved
        rows = [
            ("accesses", int(self.accesses.sum())),
            ("hits", int(self.hits.sum())),
            ("hit ratio", self.hit_ratio),
            ("first accesses", int(self.cold.sum())),
            ("evictions", int(self.evictions.sum())),
            *([("moved, GB", moved / 1e9)] if moved is not None else []),
        ]
        return block(
            f"{self.residency.rule} with {int(self.slots.sum()):,} slots in {len(self.slots)} pools",
            table(["", "all layers"], rows),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        r = self.residency
        return {
            "policy": r.rule,
            "conditions": {n: getattr(r, n) for n in ("pool", "lookup", "cold", "reset", "start")}
            | {"parameters": dict(r.parameters)},
            "slots": int(self.slots.sum()),
            "slots_per_pool": self.slots.tolist(),
            "hits": int(self.hits.sum()),
            "misses": int(self.misses.sum()),
            "cold_misses": int(self.cold.sum()),
            "evictions": int(self.evictions.sum()),
            "accesses": int(self.accesses.sum()),
            "hit_ratio": self.hit_ratio,
            "hits_per_layer": self.hits.tolist(),
            "accesses_per_layer": self.accesses.tolist(),
            "expert_bytes": self.expert_bytes,
            "bytes_moved": self.bytes_moved,
            "seconds": self.seconds,
        }


@compiled
def _count(out: Outcomes, items: Ids, layer_of: npt.NDArray[np.int64], found: Ints) -> None:
    """Add outcomes up by layer: accesses of each of the eight, int64 ``[layers, 8]``."""
    for i in range(len(items)):
        found[layer_of[items[i]], out[i]] += 1


@compiled
def _count_one(out: Outcomes, found: Ints) -> None:
    """The same of a single layer, int64 ``[8]``."""
    hits, first, full, both = 0, 0, 0, 0
    for i in range(len(out)):
        code = out[i]
        hits += code & 1
        first += (code >> 1) & 1
        full += (code >> 2) & 1
        both += (code >> 1) & (code >> 2) & 1
    found[HIT] += hits
    found[FIRST | FULL] += both
    found[FIRST] += first - both
    found[FULL] += full - both
    found[0] += len(out) - hits - first - full + both


@compiled
def _without_slots(items: Ids, ends: Ints, members: int, out: Outcomes) -> None:
    """Outcomes where there is no room at all, whatever the rule."""
    seen = np.zeros(members, np.bool_)
    for segment in range(len(ends) - 1):
        seen[:] = False
        for i in range(ends[segment], ends[segment + 1]):
            out[i] = FULL if seen[items[i]] else FULL | FIRST
            seen[items[i]] = True


def outcomes(accesses: PoolAccesses, rule: str) -> Outcomes:
    """What becomes of each access to a pool: bits `HIT`, `FIRST` and `FULL`, uint8 ``[accesses]``."""
    out = np.zeros(len(accesses.items), np.uint8)
    if accesses.slots == 0:
        _without_slots(accesses.items, accesses.ends, accesses.num_members, out)
    else:
        rule_of(rule).load()(accesses, out)
    return out


def _compile(residency: Residency, kind: np.dtype[Any], weights: bool) -> None:
    """Replay one access, so that compiling is in nobody's seconds."""
    one = PoolAccesses(
        items=np.zeros(1, kind),
        cells=np.array([0, 1]),
        requests=np.array([0, 1]),
        members=np.zeros(1, np.int64),
        slots=1,
        start=np.zeros(0, np.int32),
        batch=residency.lookup == "token_batch",
        reset=residency.reset == "request",
        parameters=residency.parameters,
        cell_layers=np.zeros(1, np.int32),
        cell_steps=np.zeros(1, np.int32),
        weights=np.zeros(1, np.float32) if weights else None,
    )
    out = outcomes(one, residency.rule)
    _count_one(out, np.zeros(8, np.int64))


def _prices(
    residency: Residency, shape: tuple[int, int], expert_bytes: float | None, **given: npt.ArrayLike | None
) -> dict[str, npt.NDArray[np.float64]]:
    """Sizes and costs by member, float64 ``[layers * experts]``, of those that are given."""
    found = {name: np.asarray(v, np.float64) for name, v in given.items() if v is not None}
    faults = []
    for name, values in found.items():
        if values.shape != shape or not ((values > 0) & np.isfinite(values)).all():
            faults.append(
                Fault("is not a number above 0 of each expert", name, list(values.shape), str(shape))
            )
        if residency.rule != "cost" or residency.start != "empty":
            faults.append(Fault("is for the rule cost from an empty start", name, residency.rule))
    if "sizes" in found and expert_bytes is not None:
        faults.append(
            Fault("is of experts that are alike; these differ in size", "expert_bytes", expert_bytes)
        )
    if faults:
        raise ConfigError(faults)
    return {name: values.reshape(-1) for name, values in found.items()}


def _replay_plugged(
    steps: Steps | RoutingTrace, residency: Residency, slots: npt.ArrayLike, expert_bytes: float | None
) -> Replayed:
    """Replay a rule that another package brings, in Python."""
    from moesim.policy.registry import construct
    from moesim.residency.plugged import replay_keyed

    formed = token_steps(steps) if isinstance(steps, RoutingTrace) else steps
    of_pools = pools_of(residency, formed.layers, formed.num_experts, slots).slots
    rule = construct("residency", residency.rule, residency.parameters)
    return change(replay_keyed(formed, rule, of_pools, residency), expert_bytes=expert_bytes)


def replay(
    steps: Steps | RoutingTrace,
    residency: Residency,
    slots: npt.ArrayLike,
    *,
    devices: npt.ArrayLike | None = None,
    popular: npt.ArrayLike | None = None,
    seed: int = 0,
    expert_bytes: float | None = None,
    sizes: npt.ArrayLike | None = None,
    costs: npt.ArrayLike | None = None,
) -> Replayed:
    """Replay steps through pools of experts.

    Parameters
    ----------
    steps
        Accesses; or a trace, which is replayed token by token and read in place.
    residency
        The rule and its conditions.
    slots
        Slots of each pool, ``[pools]``, or of every pool: one pool per layer, per device, or in all.
    devices
        Device of each expert, ``[experts]`` or ``[layers, experts]``, for pools per device.
    popular
        How often each expert was chosen in a disjoint trace, ``[layers, experts]``, for a start with the most
        popular.
    seed
        Of a random start.
    expert_bytes
        Bytes of one expert, for the bytes that are moved.
    sizes, costs
        Slots that each expert takes and what loading it costs, ``[layers, experts]``; for the rule ``cost``,
        from an empty start.

    Raises
    ------
    ConfigError
        If the rule has no kernel, a parameter is unknown, or an argument does not fit.

    Examples
    --------
    One layer, two slots; LRU keeps 2 when 0 comes, the farthest-next-use rule keeps 1:

    >>> import numpy as np
    >>> ids = np.array([1, 2, 0, 1, 2], np.uint8)[:, None, None]
    >>> zeros = np.zeros(5, np.int32)
    >>> trace = RoutingTrace(ids, zeros, 3, (0,), np.arange(5, dtype=np.int32), np.ones(5, np.int8))
    >>> found = replay(trace, Residency("lru"), 2)
    >>> found.hits.tolist(), found.misses.tolist(), found.cold.tolist(), found.evictions.tolist()
    ([0], [5], [3], [3])
    >>> replay(trace, Residency("belady"), 2).hits.tolist()
    [1]
    """
    if residency.rule not in RULES:
        return _replay_plugged(steps, residency, slots, expert_bytes)
    rule = rule_of(residency.rule)
    if faults := parameter_faults(residency.rule, residency.parameters):
        raise ConfigError(faults)
    if expert_bytes is not None and not 0 < expert_bytes < np.inf:
        raise ConfigError(Fault("is not above 0", "expert_bytes", expert_bytes))
    layers = steps.topk_ids.shape[1] if isinstance(steps, RoutingTrace) else steps.layers
    priced = _prices(residency, (layers, steps.num_experts), expert_bytes, sizes=sizes, costs=costs)
    pools = pools_of(residency, layers, steps.num_experts, slots, devices)
    starts = starts_of(residency, pools, popular, seed)
    kind = steps.topk_ids.dtype if isinstance(steps, RoutingTrace) else np.dtype(np.uint8)
    _compile(residency, kind, rule.weights)
    began = time.process_time()
    found = np.zeros((layers, 8), np.int64)
    full = np.zeros(layers, np.int64)
    free = np.zeros(layers, np.int64)
    cells = rule.cells or residency.lookup == "token_batch"
    for one in accesses_of(steps, residency, pools, starts, rule.weights, cells):
        if priced:
            of = {name: values[one.members] for name, values in priced.items()}
            one = change(one, sizes=of.get("sizes"), costs=of.get("costs"))
        out = outcomes(one, residency.rule)
        layer_of = one.members // steps.num_experts
        mine = np.zeros((layers, 8), np.int64)
        if residency.pool == "layer":
            _count_one(out, mine[layer_of[0]])
        else:
            _count(out, one.items, layer_of, mine)
        found += mine
        if one.slots and residency.rule != "static":
            full += mine[:, FULL] + mine[:, FULL | FIRST]
        free += mine[:, FIRST] if one.slots else 0
    cold = found[:, FIRST] + found[:, FIRST | FULL]
    extra = {"charge": 0 * cold, "free": cold, "fill": free}[residency.cold]
    return Replayed(
        residency=residency,
        slots=pools.slots,
        hits=found[:, HIT] + extra,
        accesses=found.sum(axis=1),
        cold=cold,
        evictions=full,
        seconds=time.process_time() - began,
        expert_bytes=expert_bytes,
    )
