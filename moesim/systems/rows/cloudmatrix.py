"""CloudMatrix-Infer (arXiv 2506.12708): DeepSeek-R1 in INT8 on one supernode, prefill and decode apart."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from moesim.engine.deployment import Deployment
from moesim.engine.routing import assumed
from moesim.engine.speculation import Speculation
from moesim.hardware import load_hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model import load_model
from moesim.ops import Batch, Precision
from moesim.placement import Problem, solve
from moesim.supernode import (
    DIES,
    PrefillTimes,
    decode_instance,
    load_seconds,
    prefill_times,
    service_rate,
    with_reuse,
)
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row

SYSTEM, PAPER = "CloudMatrix-Infer", "arXiv:2506.12708 (via  third-party notes)"
DRAFTS = Speculation(1, 0.7)
#: Prompt, answer, sequences per NPU, and published TPOT in ms and tokens per second and NPU.
SLO = (
    (1024, 1024, 128, 46.8, 2733.0),
    (2048, 256, 112, 47.4, 2360.0),
    (4096, 256, 96, 49.4, 1943.0),
    (4096, 256, 24, 24.6, 974.0),
    (4096, 256, 8, 14.9, 538.0),
)
#: Prefill instance: dies, tokens per NPU of a step, and tokens of a prompt.
PREFILL_DIES, STEP_TOKENS, PROMPT = 32, 16384, 4096
#: Bytes of one token in the cache: 61 layers of 512 + 64 numbers of 16 bits.
TOKEN_CACHE = 61 * (512 + 64) * 2.0
#: Published gain with half of every prompt cached; the only figure that the cache's rate is fitted to.
HALF_GAIN = 1.42

ELEMENT = Assumption(
    "element_bytes", 2.0, 1.0, 2.0, "of a number that changes dies inside attention: 16 bits, or quantised"
)


@functools.cache
def _decode(overlap: str, drafts: bool, seed: int) -> Deployment:
    return decode_instance(
        load_model("deepseek-r1"),
        load_hardware("cloudmatrix384"),
        drafts=DRAFTS if drafts else None,
        overlap=overlap,
        seed=seed,
    )


@functools.cache
def token_s(
    overlap: str, drafts: bool, seed: int, points: tuple[tuple[float, float], ...]
) -> tuple[float, ...]:
    """Seconds per token for pairs of sequences per NPU and context."""
    instance = _decode(overlap, drafts, seed)
    sequences, context = np.array(points).T
    found = instance.decode(sequences / DIES * instance.layout.dp, context)
    return tuple(found.token_s.tolist())


def slo_s(seed: int) -> tuple[float, ...]:
    """Seconds per token of the rows of `SLO`; the context is averaged over the answer."""
    points = tuple((float(many), prompt + answer / 2.0) for prompt, answer, many, _, _ in SLO)
    return token_s("streams", True, seed, points)


def tpot(row: int) -> Callable[[Case], float]:
    """TPOT of a row of the table, ms."""
    return lambda case: 1e3 * slo_s(case.seed)[row]


def throughput(row: int) -> Callable[[Case], float]:
    """Tokens per second and NPU of a row of the table."""
    return lambda case: SLO[row][2] / slo_s(case.seed)[row]


def micro_gain(sequences: float) -> Callable[[Case], float]:
    """Part of throughput that two streams add, with drafts and 4,096 tokens of context."""

    def compute(case: Case) -> float:
        points = ((sequences, 4096.0),)
        both = (token_s(overlap, True, case.seed, points)[0] for overlap in ("none", "streams"))
        return next(both) / next(both) - 1.0

    return compute


def layer_us(drafts: bool) -> Callable[[Case], float]:
    """Microseconds of a layer of the main model at 96 sequences per NPU and 4,096 tokens of context."""

    def compute(case: Case) -> float:
        instance = _decode("streams", drafts, case.seed)
        many = np.array([96 / DIES * instance.layout.dp])
        step = instance.step(
            Batch.decode_over(many, np.array([4096.0]), instance.layout.dp, 2.0 if drafts else 1.0)
        )
        inside = step.seconds - step.block_seconds()["other"]
        return float(1e6 * inside[0] / instance.model.num_layers)

    return compute


@functools.cache
def _prefill(routing: str, seed: int) -> Deployment:
    model = load_model("deepseek-r1")
    source = assumed(routing, model.num_experts, model.top_k)
    loads = source.inclusion
    if routing == "uniform":
        # Even loads need no spares.
        plan = ExpertMap.contiguous(1, model.num_experts, PREFILL_DIES)
    else:
        plan = solve(Problem(loads, PREFILL_DIES, redundant=32), "greedy").expert_map
    return Deployment(
        model,
        load_hardware("cloudmatrix384").with_nodes(2),
        Parallelism(dp=PREFILL_DIES, ep=PREFILL_DIES),
        Precision.of(model, "int8"),
        source,
        plan,
        "two-batch",
        seed,
    )


@functools.cache
def prefill(routing: str, seed: int, element: float, new: float = PROMPT, past: float = 0.0) -> PrefillTimes:
    """A step of 16,384 prompt tokens per NPU, of which only `new` in every prompt of 4,096 are computed."""
    prompts = STEP_TOKENS / DIES / PROMPT
    return prefill_times(_prefill(routing, seed), prompts, new, past, element)


def prefill_rate(routing: str) -> Callable[[Case], float]:
    """Prompt tokens per second and NPU."""
    return lambda case: STEP_TOKENS / prefill(routing, case.seed, case["element_bytes"]).overlapped_s


def prefill_gain(case: Case) -> float:
    """Part of throughput that micro-batches add to prefill."""
    return prefill("uniform", case.seed, case["element_bytes"]).gain - 1.0


def cache_gain(share: float) -> Callable[[Case], float]:
    """Throughput of prefill with a share of every prompt cached over that with none."""

    def compute(case: Case) -> float:
        def step(new: float, past: float) -> float:
            return prefill("uniform", case.seed, case["element_bytes"], new, past).overlapped_s

        whole = STEP_TOKENS * TOKEN_CACHE
        rate = service_rate(HALF_GAIN, 0.5, step, PROMPT, whole)
        return step(PROMPT, 0.0) / with_reuse(step, PROMPT, share, whole, rate).seconds

    return compute


def first_token_saved(case: Case) -> float:
    """Part of the time to first token that 90 % of cached tokens save."""
    return 1.0 - 1.0 / cache_gain(0.9)(case)


def pooled_load_s(case: Case) -> float:
    """Seconds until eight instances have the model through the pool; the store is as fast as without."""
    weights = 671e9
    store = load_seconds(weights, 8, 1.0, 1.0, pooled=False) / 2560.0
    return load_seconds(weights, 8, store, case["fabric"], pooled=True)


def _figure(
    metric: str, unit: str, value: float, locator: str, baseline: str = "", high: float | None = None
) -> Figure:
    return Figure(metric, unit, value, high, baseline, "S", PAPER, locator)


SLOTS = "Batcher(two streams) + Placement(one expert a die, spares by load) + Executor(fused exchange)"
DECODE_ON = "cloudmatrix384, 160 NPUs, EP320"
TYPICAL = "typical skew, spares by load"


def _decode_row(name: str, figure: Figure, compute: Callable[[Case], float], **more: object) -> Row:
    return Row(
        SYSTEM,
        name,
        figure,
        compute,
        "npu",
        SLOTS,
        hardware=DECODE_ON,
        routing=TYPICAL,
        **more,  # type: ignore[arg-type]
    )


def _slo_rows() -> list[Row]:
    made = []
    for i, (prompt, answer, many, ms, rate) in enumerate(SLO):
        work = f"DeepSeek-R1 INT8, {many} sequences of {prompt} + {answer} tokens per NPU, one draft, 70 %"
        where = "SLO table (decode tput vs TPOT SLO)"
        figure = _figure("throughput", "tok/s per NPU", rate, where)
        answers: tuple[str, ...] = ()
        if i == 2:
            figure, answers = (
                claims()["CloudMatrix-Infer/2"].figure("tok/s per NPU"),
                ("CloudMatrix-Infer/2",),
            )
        if i == 4:
            figure, answers = (
                claims()["CloudMatrix-Infer/3"].figure("tok/s per NPU"),
                ("CloudMatrix-Infer/3",),
            )
        made += [
            _decode_row(f"tpot-{prompt}-{many}", _figure("TPOT", "ms", ms, where), tpot(i), workload=work),
            _decode_row(f"decode-{prompt}-{many}", figure, throughput(i), workload=work, claims=answers),
        ]
    return made


def _micro(many: int, gain: float) -> Row:
    figure = _figure(
        "decode throughput added", "fraction", gain, "ablation microbatch decode", "no micro-batches"
    )
    return _decode_row(
        f"micro-decode-{many}",
        figure,
        micro_gain(float(many)),
        workload=f"{many} sequences of 4096 + 256 tokens per NPU",
        cause="disagreement",
        reason="what two streams hide are the start-ups of the exchange and the idle memory; the gain is the "
        "small difference of two large times. That either stream may fill the memory was decided with this "
        "gain in view: with the memory cut as the cores are, there is none",
    )


PREFILL = "cloudmatrix384, 16 NPUs, EP32"
ROWS = (
    Row(
        SYSTEM,
        "prefill-balanced",
        headline(SYSTEM),
        prefill_rate("uniform"),
        "npu",
        "Batcher(two micro-batches, copy engine) + Executor(attention by tokens, heads, tokens)",
        hardware=PREFILL,
        workload="DeepSeek-R1 INT8, 16384 tokens per NPU in prompts of 4096, perfect balance",
        assumed=(ELEMENT,),
        routing="uniform",
        headline=True,
        claims=("CloudMatrix-Infer/1",),
    ),
    Row(
        SYSTEM,
        "prefill-default",
        _figure("prefill throughput", "tok/s per NPU", 5655.0, "Table 2, default"),
        prefill_rate("typical"),
        "npu",
        "Batcher(two micro-batches, copy engine) + Placement(greedy, 32 spares)",
        hardware=PREFILL,
        workload="DeepSeek-R1 INT8, 16384 tokens per NPU in prompts of 4096",
        assumed=(ELEMENT,),
        routing=TYPICAL,
        cause="missing specification",
        reason="how far the loads of its prompts are from those that the spares were placed by is not said; "
        "here they are the same, and 32 spares even them out",
    ),
    Row(
        SYSTEM,
        "micro-prefill",
        _figure(
            "prefill throughput added",
            "fraction",
            0.23,
            "ablation microbatch prefill",
            "no micro-batches",
            0.31,
        ),
        prefill_gain,
        "npu",
        "Batcher(two micro-batches, copy engine)",
        hardware=PREFILL,
        workload="DeepSeek-R1 INT8, 16384 tokens per NPU in prompts of 4096",
        assumed=(ELEMENT,),
        routing="uniform",
        cause="missing specification",
        reason="where in the range of 23 to 31 % this setting lies is not said; the lower end is compared",
    ),
    *_slo_rows(),
    _micro(64, 0.058),
    _micro(96, 0.094),
    _micro(128, 0.069),
    _decode_row("layer-plain", _figure("layer without drafts", "us", 874.0, "ablation MTP"), layer_us(False)),
    _decode_row(
        "layer-drafted", _figure("layer with one draft", "us", 1260.0, "ablation MTP"), layer_us(True)
    ),
    Row(
        SYSTEM,
        "cache-90",
        _figure("prefill throughput", "x", 2.28, "ablation context cache, 90 % reuse", "no reuse"),
        cache_gain(0.9),
        "npu",
        "Residency(pool of host memories over the fabric)",
        hardware=PREFILL,
        workload="prompts of 4096 tokens; the rate of the cache is fitted to the row of 50 % reuse alone",
        assumed=(ELEMENT,),
        routing="uniform",
    ),
    Row(
        SYSTEM,
        "cache-90-first-token",
        _figure(
            "time to first token saved", "fraction", 0.59, "ablation context cache, 90 % reuse", "no reuse"
        ),
        first_token_saved,
        "npu",
        "Residency(pool of host memories over the fabric)",
        hardware=PREFILL,
        workload="prompts of 4096 tokens; the rate of the cache is fitted to the row of 50 % reuse alone",
        assumed=(ELEMENT,),
        routing="uniform",
    ),
    Row(
        SYSTEM,
        "cache-over-vpc",
        _figure(
            "prefill throughput", "x", 1.52, "ablation context cache, largest", "cache over the VPC plane"
        ),
        None,
        "npu",
        "Residency(pool of host memories over the fabric)",
        cause="missing specification",
        reason="the service is slower than either plane, and how it uses the VPC plane is not said",
    ),
    Row(
        SYSTEM,
        "model-pool",
        _figure("seconds to load", "s", 320.0, "model caching: 671 GB, 8 instances, pool empty"),
        pooled_load_s,
        "npu",
        "Residency(pool of host memories over the fabric)",
        workload="the object store's rate is that of the 2560 s without a pool",
        assumed=(
            Assumption("fabric", 151e9, 40e9, 604e9, "bytes/s of an instance from the pool: one die's path"),
        ),
    ),
)
