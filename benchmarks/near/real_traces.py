"""What recorded routing does to Duplex and MoNDE, beside uniform routing of the same shape.

    python benchmarks/near/real_traces.py ../shared/data/traces

Every layer of every batch is timed; what is printed are the 5th, 50th and 95th percentile over them.
"""

import sys
from pathlib import Path

import numpy as np

from moesim.engine.routing import DECODE, LoadSource, uniform
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.near import Box, decode_batches, duplex_gains, monde_gains, prefill_batches
from moesim.trace import LoadCounts, load_trace

BATCHES = 24
DEVICES = 4
#: Trace, model, phase, tokens of a batch. Counts hold loads only: batches are drawn from them.
CASES = (
    ("gpt-oss-20b/decode.npz", "gpt-oss-20b", "decode", (16, 64, 256)),
    ("esft-deepseek-v2-lite/intent.npz", "deepseek-v2-lite", "decode", (16, 64, 256)),
    ("esft-deepseek-v2-lite/summary.npz", "deepseek-v2-lite", "prefill", (64, 512)),
    ("deepseek-v3-counts/decode_in1000out1000.json", "deepseek-v3", "counts", (64, 256)),
    ("olmoe-counts/olmoe_mixtral_counts.npz", "olmoe-1b-7b", "counts", (16, 64, 256)),
)


def batches_of(trace, phase, tokens, rng):
    if isinstance(trace, LoadCounts):
        raise TypeError(phase)
    return (decode_batches if phase == "decode" else prefill_batches)(trace, tokens, BATCHES, rng)


def drawn(source, tokens, rng):
    return np.concatenate([source.draw(tokens, DECODE, rng).counts for _ in range(BATCHES)])


def line(name, real, even):
    q = [np.percentile(a, (5, 50, 95)) for a in (real, even)]
    print(f"    {name:34s}" + "   ".join("{:7.2f} {:7.2f} {:7.2f}".format(*p) for p in q))


def main(folder):
    duplex, monde = load_hardware("h100-duplex-4"), Box.of(load_hardware("a100-monde"), 0.88)
    print("percentiles 5, 50, 95:                 recorded                  uniform")
    for file, name, phase, sizes in CASES:
        path, model = Path(folder) / file, load_model(name)
        if not path.exists():
            print(f"{file}: not in {folder}")
            continue
        trace = load_trace(path, shape=model)
        moe = model.moe
        for tokens in sizes:
            rng = np.random.default_rng(0)
            if phase == "counts":
                real = drawn(LoadSource.of(trace, moe.top_k), tokens, rng)
            else:
                real = batches_of(trace, phase, tokens, rng)
            experts = real.shape[-1]
            layers = real.size // experts // BATCHES
            even = drawn(uniform(experts, moe.top_k, layers), tokens, rng)
            print(f"{name}, {phase}, {tokens} tokens")
            found = [duplex_gains(counts, model, duplex, DEVICES) for counts in (real, even)]
            line("experts hit", *((c > 0).sum(axis=-1).ravel() for c in (real, even)))
            line("GPUs, us", *(f.gpu_s * 1e6 for f in found))
            line("Duplex, whole experts, gain", *(f.spread for f in found))
            line("Duplex, cut experts, gain", *(f.cut for f in found))
            line("Duplex, cut, us", *(f.cut_s * 1e6 for f in found))
            line("share beside the memory", *(f.near_share for f in found))
            few = [counts.reshape(-1, experts)[:: max(1, layers * BATCHES // 200)] for counts in (real, even)]
            split = [monde_gains(counts, model, monde) for counts in few]
            line("MoNDE, best H, gain", *(f.balanced for f in split))
            line("MoNDE, H of the paper, gain", *(f.alpha for f in split))
            line("best H", *(f.hot for f in split))
            line("H of the paper", *(f.formula for f in split))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/traces")
