"""How grouped GEMMs of a GPU take their time: tiles dealt to the cores in waves, by configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from moesim.hardware.curves import Curve


@dataclass(frozen=True, slots=True)
class Tile:
    """One configuration of a grouped-GEMM kernel.

    A core works on one tile at a time, ``fill_s + 2 * rows * columns * inputs / (compute * peak / cores)``
    long, and the kernel ends ``drain_s`` after its last wave.

    Parameters
    ----------
    name
        Of the kernel.
    rows, columns
        Of a tile: tokens of one expert, and outputs; those of gate and up count both.
    compute
        Fraction of its share of the peak that a core reaches in the loop over the inputs.
    fill_s
        Of every tile: until its first operands are there, and its results stored.
    drain_s
        Of the kernel: its start and its end.
    most
        The configuration is chosen up to this mean number of tokens per expert.
    """

    name: str
    rows: int
    columns: int
    compute: float
    fill_s: float
    drain_s: float
    most: float = inf


@dataclass(frozen=True, slots=True)
class TileLaw:
    """All configurations for one type of weights, and what they share.

    Parameters
    ----------
    tiles
        Rising in `most`; the last has no limit.
    launch_s
        From one kernel to the next.
    launches
        Kernels that sort the tokens by expert, before the two products.
    memory
        Fraction of the bandwidth that a product reaches, by the bytes it moves.
    moves
        Fraction of the bandwidth that the sorting reaches, by the bytes of the rows it moves.
    sharpness
        Exponent that joins arithmetic and memory: infinity is their maximum.
    log_error
        Quantiles 5 %, 50 % and 95 % of ``ln(measured / modelled)`` on shapes left out of the fit.
    source
        Where the numbers come from.
    """

    tiles: tuple[Tile, ...]
    launch_s: float
    launches: int
    memory: Curve = ((1.0, 1.0),)
    moves: Curve = ((1.0, 1.0),)
    sharpness: float = inf
    log_error: tuple[float, float, float] = (0.0, 0.0, 0.0)
    source: str = ""


#: Laws by the data type of the weights.
TileLaws = Mapping[str, TileLaw]
