"""Caches in plain Python, for one capacity: what the fast ones are compared with."""

from __future__ import annotations

import numpy as np

from moesim.policy import Steps


def make_steps(rows, experts, request=None, weights=None, layers=None):
    """Steps from ``rows[step][layer] = [experts]``."""
    layers = layers or len(rows[0])
    cells = [cell for row in rows for cell in row]
    flat = [e for cell in cells for e in cell]
    n = len(rows)
    return Steps(
        experts=np.array(flat, np.int32),
        tokens=np.ones(len(flat), np.int32),
        weights=None if weights is None else np.array(weights, np.float32),
        starts=np.concatenate([[0], np.cumsum([len(c) for c in cells])]).astype(np.int64),
        layers=layers,
        num_experts=experts,
        request=np.zeros(n, np.int32) if request is None else np.array(request, np.int32),
        phase=np.ones(n, np.int8),
        step_tokens=np.ones(n, np.int32),
        context=np.ones(n, np.float32),
        rows=np.arange(n, dtype=np.int64),
    )


def stream(steps, pool, reset):
    """Accesses pool by pool: lists of cells ``(layer, [(index, object)])``, a new list at every reset."""
    parts = {}
    epoch = 0
    for step in range(steps.num_steps):
        if reset == "request" and step and steps.request[step] != steps.request[step - 1]:
            epoch += 1
        for layer in range(steps.layers):
            a, b = steps.starts[step * steps.layers + layer : step * steps.layers + layer + 2]
            cell = [(i, (layer, int(steps.experts[i]))) for i in range(a, b)]
            parts.setdefault((epoch, layer if pool == "layer" else 0), []).append((layer, cell))
    return list(parts.values())


def hits_of(steps, rule, capacity, *, pool="layer", lookup="sequential", cold="charge", reset="never"):
    """Hits of each layer of a cache of `capacity` slots per pool, LRU or Belady, by the definitions."""
    hits = [0] * steps.layers
    for cells in stream(steps, pool, reset):
        flat = [(i, x) for _, cell in cells for i, x in cell]
        after = {}
        soonest = {}
        for i, x in reversed(flat):
            after[i] = soonest.get(x, float("inf"))
            soonest[x] = i
        held = {}  # object -> key; the smallest leaves
        seen = set()

        def load(i, x, keep, held=held, after=after):
            if capacity and x not in held and len(held) >= capacity:
                # Where a cell alone is more than the cache, what was loaded first goes.
                free = [y for y in held if y not in keep] or list(held)
                victim = min(free, key=lambda y: (held[y] if y not in keep else 0, list(held).index(y)))
                del held[victim]
            held.pop(x, None)
            if capacity:
                held[x] = i if rule == "lru" else -after[i]

        for layer, cell in cells:
            if lookup == "sequential":
                for i, x in cell:
                    hits[layer] += x in held or (cold == "free" and x not in seen)
                    seen.add(x)
                    load(i, x, ())
            else:
                for _, x in cell:
                    hits[layer] += x in held or (cold == "free" and x not in seen)
                    seen.add(x)
                done = {x for _, x in cell}
                for i, x in cell:
                    load(i, x, done)
    return hits
