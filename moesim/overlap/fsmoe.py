"""FSMoE's two test beds: seconds of each operation of a MoE layer from the constants that it published.

``t = alpha + n beta``, with ``n`` elements of the whole vector for collectives and floating-point operations
for GEMMs (arXiv:2501.10714, Fig. 5). Volumes follow from the layout: attention and experts are both cut over
the devices of a node (MP = ESP), nodes hold different sequences and one expert each (DP = EP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moesim.engine.routing import Array
from moesim.overlap.layer import LayerSeconds, backward

#: Experts per token, and slots of an expert over its even share: those of the example that comes with the
#: released code (xpan413/FSMoE, examples/run_moe.sh: topk 2, capacity factor 1.2).
TOP_K, CAPACITY = 2, 1.2
ELEMENT_BYTES = 4.0
#: Times that unfused attention goes through its scores: it writes them, mask, softmax and dropout each read
#: and write them, and the product with the values reads them.
SCORE_PASSES = 8
#: Times that ordering goes through the layer's tokens: into the experts' order, and back.
ORDER_PASSES = 2


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of one operation: a start, and so much per element or floating-point operation."""

    startup_s: float
    slope_s: float

    def seconds(self, amount: Array | float, times: int = 1) -> Array:
        """Seconds of `times` operations that share the amount."""
        return np.asarray(times * self.startup_s + np.asarray(amount, dtype=np.float64) * self.slope_s)


@dataclass(frozen=True, slots=True)
class Bed:
    """A cluster.

    Parameters
    ----------
    nodes, devices
        Nodes, and devices of each.
    lines
        By operation: ``gemm``, ``a2a``, ``gather``, ``scatter``, ``reduce``.
    bandwidth_bytes_per_s
        Of a device's memory.
    stretch
        By operation of `operation_seconds`: how many times as long its work takes in the system as measured
        alone; starting it is left as it is. Missing ones are 1.
    """

    nodes: int
    devices: int
    lines: Mapping[str, Line]
    bandwidth_bytes_per_s: float
    stretch: Mapping[str, float] = field(default_factory=dict)

    def line(self, name: str, operation: str) -> Line:
        """The line of a primitive as it runs within an operation."""
        found = self.lines[name]
        return replace(found, slope_s=found.slope_s * self.stretch.get(operation, 1.0))


def _bed(nodes: int, devices: int, bandwidth: float, milliseconds: Mapping[str, tuple[float, float]]) -> Bed:
    lines = {name: Line(alpha / 1e3, beta / 1e3) for name, (alpha, beta) in milliseconds.items()}
    return Bed(nodes, devices, lines, bandwidth)


#: Fig. 5 as printed, in milliseconds. Memory: NVIDIA's data sheets of RTX A6000 and RTX 2080 Ti.
PRINTED = {
    "A": _bed(
        6,
        8,
        768e9,
        {
            "gemm": (4.26e-2, 2.29e-11),
            "a2a": (2.87e-1, 2.21e-7),
            "gather": (3.37e-1, 2.32e-6),
            "scatter": (3.95e-1, 2.34e-7),
            "reduce": (5.11e-1, 4.95e-6),
        },
    ),
    "B": _bed(
        8,
        4,
        616e9,
        {
            "gemm": (9.24e-2, 4.42e-11),
            "a2a": (1.75e-1, 3.06e-7),
            "gather": (3.20e-2, 1.68e-7),
            "scatter": (3.91e-2, 1.67e-7),
            "reduce": (8.37e-2, 5.99e-7),
        },
    ),
}


def _tenth(line: Line) -> Line:
    return replace(line, slope_s=line.slope_s / 10.0)


#: The same with two slopes of bed A a tenth of what is printed. As printed, an all-gather would be ten times
#: as slow as the reduce-scatter over the same links, and an all-reduce would use 5 % of the network.
CORRECTED = {
    "A": replace(
        PRINTED["A"],
        lines={
            name: _tenth(line) if name in ("gather", "reduce") else line
            for name, line in PRINTED["A"].lines.items()
        },
    ),
    "B": PRINTED["B"],
}


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """Configurations of a transformer layer with experts, every field ``[layers]`` or a number.

    Parameters
    ----------
    batch, length
        Sequences of one node, and tokens of each.
    width, expert_width
        Of the residual stream, and of an expert's inner layer.
    heads, kv_width
        Of attention; `kv_width` is all of its keys' width.
    matrices
        Of an expert: 2, or 3 where it is gated.
    capacity
        Slots of an expert over its even share.
    """

    batch: Array | float
    length: Array | float
    width: Array | float
    expert_width: Array | float
    heads: Array | float
    kv_width: Array | float
    matrices: Array | float
    capacity: Array | float = CAPACITY

    @property
    def elements(self) -> Array:
        """Elements of the residual stream of a node, ``[layers]``."""
        return np.asarray(self.batch * np.asarray(self.length, dtype=np.float64) * self.width)

    @property
    def routed(self) -> Array:
        """Elements that a node sends to experts, ``[layers]``."""
        return np.asarray(TOP_K * self.capacity * self.elements)

    @property
    def attention_params(self) -> Array:
        """Parameters of attention, ``[layers]``."""
        width = np.asarray(self.width, dtype=np.float64)
        return np.asarray(2.0 * width * (width + self.kv_width))


def operation_seconds(layers: Layers, bed: Bed) -> dict[str, Array]:
    """Seconds of each operation of a forward pass, and of the reduction of gradients, ``[layers]`` each.

    ``all_to_all``, ``all_gather`` and ``reduce_scatter`` each count twice: there and back; around attention,
    which is cut along the sequence outside, and around the experts.
    """
    cut, memory = bed.devices, bed.bandwidth_bytes_per_s
    tokens = layers.elements / layers.width
    scores = layers.heads * tokens * layers.length / cut
    projections = 2.0 * tokens * layers.attention_params / cut
    products = 4.0 * layers.elements * layers.length / cut
    inner = 2.0 * layers.matrices * layers.routed * layers.expert_width / cut
    moved = ORDER_PASSES * ELEMENT_BYTES * (layers.elements + layers.routed) / memory
    passes = SCORE_PASSES * ELEMENT_BYTES * scores / memory
    gemm = bed.line("gemm", "experts")
    beside = layers.elements + layers.routed
    return {
        "all_to_all": bed.line("a2a", "all_to_all").seconds(2.0 * layers.routed, 2),
        "all_reduce": bed.line("reduce", "all_reduce").seconds(layers.attention_params),
        "all_gather": bed.line("gather", "all_gather").seconds(beside, 2),
        "reduce_scatter": bed.line("scatter", "reduce_scatter").seconds(beside, 2),
        "experts": np.asarray(layers.matrices * gemm.startup_s + gemm.slope_s * inner),
        "routing": bed.line("gemm", "routing").seconds(2.0 * layers.elements * bed.nodes),
        "order": np.asarray(moved * bed.stretch.get("order", 1.0)),
        "attention": bed.line("gemm", "attention").seconds(projections + products, 6)
        + passes * bed.stretch.get("attention", 1.0),
    }


def startup_seconds(layers: Layers, bed: Bed) -> dict[str, Array]:
    """What of each operation is starting it alone, ``[layers]`` each.

    >>> gpt = Layers(4, 1024, 1600, 6400, 25, 1600, 2)
    >>> round(1e3 * float(startup_seconds(gpt, PRINTED["A"])["all_to_all"]), 3)
    0.574
    """
    nothing = dict.fromkeys(operation_seconds(layers, bed), 0.0)
    return operation_seconds(layers, replace(bed, stretch=nothing))


def stretched(bed: Bed, measured: Sequence[tuple[Layers, str, float]]) -> Bed:
    """The bed with the stretch of each operation that measurements of it ask for.

    Parameters
    ----------
    bed
        With the constants of operations measured alone.
    measured
        One layer, operation, and the seconds of a forward pass that were measured.

    Returns
    -------
    Bed
        Each operation's stretch is the median over its measurements of what is left beyond starting it, over
        what `bed` says.
    """
    found: dict[str, list[float]] = {}
    for layers, name, seconds in measured:
        start = float(startup_seconds(layers, bed)[name])
        work = float(operation_seconds(layers, bed)[name]) - start
        found.setdefault(name, []).append(max(seconds - start, 0.0) / work)
    return replace(bed, stretch={name: float(np.median(values)) for name, values in found.items()})


def layer_of(layers: Layers, bed: Bed) -> tuple[LayerSeconds, LayerSeconds]:
    """A layer forward and backward, ready for a schedule."""
    ops = operation_seconds(layers, bed)
    a2a, gemm = bed.line("a2a", "all_to_all"), bed.line("gemm", "experts")
    gather, scatter = bed.line("gather", "all_gather"), bed.line("scatter", "reduce_scatter")
    # The sequence is gathered before attention and scattered after it.
    outside = gather.seconds(layers.elements) + scatter.seconds(layers.elements)
    forward = LayerSeconds(
        dispatch=a2a.seconds(layers.routed),
        combine=a2a.seconds(layers.routed),
        gather=gather.seconds(layers.routed),
        scatter=scatter.seconds(layers.routed),
        experts=ops["experts"],
        before=ops["attention"] + ops["routing"] + ops["order"] / 2.0 + outside,
        after=ops["order"] / 2.0,
        dispatch_startup=a2a.startup_s,
        combine_startup=a2a.startup_s,
        gather_startup=gather.startup_s,
        scatter_startup=scatter.startup_s,
        experts_startup=np.asarray(layers.matrices) * gemm.startup_s,
    )
    return forward, backward(forward, gradients=ops["all_reduce"])


def grid(
    lengths: tuple[int, ...],
    widths: tuple[int, ...] = (1024, 2048, 4096),
    capacities: tuple[float, ...] = (1.0, CAPACITY, 2.4),
) -> Layers:
    """Layers that are configured as in FSMoE's Table 5: ``2 x 3**6 = 1458`` of them.

    Sequences (1, 2, 4) and lengths are as printed. The other axes are ours: heads (8, 16, 32), three widths,
    inner over outer width (2, 3, 4), three capacities, and experts with or without a gate.

    >>> len(grid((512, 1024, 2048)).elements)
    1458
    """
    axes = ((1, 2, 4), lengths, widths, (2, 3, 4), (8, 16, 32), capacities, (2, 3))
    batch, length, width, ratio, heads, capacity, matrices = (
        axis.ravel().astype(np.float64) for axis in np.meshgrid(*axes, indexing="ij")
    )
    return Layers(batch, length, width, ratio * width, heads, width, matrices, capacity)
