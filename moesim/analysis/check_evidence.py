"""What the rules judge: one value for both kinds of trace."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.analysis.check_scan import Scan
from moesim.trace import LoadCounts, Shape

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Everything known about a trace.

    Parameters
    ----------
    layer_ids
        Decoder index of each layer.
    num_experts, top_k
        Of the model where it is known, else of the trace.
    loads
        Selections of each expert, float64 ``[layers, num_experts]``.
    beyond
        Selections of ids that are no experts, float64 ``[layers]`` by id.
    dead
        Layers that are no router's work (constant, or without load), bool ``[layers]``; other rules pass over
        them.
    shape
        The model, if known.
    scan
        Of a routing trace.
    counts
        Of load counts.
    ranks
        Expert-parallel sizes to look at.
    differences
        How the trace contradicts the model.
    """

    layer_ids: tuple[int, ...]
    num_experts: int
    top_k: int | None
    loads: Floats
    beyond: dict[int, Floats]
    dead: npt.NDArray[np.bool_]
    shape: Shape | None = None
    scan: Scan | None = None
    counts: LoadCounts | None = None
    ranks: tuple[int, ...] = ()
    differences: tuple[str, ...] = field(default=())

    @property
    def selections(self) -> Floats:
        """Selections of each layer, float64 ``[layers]``."""
        return np.asarray(self.loads.sum(axis=1))

    def ids(self, rows: npt.ArrayLike) -> tuple[int, ...]:
        """Decoder indices of rows, given as a mask or as numbers."""
        array = np.asarray(rows)
        chosen = np.flatnonzero(array) if array.dtype == bool else array
        return tuple(self.layer_ids[i] for i in chosen.tolist())


def of_scan(
    scan: Scan, shape: Shape | None, ranks: tuple[int, ...], differences: tuple[str, ...]
) -> Evidence:
    """Evidence of a routing trace."""
    return Evidence(
        layer_ids=scan.layer_ids,
        num_experts=scan.num_experts,
        top_k=scan.top_k,
        loads=scan.counts.astype(np.float64),
        beyond={e: n.astype(np.float64) for e, n in scan.beyond.items()},
        dead=dead_layers(scan),
        shape=shape,
        scan=scan,
        ranks=ranks,
        differences=differences,
    )


def dead_layers(scan: Scan) -> npt.NDArray[np.bool_]:
    """Layers in which every token chose the same, or nothing but expert 0.

    A few tokens may agree by chance, or because they are one token; zeros in all of several slots never do.
    """
    row = scan.first_row
    zero = np.zeros(len(scan.layer_ids), bool) if row is None or scan.top_k < 2 else ~row.any(axis=1)
    enough = scan.tokens >= 16 and scan.top_k < scan.num_experts
    return np.asarray(scan.constant & (zero | enough))


def of_loads(
    loads: LoadCounts,
    num_experts: int,
    shape: Shape | None,
    ranks: tuple[int, ...],
    differences: tuple[str, ...],
) -> Evidence:
    """Evidence of load counts."""
    totals = loads.totals
    extra = {e: totals[:, e] for e in range(num_experts, totals.shape[1])}
    inside = np.zeros((len(totals), num_experts))
    inside[:, : totals.shape[1]] = totals[:, :num_experts]
    top_k = loads.top_k or (shape.top_k if shape else None)
    chosen = (inside > 0).sum(axis=1)
    few = chosen <= (top_k or 1)
    dead = ~totals.any(axis=1) | (few & (num_experts > (top_k or 1)))
    return Evidence(
        layer_ids=loads.moe_layer_ids,
        num_experts=num_experts,
        top_k=top_k,
        loads=inside,
        beyond={e: n for e, n in extra.items() if n.any()},
        dead=dead,
        shape=shape,
        counts=loads,
        ranks=ranks,
        differences=differences,
    )
