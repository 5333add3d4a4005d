"""What rebalancing gains on traffic that changes, and what moving experts costs.

    python benchmarks/placement/online.py [--data FOLDER] [--only NAME] [--async-steps K] [--seeds N]

Traces, each played under all policies from the plan engines start with:

phases
    DeepSeek-V3 loads of sglang issue 6017, six workloads of prefill and decode one after the other, 200 steps
    of 2048 tokens drawn from each; 32 ranks on 4 HGX H200, 288 slots.
tasks
    gpt-oss-20b decoding, 256 requests at once in the order of their tasks, 256 tokens a step; 8 ranks on one
    HGX H100, 40 slots.
mixed
    The same requests in a random order: nothing to follow.
chunks
    gpt-oss-20b tokens in recorded order, 1024 a step: each step holds the requests of one task.
walk
    Generated: logarithms of DeepSeek-V3-like loads (standard deviation 0.75) that forget 1 % of what they are
    at every step; 200 steps of 2048 tokens, means over seeds and their 95 % interval.

Seconds are predicted ones of whole decode steps; solving is CPU time of this machine, and in no other column.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.rebalancing import Copying, Rules, Stepwise, cut, in_turn, rebalance, sampled
from moesim.trace import LoadCounts, load_trace

POLICIES = ("static", "once", "eplb", "eplb-hierarchical", "search", "incremental", "ours")
WORKLOADS = (
    "decode_in1000out1000",
    "decode_in1800out100",
    "prefill_in1024",
    "prefill_in4096",
    "prefill_in1800out100",
    "prefill_in1000out1000",
)
NAMES = ("phases", "tasks", "mixed", "chunks", "walk")
#: Student's t, 97.5 %, by degrees of freedom.
T = {4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 9: 2.262}


def phases(data: Path) -> Stepwise:
    found = None
    for seed, name in enumerate(WORKLOADS):
        part = sampled(load_trace(data / f"traces/deepseek-v3-counts/{name}.json"), 2048, 200, 8, seed)
        found = part if found is None else found.then(part)
    return found


def gpt_oss(data: Path, name: str) -> Stepwise:
    trace = load_trace(data / "traces/gpt-oss-20b/decode.npz")
    if name == "chunks":
        return cut(trace, 1024)
    if name == "mixed":
        labels = np.unique(trace.request)
        other = np.random.default_rng(0).permutation(len(labels)).astype(np.int32)
        trace = replace(trace, request=other[np.searchsorted(labels, trace.request)])
    return in_turn(trace, 256)


def walk(seed: int, steps: int = 200, tokens: int = 2048, forget: float = 0.01) -> Stepwise:
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(58, 256))
    counts = []
    for step in range(steps):
        state = (1 - forget) * state + np.sqrt(1 - (1 - forget) ** 2) * rng.normal(size=state.shape)
        loads = LoadCounts(np.exp(0.75 * state)[None], tuple(range(58)), 8)
        counts.append(sampled(loads, tokens, 1, 8, seed * steps + step).counts[0])
    return Stepwise(np.stack(counts), np.full(steps, tokens), source=f"a walk, seed {seed}")


def show(title: str, rows: list[list[str]]) -> None:
    print(f"\n{title}\n")
    head = [
        "policy", "mean, ms", "p50, ms", "p99, ms", "imbalance", "changes", "moved, TB", "stalls, s",
        "copying, s", "solving, CPU s",
    ]  # fmt: skip
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def cells(s: dict) -> list[float]:
    return [
        s["mean_s"] * 1e3,
        s["p50_s"] * 1e3,
        s["p99_s"] * 1e3,
        s["imbalance"],
        s["rebalances"],
        s["moved_bytes"] / 1e12,
        s["stall_s"],
        s["copy_s"],
        s["solve_s"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", choices=NAMES, nargs="*", default=NAMES)
    parser.add_argument("--policy", choices=POLICIES, nargs="*", default=POLICIES)
    parser.add_argument("--async-steps", type=int)
    parser.add_argument("--interval", type=int, default=50)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    rules = Rules(options.interval, options.window, copying=Copying(options.async_steps))
    deepseek = (load_model("deepseek-v3"), load_hardware("h200-sxm-8", nodes=4), 32, 32)
    small = (load_model("gpt-oss-20b"), load_hardware("h100-sxm-8"), 8, 8)
    how = (
        "standing still"
        if options.async_steps is None
        else f"beside the steps, {options.async_steps} or more"
    )
    for name in options.only:
        model, hardware, ep, redundant = deepseek if name in ("phases", "walk") else small
        seeds = range(options.seeds) if name == "walk" else (0,)
        found: dict[str, list[list[float]]] = {}
        before = time.process_time()
        for seed in seeds:
            if name == "walk":
                steps = walk(seed)
            else:
                steps = phases(options.data) if name == "phases" else gpt_oss(options.data, name)
            answer = rebalance(
                steps,
                model,
                hardware,
                ep=ep,
                redundant=redundant,
                policies=options.policy,
                rules=rules,
                seed=seed,
            )
            for run in (*answer.runs.values(), answer.hindsight):
                found.setdefault(run.policy, []).append(cells(run.summary()))
        rows = []
        for policy, runs in found.items():
            mean = np.mean(runs, axis=0)
            texts = [f"{value:.4g}" for value in mean]
            if len(runs) > 1:
                half = T.get(len(runs) - 1, 1.96) * np.std(runs, axis=0, ddof=1) / np.sqrt(len(runs))
                texts[0] += f" ± {half[0]:.2g}"
            rows.append([f"`{policy}`" if policy != "hindsight" else "best fixed plan in hindsight", *texts])
        spent = time.process_time() - before
        show(f"{name}: {len(steps)} steps, copies {how}; {spent:.0f} CPU s in all", rows)


if __name__ == "__main__":
    main()
