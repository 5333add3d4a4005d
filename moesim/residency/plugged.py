"""Replay of a residency rule written in Python: every condition, but slow."""

from __future__ import annotations

import math
import time

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.policy import Residency, Steps
from moesim.policy.keyed import Keyed
from moesim.residency.replay import Replayed


def replay_keyed(
    steps: Steps, rule: Keyed, slots: npt.NDArray[np.int64], conditions: Residency | None = None
) -> Replayed:
    """Replay steps through pools whose victims a Python object chooses.

    Parameters
    ----------
    steps
        Accesses.
    rule
        Keys; asked about residents only.
    slots
        Slots of each pool, int64 ``[pools]``: one per layer, or one in all.
    conditions
        Pool, lookup, cold misses and resets; its rule is not used. Pools start empty.

    Returns
    -------
    Replayed
        With the conditions as given.

    Notes
    -----
    With ``token_batch`` lookup the hits of a cell are known before anything is loaded, and what the cell asks
    for is not evicted while another resident is left; where a cell asks for more than the pool holds, the
    rest of its misses pass through without a slot.
    """
    residency = Residency() if conditions is None else conditions
    faults = []
    if residency.start != "empty":
        faults.append(Fault("is not replayed with a rule in Python", "start", residency.start, "empty"))
    if residency.pool == "device":
        faults.append(Fault("is not replayed with a rule in Python", "pool", "device", "layer, global"))
    pools = steps.layers if residency.pool == "layer" else 1
    if len(slots) != pools:
        faults.append(Fault("needs one number for each pool", "slots", len(slots), str(pools)))
    if faults:
        raise ConfigError(faults)
    began = time.perf_counter()
    resident: list[set[tuple[int, int]]] = [set() for _ in slots]
    seen: set[tuple[int, int]] = set()
    hits, cold, evictions = np.zeros((3, steps.layers), np.int64)
    batch, free = residency.lookup == "token_batch", residency.cold == "free"
    last = None
    for cell in range(len(steps.starts) - 1):
        step, layer = divmod(cell, steps.layers)
        if layer == 0 and residency.reset == "request":
            if last is not None and steps.request[step] != last:
                for pool in resident:
                    pool.clear()
                seen.clear()
                getattr(rule, "reset", lambda: None)()
            last = steps.request[step]
        place = layer if residency.pool == "layer" else 0
        pool, room = resident[place], int(slots[place])
        span = range(int(steps.starts[cell]), int(steps.starts[cell + 1]))
        asked = [(layer, int(steps.experts[a])) for a in span]
        there = [item in pool for item in asked]
        protected = set(asked) if batch else set()
        for at, item in zip(span, asked, strict=True):
            hit = there[at - span.start] if batch else item in pool
            hits[layer] += hit or (free and item not in seen)
            cold[layer] += not hit and item not in seen
            seen.add(item)
            weight = math.nan if steps.weights is None else float(steps.weights[at])
            rule.touched(*item, step, hit, weight)
            if item in pool or room == 0:
                continue
            if len(pool) >= room:
                evictions[layer] += 1
                leaving = pool - protected
                if not leaving:
                    continue
                pool.remove(min(leaving, key=lambda x: (rule.key(*x), x)))
            pool.add(item)
            rule.loaded(*item, step)
    cells = np.diff(steps.starts).reshape(-1, steps.layers)
    seconds = time.perf_counter() - began
    return Replayed(residency, slots, hits, cells.sum(axis=0), cold, evictions, seconds)
