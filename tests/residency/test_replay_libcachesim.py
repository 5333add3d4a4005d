"""Hits against libCacheSim, request for request the same file, on generated and recorded routing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from moesim.policy import Residency
from moesim.residency import replay
from moesim.trace import RoutingTrace, load_trace

cachesim = pytest.importorskip("libcachesim", reason="libCacheSim has wheels for Linux on x86-64 alone")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "residency"))
import skewed  # noqa: E402

THEIRS = {"lru": "LRU", "fifo": "FIFO", "lfu": "LFU", "belady": "Belady"}


def their_hits(path: Path, rule: str, slots: int, accesses: int) -> int:
    cache = getattr(cachesim, THEIRS[rule])(slots, hashpower=12)
    reader = cachesim.TraceReader(str(path), cachesim.TraceType.ORACLE_GENERAL_TRACE)
    misses, _ = cache.process_trace(reader)
    return accesses - round(misses * accesses)


def compare(trace: RoutingTrace, layers, slots, folder: Path) -> None:
    for rule in THEIRS:
        ours = replay(trace, Residency(rule), slots).hits
        for layer in layers:
            items = trace.topk_ids[:, layer].reshape(-1)
            path = folder / f"{layer}.bin"
            if not path.exists():
                skewed.write_oracle(items, trace.num_experts, path)
            assert ours[layer] == their_hits(path, rule, slots, len(items)), (rule, layer, slots)


@pytest.mark.parametrize(
    ("experts", "top_k", "slots"), [(8, 2, 4), (64, 6, 16), (128, 8, 64), (256, 8, 64), (512, 10, 128)]
)
def test_hits_are_those_of_libcachesim(experts, top_k, slots, tmp_path):
    compare(skewed.trace(20_000, 2, experts, top_k, seed=experts), (0, 1), slots, tmp_path)


def test_hits_of_a_pool_of_all_layers_are_those_of_libcachesim(tmp_path):
    trace = skewed.trace(5_000, 6, 64, 4, seed=3)
    items = (trace.topk_ids + np.arange(6)[:, None] * 64).reshape(-1).astype(np.int32)
    skewed.write_oracle(items, 6 * 64, tmp_path / "all.bin")
    for rule in THEIRS:
        ours = replay(trace, Residency(rule, "global"), 96).hits.sum()
        assert ours == their_hits(tmp_path / "all.bin", rule, 96, len(items))


@pytest.mark.parametrize(
    ("name", "layers", "fractions"),
    [
        ("gpt-oss-20b/decode.npz", (0, 11, 23), (0.25, 0.5)),
        ("esft-deepseek-v2-lite/summary.npz", range(0, 26, 5), (0.125, 0.25, 0.5)),
        ("esft-deepseek-v2-lite/intent.npz", range(0, 26, 5), (0.25,)),
    ],
)
def test_hits_on_recorded_routing_are_those_of_libcachesim(shared, name, layers, fractions, tmp_path):
    trace = load_trace(shared(f"traces/{name}"))
    assert isinstance(trace, RoutingTrace)
    for fraction in fractions:
        compare(trace, layers, round(fraction * trace.num_experts), tmp_path)
