"""Derive the numbers of ``hardware/efficiency/*.yaml`` from measured kernel tables.

    python benchmarks/efficiency_from_tables.py FOLDER [--families hopper,blackwell,...]

FOLDER holds ``<gpu>/<op>/<engine>-<version>/*.parquet`` as ai-dynamo/aiconfigurator publishes them. For each
kind of operation, data type, engine and GPU the floor is a low quantile of the time of the smallest rows;
what is left of a row's time gives the share of the roofline it reaches, whose median by size is the curve.
A family takes the median over engines and GPUs, and the sharpness with the smallest error on all rows.
Printed are the lines of the family file, and how far they are from the tables.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from moesim.cost.roofline import peak_flops_per_s
from moesim.hardware import load_hardware

FAMILIES = {
    "ampere": {"a100_sxm": "a100-sxm-80gb-8"},
    "ada": {"l40s": "l40s-8"},
    "hopper": {"h100_sxm": "h100-sxm-8", "h200_sxm": "h200-sxm-8"},
    "blackwell": {"b200_sxm": "b200-sxm-8", "gb200": "gb200-nvl72"},
}
SHARPNESS = (0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
#: Rows of the smallest tile: kernels choose theirs by tokens per expert. With 128, small batches
#: would be modelled 1.3 to 2 times too slow.
TILE_ROWS = 16
#: Smaller operations are all floor: their share of the roofline says nothing.
SMALLEST_FLOPS, SMALLEST_BYTES, FEWEST_ROWS = 1e9, 1e6, 5
#: table's data type -> (data type of the weights, suffix in the file, bytes per weight, per activation)
DTYPES = {
    "bfloat16": ("bf16", "", 2.0, 2.0),
    "fp8": ("fp8", ".fp8", 1.0, 1.0),
    "fp8_block": ("fp8", ".fp8", 1.0, 1.0),
    "nvfp4": ("nvfp4", ".fp4", 0.5625, 0.5625),
    "int4_wo": ("int4", ".int4", 0.53, 2.0),
    "w4a16_mxfp4": ("mxfp4", ".mxfp4", 0.53, 2.0),
    "w4a8_mxfp4_mxfp8": ("mxfp4", ".mxfp4", 0.53, 1.03),
}


@dataclass
class Rows:
    """Measured rows of one kind, data type, engine and GPU: roofline seconds and measured seconds."""

    origin: str
    compute: np.ndarray
    memory: np.ndarray
    flops: np.ndarray
    bytes: np.ndarray
    seconds: np.ndarray


@dataclass
class Fit:
    """Numbers of one kind of operation: a floor, two curves over log10 of the size, a sharpness."""

    floor: float
    compute: dict[float, float]
    memory: dict[float, float]
    sharpness: float = 2.0

    def log_ratio(self, rows: Rows) -> np.ndarray:
        """Logarithm of modelled over measured time."""
        p = self.sharpness
        compute = rows.compute / _at(self.compute, rows.flops)
        memory = rows.memory / _at(self.memory, rows.bytes)
        return np.log((self.floor + (compute**p + memory**p) ** (1 / p)) / rows.seconds)


def _at(curve: dict[float, float], size: np.ndarray) -> np.ndarray:
    return np.interp(np.log10(size), list(curve), list(curve.values())) if curve else np.ones(size.size)


def family_fit(sets: list[Rows]) -> Fit:
    floors = [_floor(rows) for rows in sets]
    curves = []
    for side in (0, 1):
        clear, mixed = (
            [_curve(rows, floor, side, ratio) for rows, floor in zip(sets, floors, strict=True)]
            for ratio in (1.5, 1.0)
        )
        curves.append(_middle(clear if any(clear) else mixed))
    fit = Fit(float(np.median(floors)), *curves)
    trials = [Fit(fit.floor, fit.compute, fit.memory, p) for p in SHARPNESS]
    return min(
        trials, key=lambda trial: np.median([np.median(np.abs(trial.log_ratio(rows))) for rows in sets])
    )


def _floor(rows: Rows) -> float:
    """Time with nothing to do: a low quantile of what the smallest rows take beyond the roofline."""
    roof = np.maximum(rows.compute, rows.memory)
    small = roof <= max(1e-6, float(np.quantile(roof, 0.02)))
    return max(float(np.quantile((rows.seconds - roof)[small], 0.1)), 0.0)


def _curve(rows: Rows, floor: float, side: int, ratio: float) -> dict[float, float]:
    """Median share of the roofline by half decades of size, over rows that one side limits.

    Side 0 is compute by FLOP, side 1 memory by bytes; the side takes `ratio` times what the other takes.
    """
    net = np.maximum(rows.seconds - floor, 1e-9)
    main, other = (rows.compute, rows.memory) if side == 0 else (rows.memory, rows.compute)
    size, smallest = (rows.flops, SMALLEST_FLOPS) if side == 0 else (rows.bytes, SMALLEST_BYTES)
    bound = (main > ratio * other) & (size >= smallest)
    decade = np.round(2 * np.log10(size)) / 2
    picks = {power: bound & (decade == power) for power in np.unique(decade[bound])}
    return {
        power: min(float(np.median((main / net)[pick])), 1.0)
        for power, pick in picks.items()
        if pick.sum() >= FEWEST_ROWS
    }


def _middle(curves: list[dict[float, float]]) -> dict[float, float]:
    """Median over engines, at sizes that at least half of those with a curve have.

    Raised where a smaller operation would take longer than a larger one, with a margin for rounding.
    """
    known = [curve for curve in curves if curve]
    sizes = sorted({power for curve in known for power in curve})
    middle = {
        power: float(np.median([curve[power] for curve in known if power in curve]))
        for power in sizes
        if 2 * sum(power in curve for curve in known) >= len(known)
    }
    kept = list(middle)
    for small, large in reversed(list(itertools.pairwise(kept))):
        steepest = 1 + 0.9 * (large - small) * np.log(10)
        middle[small] = max(middle[small], middle[large] / steepest)
    return _thinned(middle)


def _thinned(curve: dict[float, float]) -> dict[float, float]:
    """The curve without points that a line between their neighbours gives within 0.02 and 10 %."""
    kept = list(curve)
    for power in list(curve)[1:-1]:
        left = max(p for p in kept if p < power)
        right = min(p for p in kept if p > power)
        between = np.interp(power, (left, right), (curve[left], curve[right]))
        if abs(between - curve[power]) < min(0.02, 0.1 * curve[power]):
            kept.remove(power)
    return {power: curve[power] for power in kept}


def tables(folder: Path, gpu: str, op: str, name: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for path in sorted((folder / gpu / op).glob(f"*/{name}.parquet")):
        table = pq.read_table(path)
        yield f"{gpu} {path.parent.name}", {c: table[c].to_numpy() for c in table.column_names}


def gemm(folder: Path, gpu: str, machine: str) -> Iterator[tuple[str, Rows]]:
    for origin, t in tables(folder, gpu, "gemm", "gemm_perf"):
        for dtype in np.unique(t["gemm_dtype"]):
            if dtype in DTYPES:
                weights, key, weight, activation = DTYPES[dtype]
                pick = t["gemm_dtype"] == dtype
                m, n, k = (t[c][pick].astype(float) for c in "mnk")
                size = n * k * weight + m * k * activation + 2 * m * n
                yield f"gemm{key}", _rows(machine, f"{origin} {dtype}", weights, 2 * m * n * k, size, t, pick)


def expert_gemm(folder: Path, gpu: str, machine: str) -> Iterator[tuple[str, Rows]]:
    """Balanced rows on one rank; rows are padded to whole tiles, so that the efficiency is beyond them."""
    for origin, t in tables(folder, gpu, "moe", "moe_perf"):
        for dtype in np.unique(t["moe_dtype"]):
            if dtype not in DTYPES:
                continue
            weights, key, weight, activation = DTYPES[dtype]
            pick = (t["moe_dtype"] == dtype) & (t["distribution"] == "balanced") & (t["moe_ep_size"] == 1)
            pick &= t["inter_size"] / t["moe_tp_size"] >= 256
            h, tokens = t["hidden_size"][pick].astype(float), t["num_tokens"][pick].astype(float)
            width = t["inter_size"][pick] / t["moe_tp_size"][pick]
            pairs = tokens * t["topk"][pick]
            hit = np.minimum(t["num_experts"][pick], pairs)
            padded = hit * TILE_ROWS * np.ceil(pairs / hit / TILE_ROWS)
            size = 3 * h * width * weight * hit + pairs * (2 * h + 3 * width) * activation
            flops = 6 * h * width * padded
            for kernel in np.unique(t["kernel_source"][pick]):
                one = t["kernel_source"][pick] == kernel
                if "nongated" in kernel or one.sum() < 60:
                    continue
                index = np.flatnonzero(pick)[one]
                yield (
                    f"expert_gemm{key}",
                    _rows(
                        machine, f"{origin} {dtype} {kernel[:28]}", weights, flops[one], size[one], t, index
                    ),
                )


def attention(folder: Path, gpu: str, machine: str) -> Iterator[tuple[str, Rows]]:
    for phase, name in (("prefill", "context_attention_perf"), ("decode", "generation_attention_perf")):
        for origin, t in tables(folder, gpu, "attention", name):
            for cache, width in (("bfloat16", 2.0), ("fp8", 1.0)):
                pick = (t["kv_cache_dtype"] == cache) & (t["attn_dtype"] == "bfloat16")
                pick &= t.get("window_size", np.zeros(pick.size)) == 0
                b, heads, kv, d = (
                    t[c][pick].astype(float)
                    for c in ("batch_size", "num_heads", "num_key_value_heads", "head_dim")
                )
                kv = np.where(kv == 0, heads, kv)
                length = t["isl"][pick].astype(float) + (t["step"][pick] if phase == "decode" else 0)
                if phase == "decode":
                    flops, queries = 4 * b * heads * d * length, b
                else:
                    flops, queries = 2 * b * heads * d * length * (length + 1), b * length
                size = b * length * kv * 2 * d * width + queries * heads * 2 * d * 2
                key = ".fp8" if cache == "fp8" else ""
                yield (
                    f"attention_{phase}{key}",
                    _rows(machine, f"{origin} {cache}", "bf16", flops, size, t, pick),
                )


def latent_attention(folder: Path, gpu: str, machine: str) -> Iterator[tuple[str, Rows]]:
    """DeepSeek's latent attention in decode: 512 + 64 cached values per token."""
    for origin, t in tables(folder, gpu, "mla", "generation_mla_perf"):
        for cache, width in (("bfloat16", 2.0), ("fp8", 1.0)):
            pick = t["kv_cache_dtype"] == cache
            b, heads = t["batch_size"][pick].astype(float), t["num_heads"][pick] / t["tp_size"][pick]
            length = t["isl"][pick].astype(float) + t["step"][pick]
            flops = 2 * b * heads * length * (576 + 512)
            size = b * length * 576 * width + b * heads * (576 + 512) * 2
            key = ".fp8" if cache == "fp8" else ""
            yield f"attention_decode{key}", _rows(machine, f"{origin} {cache}", "bf16", flops, size, t, pick)


def _rows(
    machine: str,
    origin: str,
    weights: str,
    flops: np.ndarray,
    size: np.ndarray,
    t: dict[str, np.ndarray],
    pick: np.ndarray,
) -> Rows:
    device = load_hardware(machine).device
    seconds = t["latency"][pick] * 1e-3
    good = (seconds > 0) & (flops > 0)
    return Rows(
        origin,
        (flops / peak_flops_per_s(device.processor, weights))[good],
        (size / device.memory.bandwidth_bytes_per_s)[good],
        flops[good],
        size[good],
        seconds[good],
    )


def report(folder: Path, family: str) -> None:
    collected: dict[str, list[Rows]] = {}
    for gpu, machine in FAMILIES[family].items():
        for source in (gemm, expert_gemm, attention, latent_attention):
            for kind, rows in source(folder, gpu, machine):
                if rows.seconds.size >= 50:
                    collected.setdefault(kind, []).append(rows)
    print(f"# {family}\nkinds:")
    for kind, sets in collected.items():
        fit = family_fit(sets)
        print(f"  {kind}:\n    floor: {fit.floor * 1e6:.1f} us")
        for name, curve, unit in (("compute", fit.compute, "FLOP"), ("memory", fit.memory, "B")):
            if curve:
                print(f"    {name}: {_written(curve, unit)}")
        print(f"    sharpness: {fit.sharpness:g}")
        print(f"    note: {_quantiles(np.concatenate([fit.log_ratio(rows) for rows in sets]))}")
        for rows in sets:
            print(f"    # {_quantiles(fit.log_ratio(rows))}  {rows.origin}")


def _written(curve: dict[float, float], unit: str) -> str:
    """As it stands in the file: a number, or points of size and share."""
    if len(curve) == 1:
        return f"{next(iter(curve.values())):.2f}"
    points = [
        f"[{_size(power, unit)}, {value:.{2 if value >= 0.1 else 3}f}]" for power, value in curve.items()
    ]
    return f"[{', '.join(points)}]"


def _size(power: float, unit: str) -> str:
    prefix, shift = next((p, s) for p, s in (("P", 15), ("T", 12), ("G", 9), ("M", 6)) if power >= s)
    return f"{10 ** (power - shift):.3g} {prefix}{unit}"


def _quantiles(log_ratio: np.ndarray) -> str:
    low, middle, high = np.exp(np.quantile(log_ratio, (0.1, 0.5, 0.9)))
    return f"modelled over measured p10 {low:.2f} p50 {middle:.2f} p90 {high:.2f} of {log_ratio.size} rows"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--families", default=",".join(FAMILIES))
    options = parser.parse_args()
    for chosen in options.families.split(","):
        report(options.folder, chosen)
