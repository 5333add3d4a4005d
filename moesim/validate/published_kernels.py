"""Published kernels: DeepGEMM dense and grouped, FlashMLA, as the operations that moesim times."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from moesim.cost import Choice, Rates, op_times
from moesim.hardware import Device, load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import Batch, OpTable, Precision, step_work
from moesim.ops.primitives import gemm
from moesim.validate.published_rows import Answer, PublishedRow

#: Sequences and tokens that fill an attention kernel: its figures are "up to".
_SEQUENCES, _CONTEXT = 128.0, 32768.0
#: The engine whose block-scaled layers call DeepGEMM.
_CALLER = "sglang"


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
    choice = Choice(_CALLER, block_scaled=True)
    op = gemm("gemm", float(groups * m), k, n, dtype)
    # Rows of all groups go through the same tiles; each group has weights of its own.
    op = replace(op, weight_bytes=groups * op.weight_bytes)
    table = OpTable(((op, 1),), (), 1)
    times = op_times(table, device, Rates.of(table, device, choice))
    seconds = float((times.seconds - times.floor_s)[0, 0])
    assumed = ""
    if dtype == "fp8":
        # Tables time a layer of the engine that calls the kernel, which reads its input in 16 bits and writes
        # it in 8.
        bandwidth = device.processor.bandwidth_bytes_per_s[device.memory.name]
        seconds -= groups * m * k * 3.0 / bandwidth
        assumed = f"{_CALLER}'s layer that calls it, less launches and quantising its input"
    return _rate(row, flops, float(np.ravel(op.bytes)[0]), seconds, assumed)


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
