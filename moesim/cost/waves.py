"""Seconds of routed experts on a GPU whose kernels were measured: tiles, dealt to the cores in waves.

Expert ``e`` with ``n_e`` tokens has ``ceil(n_e / BM)`` rows of tiles, and each of the two products
``ceil(N / BN)`` columns of them. With S cores and K inputs

    waves = ceil(sum_e ceil(n_e / BM) * ceil(N / BN) / S)
    t = launch + max(waves * (fill + K * per_k) + drain, bytes / (bandwidth * share(bytes)))

and ``per_k = 2 BM BN / (share of the peak * peak / S)``: a few numbers per configuration of the kernel, as in
RaMP (arXiv:2604.26039). The configuration is chosen by the mean number of tokens per expert, which the host
knows without waiting for the device. Peaks, bandwidth and cores are those of the description, so that a
changed description changes the times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.cost.roofline import Times, at, peak_flops_per_s, soft_max
from moesim.hardware.tiles import Tile, TileLaw
from moesim.hardware.types import Device, Processor
from moesim.model.dtypes import bytes_per_param
from moesim.ops.precision import input_bytes
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.ops.table import Array

if TYPE_CHECKING:
    from moesim.cost.expert_gemm import ExpertShape


def law_of(processor: Processor, dtype: str) -> TileLaw | None:
    """The measured law for weights of a type; both 16-bit types are alike."""
    return processor.tiles.get("bf16" if dtype == "fp16" else dtype)


def wave_times(tokens: Array, shape: ExpertShape, device: Device, law: TileLaw) -> Times:
    """Seconds of sorting the tokens by expert, gate and up, and down.

    Parameters
    ----------
    tokens
        Tokens in each slot, ``[..., slots]``.
    shape
        Size of one expert on one rank.
    device
        Its main processor does the work, from its main memory.
    law
        Of that processor, for the type of the weights.

    Returns
    -------
    Times
        Arrays of shape ``[...]``; a rank without tokens takes no time.
    """
    processor = device.processor
    bandwidth = processor.bandwidth_bytes_per_s[device.memory.name]
    peak = peak_flops_per_s(processor, shape.dtype)
    cores = processor.cores or 1
    pairs = tokens.sum(axis=-1)
    hit = (tokens > 0).sum(axis=-1)
    moved = moved_bytes(pairs, shape.hidden, shape.dtype)
    seconds = law.launches * law.launch_s + moved / (bandwidth * at(law.moves, moved))
    compute, memory = np.zeros(pairs.shape), np.asarray(seconds - law.launches * law.launch_s)
    chosen = tile_of(tokens, law)
    rows = np.array([tile.rows for tile in law.tiles], dtype=np.float64)[chosen]
    row_tiles = np.ceil(tokens / rows[..., None]).sum(axis=-1)
    for inputs, outputs, stored in products(shape):
        busy = np.choose(
            chosen,
            [tiled_seconds(row_tiles, outputs, inputs, tile, peak / cores, cores) for tile in law.tiles],
        )
        data = product_bytes(pairs, hit, inputs, outputs, stored, shape.dtype)
        fetch = data / (bandwidth * at(law.memory, data))
        seconds = seconds + law.launch_s + soft_max(busy, fetch, law.sharpness)
        compute, memory = compute + busy, memory + fetch
    roof = np.maximum(
        pairs * shape.flops_per_pair / peak,
        (hit * shape.weight_bytes + pairs * shape.bytes_per_pair) / bandwidth,
    )
    active = pairs > 0
    seconds = np.where(active, np.maximum(seconds, roof), 0.0)
    floor = np.where(active, (law.launches + 2) * law.launch_s, 0.0)
    return Times(seconds, np.where(active, compute, 0.0), np.where(active, memory, 0.0), floor)


def products(shape: ExpertShape) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Inputs, outputs, and outputs that are stored, of gate and up together and of down."""
    return (
        (shape.hidden, (shape.matrices - 1) * shape.width, shape.width),
        (shape.width, shape.hidden, shape.hidden),
    )


def tile_of(tokens: Array, law: TileLaw) -> npt.NDArray[np.int64]:
    """Number of the configuration that a histogram is given to, by its mean over all slots, int ``[...]``."""
    return np.asarray(np.searchsorted([tile.most for tile in law.tiles[:-1]], tokens.mean(axis=-1)))


def tiled_seconds(
    row_tiles: Array, outputs: Array | float, inputs: Array | float, tile: Tile, core_flops: float, cores: int
) -> Array:
    """Seconds of all waves of one product.

    Parameters
    ----------
    row_tiles
        Rows of tiles of all experts.
    outputs, inputs
        Of the product.
    tile
        The configuration.
    core_flops
        Share of the peak of one core.
    cores
        Tiles worked on at once.

    Examples
    --------
    Three rows of 5 tiles over 8 cores are two waves; a core at half its share of the peak takes 8.2 us for a
    tile of 128 x 128 x 1024, and 1 us to fill:

    >>> tile = Tile("t", 128, 128, compute=0.5, fill_s=1e-6, drain_s=2e-6)
    >>> seconds = tiled_seconds(np.array(3.0), 600, 1024, tile, 8.192e12, 8)
    >>> round(float(seconds) * 1e6, 3)
    20.384
    """
    waves = np.ceil(row_tiles * np.ceil(outputs / tile.columns) / cores)
    one = tile.fill_s + 2.0 * tile.rows * tile.columns * inputs / (tile.compute * core_flops)
    return np.asarray(waves * one + np.where(waves > 0, tile.drain_s, 0.0))


def product_bytes(
    pairs: Array, hit: Array, inputs: Array | float, outputs: Array | float, stored: Array | float, dtype: str
) -> Array:
    """Weights of the experts that are hit, and the rows that go in and come out."""
    weights = hit * inputs * outputs * bytes_per_param(dtype)
    return np.asarray(weights + pairs * (inputs * input_bytes(dtype) + stored * ACTIVATION_BYTES))


def moved_bytes(pairs: Array, hidden: Array | float, dtype: str) -> Array:
    """Rows that are brought into the order of the experts, read and written."""
    return np.asarray(pairs * hidden * (ACTIVATION_BYTES + input_bytes(dtype)))
