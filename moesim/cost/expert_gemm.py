"""Seconds of a rank's routed experts, from the histogram of tokens over its slots.

A grouped GEMM works tile by tile: expert ``e`` with ``n_e`` tokens takes ``ceil(n_e / BM)`` rows of
tiles, and the tiles of all experts are dealt to the cores in waves. Weights are read once for every slot that
is hit. So time follows the histogram, not the mean: few tokens spread over many experts cost weight traffic,
many tokens in ragged groups cost padding. Units that multiply a matrix by single vectors pad nothing.
Processors that run one expert after the other are `moesim.cost.one_by_one`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from moesim.cost.one_by_one import KERNEL, one_by_one
from moesim.cost.roofline import Choice, Times, at, peak_flops_per_s, soft_max
from moesim.cost.surface import AXES, Stack, find_surface
from moesim.cost.waves import law_of, wave_times
from moesim.hardware.curves import Surface
from moesim.hardware.types import Device, Processor
from moesim.model.dtypes import bytes_per_param
from moesim.ops.precision import input_bytes
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.ops.shapes import expert_shape
from moesim.ops.table import Array

#: Output columns of a tile, and the range of its rows, of common grouped-GEMM kernels.
TILE_COLUMNS = 128
TILE_ROWS = (16, 128)
_ANY = Choice()


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """One expert on one rank.

    Parameters
    ----------
    hidden
        Width of the residual stream.
    width
        Intermediate width on this rank.
    matrices
        3 for gated units, 2 otherwise.
    dtype
        Data type of the weights.
    """

    hidden: int
    width: float
    matrices: int
    dtype: str

    @property
    def params(self) -> float:
        """Parameters on this rank."""
        return self.matrices * self.hidden * self.width

    @property
    def weight_bytes(self) -> float:
        """Bytes of one expert's weights on this rank."""
        return self.params * bytes_per_param(self.dtype)

    @property
    def flops_per_pair(self) -> float:
        """Operations of one token in one expert on this rank."""
        return 2.0 * self.params

    @property
    def bytes_per_pair(self) -> float:
        """Activations of one token in one expert: input, gate and up, product, output."""
        read, written = input_bytes(self.dtype), ACTIVATION_BYTES
        inner = (self.matrices - 1) * self.width * written + self.width * read
        return self.hidden * read + inner + self.hidden * written


def tile_rows(tokens: Array) -> Array:
    """Rows of a tile that suit a histogram: the power of two above the mean of the slots that are hit.

    Parameters
    ----------
    tokens
        ``[..., slots]``.

    Returns
    -------
    ndarray
        ``[...]``, between the limits of `TILE_ROWS`.
    """
    hit = np.maximum((tokens > 0).sum(axis=-1), 1)
    mean = np.maximum(tokens.sum(axis=-1) / hit, 1.0)
    return np.asarray(np.clip(2.0 ** np.ceil(np.log2(mean)), *TILE_ROWS))


def expert_times(
    tokens: Array,
    shape: ExpertShape,
    device: Device,
    choice: Choice = _ANY,
    *,
    shared: bool = False,
    held_pairs: Array | float | None = None,
) -> Times:
    """Seconds of the experts of one rank.

    Parameters
    ----------
    tokens
        Tokens in each slot, ``[..., slots]``.
    shape
        Size of one expert on one rank.
    device
        Its main processor does the work, from its main memory.
    choice
        Which measured kernels apply.
    shared
        Whether experts are spread over several ranks, for which engines have other kernels.
    held_pairs
        Token-expert pairs of all tokens that the rank holds, ``[...]``; those with an expert here if not
        given.

    Returns
    -------
    Times
        Arrays of shape ``[...]``; a rank without tokens takes no time.
    """
    if (law := law_of(device.processor, shape.dtype)) is not None:
        return wave_times(tokens, shape, device, law)
    alone = find_surface(device.processor.kernels, KERNEL, choice.dtype(shape.dtype), choice.backend)
    if alone is not None and shape.matrices == 3:
        return one_by_one(tokens, shape, device, alone)
    kernel = "experts_ep" if shared else "experts"
    surface = find_surface(device.processor.kernels, kernel, choice.dtype(shape.dtype), choice.backend)
    if surface is None or shape.matrices != 3:
        return _from_curves(tokens, shape, device)
    processor = device.processor
    pairs = tokens.sum(axis=-1)
    hit = (tokens > 0).sum(axis=-1).astype(np.float64)
    padded = (np.ceil(tokens / surface.tile_rows) * surface.tile_rows).sum(axis=-1)
    peak = peak_flops_per_s(processor, shape.dtype)
    bandwidth = processor.bandwidth_bytes_per_s[device.memory.name]
    data = hit * shape.weight_bytes + pairs * shape.bytes_per_pair
    held = pairs if held_pairs is None else np.maximum(held_pairs, pairs)
    compute = padded * shape.flops_per_pair / peak
    memory = (data + surface.held * held * shape.hidden * ACTIVATION_BYTES) / bandwidth
    sizes = expert_shape(pairs, hit, shape.width).sizes
    stacked = np.ones((1, AXES, pairs.size))
    for j, size in enumerate(sizes):
        stacked[0, j] = np.broadcast_to(size, pairs.shape).ravel()
    factor = np.exp(_stack_of(surface).log_correction(stacked)).reshape(pairs.shape)
    busy = pairs > 0
    floor = np.where(busy, surface.floor_s * factor, 0.0)
    seconds = floor + soft_max(compute, memory, surface.sharpness) * factor
    roof = np.maximum(pairs * shape.flops_per_pair / peak, data / bandwidth)
    seconds = np.where(busy, np.maximum(seconds, roof), 0.0)
    return Times(seconds, compute, memory, np.minimum(floor, seconds))


@functools.lru_cache(maxsize=64)
def _stack_of(surface: Surface) -> Stack:
    return Stack.of([surface])


def _from_curves(tokens: Array, shape: ExpertShape, device: Device) -> Times:
    """Seconds by the efficiency curves of the processor."""
    processor = device.processor
    curve = processor.efficiency_of("expert_gemm", shape.dtype)
    pairs = tokens.sum(axis=-1)
    hit = (tokens > 0).sum(axis=-1)
    peak = peak_flops_per_s(processor, shape.dtype)
    efficiency = at(curve.compute, pairs * shape.flops_per_pair)
    if processor.tile_rows is None:
        compute = _tiled_seconds(tokens, shape, processor.cores or 1, peak * efficiency)
    else:
        padded = whole_tiles(tokens, processor).sum(axis=-1)
        compute = padded * shape.flops_per_pair / (peak * efficiency)
    data = hit * shape.weight_bytes + pairs * shape.bytes_per_pair
    bandwidth = processor.bandwidth_bytes_per_s[device.memory.name]
    memory = data / (bandwidth * at(curve.memory, data))
    floor = np.where(pairs > 0, curve.floor_s, 0.0)
    return Times(floor + soft_max(compute, memory, curve.sharpness), compute, memory, floor)


def whole_tiles(tokens: Array, processor: Processor) -> Array:
    """Tokens rounded up to the `tile_rows` of a processor whose units all work on one product, ``[...]``."""
    rows = processor.tile_rows
    return tokens if rows is None else np.asarray(np.ceil(tokens / rows) * rows)


def _tiled_seconds(tokens: Array, shape: ExpertShape, cores: int, flops_per_s: Array) -> Array:
    """Arithmetic of all tiles, idle cores of the last wave included, ``[...]``."""
    rows = tile_rows(tokens)
    row_tiles = np.ceil(tokens / rows[..., None]).sum(axis=-1)
    compute = np.zeros(row_tiles.shape)
    for inputs, outputs in (
        (shape.hidden, (shape.matrices - 1) * shape.width),
        (shape.width, shape.hidden),
    ):
        columns = np.minimum(TILE_COLUMNS, outputs)
        waves = np.ceil(row_tiles * np.ceil(outputs / columns) / cores)
        compute += waves * cores * 2.0 * rows * columns * inputs / flops_per_s
    return compute
