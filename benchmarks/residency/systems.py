"""Every caching and prefetching system on one trace, box and memory: hit ratio, TPOT, gap to the bound.

    python benchmarks/residency/systems.py TRACE MODEL [--hardware H] [--fraction 0.25] [--tokens 1000]

Tables are learnt from half of the requests; of the other half, whole requests are drawn and decoded one token
at a time. A trace of prompts is replayed as if its tokens were decoded, which the heading says. All systems
hold the same bytes of experts. ``at hand`` is the time per token with all experts there; ``link`` the least
time per token with the least copies that this memory needs, whoever guesses (systems that compute beside the
GPU have none); ``gap`` how much longer the system takes than the larger of both. ``useful`` is the part of
copies made ahead that was used.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace

import numpy as np

from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.offload import Box
from moesim.policy import split, taken
from moesim.systems.compositions import compositions, named
from moesim.systems.compositions.compare import compare
from moesim.trace import RoutingTrace, load_trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace")
    parser.add_argument("model")
    parser.add_argument("--hardware", default="rtx-4090-workstation")
    parser.add_argument("--fraction", type=float, nargs="*", default=[0.25])
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--systems", nargs="*", default=[s.name for s in compositions()])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = load_model(options.model)
    trace = load_trace(options.trace, shape=model)
    assert isinstance(trace, RoutingTrace)
    prompts = bool((trace.phase == 0).all())
    trace = replace(trace, phase=np.ones_like(trace.phase))
    train, rest = split(trace, 0.5, options.seed)
    test = some_requests(rest, options.tokens, options.seed)
    box = Box.of(load_hardware(options.hardware), model)
    every = test.topk_ids.shape[1] * test.num_experts
    for fraction in options.fraction:
        slots = round(fraction * every)
        print(
            f"\n{options.trace}{' (prompts, as if decoded)' if prompts else ''}: "
            f"{len(np.unique(test.request))} requests, {test.num_tokens} tokens; learnt from "
            f"{train.num_tokens}\n{box.hardware.name}, {model.name}: {slots} of {every} experts of "
            f"{box.widths[0].bytes / 1e6:.1f} MB, {1e3 * box.load_seconds():.3f} ms each"
        )
        print(
            f"{'system':24s} {'as':5s} {'hit ratio':>9s} {'TPOT ms':>8s} {'at hand':>8s} {'link':>8s} "
            f"{'gap':>6s} {'GB/token':>8s} {'useful':>6s} {'s':>5s}"
        )
        for name in options.systems:
            for variant in ("paper", "code"):
                began = time.process_time()
                if variant == "code" and named(name, test, slots).system.code is None:
                    continue
                try:
                    (found,) = compare(
                        [name], test, box, slots, train=train, variants=(variant,), seed=options.seed
                    )
                except (ConfigError, InfeasibleError) as error:
                    print(f"{name:24s} {variant:5s} {error}")
                    continue
                line(found, test.num_tokens, time.process_time() - began)


def line(outcome, tokens: int, seconds: float) -> None:
    """One line of the table."""
    t, head = outcome.timed, f"{outcome.named.system.name:24s} {outcome.named.variant:5s}"
    hand, link = t.bounds.get("tpot_s"), t.bounds.get("link")
    least = [hand, None if link is None else link / tokens]
    bound = max((x for x in least if x is not None), default=None)
    gap = None if bound is None or t.tpot_s is None else t.tpot_s / bound - 1
    fetched = t.total("prefetched")
    useful = t.total("useful") / fetched if fetched else None
    print(
        f"{head} {t.hit_ratio:9.4f} {ms(t.tpot_s)} {ms(least[0])} {ms(least[1])} {part(gap)} "
        f"{sum(t.bytes_moved.values()) / tokens / 1e9:8.3f} {part(useful)} {seconds:5.1f}",
        flush=True,
    )


def part(value: float | None) -> str:
    """A fraction, or a dash."""
    return f"{'-':>6s}" if value is None else f"{value:6.2f}"


def ms(seconds: float | None) -> str:
    """Milliseconds, or a dash."""
    return f"{'-':>8s}" if seconds is None else f"{1e3 * seconds:8.2f}"


def some_requests(trace: RoutingTrace, tokens: int, seed: int) -> RoutingTrace:
    """Whole requests in random order until there are enough tokens."""
    numbers, counts = np.unique(trace.request, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    enough = int(np.searchsorted(np.cumsum(counts[order]), tokens)) + 1
    rows = np.concatenate([np.flatnonzero(trace.request == numbers[i]) for i in order[:enough]])
    return taken(trace, rows)


if __name__ == "__main__":
    main()
