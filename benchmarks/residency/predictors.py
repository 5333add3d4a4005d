"""How well predictors guess on real traces: learnt on half of the requests, asked about the other half.

python benchmarks/residency/predictors.py TRACE [TRACE ...] [--tokens N]
"""

import argparse
import time
from dataclasses import replace

import numpy as np

from moesim.policy import predictors as p
from moesim.policy import split, token_steps
from moesim.trace import load_trace


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("traces", nargs="+")
    arguments.add_argument("--tokens", type=int, default=20_000, help="tokens asked about, at most")
    arguments.add_argument("--fraction", type=float, default=0.5, help="requests learnt from")
    options = arguments.parse_args()
    for path in options.traces:
        table(path, options.tokens, options.fraction)


def table(path: str, tokens: int, fraction: float) -> None:
    trace = load_trace(path)
    train, test = split(trace, fraction, seed=0)
    steps = first(token_steps(test), tokens)
    k, layers = trace.top_k, steps.layers
    print(
        f"\n{path}: {layers} layers x {trace.num_experts} experts, top-{k}; "
        f"learnt from {train.num_tokens:,} tokens, asked about {steps.num_steps:,}"
    )
    far = min(6, layers - 1)
    rows = {
        "popular": p.Popular(k, 1),
        "markov, one layer": p.Markov(k, far),
        "next token": p.NextToken(k),
        "activation matrices (paper)": p.ActivationMatrices(k, far, "paper"),
        "activation matrices (code)": p.ActivationMatrices(k, far, "code"),
        "expert maps d=1 (paper)": p.ExpertMaps(trace.num_experts, 1, 1, "paper"),
        "expert maps d=3 (paper)": p.ExpertMaps(trace.num_experts, 3, 3, "paper"),
        "recent scores (HybriMoE code)": p.RecentScores(k),
    }
    if layers * trace.num_experts**3 < 50_000_000:
        rows["markov, two layers (EdgeMoE)"] = p.Markov(k, order=2)
    print(
        f"{'predictor':31s} {'ahead':>5s} {'recall@k':>9s} {'recall@2k':>9s} {'guessed/k':>9s} {'prec@k':>7s}"
        f" {'fit s':>6s} {'us/cell':>8s}"
    )
    for name, predictor in rows.items():
        began = time.process_time()
        fitted = predictor.fit(train)
        between = time.process_time()
        guesses = fitted.guess(steps)
        spent = (time.process_time() - between) / (len(steps.starts) - 1)
        at_k = {q.ahead: q for q in p.quality(guesses, steps, k)}
        every = {q.ahead: q for q in p.quality(guesses, steps)}
        wider = replace(predictor, width=max(predictor.width, 2 * k))
        twice = {q.ahead: q for q in p.quality(wider.fit(train).guess(steps), steps, 2 * k)}
        for ahead in sorted(at_k):
            if ahead in (1, 2, 3, far, layers):
                q = at_k[ahead]
                print(
                    f"{name:31s} {ahead:5d} {q.recall:9.3f} {twice[ahead].recall:9.3f} "
                    f"{every[ahead].guessed / every[ahead].wanted:9.2f} {q.precision:7.3f} "
                    f"{between - began:6.2f} {1e6 * spent:8.2f}"
                )


def first(steps, count):
    """The first steps of many."""
    if steps.num_steps <= count:
        return steps
    cells = count * steps.layers
    end = int(steps.starts[cells])
    return replace(
        steps,
        experts=steps.experts[:end],
        tokens=steps.tokens[:end],
        weights=None if steps.weights is None else steps.weights[:end],
        starts=steps.starts[: cells + 1],
        request=steps.request[:count],
        phase=steps.phase[:count],
        step_tokens=steps.step_tokens[:count],
        context=steps.context[:count],
        rows=steps.rows[:count],
    )


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
