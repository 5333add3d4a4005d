"""Every rule and condition in plain Python: slow, and written from the definitions alone.

A pool is a list of experts. An access, or with a batch lookup a whole cell, is looked up, recorded and taken
in; while the pool then holds too many, experts outside the cell leave first, in the order of the rule.
"""

from __future__ import annotations

import bisect
import itertools

import numpy as np

from moesim.policy import Residency, Steps
from moesim.residency.pools import pools_of, starts_of

NEVER = 10**9


def layers_of(steps: Steps) -> list[list[list[tuple[int, int]]]]:
    """Of each step, its cells as lists of (layer, expert)."""
    found = []
    for step in range(steps.num_steps):
        cells = []
        for layer in range(steps.layers):
            lo, hi = steps.starts[step * steps.layers + layer : step * steps.layers + layer + 2]
            cells.append([(layer, int(e)) for e in steps.experts[lo:hi]])
        found.append(cells)
    return found


class Pool:
    """What one pool holds, with records of all its experts."""

    def __init__(self, slots: int, start: list[tuple[int, int]], residency: Residency):
        self.slots, self.start, self.residency = slots, start, residency
        self.clock = -len(start)
        self.restart()

    def restart(self) -> None:
        self.held = list(self.start)
        self.seen = set(self.start)
        self.came, self.used, self.count = {}, {}, {}
        for expert in self.start:
            self.came[expert] = self.used[expert] = self.clock
            self.clock += 1

    def order(self, expert, after):
        """The smallest leaves first."""
        rule = self.residency.rule
        if rule == "lru":
            return self.used[expert]
        if rule == "fifo":
            return self.came[expert]
        if rule == "lifo":
            return -self.came[expert]
        if rule == "lfu":
            return (self.count.get(expert, 0), self.used[expert])
        return -after.get(expert, NEVER)

    def ask(self, cell, after):
        """Look a cell up: hits, first accesses, first accesses with a free slot, loads into a full pool."""
        rule, parameters = self.residency.rule, self.residency.parameters
        hits = [e for e in cell if e in self.held]
        misses = [e for e in cell if e not in self.held]
        first = [e for e in misses if e not in self.seen]
        room = max(self.slots - len(self.held), 0)
        filled = [e for e in misses[:room] if e in first]
        full = len(misses) - len(misses[:room])
        for e in cell:
            self.seen.add(e)
            self.used[e] = self.clock
            self.clock += 1
            if e in misses:
                self.came[e] = self.clock
        for e in hits + misses:
            self.count[e] = self.count.get(e, 0) + 1
        if rule == "static":
            self.held += misses[:room]
            return hits, first, filled, full
        bypass = rule == "belady" and parameters.get("bypass", 0)
        for e in misses:
            self.held.append(e)
            if len(self.held) > self.slots:
                pool = [x for x in self.held if x not in cell]
                victim = min(pool or self.held, key=lambda x: self.order(x, after))
                if bypass or (rule == "belady" and not pool):
                    continue  # judged below, once all are in
                self.drop(victim)
        while len(self.held) > self.slots:
            self.drop(min(self.held, key=lambda x: self.order(x, after)))
        return hits, first, filled, full

    def drop(self, expert):
        self.held.remove(expert)
        if not self.residency.parameters.get("keep", 0):
            self.count[expert] = 0


def reference(steps: Steps, residency: Residency, slots, *, devices=None, popular=None, seed=0):
    """Hits, accesses, cold misses and evictions by layer, and experts held by each pool at the end."""
    pools = pools_of(residency, steps.layers, steps.num_experts, slots, devices)
    starts = starts_of(residency, pools, popular, seed)
    caches = []
    for p, size in enumerate(pools.slots):
        members = pools.members(p)
        start = [divmod(int(members[m]), steps.num_experts) for m in starts[p]]
        caches.append(Pool(int(size), start, residency))
    sequence = []  # (step, pool, cell), cells of one in sequential lookup
    for step, cells in enumerate(layers_of(steps)):
        for cell in cells:
            parts: dict[int, list] = {}
            for layer, e in cell:
                parts.setdefault(int(pools.of[layer, e]), []).append((layer, e))
            if residency.lookup == "token_batch":
                sequence += [(step, p, part) for p, part in parts.items()]
            else:
                sequence += [(step, int(pools.of[x]), [x]) for x in cell]
    # When each expert is asked for, as places in the sequence.
    asked: dict[tuple[int, int], list[int]] = {}
    for at, (_, _, cell) in enumerate(sequence):
        for x in cell:
            asked.setdefault(x, []).append(at)
    found = np.zeros((4, steps.layers), np.int64)
    # A request that comes back is another one.
    turns = [
        sum(a != b for a, b in itertools.pairwise(steps.request[: s + 1])) for s in range(steps.num_steps)
    ]
    order = [turns[step] for step, _, _ in sequence]
    turn = 0
    for at, (step, p, cell) in enumerate(sequence):
        if turns[step] != turn:
            for cache in caches:
                if residency.reset == "request":
                    cache.restart()
                elif residency.parameters.get("window", 0):
                    cache.count.clear()
        turn = turns[step]
        after = {}
        if residency.rule == "belady":
            limit = len(sequence) if residency.reset == "never" else bisect.bisect(order, turn)
            for x in caches[p].held + cell:
                places = asked.get(x, [])
                i = bisect.bisect(places, at)
                after[x] = places[i] if i < len(places) and places[i] < limit else NEVER
        hits, first, filled, full = caches[p].ask(cell, after)
        free = {"charge": [], "free": first, "fill": filled}[residency.cold]
        for layer, _ in hits + free:
            found[0, layer] += 1
        for layer, _ in cell:
            found[1, layer] += 1
        for layer, _ in first:
            found[2, layer] += 1
        if residency.rule != "static" and caches[p].slots:
            found[3, cell[0][0]] += full
    return found
