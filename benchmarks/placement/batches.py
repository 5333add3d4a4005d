"""Plans fitted to batches of some requests, judged on batches of others.

    python benchmarks/placement/batches.py FOLDER [--only gpt-oss] [--tokens 64 256] [--requests N]

FOLDER holds ``gpt-oss-20b/decode.npz`` with its ``requests.json`` and
``esft-deepseek-v2-lite/{intent,summary}.npz``. For each seed the requests are dealt into two halves, one to
fit and one to judge (the same halves for every method); ``--requests`` fits on fewer. Batches are formed
inside a half, `moesim.placement.batches`:

mixed     single tokens of all requests of the traffic, none twice in a batch
chunks    runs of 32 neighbouring tokens of one request, as many as fill the batch
one task  single tokens, all of one task, which is drawn for each batch

Traffic is of one dataset (``mmlu``, ``gpqa``, ``intent``; `summary` has too few requests), of all datasets
mixed, or of one task at a time: 7 subject families or 75 subjects of gpt-oss, two tasks of ESFT. The number
is the excess, the mean over judged batches and layers of max/mean rank load, less 1; the interval is over
seeds, twice the standard error. ``risk`` is a method in the manner of FlashLB: a beam search over replica
counts, packing by mean plus 0.674 standard deviations of the rank's load over the fitted batches, judged on
the fitted batches. ``steps`` is `moesim.placement.held_out.fit_sampled`, its fall-back included; ``search``
the same without fall-back. Both fit to batches that resample the requests, the others to plain ones.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

from moesim import load_trace
from moesim.layout import ExpertMap
from moesim.placement.batches import draw_batches
from moesim.placement.held_out import fit_sampled
from moesim.placement.solution import evaluate
from moesim.placement.solvers import anneal
from moesim.placement.solvers.greedy import greedy
from moesim.placement.solvers.steps import search_steps
from moesim.trace.types import RoutingTrace

METHODS = ("greedy", "totals", "risk", "search", "steps")
JUDGED, RUN = 200, 32
# Subjects of MMLU by the four parts of its paper (Hendrycks et al. 2021), and of GPQA by its three domains.
FAMILIES = {
    "stem": "algebra astronomy college_biology chemistry computer mathematics physics electrical "
    "machine_learning statistics high_school_biology",
    "social": "econom geography government psychology sexuality public_relations security_studies sociology "
    "foreign",
    "humanities": "logic european us_history world_history law jurisprudence fallacies moral philosophy "
    "prehistory religions",
}


def family(dataset: str, subject: str) -> str:
    if dataset.startswith("gpqa"):
        domains = {"hem": "chemistry", "iolog": "biology", "enetic": "biology"}
        return "gpqa " + next((d for part, d in domains.items() if part in subject), "physics")
    if not dataset.startswith("mmlu"):
        return dataset
    return "mmlu " + next(
        (f for f, parts in FAMILIES.items() if any(p in subject for p in parts.split())), "other"
    )


def traffics(folder: Path, only: str):
    """Name, trace, requests, run, task of each request."""
    if only in ("", "gpt-oss"):
        trace = load_trace(folder / "gpt-oss-20b/decode.npz", num_experts=32)
        about = json.loads((folder / "gpt-oss-20b/requests.json").read_text())
        unknown = {"dataset": "", "category": ""}
        rows = [about.get(str(i), unknown) for i in range(max(map(int, about)) + 1)]
        sets = np.array([row["dataset"].split("_")[0] for row in rows])
        every = np.unique(trace.request)
        known = every[np.isin(sets[every], ("mmlu", "gpqa"))]
        kinds = [np.unique([family(r["dataset"], r["category"]) for r in rows], return_inverse=True)[1]]
        kinds += [np.unique([r["category"] for r in rows], return_inverse=True)[1]]
        for name in ("mmlu", "gpqa"):
            yield f"gpt-oss {name}, mixed", trace, every[sets[every] == name], 1, None
            yield f"gpt-oss {name}, chunks", trace, every[sets[every] == name], RUN, None
        yield "gpt-oss all, mixed", trace, every, 1, None
        yield "gpt-oss one family", trace, known, 1, kinds[0]
        yield "gpt-oss one subject", trace, known, 1, kinds[1]
    if only in ("", "esft"):
        parts = [
            load_trace(folder / f"esft-deepseek-v2-lite/{n}.npz", num_experts=64)
            for n in ("intent", "summary")
        ]
        first = int(parts[0].request.max()) + 1
        request = np.concatenate([parts[0].request, parts[1].request + first])
        ids = np.concatenate([part.topk_ids for part in parts])
        both = RoutingTrace(
            ids, request.astype(np.int32), 64, parts[0].moe_layer_ids,
            np.concatenate([p.position for p in parts]), np.concatenate([p.phase for p in parts]),
        )  # fmt: skip
        every = np.unique(request)
        yield "esft intent, mixed", both, every[every < first], 1, None
        yield "esft intent, chunks", both, every[every < first], RUN, None
        yield "esft all, mixed", both, every, 1, None
        yield "esft one task", both, every, 1, (np.arange(every.max() + 1) >= first).astype(np.int64)


def risk_plan(
    steps: np.ndarray, ranks: int, slots: int, z: float = 0.674, stages: int = 4, width: int = 8
) -> np.ndarray:
    """Beam search over replica counts, packing by risk, one layer: steps [batches, experts] -> slots."""
    steps = steps / steps.sum(axis=1, keepdims=True)
    mean, sigma = steps.mean(axis=0), steps.std(axis=0)
    experts, spare = steps.shape[1], slots - steps.shape[1]

    def packed(counts: np.ndarray) -> tuple[float, np.ndarray]:
        series, held = np.zeros((ranks, len(steps))), np.full((ranks, slots // ranks), -1)
        fill = np.zeros(ranks, dtype=np.int64)
        risk = (mean + z * sigma) / counts
        for e in np.repeat(np.arange(experts), counts)[np.argsort(-np.repeat(risk, counts), kind="stable")]:
            open_ranks = np.flatnonzero((fill < slots // ranks) & ~(held == e).any(axis=1))
            if not len(open_ranks):
                return np.inf, held.ravel()
            after = series[open_ranks] + steps[:, e] / counts[e]
            to = open_ranks[(after.mean(axis=1) + z * after.std(axis=1)).argmin()]
            held[to, fill[to]] = e
            fill[to] += 1
            series[to] += steps[:, e] / counts[e]
        return float(series.max(axis=0).mean()), held.ravel()

    beam = [np.ones(experts, dtype=np.int64)]
    left = spare
    for stage in range(stages if spare else 0):
        take = left // (stages - stage)
        left -= take
        children = {}
        for counts in beam:
            # By mean alone up to by risk alone: each way to fill this stage's slots is a child.
            for weight in np.linspace(0.0, 3.0 * z, width):
                child = counts.copy()
                for _ in range(take):
                    child[np.where(child < ranks, (mean + weight * sigma) / child, -1).argmax()] += 1
                children[child.tobytes()] = child
        scored = sorted(((packed(_filled(c, mean, slots, ranks))[0], k) for k, c in children.items()))
        beam = [children[key] for _, key in scored[:width]]
    return min((packed(counts) for counts in beam), key=lambda found: found[0])[1]


def _filled(counts: np.ndarray, mean: np.ndarray, slots: int, ranks: int) -> np.ndarray:
    counts = counts.copy()
    while counts.sum() < slots:
        counts[np.where(counts < ranks, mean / counts, -1).argmax()] += 1
    return counts


def thinned(trace: RoutingTrace, layers: int) -> RoutingTrace:
    """Some layers of a trace, evenly spaced."""
    every = len(trace.moe_layer_ids)
    some = np.linspace(0, every - 1, min(layers, every)).round().astype(int)
    ids = np.ascontiguousarray(trace.topk_ids[:, some])
    kept = tuple(trace.moe_layer_ids[i] for i in some)
    return RoutingTrace(ids, trace.request, trace.num_experts, kept, trace.position, trace.phase)


def measure(
    trace,
    requests,
    run,
    tasks,
    tokens: int,
    ranks: int,
    redundant: int,
    seed: int,
    number: int,
    limit: int,
    resample: bool,
    skip,
):
    """Excess of each method, whether the search was kept, and CPU seconds of `steps`."""
    rng = np.random.default_rng([seed, 7])
    order = rng.permutation(requests)
    if tasks is not None:  # every task in both halves
        order = order[np.argsort(tasks[order], kind="stable")]
    fitted, judged = order[::2], order[1::2]
    if limit:
        fitted = rng.permutation(fitted)[:limit]

    def draw(chosen: np.ndarray, number: int, again: bool, seed: int) -> np.ndarray:
        return draw_batches(
            trace, tokens, number, requests=chosen, run=run, tasks=tasks, resample=again, seed=seed
        )

    def sample(chosen: np.ndarray) -> np.ndarray:
        return draw(chosen, number, resample, seed)

    plain, other = draw(fitted, number, False, seed), draw(judged, JUDGED, False, seed + 1000)
    total, steps = plain.sum(axis=0), sample(fitted)
    start = greedy(total, ranks, redundant)
    plans = {"greedy": start}
    if "totals" not in skip:
        plans["totals"] = anneal.search(total, ranks, start, seed=seed)
    if "risk" not in skip:
        slots = trace.num_experts + redundant
        plans["risk"] = np.stack(
            [risk_plan(plain[:, layer], ranks, slots) for layer in range(steps.shape[1])]
        )
    started = time.process_time()
    found = fit_sampled(sample, fitted, ranks, redundant, seed=seed)
    seconds = time.process_time() - started
    plans["steps"] = found.table
    plans["search"] = found.table if found.kept else search_steps(steps, ranks, start, seed=seed)
    excess = {m: evaluate(ExpertMap(p, trace.num_experts, ranks), other).mean - 1 for m, p in plans.items()}
    return [excess.get(m, np.nan) for m in METHODS], found.kept, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", choices=("", "gpt-oss", "esft"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=400, help="batches to fit")
    parser.add_argument(
        "--layers", type=int, default=8, help="layers, evenly spaced, one pool for the fall-back"
    )
    parser.add_argument("--requests", type=int, default=0, help="requests to fit on, 0 for half of all")
    parser.add_argument(
        "--plain", action="store_true", help="fit to batches that are not resampled by request"
    )
    parser.add_argument("--skip", nargs="*", default=[], choices=METHODS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        f"{'traffic':24} {'layout':>8} {'tokens':>6} "
        + " ".join(f"{m:>8}" for m in METHODS)
        + "    cut of steps  kept  cpu s"
    )
    for name, trace, requests, run, tasks in traffics(arguments.folder, arguments.only):
        trace = thinned(trace, arguments.layers)
        layouts = ((8, 0), (8, 8)) if trace.num_experts == 32 else ((8, 0), (16, 16))
        for ranks, redundant in layouts:
            for tokens in arguments.tokens:
                found = [
                    measure(
                        trace,
                        requests,
                        run,
                        tasks,
                        tokens,
                        ranks,
                        redundant,
                        s,
                        arguments.batches,
                        arguments.requests,
                        not arguments.plain,
                        arguments.skip,
                    )
                    for s in range(arguments.seeds)
                ]
                table = np.array([row for row, _, _ in found])
                cut = 1 - table[:, -1] / table[:, 0]
                half = 2 * cut.std(ddof=1) / len(cut) ** 0.5 if len(cut) > 1 else 0.0
                kept = sum(kept for _, kept, _ in found)
                numbers = " ".join(f"{x:8.4f}" for x in table.mean(axis=0))
                layout = f"{trace.num_experts + redundant}/{ranks}"
                print(
                    f"{name:24} {layout:>8} {tokens:6} {numbers} {cut.mean():7.1%} ± {half:5.1%}"
                    f" {kept:3}/{len(found)} {np.mean([s for *_, s in found]):6.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
