"""Ranks that are lost or join: a plan for those there are, with the fewest copies, and how long it takes.

A rank that is lost takes its slots along. An expert without another replica is gone until it is loaded from
the host, and some slot must take it: an empty one, or that of a replica whose expert has more. Slots that are
still empty then, of ranks that join or of more slots per rank, get further replicas of what is hottest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap
from moesim.placement.migration import Moves, copies_between, held_by
from moesim.rebalancing.price import StepPricer

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A plan for the ranks there are, and the way to it.

    Parameters
    ----------
    plan
        The new plan; its ranks are `ranks`, in order.
    ranks
        Which ranks are left, by their old numbers; those that joined have higher ones, int64 ``[new ranks]``.
    missing
        Experts of which no replica is left, bool ``[layers, experts]``.
    copied
        Copies between ranks, in old numbers.
    loaded
        Missing experts that each rank loads, int64 ``[layers, old ranks]``.
    missing_share
        Part of all selections that go to missing experts.
    imbalance
        Largest over mean rank load, averaged over layers with load, before and after.
    copy_s, load_s
        Seconds of copies between ranks and of loading; they share no link, so the longer one counts.
    """

    plan: ExpertMap
    ranks: IntArray
    missing: BoolArray
    copied: Moves
    loaded: IntArray
    missing_share: float
    imbalance: tuple[float, float]
    copy_s: float
    load_s: float

    @property
    def seconds(self) -> float:
        """Until every expert is there again."""
        return max(self.copy_s, self.load_s)

    @property
    def loaded_bytes(self) -> float:
        """Bytes that come from the host."""
        return float((self.loaded.sum(axis=1) * self.copied.expert_bytes).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "ranks": len(self.ranks),
            "slots_per_rank": self.plan.slots_per_rank,
            "missing_experts": int(self.missing.sum()),
            "missing_share": self.missing_share,
            "copied_experts": int(self.copied.experts.sum()),
            "copied_bytes": self.copied.total_bytes,
            "loaded_bytes": self.loaded_bytes,
            "copy_s": self.copy_s,
            "load_s": self.load_s,
            "seconds": self.seconds,
            "imbalance_before": self.imbalance[0],
            "imbalance_after": self.imbalance[1],
        }


def restored(
    plan: ExpertMap,
    loads: FloatArray,
    pricer: StepPricer,
    *,
    lost: Sequence[int] = (),
    joined: int = 0,
    slots_per_rank: int | None = None,
    storage_bytes_per_s: float | None = None,
) -> Restored:
    """Plan for the ranks that are left, or that are there now, with the fewest copies.

    Parameters
    ----------
    plan
        The plan in force.
    loads
        By which experts' new places are chosen, float64 ``[layers, experts]``.
    pricer
        Of the deployment as it was.
    lost
        Ranks that are gone.
    joined
        Ranks that come, numbered after the old ones.
    slots_per_rank
        Of the new plan; as many as before if None.
    storage_bytes_per_s
        Bandwidth, per node, of the storage that missing experts are loaded from; from host memory if None.

    Raises
    ------
    ConfigError
        If a rank does not exist, no rank is left, or slots per rank would have to shrink.
    InfeasibleError
        If the slots cannot hold all experts, or memory cannot hold the slots.
    """
    room = plan.slots_per_rank if slots_per_rank is None else slots_per_rank
    ranks = np.setdiff1d(np.arange(plan.ranks + joined), lost)
    _check(plan, lost, joined, room, len(ranks), pricer.hardware.num_devices)
    whole = plan.ranks + joined
    table = np.full((plan.layers, whole, room), -1, dtype=np.int64)
    table[:, : plan.ranks, : plan.slots_per_rank] = plan.physical_to_logical.reshape(
        plan.layers, plan.ranks, -1
    )
    left = table[:, ranks]
    had = _held(left, plan.num_experts)
    missing = np.logical_not(had.any(axis=1))
    for layer in range(plan.layers):
        _complete(left[layer], missing[layer], loads[layer])
    new = ExpertMap(left.reshape(plan.layers, -1), plan.num_experts, len(ranks))
    pricer.on(len(ranks)).check_memory(new)
    old_held = np.zeros((plan.layers, whole, plan.num_experts), dtype=np.bool_)
    new_held = old_held.copy()
    old_held[:, ranks], new_held[:, ranks] = had, held_by(new)
    arrives = new_held & ~old_held
    domain = pricer.domain
    copies = copies_between(old_held, arrives, domain)
    copied = Moves(copies, pricer.expert_bytes, domain, np.zeros(plan.layers, dtype=np.int64))
    # No rank can send what none holds: every new replica of a missing expert is loaded.
    loaded = (arrives & missing[:, None, :]).sum(axis=2)
    total = float(loads.sum())
    return Restored(
        plan=new,
        ranks=ranks,
        missing=missing,
        copied=copied,
        loaded=loaded,
        missing_share=float(loads[missing].sum()) / total if total > 0 else 0.0,
        imbalance=(_imbalance(plan, loads), _imbalance(new, loads)),
        copy_s=float(pricer.copy_seconds(copied).sum()),
        load_s=_load_seconds(loaded, copied.expert_bytes, pricer.hardware, storage_bytes_per_s),
    )


def _check(plan: ExpertMap, lost: Sequence[int], joined: int, room: int, ranks: int, devices: int) -> None:
    found = [
        Fault("is no rank of the plan", "--lose-rank", rank, f"0 to {plan.ranks - 1}")
        for rank in lost
        if not 0 <= rank < plan.ranks
    ]
    if joined < 0:
        found.append(Fault("is negative", "joined", joined, "0 or more"))
    if room < plan.slots_per_rank:
        allowed = f"{plan.slots_per_rank} or more, the slots each rank has"
        found.append(Fault("is too few", "--slots-per-rank", room, allowed))
    if ranks > devices:
        found.append(Fault(f"make {ranks} ranks on {devices} devices", "joined", joined))
    if not ranks:
        found.append(Fault("no rank is left", "--lose-rank"))
    if found:
        raise ConfigError(found)
    if ranks * room < plan.num_experts:
        lack = plan.num_experts - ranks * room
        enough = -(-plan.num_experts // ranks)
        raise InfeasibleError(
            f"{ranks} ranks of {room} slots cannot hold {plan.num_experts} experts: {lack} lack a slot; "
            f"--slots-per-rank {enough} would hold them",
            resource="expert slots",
            needed=plan.num_experts,
            available=ranks * room,
            details={"experts_without_slot": lack, "slots_per_rank": enough},
        )
    if room > plan.num_experts:
        allowed = f"at most {plan.num_experts}, one of each expert"
        raise ConfigError(Fault("is too many", "--slots-per-rank", room, allowed))


def _held(table: IntArray, experts: int) -> BoolArray:
    """Which rank holds which expert ``[layers, ranks, experts]``, of a table with -1 in empty slots."""
    held = np.zeros((*table.shape[:2], experts + 1), dtype=np.bool_)
    np.put_along_axis(held, table % (experts + 1), True, axis=2)
    return held[:, :, :-1]


def _complete(table: IntArray, missing: BoolArray, loads: FloatArray) -> None:
    """Fill one layer's table ``[ranks, slots_per_rank]`` in place: missing experts first, then replicas."""
    experts = len(loads)
    copies = np.bincount(table[table >= 0], minlength=experts)
    held = _held(table[None], experts)[0]
    lacking = np.flatnonzero(missing)
    for expert in lacking[np.argsort(-loads[lacking], kind="stable")].tolist():
        load = _rank_loads(table, copies, loads)
        empty = (table < 0).any(axis=1)
        if empty.any():
            rank = int(np.where(empty, load, np.inf).argmin())
            slot = int((table[rank] < 0).argmax())
        else:
            rank, slot = _least_missed(table, copies, held, loads, load)
            gone = table[rank, slot]
            copies[gone] -= 1
            held[rank, gone] = False
        table[rank, slot] = expert
        copies[expert] += 1
        held[rank, expert] = True
    for _ in range(int((table < 0).sum())):
        load = _rank_loads(table, copies, loads)
        rank = int(np.where((table < 0).any(axis=1), load, np.inf).argmin())
        expert = int(np.where(held[rank], -1.0, loads / copies).argmax())
        table[rank, int((table[rank] < 0).argmax())] = expert
        copies[expert] += 1
        held[rank, expert] = True


def _rank_loads(table: IntArray, copies: IntArray, loads: FloatArray) -> FloatArray:
    share = loads / np.maximum(copies, 1)
    return np.asarray(np.where(table >= 0, share[table], 0.0).sum(axis=1))


def _least_missed(
    table: IntArray, copies: IntArray, held: BoolArray, loads: FloatArray, load: FloatArray
) -> tuple[int, int]:
    """Slot of the replica whose rank is lightest without it, what its other replicas take over included."""
    rank, slot = np.nonzero(copies[table] > 1)
    expert = table[rank, slot]
    more = loads[expert] / (copies[expert] - 1) - loads[expert] / copies[expert]
    after = load[None, :] + more[:, None] * held[:, expert].T
    rows = np.arange(len(rank))
    after[rows, rank] -= loads[expert] / (copies[expert] - 1)
    # What comes in lies on the freed rank: it should be light, and no other should become the busiest.
    best = int(np.lexsort((after[rows, rank], after.max(axis=1)))[0])
    return int(rank[best]), int(slot[best])


def _imbalance(plan: ExpertMap, loads: FloatArray) -> float:
    found = plan.load_imbalance(loads)
    return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def _load_seconds(
    loaded: IntArray, expert_bytes: FloatArray, hardware: Hardware, storage_bytes_per_s: float | None
) -> float:
    """Seconds until the rank, or the node, that loads most is done."""
    by_rank = (loaded * expert_bytes[:, None]).sum(axis=0)
    if not by_rank.any():
        return 0.0
    if hardware.host_link is None or hardware.host is None:
        raise ConfigError(
            Fault(f"{hardware.name} has no host to load lost experts from", "--hardware", hardware.name)
        )
    link = hardware.host_link
    node = np.arange(len(by_rank)) // hardware.devices_per_node
    by_node = np.bincount(node, weights=by_rank)
    shared = (
        hardware.host.memory.bandwidth_bytes_per_s if storage_bytes_per_s is None else storage_bytes_per_s
    )
    own_s = by_rank.max() / (link.bandwidth_bytes_per_s * link.efficiency)
    return float(link.latency_s + max(own_s, by_node.max() / shared))
