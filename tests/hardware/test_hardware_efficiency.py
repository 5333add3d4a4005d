"""The efficiency families against the measured kernel tables they summarise."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.hardware import load_hardware

#: Ratios of modelled to measured time: least p10, least and greatest median, greatest p90.
BANDS = {"gemm": (0.6, 0.9, 1.1, 1.3), "attention_decode": (0.6, 0.9, 1.1, 1.2)}


def modelled(machine, kind, flops, size):
    """Time by the formula of `moesim.hardware.types.Efficiency`, in seconds."""
    processor = machine.device.processor
    efficiency = processor.efficiency_of(kind, "bf16")

    def at(curve, x):
        points, values = zip(*curve, strict=True)
        return np.interp(np.log(x), np.log(points), values)

    compute = flops / (processor.peak_flops_per_s["bf16"] * at(efficiency.compute, flops))
    memory = size / (machine.device.memory.bandwidth_bytes_per_s * at(efficiency.memory, size))
    p = efficiency.sharpness
    return efficiency.floor_s + (compute**p + memory**p) ** (1 / p)


def columns(shared, path, *names):
    import pyarrow.parquet as pq

    table = pq.read_table(shared("kernels") / path)
    return [table[name].to_numpy() for name in names]


def assert_within(kind, ratio):
    low, middle_low, middle_high, high = BANDS[kind]
    q10, q50, q90 = np.quantile(ratio, (0.1, 0.5, 0.9))
    assert low < q10 < q50 < q90 < high
    assert middle_low < q50 < middle_high


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("h100-sxm-8", "h100_sxm/gemm/vllm-0.24.0"),
        ("h200-sxm-8", "h200_sxm/gemm/trtllm-1.3.0rc20"),
        ("b200-sxm-8", "b200_sxm/gemm/sglang-0.5.14"),
        ("a100-sxm-80gb-8", "a100_sxm/gemm/vllm-0.14.0"),
    ],
)
def test_matrix_products(shared, name, path):
    dtype, m, n, k, milliseconds = columns(
        shared, f"{path}/gemm_perf.parquet", "gemm_dtype", "m", "n", "k", "latency"
    )
    pick = dtype == "bfloat16"
    m, n, k = (x[pick].astype(float) for x in (m, n, k))
    ours = modelled(load_hardware(name), "gemm", 2 * m * n * k, 2 * (n * k + m * k + m * n))
    assert_within("gemm", ours / (milliseconds[pick] * 1e-3))


@pytest.mark.parametrize("name", ["h100_sxm", "h200_sxm", "b200_sxm"])
def test_decode_attention(shared, name):
    batch, heads, kv, dim, isl, step, cache, window, milliseconds = columns(
        shared,
        f"{name}/attention/vllm-0.24.0/generation_attention_perf.parquet",
        *("batch_size", "num_heads", "num_key_value_heads", "head_dim", "isl", "step"),
        *("kv_cache_dtype", "window_size", "latency"),
    )
    kv = np.where(kv == 0, heads, kv)
    length = isl.astype(float) + step
    size = 2.0 * batch * length * kv * 2 * dim + batch * heads * 2.0 * dim * 2
    flops = 4.0 * batch * heads * dim * length
    # A gigabyte of cache fills the device; less in few long sequences does not, which bytes cannot tell.
    pick = (cache == "bfloat16") & (window == 0) & (size > 1e9)
    ours = modelled(load_hardware(name), "attention_decode", flops[pick], size[pick])
    assert_within("attention_decode", ours / (milliseconds[pick] * 1e-3))


def test_more_bandwidth_or_more_compute_never_hurts():
    """Efficiency is by size, not by machine: the same curves under a faster memory give less time."""
    from dataclasses import replace

    machine = load_hardware("h200-sxm-8")
    memory = machine.device.memory
    fast = replace(memory, bandwidth_bytes_per_s=2 * memory.bandwidth_bytes_per_s)
    faster = replace(machine, device=replace(machine.device, memories=(fast,)))
    sizes = np.geomspace(1e6, 1e11, 40)
    for kind in ("gemm", "expert_gemm", "attention_decode", "elementwise"):
        before = modelled(machine, kind, np.ones_like(sizes), sizes)
        after = modelled(faster, kind, np.ones_like(sizes), sizes)
        floor = machine.device.processor.efficiency_of(kind, "bf16").floor_s
        assert np.allclose(before - floor, 2 * (after - floor))
