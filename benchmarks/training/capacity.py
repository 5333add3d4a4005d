"""Capacity factors that drop no token, from recorded loads of models with 64 experts.

python benchmarks/training/capacity.py [FOLDER]

The folder is that of the shared traces (default: MOESIM_SHARED, else ../shared/data): loads of a corpus.

Tutel pads to the busiest expert of any GPU in each micro-batch, which is more uneven the fewer sequences
there are. Rows of MegaBlocks take the mean over layers, micro-batches and four draws of one of the eight
choices of each token, from the profile of OLMoE for 8 GPUs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from moesim.synthesis import generate, load_profile
from moesim.trace import load_trace

FILES = (
    "olmoe-counts/raw/olmoe_expert_counts_c4.pkl",
    "esft-deepseek-v2-lite/summary.npz",
    "esft-deepseek-v2-lite/intent.npz",
)


#: Micro-batches drawn, by sequences of each GPU: those of table 3 of MegaBlocks with Tutel.
DRAWN = {32: 2, 8: 4, 1: 16}
GPUS, SEQUENCE = 8, 1024


def local_capacity(sequences: int, micro_batches: int, seed: int = 1) -> float:
    """Busiest expert of the worst GPU over the mean, mean over layers and micro-batches."""
    requests = GPUS * sequences * micro_batches
    trace = generate(load_profile("olmoe"), requests * SEQUENCE, requests, "prefill", seed)
    ids = np.asarray(trace.topk_ids)
    tokens, layers, choices = ids.shape
    rng, found = np.random.default_rng(seed - 1), []
    for layer in range(layers):
        one = ids[np.arange(tokens), layer, rng.integers(0, choices, tokens)]
        for batch in one.reshape(micro_batches, GPUS, -1):
            counts = np.stack([np.bincount(gpu, minlength=64) for gpu in batch])
            found.append(counts.max() / counts.mean())
    return float(np.mean(found))


def main():
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("MOESIM_SHARED", "../shared/data"))
    for name in FILES:
        loads = load_trace(shared / "traces" / name).load_counts().totals
        factors = loads.max(axis=1) / loads.mean(axis=1)
        print(f"{name}: {len(factors)} layers, mean {factors.mean():.2f}, largest {factors.max():.2f}")
    for sequences, micro_batches in DRAWN.items():
        each = [local_capacity(sequences, micro_batches, seed) for seed in range(1, 5)]
        print(
            f"{sequences} sequences on each of {GPUS} GPUs: busiest over mean {np.mean(each):.2f}"
            f" ({min(each):.2f} to {max(each):.2f})"
        )


if __name__ == "__main__":
    main()
