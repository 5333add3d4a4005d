"""A million requests on eight replicas, on one core: time and memory.

    python benchmarks/serving/bench_million.py [mooncake|azure] [--requests 1000000] [--replicas 8]

Requests are drawn by session from Mooncake's trace of conversations (prefix hashes renamed for every copy),
or from Azure's of 2023. MOESIM_SHARED names the folder that holds ``arrivals/``.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import moesim as ms
from moesim.requests import load_requests, resample_sessions
from moesim.serving.settings import Fleet
from moesim.serving.simulate import prepare
from moesim.serving.statistics import summarise

#: Trace, model, hardware, layout of a replica, and requests per second of all replicas.
CASES = {
    "mooncake": (
        "arrivals/mooncake/conversation_trace.jsonl",
        "deepseek-v3",
        "h200-sxm-8",
        ms.Parallelism(tp=8, ep=8),
        4.0,
    ),
    "azure": (
        "arrivals/azure-2023/AzureLLMInferenceTrace_conv.csv",
        "qwen3-30b-a3b",
        "h100-sxm-8",
        ms.Parallelism(),
        40.0,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=tuple(CASES), nargs="?", default="mooncake")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--rate", type=float, help="requests per second")
    parser.add_argument("--router", default="vllm")
    given = parser.parse_args()
    path, name, hardware, layout, rate = CASES[given.case]
    shared = Path(os.environ.get("MOESIM_SHARED", Path(__file__).parents[3] / "shared" / "data"))
    began = [time.process_time()]

    def lap(what: str) -> float:
        spent = time.process_time() - began[0]
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{what:36}{spent:8.2f} s CPU   peak {most:7,.0f} MiB", flush=True)
        began[0] = time.process_time()
        return spent

    trace = load_requests(shared / path)
    lap(f"read {len(trace):,} requests")
    requests = resample_sessions(trace, given.requests, seed=1, rate_per_s=given.rate or rate)
    total = lap(f"drew {len(requests):,}")
    model, machine = ms.load_model(name), ms.load_hardware(hardware)
    fleet = Fleet(given.replicas, given.router)
    ready = prepare(model, machine, layout, requests, fleet=fleet)
    total += lap("tables of step times")
    # Compiled code is loaded, or made, before the clock starts.
    ready.serve(replace(trace, concurrency=8).head(100))
    lap("compiled loops")
    outcome = ready.serve(requests)
    total += lap("served")
    found = summarise(outcome, warmup="none", cooldown="none").values
    total += lap("statistics")
    sums = outcome.state.tally.sums.sum(axis=0)
    print(
        f"{given.case}: {given.requests:,} requests, {given.replicas} replicas of {name} ({layout}), "
        f"{found['steps']:,} steps, {outcome.requests.output_tokens.sum(dtype='int64'):,} output tokens: "
        f"{total:.1f} s CPU, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )
    print(
        f"busy {found['utilisation']:.0%}, TTFT {found['ttft_s']:.3f} s, TPOT {found['tpot_s']:.4f} s, "
        f"prefix hits {found['prefix_hit_ratio']:.1%}, {found['preemptions']:,} pre-emptions, "
        f"{sums[1] / total / 1e6:.2f} M steps per second of CPU"
    )


if __name__ == "__main__":
    main()
