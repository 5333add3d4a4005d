"""What the CPU path of the reference execution costs: products, Python, noise.

    python benchmarks/cpu_layer.py [--rounds 7]

Prints seconds of an expert against bare matrix products of the same shapes on cold weights, seconds of a
layer without work, whether times of experts add, and how far apart equal measurements are.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from moesim.reference.cpu import CpuRunner
from moesim.reference.layer import Case, LayerShape
from moesim.reference.machine import state
from moesim.reference.protocol import aa_floor, measure
from moesim.reference.routings import route

EXPERTS = ((8, 1024, 896), (16, 768, 512), (32, 512, 192))
ROWS = (1, 2, 4, 8, 16, 64, 256)
SHAPES = (
    LayerShape("mixtral/4", 8, 2, 1024, 896),
    LayerShape("qwen3-30b/4", 128, 8, 512, 192),
    LayerShape("olmoe/4", 64, 8, 512, 256),
)


def balanced(case: Case) -> np.ndarray:
    k = case.shape.top_k
    return ((np.arange(case.tokens)[:, None] * k + np.arange(k)) % case.shape.num_experts).astype(np.int32)


class Bare:
    """Matrix products of an expert by numpy, on weights that are cold."""

    def __init__(self, size_bytes: int) -> None:
        self.pool, self.next = np.full(size_bytes // 4, 0.01, np.float32), 0

    def cut(self, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        if self.next + size > len(self.pool):
            self.next = 0
        self.next += size
        return self.pool[self.next - size : self.next].reshape(shape)

    def seconds(self, n: int, H: int, F: int) -> float:
        x, h = np.full((n, H), 0.5, np.float32), np.full((n, F), 0.5, np.float32)
        both, y = np.empty((n, 2 * F), np.float32), np.empty((n, H), np.float32)
        up, down = self.cut(2 * F, H), self.cut(H, F)
        begun = time.thread_time_ns()
        np.matmul(x, up.T, out=both)
        np.matmul(h, down.T, out=y)
        return (time.thread_time_ns() - begun) * 1e-9


def products(runner: CpuRunner, rounds: int) -> None:
    print("| expert | rows | expert, us | bare products, us | rate of the expert / of bare | GFLOP/s |")
    print("|---|---|---|---|---|---|")
    bare = Bare(runner.pool.bytes)
    for E, H, F in EXPERTS:
        for n in ROWS:
            if 6.0 * E * n * H * F > 3e9:
                continue
            case = Case(LayerShape("one", E, 1, H, F), E * n)
            prepared = runner.prepare(case, balanced(case))
            pairs = []
            for _ in range(rounds):
                ours = float(prepared.run().expert_s.mean())
                pairs.append((ours, float(np.mean([bare.seconds(n, H, F) for _ in range(E)]))))
            ours, theirs = np.median(pairs, axis=0)
            ratio = np.median([b / a for a, b in pairs])
            rate = 6e-9 * n * H * F / ours
            print(f"| {H} x {F} | {n} | {ours * 1e6:.0f} | {theirs * 1e6:.0f} | {ratio:.2f} | {rate:.1f} |")


def overhead(runner: CpuRunner, rounds: int) -> None:
    """A layer with next to nothing to compute, after one that has emptied the caches."""
    large = Case(SHAPES[0], 512)
    other = runner.prepare(large, balanced(large))
    reference = float(
        np.median([other.run().seconds / large.shape.flops(large.tokens) for _ in range(rounds)])
    )
    for E, k in ((8, 2), (64, 8), (128, 8)):
        case = Case(LayerShape("empty", E, k, 8, 8), 16)
        prepared = runner.prepare(case, balanced(case))
        cold = []
        for _ in range(4 * rounds):
            other.run()
            timing = prepared.run()
            hit = int((timing.expert_s > 0).sum())
            cold.append((timing.seconds - timing.expert_s.sum(), timing.expert_s.sum() / hit))
        beside, each = np.median(cold, axis=0)
        part = f"{beside / (reference * 1e9):.2%} of a GFLOP at {1e-9 / reference:.0f} GFLOP/s"
        print(
            f"{E} experts without work: {beside * 1e6:.0f} us beside them ({part}), {each * 1e6:.1f} us each"
        )


def additivity(runner: CpuRunner, rounds: int) -> None:
    """The experts of a skewed layer as one layer, and the same tokens per expert as four layers."""
    shape = LayerShape("whole", 64, 8, 512, 256)
    whole = Case(shape, 128, "zipf:1.0")
    ids = route(whole)
    counts = np.sort(np.bincount(ids.ravel(), minlength=64))
    prepared = [runner.prepare(whole, ids)]
    for quarter in range(4):
        pairs = np.repeat(np.arange(16), counts[quarter::4])
        mixed = np.random.default_rng(quarter).permutation(pairs)[:, None].astype(np.int32)
        prepared.append(runner.prepare(Case(LayerShape("part", 16, 1, 512, 256), len(mixed)), mixed))
    found = measure(prepared, rounds=rounds)
    seconds = np.array([[one.expert_s.sum() for one in row] for row in found.timings])
    ratio = np.median(seconds[:, 1:].sum(axis=1) / seconds[:, 0])
    print(f"experts of a layer, as four layers over as one: {ratio:.3f} (median of {rounds} pairs)")


def noise(runner: CpuRunner, rounds: int) -> None:
    cases = [
        Case(shape, tokens, routing, offloaded, dtype)
        for shape in SHAPES
        for tokens, routing, offloaded in ((1, "uniform", 0.0), (16, "uniform", 0.0), (128, "zipf:1.0", 0.5))
        for dtype in ("fp32", "bf16")
    ]
    found = measure([runner.prepare(case, route(case)) for case in cases], rounds=rounds)
    print(f"A/A floor of {len(cases)} layers, {rounds} rounds: median, p95")
    floors = {"CPU time": found.floor, "without drift": found.paired_floor, "wall": aa_floor(found.wall_s)}
    for name, floor in floors.items():
        print(f"{name}: {floor.median:.1%}, {floor.p95:.1%}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    rounds = options.parse_args().rounds
    with CpuRunner() as runner:
        print(f"{runner.device}; {runner.pool}; load {state()['load']}\n")
        products(runner, rounds)
        print()
        overhead(runner, rounds)
        additivity(runner, 3 * rounds)
        print()
        noise(runner, rounds)


if __name__ == "__main__":
    main()
