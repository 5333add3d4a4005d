"""How fast requests are read and interleaved: tokens scheduled per second on one core.

    python benchmarks/bench_batching.py [FOLDER] [--trace FILE] [--runs FOLDER]

Schedules made-up requests of lognormal lengths in closed loops of several sizes, in both policies, with a
fixed clock and with one that prices every step; then maps the tokens to the rows of a routing trace and to
loads per step. FOLDER holds ``azure-2023`` and ``mooncake`` as their authors publish them, and adds reading
and scheduling those. FILE is a routing trace, and adds how many of its experts a batch hits when the batch is
a step of a closed loop of its requests, against other ways to compose one. ``--runs`` takes the folder of
measured vLLM runs on RTX PRO 6000 that casys-kaist/LLMServingSim publishes, and adds what a schedule of the
same requests, priced by the cost model, comes to; nothing is fitted to them. Times are CPU seconds, best of a
few runs, without compilation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import moesim as ms
from moesim import load_trace
from moesim.batching import (
    POLICIES,
    Batcher,
    EngineClock,
    StepSource,
    batch_requests,
    recorded_requests,
    schedule,
    step_counts,
)
from moesim.engine.deployment import Deployment
from moesim.engine.routing import TokenSource
from moesim.files import data_dir
from moesim.ops import Precision
from moesim.requests import generate_requests, load_requests, parse_lengths
from moesim.trace import DECODE, count_ids

REPEATS = 3
ROUTING = "gpt-oss-20b-synthetic.npz"


def best_s(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest run."""
    times = []
    for _ in range(REPEATS):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def made_up() -> None:
    print(
        f"{'policy':14} {'at once':>8} {'clock':10} {'steps':>9} {'tokens':>11} "
        f"{'M tokens/s':>11} {'M steps/s':>10}"
    )
    lengths = parse_lengths("lognormal:1000:1"), parse_lengths("lognormal:250:0.8")
    for policy in POLICIES:
        for most in (8, 64, 512):
            requests = generate_requests(20_000, f"closed:{most}", *lengths)
            batcher = Batcher(8192, most, policy)
            for name, clock in (("fixed", 0.02), ("priced", lambda load: 0.01 + 1e-6 * load.context_tokens)):
                plan = schedule(requests, batcher, clock)
                seconds = best_s(lambda r=requests, b=batcher, c=clock: schedule(r, b, c))
                rates = f"{len(plan.request) / seconds / 1e6:11.1f} {len(plan.start_s) / seconds / 1e6:10.2f}"
                print(
                    f"{policy:14} {most:8} {name:10} {len(plan.start_s):9,} {len(plan.request):11,} {rates}"
                )


def with_routing() -> None:
    trace = load_trace(data_dir("traces") / ROUTING)
    requests = generate_requests(5_000, "closed:256", 800, parse_lengths("lognormal:250:0.8"))
    steps = batch_requests(trace, requests, step_time=0.02)
    for overrun in ("wrap", "resample"):
        seconds = best_s(lambda o=overrun: batch_requests(trace, requests, step_time=0.02, overrun=o))
        print(f"scheduled with routing, {overrun}: {steps.num_tokens / seconds / 1e6:.1f} M tokens/s")
    seconds = best_s(lambda: step_counts(steps, trace))
    cells = steps.num_tokens * len(trace.moe_layer_ids) * trace.top_k
    print(f"loads of {len(steps)} steps: {cells / seconds / 1e6:.0f} M selections/s")


def published(folder: Path) -> None:
    print(f"{'requests':40} {'read, s':>8} {'requests':>9} {'steps':>9} {'tokens':>12} {'schedule, s':>11}")
    for path in sorted([*folder.glob("azure-2023/*.csv"), *folder.glob("mooncake/*.jsonl")]):
        requests = load_requests(path)
        read = best_s(lambda p=path: load_requests(p))
        batcher = Batcher(8192, 512)
        plan = schedule(requests, batcher, 0.02)
        seconds = best_s(lambda r=requests, b=batcher: schedule(r, b, 0.02))
        numbers = f"{len(requests):9,} {len(plan.start_s):9,} {len(plan.request):12,} {seconds:11.2f}"
        print(f"{path.name:40} {read:8.2f} {numbers}")


def distinct(path: Path, at_once: int = 64, draws: int = 200) -> None:
    """Share of a layer's experts that a decode batch hits."""
    trace = load_trace(path)
    requests, sequence = recorded_requests(trace, f"closed:{at_once}")
    steps = batch_requests(trace, requests, Batcher(8192, at_once), step_time=0.02, sequence=sequence)
    print(f"{'tokens':>6} {'steps':>7} {'mixed':>7} {'in a row':>9} {'uniform':>8}")
    for tokens in (8, 32, at_once):
        rng = np.random.default_rng(0)
        shares = [
            np.mean([(source.draw(tokens, DECODE, rng).counts > 0).mean() for _ in range(draws)])
            for source in (StepSource(steps, trace), TokenSource(trace))
        ]
        starts = rng.integers(0, trace.num_tokens - tokens, draws)
        runs = [count_ids(trace.topk_ids[at : at + tokens], trace.num_experts) > 0 for at in starts]
        uniform = 1 - (1 - trace.top_k / trace.num_experts) ** tokens
        print(f"{tokens:6} {shares[0]:7.3f} {shares[1]:7.3f} {np.mean(runs):9.3f} {uniform:8.3f}")


def measured(folder: Path) -> None:
    """Means over requests, scheduled and measured."""
    print(f"{'model':14} {'':10} {'TTFT, s':>9} {'TPOT, ms':>9} {'all, s':>8}")
    hardware = ms.load_hardware("rtx-pro-6000-8")
    for path in sorted(folder.glob("*/requests.jsonl")):
        options = json.loads((path.parent / "meta.json").read_text())["engine_kwargs"]
        model, layout = ms.load_model(options["model"]), ms.Parallelism(tp=options["tensor_parallel_size"])
        served = Deployment(model, hardware, layout, Precision.of(model, "auto", "auto"), backend="vllm")
        requests = load_requests(path)
        batcher = Batcher(options["max_num_batched_tokens"], options["max_num_seqs"])
        plan = schedule(requests, batcher, EngineClock(served))
        ends = np.repeat(plan.start_s + plan.seconds, np.diff(plan.step_ptr))
        first, last = np.empty(len(requests)), np.empty(len(requests))
        for times, at in ((first, 0), (last, requests.output_tokens - 1)):
            of = plan.position == (requests.input_tokens - 1 + at)[plan.request]
            times[plan.request[of]] = ends[of]
        gaps = requests.output_tokens - 1
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        queued, began, ended = (
            np.array([row[f"{name}_ts"] for row in rows]) for name in ("queued", "first_token", "last_token")
        )
        for name, ttft, tpot, whole in (
            ("scheduled", first - requests.arrival_s, (last - first) / gaps, last.max()),
            ("measured", began - queued, (ended - began) / gaps, ended.max() - queued.min()),
        ):
            print(f"{model.name:14} {name:10} {ttft.mean():9.2f} {tpot.mean() * 1e3:9.2f} {whole:8.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    made_up()
    with_routing()
    if arguments.folder:
        published(arguments.folder)
    if arguments.trace:
        distinct(arguments.trace)
    if arguments.runs:
        measured(arguments.runs)
