"""Published kernels: DeepGEMM dense and grouped, FlashMLA, as the operations that moesim times."""

from __future__ import annotations

import re

import numpy as np

from moesim.cost import ExpertShape, expert_times, op_times
from moesim.hardware import Device, load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import Batch, OpTable, Precision, step_work
from moesim.ops.primitives import gemm
from moesim.validate.published_rows import Answer, PublishedRow

#: Sequences and tokens that fill an attention kernel, where a figure does not say how many there were.
_SEQUENCES, _CONTEXT = 128.0, 8192.0


def kernel_answer(row: PublishedRow) -> Answer | None:
    """What moesim says to a published kernel; None if the row is no such thing."""
    if row.system.startswith(("DeepGEMM dense", "DeepGEMM grouped")):
        return _deepgemm(row)
    if row.system.startswith("FlashMLA"):
        return _flashmla(row)
    return None


def _device(row: PublishedRow) -> Device | None:
    text = row.text("hardware").upper()
    for name in ("H800", "H100", "H200", "H20", "GB200", "B200", "B300"):
        if re.search(rf"\b{name}\b", text):
            return load_hardware(name.lower()).device
    return None


def _deepgemm(row: PublishedRow) -> Answer:
    device = _device(row)
    if device is None:
        return Answer(reason="no description of its hardware")
    sizes = {k.upper(): int(v) for k, v in re.findall(r"([A-Za-z])\s*=\s*(\d+)", row.text("model"))}
    if not {"M", "N", "K"} <= sizes.keys():
        return Answer(reason="does not say how large its matrices are")
    m, n, k, groups = sizes["M"], sizes["N"], sizes["K"], sizes.get("G", 1)
    dtype = row.text("precision").lower()
    if dtype not in ("fp8", "bf16"):
        return Answer(reason=f"no efficiency of a GEMM in {row.text('precision') or 'no stated type'}")
    flops = 2.0 * groups * m * n * k
    assumed = ""
    if "grouped" in row.system:
        # An up and a down projection of this size take as long as each other.
        shape = ExpertShape(k, n, 2, dtype)
        seconds = float(expert_times(np.full((1, groups), float(m)), shape, device).seconds[0]) / 2
        data = groups * (n * k * (1.0 if dtype == "fp8" else 2.0) + m * (k + 2.0 * n))
        assumed = "half of an up and a down projection of the same size"
    else:
        op = gemm("gemm", float(m), k, n, dtype)
        seconds, data = float(op_times(OpTable(((op, 1),), (), 1), device).seconds[0, 0]), float(op.bytes)
    return _rate(row, flops, data, seconds, assumed)


def _rate(row: PublishedRow, flops: float, data: float, seconds: float, assumed: str) -> Answer:
    unit = row.text("unit")
    values = {"TFLOPS": flops / 1e12, "GB/s": data / 1e9, "us": seconds**2 * 1e6}
    if unit not in values:
        return Answer(reason=f"moesim has no {row.text('metric')} of a kernel in {unit}")
    return Answer(values[unit] / seconds, "kernel", assumed)


def _flashmla(row: PublishedRow) -> Answer:
    metric, device = row.text("metric"), _device(row)
    if device is None:
        return Answer(reason="no description of its hardware")
    if not metric.startswith("dense_decode"):
        return Answer(reason="does not say how many tokens each query attends to")
    # Bandwidth is shown with few heads on a rank, arithmetic with all 128 of them.
    tp = 8 if row.text("unit").startswith("GB/s") else 1
    model = load_model("deepseek-v3")
    batch = Batch.decode(_SEQUENCES, _CONTEXT)
    table = step_work(model, Parallelism(tp=tp), batch, Precision.of(model)).table
    times = op_times(table, device).seconds
    index = next(i for i, (op, _) in enumerate(table.ops) if op.name == "attention")
    op = table.ops[index][0]
    assumed = f"{_SEQUENCES:g} sequences of {_CONTEXT:g} tokens, {128 // tp} heads"
    flops, data = (float(np.ravel(x)[0]) for x in (op.flops, op.bytes))
    return _rate(row, flops, data, float(times[index, 0]), assumed)
