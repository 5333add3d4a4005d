"""Derive the `collectives` of ``hardware/*.yaml`` from tables of NCCL and of engines' own all-reduce.

    python benchmarks/collectives_from_tables.py FOLDER

FOLDER holds ``<gpu>/comm/<library>-<version>/*.parquet`` as ai-dynamo/aiconfigurator publishes them. Sizes
there are in elements of 2 bytes: read so, the engines' large all-reduce comes out at NCCL's bus bandwidth.
Latency is the median time up to 32 KiB, bus bandwidth the slope from 64 MiB on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from moesim.hardware import load_hardware

SMALL_BYTES, LARGE_BYTES, ELEMENT_BYTES = 32 * 2**10, 64 * 2**20, 2
NAMES = {"alltoall": "all_to_all"}


def fit(size_bytes: np.ndarray, seconds: np.ndarray, collective: str, ranks: int) -> tuple[float, float]:
    """Latency in seconds and bus bandwidth in bytes/s."""
    latency = float(np.median(seconds[size_bytes <= SMALL_BYTES]))
    large = size_bytes >= LARGE_BYTES
    slope = float(np.polyfit(size_bytes[large], seconds[large], 1)[0])
    factor = (2.0 if collective == "all_reduce" else 1.0) * (ranks - 1) / ranks
    return latency, factor / slope


def nccl(folder: Path) -> dict[str, dict[int, tuple[float, float]]]:
    """Fits of the newest NCCL table of a GPU, by collective and ranks."""
    path = sorted(folder.glob("nccl-*/nccl_perf.parquet"))[-1]
    table = {name: column.to_numpy() for name, column in _columns(path).items()}
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for name in np.unique(table["op_name"]):
        for ranks in np.unique(table["num_gpus"]):
            pick = (table["op_name"] == name) & (table["num_gpus"] == ranks) & (table["nccl_dtype"] == "half")
            if pick.any():
                size = table["message_size"][pick] * ELEMENT_BYTES
                result = fit(size, table["latency"][pick] * 1e-3, name, int(ranks))
                found.setdefault(NAMES.get(name, name), {})[int(ranks)] = result
    return found


def engines(folder: Path) -> dict[int, tuple[float, float]]:
    """Median over engines of their all-reduce inside CUDA graphs, by ranks."""
    found: dict[int, list[tuple[float, float]]] = {}
    for path in sorted(folder.glob("*/custom_allreduce_perf.parquet")):
        table = {name: column.to_numpy() for name, column in _columns(path).items()}
        eager = np.array(["eager" in str(source) for source in table["kernel_source"]])
        for ranks in np.unique(table["num_gpus"]):
            pick = (table["num_gpus"] == ranks) & ~eager
            size = table["message_size"][pick] * ELEMENT_BYTES
            found.setdefault(int(ranks), []).append(
                fit(size, table["latency"][pick] * 1e-3, "all_reduce", int(ranks))
            )
    return {
        n: (float(np.median([a for a, _ in v])), float(np.median([b for _, b in v])))
        for n, v in found.items()
    }


def _columns(path: Path) -> dict[str, object]:
    table = pq.read_table(path)
    return {name: table[name] for name in table.column_names}


def line(name: str, fits: dict[int, tuple[float, float]], bandwidth: float) -> str:
    """As it stands in the file, with bus bandwidth as a share of the link's."""
    ranks = sorted(fits)
    latency = ", ".join(f"{fits[n][0] * 1e6:.4g} us" for n in ranks)
    share = ", ".join(f"{fits[n][1] / bandwidth:.4f}" for n in ranks)
    return f"      {name}: {{ranks: {ranks}, latency: [{latency}], share: [{share}]}}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for gpu in sorted(path.parent for path in parser.parse_args().folder.glob("*/comm")):
        print(f"# {gpu.name}")
        bandwidth = load_hardware(gpu.name).scale_up.bandwidth_bytes_per_s
        for collective, found in nccl(gpu / "comm").items():
            print(line(collective, found, bandwidth))
        print(line("all_reduce_custom", engines(gpu / "comm"), bandwidth))
