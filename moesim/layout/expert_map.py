"""Which physical expert slot holds which logical expert.

Names read left to right, as in EPLB: ``physical_to_logical[layer, slot]`` is the logical expert in that slot.
Rank ``r`` owns the slots ``[r * slots_per_rank, (r + 1) * slots_per_rank)``. A slot of -1 holds nothing: a
rank may have less room than others, a layer fewer copies, though few engines load such a plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ExpertMap:
    """A placement of experts, with replicas, for every MoE layer.

    Parameters
    ----------
    physical_to_logical
        int64 ``[moe_layers, slots]``; -1 where a slot is empty.
    num_experts
        Logical experts per layer.
    ranks
        Expert-parallel ranks.
    replica_counts
        Replicas of each logical expert, int64 ``[moe_layers, num_experts]``; follows from the map.
    logical_to_physical
        Slots of each logical expert, int64 ``[moe_layers, num_experts, max_replicas]``, padded with -1;
        follows from the map.

    Raises
    ------
    ConfigError
        With every broken invariant: shape, ids in range, every expert present, no expert twice on a rank.

    Examples
    --------
    >>> plan = ExpertMap(np.array([[0, 1, 2, 0]]), num_experts=3, ranks=2)
    >>> plan.replica_counts
    array([[2, 1, 1]])
    >>> plan.rank_loads(np.array([[6.0, 1.0, 2.0]]))
    array([[4., 5.]])
    """

    physical_to_logical: IntArray
    num_experts: int
    ranks: int
    replica_counts: IntArray = field(init=False, repr=False)
    logical_to_physical: IntArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        array = np.ascontiguousarray(self.physical_to_logical, dtype=np.int64)
        array.setflags(write=False)
        object.__setattr__(self, "physical_to_logical", array)
        found = faults(array, self.num_experts, self.ranks, empty=True)
        if found:
            raise ConfigError(found, "expert placement")
        counts = _replica_counts(array, self.num_experts)
        object.__setattr__(self, "replica_counts", counts)
        object.__setattr__(self, "logical_to_physical", _logical_to_physical(array, counts))

    @property
    def layers(self) -> int:
        """MoE layers."""
        return int(self.physical_to_logical.shape[0])

    @property
    def slots(self) -> int:
        """Physical experts per layer."""
        return int(self.physical_to_logical.shape[1])

    @property
    def slots_per_rank(self) -> int:
        """Slots per layer and rank, empty ones included."""
        return self.slots // self.ranks

    @property
    def redundant(self) -> int:
        """Slots beyond one of each expert, empty ones included."""
        return self.slots - self.num_experts

    @property
    def mean_copies(self) -> float:
        """Physical experts beyond one of each, averaged over layers; empty slots do not count."""
        return float(self.replica_counts.sum() / max(1, self.layers)) - self.num_experts

    @property
    def full(self) -> bool:
        """Whether no slot is empty."""
        return bool((self.physical_to_logical >= 0).all())

    def slot_loads(self, loads: FloatArray, shares: FloatArray | None = None) -> FloatArray:
        """Load of each slot.

        Parameters
        ----------
        loads
            float64 ``[moe_layers, num_experts]``.
        shares
            Part of its expert's load that each slot takes, float64 ``[moe_layers, slots]``; see
            `moesim.layout.sharing`. Replicas share evenly if None.

        Returns
        -------
        ndarray
            float64 ``[moe_layers, slots]``.
        """
        if shares is None:
            loads = loads / self.replica_counts
        found = np.take_along_axis(loads, self.physical_to_logical, axis=1)
        if shares is not None:
            found = found * shares
        return np.asarray(np.where(self.physical_to_logical >= 0, found, 0.0))

    def rank_loads(self, loads: FloatArray, shares: FloatArray | None = None) -> FloatArray:
        """Load of each rank, float64 ``[moe_layers, ranks]``; parameters are those of `slot_loads`."""
        slots = self.slot_loads(loads, shares).reshape(self.layers, self.ranks, self.slots_per_rank)
        return np.asarray(slots.sum(axis=2))

    def load_imbalance(self, loads: FloatArray, shares: FloatArray | None = None) -> FloatArray:
        """Largest over mean rank load, float64 ``[moe_layers]``; NaN for a layer without load."""
        ranks = self.rank_loads(loads, shares)
        mean = ranks.mean(axis=1)
        return np.asarray(
            np.divide(ranks.max(axis=1), mean, out=np.full(self.layers, np.nan), where=mean > 0)
        )

    @classmethod
    def contiguous(cls, layers: int, num_experts: int, ranks: int, redundant: int = 0) -> ExpertMap:
        """Experts in order, as engines start: expert ``i`` in slot ``i``, then spare copies of 0, 1, ..."""
        row = np.arange(num_experts + redundant) % num_experts
        return cls(np.tile(row, (layers, 1)), num_experts, ranks)

    @classmethod
    def round_robin(cls, layers: int, num_experts: int, ranks: int) -> ExpertMap:
        """Expert ``i`` on rank ``i mod ranks``."""
        row = np.arange(num_experts).reshape(-1, ranks).T.ravel()
        return cls(np.tile(row, (layers, 1)), num_experts, ranks)


def _replica_counts(array: IntArray, num_experts: int) -> IntArray:
    offsets = np.arange(len(array))[:, None] * num_experts
    counts = np.bincount((array + offsets)[array >= 0], minlength=len(array) * num_experts)
    return counts.reshape(len(array), num_experts)


def _logical_to_physical(array: IntArray, counts: IntArray) -> IntArray:
    table = np.full((*counts.shape, int(counts.max())), -1, dtype=np.int64)
    order = np.argsort(array, axis=1, kind="stable")
    experts = np.take_along_axis(array, order, axis=1)
    empty = (array < 0).sum(axis=1, keepdims=True)
    starts = np.cumsum(counts, axis=1) - counts + empty
    nth = np.arange(array.shape[1])[None, :] - np.take_along_axis(starts, experts, axis=1)
    layer, column = np.nonzero(experts >= 0)
    table[layer, experts[layer, column], nth[layer, column]] = order[layer, column]
    return table


def faults(array: IntArray, num_experts: int, ranks: int, *, empty: bool = False) -> list[Fault]:
    """Broken invariants of a placement, at most a few of each kind; `empty` allows empty slots."""
    if array.ndim != 2:
        return [Fault("must have two axes, [moe_layers, slots]", "physical_to_logical_map", array.shape)]
    layers, slots = array.shape
    if slots % ranks:
        return [Fault(f"{slots} slots do not divide over {ranks} ranks", "physical_to_logical_map")]
    wrong = np.argwhere((array < (-1 if empty else 0)) | (array >= num_experts))
    if len(wrong):
        layer, slot = wrong[0]
        return [
            Fault(
                f"{len(wrong)} slot(s) hold no expert of the model, first in layer {layer}, slot {slot}",
                "physical_to_logical_map",
                int(array[layer, slot]),
                f"0 to {num_experts - 1}",
            )
        ]
    found = []
    missing = np.argwhere(_replica_counts(array, num_experts) == 0)
    for layer, expert in missing[:3]:
        found.append(Fault(f"expert {expert} is in no slot of layer {layer}", "physical_to_logical_map"))
    if len(missing) > 3:
        found.append(Fault(f"{len(missing)} experts are missing in all", "physical_to_logical_map"))
    rows = np.sort(array.reshape(layers, ranks, slots // ranks), axis=2)
    twice = np.argwhere((rows[:, :, 1:] == rows[:, :, :-1]) & (rows[:, :, 1:] >= 0))
    for layer, rank, nth in twice[:3]:
        expert = rows[layer, rank, nth]
        found.append(
            Fault(f"expert {expert} is twice on rank {rank} of layer {layer}", "physical_to_logical_map")
        )
    return found
