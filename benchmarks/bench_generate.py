"""How fast routing is generated: selections per second of one core, by shape and by shipped profile.

python benchmarks/bench_generate.py [TOKENS]

CPU time of the thread, best of five, compilation and planning of requests left out. Selections are tokens x
layers x top-k. A 256-expert layer is timed with and without a table between experts of neighbouring layers.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from moesim.synthesis import load_profile, profile_names
from moesim.synthesis.kernel import draw_layer, stream_of
from moesim.synthesis.requests import plan
from moesim.synthesis.sampling import runs


def best(function, repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return min(times)


def kernel(E: int, k: int, tokens: int, coupled: bool) -> float:
    rng = np.random.default_rng(0)
    table = lambda *size: (rng.standard_normal(size) * 60).astype(np.int16)  # noqa: E731
    before = rng.random((tokens, E)).argsort(axis=1)[:, :k].astype(np.uint8)
    kind = rng.integers(0, 64, tokens).astype(np.uint8)
    position = np.arange(tokens) % 200
    out, past = np.empty((tokens, k), np.uint8), np.zeros((4, k), np.uint8)
    arguments = (before, kind, table(tokens // 200 + 1, E), table(64, E), np.arange(tokens) // 200, position,
                 table(E, E) if coupled else table(0, E), table(0, E), np.array([60, 30, 20, 10], np.int16),
                 past, 1, 1, stream_of(0, 0), 0, out)  # fmt: skip
    return tokens * k / best(lambda: draw_layer(*arguments))


def main() -> None:
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print("one layer                              M selections/s")
    for E, k in ((256, 8), (128, 8), (64, 6), (32, 4), (8, 2)):
        for coupled in (False, True):
            name = f"{E} experts, top {k}{', coupled' if coupled else ''}"
            print(f"{name:38} {kernel(E, k, tokens, coupled) / 1e6:8.1f}", flush=True)
    print("whole profile")
    for name in profile_names():
        profile = load_profile(name)
        wanted = plan(profile, tokens)
        seconds = best(lambda profile=profile, wanted=wanted: list(runs(profile, wanted)), 3)
        rate = tokens * profile.num_layers * profile.top_k / seconds / 1e6
        print(f"{name:38} {rate:8.1f}", flush=True)


if __name__ == "__main__":
    main()
