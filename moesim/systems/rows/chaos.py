"""Orders in Chaos: MoE layers on a wafer of GPU dies, and its placement on eight GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.systems.chaos import BATCHES, MODELS, WAFERS, expert, fits, outcome
from moesim.systems.chaos_gpus import gain, spread
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row

SYSTEM = "Orders in Chaos"
SOURCE = "arXiv:2510.05497 v3 (full text)"
BASE = "Base: experts as in EP, tasks split evenly without regard to them"

SKEW = Assumption(
    "skew",
    1.0,
    0.5,
    1.5,
    "spread of the logarithm of loads over that of DeepSeek-V3 decoding (0.6): its traces are not held; "
    "0.3 and 0.9 are mixed traffic of balanced models and single tasks",
)
SPARE = Assumption(
    "spare",
    0.0,
    0.0,
    1.0,
    "part of what experts leave of a die's memory that copies take, beyond the 10 % that are reserved",
)
PERSIST = Assumption(
    "persist",
    0.2,
    0.05,
    0.35,
    "how often a token repeats an expert beyond chance, where no profile says: 0.18 on DeepSeek-V2-Lite, "
    "0.31 on gpt-oss-20b",
)
TOP_N = Assumption("candidates", 8, 2, 32, "the predictor's n: not stated")
LIKENESS = Assumption(
    "likeness",
    0.89,
    0.7,
    0.95,
    "correlation of the log loads of prompts and decoding: rank correlations are 0.88 for DeepSeek-V3 and at "
    "least 0.7 in the paper",
)
OWN = Assumption(
    "own_turns",
    1,
    0,
    1,
    "whether Base's dies, which read one expert after the other, wait for their own memory too (1) or read "
    "from it beside (0)",
)
WORK = (SKEW, OWN)
COPIES = (*WORK, SPARE)
FORECAST = (SPARE, PERSIST, TOP_N, OWN)
HARDWARE = "dojo-wafer (5 x 5 dies) and sow-wafer (3 x 8), experts as fast as on an H100"
ROUTING = "loads of DeepSeek-V3 from its profile (measured loads), of other models log-normal"
#: What of the baseline the paper does not say.
ORDER = (
    "Base's dies read experts in order, one at a time, and share links fairly: the paper does not say how "
    "its reads meet, which moves gains by a fifth. This reading, which has no number of its own, was chosen "
    "of three with the published gains in view (docs/wafer.md); loads are not those of its traces"
)
HOPS = (
    "a remote request is taken as a line, so that bytes weigh, and means are geometric; neither is stated, "
    "nor over how many dies an expert may be split. Counted by task, Base, which spreads an expert over all "
    "dies, has 25 times as many"
)
KEPT = "n, the room for copies and how many steps fill them are not stated"


def _run(case: Case, model: str, wafer: str, batch: int, policy: str) -> tuple[float, float]:
    """Seconds, and hops in readings of one expert: a remote request is a line, so that bytes weigh."""
    own = case.trace if case.trace is not None and fits(case.trace, model) else None
    found = outcome(
        model,
        wafer,
        batch,
        policy,
        case.values.get("skew", SKEW.value),
        case.values.get("spare", SPARE.value),
        case.values.get("persist", PERSIST.value),
        round(case.values.get("candidates", TOP_N.value)),
        case.values.get("own_turns", OWN.value) > 0.5,
        case.seed,
        own,
    )
    return found.seconds, found.byte_hops / expert(model)[0].weight_bytes


def _require_use(case: Case, models: Sequence[str]) -> None:
    """Refuse a trace that is of none of the models."""
    if case.trace is not None and not any(fits(case.trace, model) for model in models):
        raise ConfigError(Fault("is of none of the models", "trace", case.trace.model, ", ".join(models)))


def gains(
    case: Case,
    policy: str,
    over: str = "base",
    models: Sequence[str] = MODELS,
    wafers: Iterable[str] = WAFERS,
    batches: Iterable[int] = BATCHES,
) -> list[float]:
    """Throughput over that of another policy, for each model, wafer and batch."""
    _require_use(case, models)
    return [
        _run(case, *where, over)[0] / _run(case, *where, policy)[0]
        for where in product(models, wafers, batches)
    ]


def speedup(
    policy: str,
    over: str = "base",
    models: Sequence[str] = MODELS,
    wafers: Sequence[str] = WAFERS,
    batches: Sequence[int] = BATCHES,
) -> Callable[[Case], float]:
    """Mean gain over a grid, as a row's `compute`."""
    return lambda case: float(np.mean(gains(case, policy, over, models, wafers, batches)))


def hop_reduction(policy: str) -> Callable[[Case], float]:
    """Geometric mean of Base's hops over a policy's, which has the hops of one reading at least."""

    def compute(case: Case) -> float:
        _require_use(case, MODELS)
        ratios = [
            _run(case, *where, "base")[1] / max(_run(case, *where, policy)[1], 1.0)
            for where in product(MODELS, WAFERS, BATCHES)
        ]
        return float(np.exp(np.mean(np.log(ratios))))

    return compute


def _figure(metric: str, value: float, locator: str, baseline: str = BASE, unit: str = "x") -> Figure:
    return Figure(metric, unit, value, baseline=baseline, grade="P/SIM", source=SOURCE, locator=locator)


def _row(
    name: str,
    figure: Figure,
    compute: Callable[[Case], float],
    *,
    slots: str = "Executor(near the weights) + Predictor(next token) + Residency(copies)",
    assumed: tuple[Assumption, ...] = COPIES,
    reason: str = ORDER,
    cause: str = "missing specification",
    claim: str = "",
    first: bool = False,
    workload: str = "4096, 8192 and 16384 tokens of a decode step, each of another request",
) -> Row:
    return Row(
        SYSTEM,
        name,
        figure,
        compute,
        "wafer",
        slots,
        hardware=HARDWARE,
        workload=workload,
        assumed=assumed,
        routing=ROUTING,
        headline=first,
        reason=reason,
        cause=cause,
        claims=(claim,) if claim else (),
    )


def _placed(case: Case, way: str) -> float:
    return gain(way, case["skew"], case["likeness"], case.seed)


def _gpu_row(
    name: str, metric: str, value: float, compute: Callable[[Case], float], what: str, unit: str = "x"
) -> Row:
    return Row(
        SYSTEM,
        name,
        Figure(
            metric,
            unit,
            value,
            baseline="contiguous experts",
            grade="S",
            source="arXiv:2510.05497 (note)",
            locator="Case study 2",
        ),
        compute,
        "placement",
        f"Placement({what})",
        hardware="h100-sxm-8, EP8",
        workload="Qwen3-235B, decode steps of 64 to 16384 tokens; experts alone",
        assumed=(SKEW, LIKENESS),
        reason="up to 1024 tokens reading the weights decides, and every placement reads as much; at 16384 "
        "it is 8.9 % (remapped) and 7.6 % (one more slot); which batches its mean is over is not stated",
        cause="missing specification",
    )


BOTH = "allo+pred"
FIG = "Sec V-C Fig 12"
ROWS = (
    _row(
        "deepseek-v3",
        headline(SYSTEM),
        speedup(BOTH, models=MODELS[:1]),
        first=True,
        claim="Orders in Chaos/1",
        reason=ORDER + "; the paper's own versions say 6.3, 5.3 and 7.0",
    ),
    _row(
        "qwen3",
        claims()["Orders in Chaos/2"].figure("x", grade="P/SIM"),
        speedup(BOTH, models=MODELS[3:]),
        claim="Orders in Chaos/2",
    ),
    *(
        _row(
            f"{model}-v3",
            _figure("throughput", value, FIG),
            speedup(BOTH, models=[model]),
            reason=reason,
            cause=cause,
        )
        for model, value, reason, cause in (
            ("deepseek-v3", 7.0, ORDER, "missing specification"),
            (
                "kimi-k2",
                8.2,
                "weights of 8 bits, as 2.03 TB in 16 bits fit no wafer of 2.0 TB: which the paper takes is "
                "not stated. " + ORDER,
                "missing specification",
            ),
            (
                "llama-4-maverick",
                7.3,
                "32 to 128 tokens per expert leave reading to decide: Base pays its links for every byte, "
                "and no spread of loads within reason makes experts at home as slow as there",
                "disagreement",
            ),
            ("qwen3-235b-a22b", 4.1, ORDER, "missing specification"),
        )
    ),
    _row("dojo", _figure("throughput", 6.0, "Sec V-C, Dojo"), speedup(BOTH, wafers=WAFERS[:1])),
    _row("sow", _figure("throughput", 7.5, "Sec V-C, TSMC-SoW"), speedup(BOTH, wafers=WAFERS[1:])),
    _row(
        "pred",
        _figure("throughput", 3.0, "Sec V-D, Pred Only"),
        speedup("pred"),
        slots="Predictor(next token) + Residency(copies)",
        assumed=FORECAST,
        reason=KEPT,
    ),
    _row(
        "pred-hops",
        _figure("hop reduction", 4.5, "Sec V-D, Pred Only"),
        hop_reduction("pred"),
        slots="Predictor(next token) + Residency(copies)",
        assumed=FORECAST,
        reason=KEPT,
    ),
    _row(
        "allo",
        _figure("throughput", 6.3, "Sec V-D, Allo Only"),
        speedup("allo"),
        slots="Executor(near the weights)",
        assumed=WORK,
    ),
    _row(
        "allo-hops",
        _figure("hop reduction", 142.0, "Sec V-D, Allo Only"),
        hop_reduction("allo"),
        slots="Executor(near the weights)",
        assumed=WORK,
        reason=HOPS,
    ),
    _row("both", _figure("throughput", 6.63, "Sec V-D, Allo+Pred"), speedup(BOTH)),
    _row(
        "both-hops",
        _figure("hop reduction", 213.0, "Sec V-D, Allo+Pred"),
        hop_reduction(BOTH),
        reason=HOPS,
    ),
    _row(
        "ep-16384",
        _figure("throughput", 1.44, "Sec V-C, batch 16384", "EP: experts where they lie"),
        speedup(BOTH, "ep", batches=[16384]),
        reason="",
        cause="",
        workload="16384 tokens of a decode step",
    ),
    _row(
        "ep-4096",
        _figure("throughput over EP", 1.0, "Sec V-C, batch 4096: similar", "EP", "ratio"),
        speedup(BOTH, "ep", batches=[4096]),
        reason="",
        cause="",
        workload="4096 tokens of a decode step",
    ),
    _gpu_row("gpus-remap", "MoE time", 1.155, lambda case: _placed(case, "remap"), "remapped by prefill"),
    _gpu_row("gpus-dup", "MoE time", 1.125, lambda case: _placed(case, "dup"), "one more slot per GPU"),
    _gpu_row(
        "gpus-spread",
        "slowest over fastest GPU",
        1.3,
        lambda case: spread(case["skew"], case["likeness"], case.seed),
        "default placement",
        unit="ratio",
    ),
)
