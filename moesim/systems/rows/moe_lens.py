"""MoE-Lens: its gain over MoE-Lightning, the accuracy of its equations, and the facts that it prints."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.systems.headlines import headline
from moesim.systems.lens_paper import (
    CACHES,
    HARDWARE,
    LENGTHS,
    MODELS,
    N_REAL,
    REQUESTS,
    accuracy,
    paper_box,
    settings,
)
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.throughput.lens import saturating_tokens
from moesim.throughput.lens_schedule import simulate
from moesim.throughput.lightning import HOST_SHARE
from moesim.throughput.lightning_search import best
from moesim.throughput.machine import Machine
from moesim.throughput.result import Plan, Workload
from moesim.throughput.shape import LayerShape

PAPER = "arXiv:2504.09345 (text)"
NOTES = "arXiv:2504.09345 (notes)"
SLOTS = (
    "Batcher(decode first, prompts fill to n_real)+Placement(all on the host)+Executor(attention on the CPU)"
)
#: GB of GPU memory that was left to the systems.
GPU_BYTES = {"mixtral-8x7b": 16e9, "mixtral-8x22b": 24e9, "dbrx": 24e9}
#: GB of host memory of Table 1, all of which its second column is a part of.
TABLE_1_BYTES = 265e9

MEAN = Assumption(
    "mean",
    1.0,
    0.0,
    1.0,
    "exponent of the mean over settings, which is not named: 1 arithmetic, 0 geometric",
)
N_REAL_RANGE = Assumption(
    "n_real",
    float(N_REAL),
    17_000.0,
    25_000.0,
    "tokens that saturate the GPU, from notes; 150 TFLOP/s gives 28 thousand",
)


def lightning(model: str, workload: Workload, host_bytes: float) -> Plan:
    """MoE-Lightning's best plan on the same machine, with that much memory for weights and cache."""
    machine = replace(
        Machine.of(load_hardware(HARDWARE)), gpu_bytes=GPU_BYTES[model], host_bytes=host_bytes / HOST_SHARE
    )
    return best(LayerShape.of(load_model(model)), machine, workload)


@functools.lru_cache(maxsize=64)
def gains(lengths: tuple[tuple[int, int], ...]) -> tuple[float, ...]:
    """Generated tokens per second over MoE-Lightning's: every model and cache at these lengths."""
    found = []
    for model in MODELS:
        box = paper_box(model)
        for prompt, output in lengths:
            workload = Workload(prompt, output, REQUESTS)
            for cache in CACHES:
                base = lightning(model, workload, box.weight_bytes + cache)
                found.append(simulate(box, workload, cache).generated_per_s / base.tokens_per_s)
    return tuple(found)


def _mean(values: tuple[float, ...], power: float) -> float:
    x = np.array(values)
    return float(np.exp(np.log(x).mean()) if power == 0 else (x**power).mean() ** (1 / power))


def _gain(lengths: tuple[tuple[int, int], ...]) -> Callable[[Case], float]:
    return lambda case: _mean(gains(lengths), case["mean"])


@functools.lru_cache(maxsize=1)
def _accuracy() -> float:
    return accuracy(settings())[0]


def busy(case: Case) -> float:
    """Percent of the time in which the GPU works while requests enter."""
    run = simulate(paper_box("mixtral-8x7b", n_real=case["n_real"]), Workload(98, 32, REQUESTS), 70e9)
    return 100.0 * run.steady_gpu_busy


def _host_use(prompt: int, output: int) -> Callable[[Case], float]:
    def compute(_: Case) -> float:
        plan = lightning("mixtral-8x7b", Workload(prompt, output), TABLE_1_BYTES)
        return 100.0 * plan.memory_bytes["host"] / TABLE_1_BYTES

    return compute


def decode_busy(_: Case) -> float:
    """Percent of T_GPU that MoE-Lightning's decode makes use of."""
    plan = lightning("mixtral-8x7b", Workload(98, 32), TABLE_1_BYTES)
    # The first token comes from prefill.
    decoded = plan.batch * (plan.output_len - 1)
    return 100.0 * decoded / plan.decode_s / paper_box("mixtral-8x7b").gpu_tokens_per_s


MTBENCH = tuple(pair for pair in LENGTHS if pair[0] == 98)
HARDWARE_TEXT = "A40 (16 or 24 GB used), one Xeon 8380, 19.5 GB/s"
CARDS = (
    ("A40", 150e12, 19_200.0, 614.0),
    ("L40", 181e12, 23_200.0, 741.0),
    ("A100", 312e12, 40_000.0, 1277.0),
)


def _saturation(flops: float, of_cache: bool) -> Callable[[Case], float]:
    def compute(_: Case) -> float:
        tokens = saturating_tokens(flops, 32e9, 8, 2)
        return tokens * 256 * paper_box("mixtral-8x7b").token_bytes / 1e9 if of_cache else tokens

    return compute


def _fact(name: str, figure: Figure, compute: Callable[[Case], float], **more: object) -> Row:
    return Row("MoE-Lens", name, figure, compute, "cpu-gpu", SLOTS, hardware=HARDWARE_TEXT, **more)  # type: ignore[arg-type]


def _text(metric: str, unit: str, value: float, locator: str, grade: str = "P") -> Figure:
    source = PAPER if grade == "P" else NOTES
    return Figure(metric, unit, value, grade=grade, source=source, locator=locator)


ROWS = (
    _fact(
        "gain",
        headline("MoE-Lens"),
        _gain(MTBENCH),
        workload="MTBench, outputs of 32 to 256, three models, 70 and 210 GB of cache: 24 settings",
        assumed=(MEAN,),
        headline=True,
        claims=("MoE-Lens/1",),
        cause="disagreement",
        reason="MoE-Lightning is our model of it, with the same memory for weights and cache",
    ),
    _fact(
        "accuracy",
        Figure(
            "performance-model accuracy",
            "share",
            0.94,
            source="abstract of MoE-Lens",
            locator="abstract",
            grade="P",
        ),
        lambda _: _accuracy(),
        workload="all 36 settings",
        claims=("MoE-Lens/2",),
        cause="our limit",
        reason="ours is a closed form against a schedule of every iteration, not against a machine: measured "
        "rates are bars without numbers",
    ),
    _fact(
        "gain-rag",
        _text("throughput gain over MoE-Lightning, RAG", "x", 19.4, "section 8", "S"),
        _gain(((926, 128),)),
        workload="RAG, 926 and 128",
        assumed=(MEAN,),
        cause="disagreement",
        reason="our MoE-Lightning keeps its pipeline at long prompts; theirs loses most of its plan",
    ),
    _fact(
        "gain-aime",
        _text("throughput gain over MoE-Lightning, AIME", "x", 4.7, "section 8", "S"),
        _gain(((128, 512),)),
        workload="AIME, 128 and 512",
        assumed=(MEAN,),
    ),
    _fact(
        "gpu-busy",
        _text("GPU utilisation", "%", 90.0, "section 8.2, 70 GB, 32 tokens", "S"),
        busy,
        workload="Mixtral-8x7B, MTBench 98/32, 70 GB",
        assumed=(N_REAL_RANGE,),
    ),
    _fact(
        "lightning-decode-busy",
        _text("GPU utilisation of MoE-Lightning in decode", "%", 16.5, "section 3.2"),
        decode_busy,
        workload="Mixtral-8x7B, 98/32",
        cause="missing specification",
        reason="of T_GPU, as MoE-Lens counts its own; the policy that was profiled is not told",
    ),
    *(
        _fact(
            f"lightning-memory-{prompt}-{output}",
            _text("host memory that MoE-Lightning's plan uses", "%", value, "Table 1"),
            _host_use(prompt, output),
            workload=f"{prompt}/{output} of 265 GB",
        )
        for prompt, output, value in ((98, 32, 52.0), (98, 64, 56.2), (926, 128, 35.0))
    ),
    *(
        _fact(
            f"saturation-{card.lower()}",
            _text("tokens that saturate the GPU", "tokens", tokens, f"Table 2, {card}"),
            _saturation(flops, of_cache=False),
            workload="Mixtral-8x7B behind 32 GB/s",
        )
        for card, flops, tokens, _ in CARDS
    ),
    *(
        _fact(
            f"cache-{card.lower()}",
            _text("cache that saturates the GPU", "GB", size, f"Table 2, {card}, sequences of 256"),
            _saturation(flops, of_cache=True),
            workload="Mixtral-8x7B behind 32 GB/s",
        )
        for card, flops, _, size in CARDS
    ),
)
