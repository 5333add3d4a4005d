"""What the conditions of a replay change, one at a time, on a recorded trace.

    python benchmarks/residency/conditions.py TRACE... [--fraction F]

The first row is the default (a pool per layer, sequential, charged, never reset, empty at first, one request
at a time in stored order); every other changes what it names. Popular experts are those of the first half of
the requests, and what is replayed is the second half, in all rows.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from moesim.policy import Residency
from moesim.policy.batchers import Continuous
from moesim.residency import replay
from moesim.trace import load_trace

RULES = {
    "lru": {},
    "fifo": {},
    "lifo": {},
    "lfu": {},
    "lfu keep": {"keep": 1.0},
    "lfu window": {"window": 1.0},
    "static": {},
    "belady": {},
    "belady bypass": {"bypass": 1.0},
}
ROWS = (
    ("default", {}),
    ("lookup token_batch", {"lookup": "token_batch"}),
    ("cold free", {"cold": "free"}),
    ("reset request", {"reset": "request"}),
    ("reset request, cold free", {"reset": "request", "cold": "free"}),
    ("start popular", {"start": "popular"}),
    ("reset request, start popular", {"reset": "request", "start": "popular"}),
    ("pool global", {"pool": "global"}),
    ("8 requests, token_batch", {"lookup": "token_batch", "concurrency": 8}),
    ("32 requests, token_batch", {"lookup": "token_batch", "concurrency": 32}),
)


def halves(trace):
    """The first and the second half of the requests."""
    known = np.unique(trace.request)
    late = np.isin(trace.request, known[len(known) // 2 :])

    def part(rows):
        weights = trace.topk_weights
        return replace(
            trace,
            topk_ids=np.ascontiguousarray(trace.topk_ids[rows]),
            request=trace.request[rows],
            position=trace.position[rows],
            phase=trace.phase[rows],
            topk_weights=None if weights is None else weights[rows],
            token_id=None,
        )

    return part(~late), part(late)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("traces", nargs="+")
    parser.add_argument("--fraction", type=float, default=0.25)
    asked = parser.parse_args()
    for path in asked.traces:
        before, trace = halves(load_trace(path))
        layers, slots = trace.topk_ids.shape[1], round(asked.fraction * trace.num_experts)
        print(
            f"{path}: {trace.topk_ids.size:,} accesses, {slots} slots for {trace.num_experts} experts a layer"
        )
        print(f"{'':30}" + "".join(f"{name:>14}" for name in RULES))
        for title, change in ROWS:
            change = dict(change)
            many = change.pop("concurrency", 1)
            steps = trace if many == 1 else Continuous(many).form(trace)
            cells = []
            for name, parameters in RULES.items():
                residency = Residency(name.split()[0], **change, parameters=parameters)
                size = slots * layers if residency.pool == "global" else slots
                popular = before.load_counts().totals if residency.start == "popular" else None
                cells.append(f"{replay(steps, residency, size, popular=popular).hit_ratio:14.4f}")
            print(f"{title:30}" + "".join(cells), flush=True)
        print()


if __name__ == "__main__":
    main()
