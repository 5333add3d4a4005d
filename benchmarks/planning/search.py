"""Plan DeepSeek-V3 for 100 requests per second over five machines: what was searched, how long it took.

    python benchmarks/planning/search.py [--shared FOLDER] [--rate 100] [--confirm 5]

Traffic is the conversation trace of Azure (2023) brought to the rate, where it is there; else requests with
log-normal lengths like its: means of 1,155 and 211 tokens.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.planning.search import plan
from moesim.planning.types import Slo, Space, Traffic
from moesim.requests import Lognormal, generate_requests, load_requests

MACHINES = ("h100-sxm-8", "h200-sxm-8", "b200-sxm-8", "gb200-nvl72", "mi300x-8")


def traffic_of(shared: str, rate: float) -> Traffic:
    """Azure's, or like it."""
    path = Path(shared) / "arrivals/azure-2023/AzureLLMInferenceTrace_conv.csv"
    if path.exists():
        return Traffic(load_requests(path), rate)
    made = generate_requests(20_000, f"poisson:{rate}", Lognormal(1155, 0.96), Lognormal(211, 0.77), seed=1)
    return Traffic(made, rate)


def main() -> None:
    """Search, and say what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", default=os.environ.get("MOESIM_SHARED", "../shared/data"))
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--ttft-ms", type=float, default=2000.0)
    parser.add_argument("--tpot-ms", type=float, default=50.0)
    parser.add_argument("--share", type=float, default=0.9)
    parser.add_argument("--confirm", type=int, default=5)
    given = parser.parse_args()
    slo = Slo({"ttft_s": given.ttft_ms / 1e3, "tpot_s": given.tpot_ms / 1e3}, given.share)
    found = plan(
        [load_model("deepseek-v3")],
        [load_hardware(name) for name in MACHINES],
        traffic_of(given.shared, given.rate),
        slo,
        space=Space(kv_dtypes=("auto", "fp8")),
        confirm=given.confirm,
    )
    print("searched", dict(found.searched))
    print("CPU seconds", {name: round(value, 1) for name, value in found.seconds.items()})
    for answer in (found.best, *found.confirmed, *found.refuted):
        candidate = answer.candidate
        print(
            f"{answer.status:10s} {candidate.replicas} x ({candidate.layout}) on {candidate.devices} devices "
            f"of {candidate.hardware.name}, chunk {candidate.engine.chunk_tokens:g}, "
            f"{candidate.engine.max_sequences:g} sequences: {answer.usd_per_hour:.2f} USD/h, "
            f"{answer.metrics['attainment']:.2%} in time, goodput {answer.metrics['goodput']:.1f} of "
            f"{answer.metrics['request_throughput']:.1f} requests/s, 95 % interval "
            f"{answer.interval.get('attainment')}"
        )
    for refusal in found.refused:
        print(f"{refusal.count} {refusal.status}, {refusal.what}: {refusal.nearest.reason}")
    print(*found.notes, sep="\n")


if __name__ == "__main__":
    main()
