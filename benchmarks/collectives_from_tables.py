"""Derive the `collectives` of ``hardware/*.yaml`` from tables of NCCL and of engines' own all-reduce.

    python benchmarks/collectives_from_tables.py FOLDER

FOLDER holds ``<gpu>/comm/<library>-<version>/*.parquet`` as ai-dynamo/aiconfigurator publishes them. Sizes
there are in elements of 2 bytes: read so, the engines' large all-reduce comes out at NCCL's bus bandwidth.
Latency is the median time up to 32 KiB, bus bandwidth the slope from 64 MiB on. Between them libraries
change from a way with little latency to one with much bandwidth (NCCL's protocols, one-shot and two-shot
all-reduce): the bandwidth of the first and the latency of the second minimise the squared error of the
logarithm over all sizes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import least_squares

from moesim.hardware import load_hardware

SMALL_BYTES, LARGE_BYTES, ELEMENT_BYTES = 32 * 2**10, 64 * 2**20, 2
NAMES = {"alltoall": "all_to_all"}


Fit = tuple[float, float, float, float, float]


def fit(size_bytes: np.ndarray, seconds: np.ndarray, collective: str, ranks: int) -> Fit:
    """Latency (s) and bus bandwidth (bytes/s), those of the other way of each, and the median error."""
    latency = float(np.median(seconds[size_bytes <= SMALL_BYTES]))
    large = size_bytes >= LARGE_BYTES
    slope = float(np.polyfit(size_bytes[large], seconds[large], 1)[0])
    factor = (2.0 if collective == "all_reduce" else 1.0) * (ranks - 1) / ranks
    moved, bandwidth = factor * size_bytes, factor / slope

    def model(x: np.ndarray) -> np.ndarray:
        return np.minimum(latency + moved / np.exp(x[0]), np.exp(x[1]) + moved / bandwidth)

    def error(x: np.ndarray) -> np.ndarray:
        return np.log(model(x) / seconds)

    # Small messages go no faster than large ones, and large ones start no sooner than small ones.
    bounds = np.log([[bandwidth * 1e-3, latency], [bandwidth * 1.0001, latency * 1e3]])
    start = np.log([bandwidth / 3, latency * 2])
    found = least_squares(error, start, bounds=bounds, loss="soft_l1", f_scale=0.1).x
    residual = float(np.median(np.abs(np.expm1(error(found)))))
    return latency, bandwidth, float(np.exp(found[0])), float(np.exp(found[1])), residual


def nccl(folder: Path) -> dict[str, dict[int, Fit]]:
    """Fits of the newest NCCL table of a GPU, by collective and ranks."""
    path = sorted(folder.glob("nccl-*/nccl_perf.parquet"))[-1]
    table = {name: column.to_numpy() for name, column in _columns(path).items()}
    found: dict[str, dict[int, Fit]] = {}
    for name in np.unique(table["op_name"]):
        for ranks in np.unique(table["num_gpus"]):
            pick = (table["op_name"] == name) & (table["num_gpus"] == ranks) & (table["nccl_dtype"] == "half")
            if pick.any():
                size = table["message_size"][pick] * ELEMENT_BYTES
                result = fit(size, table["latency"][pick] * 1e-3, name, int(ranks))
                found.setdefault(NAMES.get(name, name), {})[int(ranks)] = result
    return found


def engines(folder: Path) -> dict[str, dict[int, Fit]]:
    """Fits of each engine's all-reduce inside CUDA graphs, by engine and ranks."""
    found: dict[str, dict[int, Fit]] = {}
    for path in sorted(folder.glob("*/custom_allreduce_perf.parquet")):
        table = {name: column.to_numpy() for name, column in _columns(path).items()}
        eager = np.array(["eager" in str(source) for source in table["kernel_source"]])
        for ranks in np.unique(table["num_gpus"]):
            pick = (table["num_gpus"] == ranks) & ~eager
            size = table["message_size"][pick] * ELEMENT_BYTES
            result = fit(size, table["latency"][pick] * 1e-3, "all_reduce", int(ranks))
            found.setdefault(path.parent.name.partition("-")[0], {})[int(ranks)] = result
    return found


def median(found: dict[str, dict[int, Fit]]) -> dict[int, Fit]:
    """Median over engines, number by number."""
    ranks = sorted(set.intersection(*(set(fits) for fits in found.values())))
    return {n: tuple(np.median([fits[n] for fits in found.values()], axis=0)) for n in ranks}


def _columns(path: Path) -> dict[str, object]:
    table = pq.read_table(path)
    return {name: table[name] for name in table.column_names}


def line(name: str, fits: dict[int, Fit], bandwidth: float, indent: int = 6) -> str:
    """As it stands in the file, with bus bandwidth as a share of the link's."""
    ranks = sorted(fits)

    def us(column: int) -> str:
        return ", ".join(f"{fits[n][column] * 1e6:.4g} us" for n in ranks)

    def share(column: int) -> str:
        return ", ".join(f"{fits[n][column] / bandwidth:.4f}" for n in ranks)

    residuals = ", ".join(f"{fits[n][4]:.1%}" for n in ranks)
    return (
        f"{' ' * indent}{name}: {{ranks: {ranks}, latency: [{us(0)}], share: [{share(1)}],"
        f" small_share: [{share(2)}], bulk_latency: [{us(3)}]}}  # median residuals {residuals}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for gpu in sorted(path.parent for path in parser.parse_args().folder.glob("*/comm")):
        print(f"# {gpu.name}")
        bandwidth = load_hardware(gpu.name).scale_up.bandwidth_bytes_per_s
        for collective, found in nccl(gpu / "comm").items():
            print(line(collective, found, bandwidth))
        own = engines(gpu / "comm")
        print(line("all_reduce_custom", median(own), bandwidth))
        for engine, found in own.items():
            print(line(engine, found, bandwidth, 8))
