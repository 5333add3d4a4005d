"""What one pool is asked for, in order, and what becomes of each access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

#: Bits of an outcome. `HIT`: the expert was there. `FIRST`: it was not, and never was since the pool last
#: started. `FULL`: it was not, and no slot was free, so that something left for it or it passed through.
HIT, FIRST, FULL = 1, 2, 4

Ids = npt.NDArray[np.integer]
Outcomes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class PoolAccesses:
    """Accesses to one pool.

    Members of a pool are numbered from 0; `members` says which layer and expert each is.

    Parameters
    ----------
    items
        Member of each access, uint8, uint16 or int32 ``[accesses]``.
    cells
        First access of each cell (one layer of one step; empty ones are left out) and the number of accesses
        as the last, int64 ``[cells + 1]``.
    requests
        First access of each request and the number of accesses as the last, int64 ``[requests + 1]``.
    members
        ``layer * num_experts + expert`` of each member, int64 ``[members]``.
    slots
        Slots of the pool, at least 1.
    start
        Members that are there at first, in the order in which they came, int32, at most `slots`.
    batch
        Whether the experts of a cell are looked up before any is loaded; then the pool takes in all of them,
        and while it holds too many, experts outside the cell leave before those in it.
    reset
        Whether the pool goes back to `start`, and forgets, where a request begins.
    parameters
        Of the rule.
    cell_layers, cell_steps
        Layer and step of each cell, int32 ``[cells]``.
    weights
        Router weight of each access, float32 ``[accesses]``; None unless the rule asks for it and the trace
        has it.
    layers, num_experts
        Of the trace.
    sizes, costs
        Slots that each member takes, and what loading it costs, float64 ``[members]``; None if all are alike.
    """

    items: Ids
    cells: npt.NDArray[np.int64]
    requests: npt.NDArray[np.int64]
    members: npt.NDArray[np.int64]
    slots: int
    start: npt.NDArray[np.int32]
    batch: bool = False
    reset: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)
    cell_layers: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    cell_steps: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    weights: npt.NDArray[np.float32] | None = None
    layers: int = 1
    num_experts: int = 1
    sizes: npt.NDArray[np.float64] | None = None
    costs: npt.NDArray[np.float64] | None = None

    @property
    def num_members(self) -> int:
        """Experts that may use the pool."""
        return len(self.members)

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where the pool starts anew, and the number of accesses, int64 ``[starts + 1]``."""
        return self.requests if self.reset else np.array([0, len(self.items)], np.int64)
