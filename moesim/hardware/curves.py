"""How fast a processor is at one kind of operation: efficiencies, or a surface of measured kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Piecewise log-linear curve: ``((size, value), ...)`` with rising sizes, flat beyond its ends.
Curve = tuple[tuple[float, float], ...]

#: Kernels that can be measured, with the sizes that describe them. Heads are those of one rank.
KERNELS: dict[str, tuple[str, ...]] = {
    "gemm": ("rows", "outputs", "inputs"),
    "attention_decode": ("sequences x kv heads", "context", "heads per kv head", "head size"),
    "attention_decode_window": ("sequences x kv heads", "context", "heads per kv head", "head size"),
    "attention_mixed": ("sequences x heads", "context", "heads per kv head", "head size"),
    "attention_prefill": ("prompts x heads", "length", "heads per kv head", "head size"),
    "attention_prefill_window": ("prompts x heads", "length", "length per window", "head size"),
    "mla_decode": ("sequences", "context", "heads"),
    "mla_prefill": ("prompts", "length", "heads"),
    "mla_bmm": ("rows", "heads", "outputs per input"),
    "experts": ("tokens per expert", "experts hit", "width"),
    "experts_ep": ("tokens per expert", "experts hit", "width"),
    "expert": ("tokens", "hidden", "width"),
    "top_k": ("tokens", "experts", "experts per token"),
    "weighted_sum": ("tokens", "width", "experts per token"),
}


@dataclass(frozen=True, slots=True)
class Efficiency:
    """How near one kind of operation comes to the roofline of a processor.

    The time of an operation is ``floor_s + ((t_compute**p + t_memory**p) ** (1/p))`` with
    ``t_compute = flops / (peak * compute)`` and ``t_memory = bytes / (bandwidth * memory)``.

    Parameters
    ----------
    compute
        Fraction of peak FLOP/s, by FLOP of the operation.
    memory
        Fraction of peak bandwidth, by bytes moved.
    floor_s
        Time of such an operation with nothing to do: launch, prologue, tail.
    sharpness
        The exponent ``p``; infinity is the classical ``max``.
    source
        Where the numbers come from.
    """

    compute: Curve = ((1.0, 1.0),)
    memory: Curve = ((1.0, 1.0),)
    floor_s: float = 0.0
    sharpness: float = float("inf")
    source: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """Equidistant knots in the logarithm to base 2 of one size of a kernel.

    Parameters
    ----------
    low
        Logarithm of the size at the first knot.
    step
        Distance of knots.
    knots
        Number of knots.
    """

    low: float
    step: float
    knots: int


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Measured time of one kernel: a softened roofline times a smooth correction.

    ``seconds = (floor_s + (t_compute**p + t_memory**p) ** (1/p)) * exp(S)``, with bare peaks in ``t_compute``
    and ``t_memory`` and S interpolated between the knots of a grid over the logarithms of the kernel's sizes;
    beyond the grid S stays what it is at the border, so that the roofline extrapolates.

    Parameters
    ----------
    kernel
        One of `KERNELS`.
    dtype
        Data type of the weights, or of the cache for attention.
    backend, version
        The engine whose kernel it is.
    floor_s, sharpness
        As of `Efficiency`.
    axes
        Of the grid, in the order of the kernel's sizes.
    values
        S at the knots, the last axis fastest.
    tile_rows
        Rows of a tile that ragged groups of tokens are rounded up to; 1 for kernels without groups.
    held
        Times the output of every pair that the rank holds crosses the memory, whether or not its expert is
        here.
    log_error
        Quantiles 5 %, 50 % and 95 % of ``ln(measured / modelled)`` on shapes left out of the fit.
    """

    kernel: str
    dtype: str
    backend: str
    version: str
    floor_s: float
    sharpness: float
    axes: tuple[Axis, ...]
    values: tuple[float, ...] = field(repr=False)
    tile_rows: float = 1.0
    held: float = 0.0
    log_error: tuple[float, float, float] = (0.0, 0.0, 0.0)


#: Surfaces by kernel, data type and backend.
Surfaces = Mapping[tuple[str, str, str], Surface]
