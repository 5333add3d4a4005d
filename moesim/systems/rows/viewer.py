"""LLM-Viewer (arXiv:2402.16363): its worked roofline table, line by line."""

from __future__ import annotations

import functools

import numpy as np

from moesim.cost import op_times
from moesim.hardware.types import Device, Memory, Processor
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import Batch, Precision, step_work
from moesim.systems.headlines import headline
from moesim.systems.row import Figure, Row

SOURCE = "arXiv:2402.16363 (a translation)"
PEAK_FLOPS_PER_S, BANDWIDTH_BYTES_PER_S = 154.84e12, 768e9
#: The paper's A6000: bare peaks, without efficiencies or launches.
A6000 = Device(
    "a6000",
    "RTX A6000",
    (Processor("sm", {"bf16": PEAK_FLOPS_PER_S}, 84, {"gddr": BANDWIDTH_BYTES_PER_S}, {}),),
    (Memory("gddr", 48e9, BANDWIDTH_BYTES_PER_S),),
)
#: Phase, op, arithmetic intensity and performance in TFLOP/s, as printed.
TABLE_1 = (
    ("prefill", "q_proj", 1024.0, 155.0),
    ("prefill", "gate_proj", 1215.0, 155.0),
    ("prefill", "qk_matmul", 114.0, 87.0),
    ("prefill", "sv_matmul", 114.0, 87.0),
    ("prefill", "softmax", 1.25, 0.960),
    ("prefill", "norm", 1.75, 1.0),
    ("prefill", "add", 0.25, 0.192),
    ("decode", "q_proj", 1.0, 0.768),
    ("decode", "gate_proj", 1.0, 0.768),
    ("decode", "qk_matmul", 0.99, 0.762),
    ("decode", "sv_matmul", 0.99, 0.762),
)


@functools.cache
def _layer(phase: str) -> dict[str, tuple[float, float, float]]:
    """FLOPs, bytes and seconds of the ops of a layer, without kernel fusion."""
    model = load_model("llama-2-7b")
    batch = Batch.prefill(1.0, 2048.0) if phase == "prefill" else Batch.decode(1.0, 2048.0)
    table = step_work(model, Parallelism(), batch, Precision.of(model, "bf16"), fused=False).table
    seconds = op_times(table, A6000).seconds
    return {
        op.name: (float(np.sum(op.flops)), float(np.sum(op.bytes)), float(seconds[i, 0]))
        for i, (op, _) in enumerate(table.ops)
    }


def intensity(phase: str, op: str) -> float:
    """FLOP per byte."""
    flops, moved, _ = _layer(phase)[op]
    return flops / moved


def attained(phase: str, op: str) -> float:
    """TFLOP/s under the roofline."""
    flops, _, seconds = _layer(phase)[op]
    return flops / seconds / 1e12


def _rows(phase: str, op: str, printed_intensity: float, printed_tflops: float) -> tuple[Row, Row]:
    locator = f"Table 1, {phase}, {op}"
    workload = "Llama-2-7b, 2048 tokens, batch 1, 16 bits"
    # 1.344 TFLOP/s is printed as 1T.
    rounded = op == "norm"
    cause = "disagreement" if rounded else ""
    reason = "printed as a whole number of TFLOP/s" if rounded else ""

    def row(name: str, metric: str, unit: str, value: float) -> Row:
        return Row(
            "LLM-Viewer",
            f"{name}-{phase}-{op}",
            Figure(metric, unit, value, grade="S", source=SOURCE, locator=locator),
            (lambda _: intensity(phase, op)) if name == "intensity" else (lambda _: attained(phase, op)),
            "roofline",
            "none",
            hardware="A6000 as the paper has it: 154.84 TFLOP/s, 768 GB/s",
            workload=workload,
            cause=cause if name == "performance" else "",
            reason=reason if name == "performance" else "",
        )

    return (
        row("intensity", "arithmetic intensity", "FLOP/B", printed_intensity),
        row("performance", "performance", "TFLOP/s", printed_tflops),
    )


ROWS = (
    Row(
        "LLM-Viewer",
        "performance",
        headline("LLM-Viewer"),
        lambda _: attained("prefill", "q_proj"),
        "roofline",
        "none",
        hardware="A6000 as the paper has it: 154.84 TFLOP/s, 768 GB/s",
        workload="Llama-2-7b, 2048 tokens, batch 1, 16 bits: q, k, v or o of a prefill",
        headline=True,
        claims=("LLM-Viewer/1",),
    ),
    *(row for line in TABLE_1 for row in _rows(*line)),
)
