"""Fit the shipped profiles of routing, and judge such fits on requests they have not seen.

    python benchmarks/fit_profiles.py held-out        # fit on half the requests, compare with the other half
    python benchmarks/fit_profiles.py profiles [NAME] # write traces/profiles/*.npz

The data are not part of moesim: MOESIM_SHARED names the folder that holds `traces/` (default ../shared/data).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from moesim.model import load_model
from moesim.synthesis.check import compare, measure
from moesim.synthesis.design import Shape, Traits, capped, design
from moesim.synthesis.fitting import fit
from moesim.synthesis.moments import mutual_information, pair_counts
from moesim.synthesis.sampling import generate
from moesim.trace import RoutingTrace, load_trace

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MOESIM_SHARED", ROOT.parent / "shared" / "data")) / "traces"
OUT = ROOT / "traces" / "profiles"
ESFT = "statistics of deepseek-ai/ESFT's expert scores (commit 579a7711), tasks intent and summary"
GPT = "statistics of AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting (commit 72b368f6), 437 requests"
SGLANG = "expert loads attached to sgl-project/sglang issue 6017 by the SGLang team"
ALLENAI = "expert counts of allenai/OLMoE (commit 357454f4), five text domains"
PERSISTENCE = (
    "persistence and coupling: as measured on DeepSeek-V2-Lite and gpt-oss-20b; which experts go together, "
    "and with which tokens, is drawn at random"
)


def token_trace(name: str) -> RoutingTrace:
    path, model, phase = {
        "gpt-oss": ("gpt-oss-20b/decode.npz", "gpt-oss-20b", 1),
        "esft-intent": ("esft-deepseek-v2-lite/intent.npz", "deepseek-v2-lite", 0),
        "esft-summary": ("esft-deepseek-v2-lite/summary.npz", "deepseek-v2-lite", 0),
    }[name]
    trace = load_trace(DATA / path, shape=load_model(model))
    assert isinstance(trace, RoutingTrace)
    return replace(trace, phase=np.full(trace.num_tokens, phase, np.int8))


def part(trace: RoutingTrace, rows: np.ndarray) -> RoutingTrace:
    return replace(
        trace,
        topk_ids=trace.topk_ids[rows],
        request=trace.request[rows],
        position=trace.position[rows],
        phase=trace.phase[rows],
        topk_weights=None,
    )


def held_out(seed: int = 0) -> None:
    for name in ("gpt-oss", "esft-intent", "esft-summary"):
        trace = token_trace(name)
        requests = np.random.default_rng(seed).permutation(np.unique(trace.request))
        first = np.isin(trace.request, requests[: len(requests) // 2])
        fitted, other = part(trace, first), part(trace, ~first)
        start = time.process_time()
        profile = fit(fitted, seed=seed)
        spent = time.process_time() - start
        made = generate(profile, other.num_tokens, len(np.unique(other.request)), seed=seed + 1)
        target, generated, own = measure(other), measure(made), measure(fitted)
        sizes = f"{fitted.num_tokens:,} tokens fitted, {other.num_tokens:,} judged, {spent:.0f} s of CPU"
        print(f"\n### {name}: {sizes}\n")
        print("| statistic | other half | generated | error | allowed | halves differ by | |")
        print("|---|---|---|---|---|---|---|")
        for row in compare(target, generated):
            halves = own[row.name] / row.target - 1
            verdict = "" if row.passes else "off"
            numbers = f"{row.target:.4f} | {row.generated:.4f} | {row.error:+.1%} | {row.tolerance:.0%}"
            print(f"| {row.name} | {numbers} | {halves:+.1%} | {verdict} |", flush=True)


def gpt_oss():
    trace = token_trace("gpt-oss")
    return replace(fit(trace), source=GPT, licence="Apache-2.0", targets=measure(trace))


def deepseek_v2_lite():
    tasks = [token_trace("esft-intent"), token_trace("esft-summary")]
    shift = int(tasks[0].request.max()) + 1
    both = replace(
        tasks[0],
        topk_ids=np.concatenate([t.topk_ids for t in tasks]),
        topk_weights=None,
        request=np.concatenate([tasks[0].request, tasks[1].request + shift]).astype(np.int32),
        position=np.concatenate([t.position for t in tasks]),
        phase=np.concatenate([t.phase for t in tasks]),
    )
    return replace(fit(both), source=ESFT, licence="MIT", targets=measure(both))


def deepseek_v3():
    model = load_model("deepseek-v3")
    files = ("prefill_in1024.json", "decode_in1000out1000.json")
    totals = [load_trace(DATA / "deepseek-v3-counts" / f, shape=model).load_counts().totals for f in files]
    shape = Shape(model.moe_layer_ids, 256, 8, model.moe.groups, model.moe.top_groups, model.name)
    # Without a table between experts, which would be 3.8 MB: kinds of tokens couple the layers.
    profile, _ = design(shape, Traits(), loads=np.stack(totals), affinity=0.0, rounds=20)
    assumed = ("only the loads are measured", PERSISTENCE, *profile.assumed)
    return replace(profile, source=SGLANG, licence="not stated", assumed=assumed)


def from_pairs(name: str, key: str, coupling: float, affinities: tuple[float, ...]):
    """Loads of three layers and five domains; the rest of the layers get permuted copies of the nearest."""
    model = load_model(name)
    shape = Shape(model.moe_layer_ids, model.num_experts, model.top_k, model=model.name)
    L, E, measured = len(shape.moe_layer_ids), shape.num_experts, (0, 7, 15)
    stored = np.load(DATA / "olmoe-counts" / "olmoe_mixtral_counts.npz")
    domains = ("arxiv", "book", "c4", "github", "wikipedia")
    counts = np.stack([stored[f"{key}__{d}__counts"] for d in domains]).astype(float)
    shares = np.stack([capped(c, shape.top_k) for c in counts])
    rng = np.random.default_rng(0)
    every = np.empty((len(domains), L, E))
    for layer in range(L):
        near = int(np.argmin([abs(layer - m) for m in measured]))
        order = np.arange(E) if layer in measured else rng.permutation(E)
        every[:, layer] = shares[:, near][:, order]
    mean = every.mean(axis=0)
    lean = np.log2((every + 1e-4) / (mean + 1e-4))
    pairs = [stored[f"{key}__{d}__crosslayer"][i] for d in domains for i in (0, 1)]
    aim = np.mean([mutual_information(p.astype(float)) for p in pairs])
    best = None
    for affinity in affinities:
        profile, _ = design(shape, Traits(coupling=coupling), loads=np.stack([mean, mean]), domains=lean,
                            affinity=affinity, rounds=16)  # fmt: skip
        made = generate(profile, 30_000, phase="prefill").topk_ids
        columns = np.ascontiguousarray(made.transpose(1, 0, 2))
        tables = [pair_counts(columns[a], columns[b], E) for a, b in ((0, 7), (7, 15))]
        far = np.mean([mutual_information(table) for table in tables])
        print(
            f"{name}: affinity {affinity}: {far:.3f} bits over 7 to 8 layers, measured {aim:.3f}", flush=True
        )
        if best is None or abs(far - aim) < abs(best[0] - aim):
            best = far, profile
    assert best is not None
    loads = f"loads of layers other than {', '.join(map(str, measured))}: permuted copies of the nearest"
    assumed = (loads, "the same loads in prefill and decode", PERSISTENCE, *best[1].assumed)
    return replace(best[1], source=ALLENAI, licence="Apache-2.0", assumed=assumed)


PROFILES = {
    "gpt-oss": gpt_oss,
    "deepseek-v2-lite": deepseek_v2_lite,
    "deepseek-v3": deepseek_v3,
    "olmoe": lambda: from_pairs("olmoe-1b-7b", "olmoe", 0.6, (0.5, 0.6)),
    "mixtral": lambda: from_pairs("mixtral-8x7b", "mistral", 0.1, (0.0, 0.2)),
}


def main() -> None:
    what, *names = sys.argv[1:] or ["held-out"]
    if what == "held-out":
        held_out()
        return
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names or PROFILES:
        profile = PROFILES[name]()
        path = OUT / f"{name}.npz"
        profile.save(path)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB; assumed: {profile.assumed}", flush=True)


if __name__ == "__main__":
    main()
