"""What it takes to get from the plan that is loaded to another one.

Neither the labels of ranks nor the order of slots changes how even a plan is. So a new plan is first
relabelled, layer by layer, such that most experts are where they are already: an assignment of new ranks to
old ones, solved exactly. What is still missing on a rank is copied from a rank that holds it, of the same
scale-up domain if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.layout import ExpertMap
from moesim.model import bytes_per_param, layer_matrices
from moesim.model.types import Model
from moesim.ops import Precision
from moesim.placement.problem import Problem
from moesim.placement.solvers.exchange import exchanges

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """Copies of experts between ranks.

    Parameters
    ----------
    copies
        Experts that each rank sends to each, int64 ``[layers, from, to]``.
    expert_bytes
        Bytes of one expert of each layer, float64 ``[layers]``.
    domain
        Ranks per scale-up domain.
    shifted
        Experts that change their slot inside a rank, int64 ``[layers]``; no link carries them.
    """

    copies: IntArray
    expert_bytes: FloatArray
    domain: int
    shifted: IntArray

    @property
    def experts(self) -> IntArray:
        """Experts copied from rank to rank, int64 ``[layers]``."""
        return np.asarray(self.copies.sum(axis=(1, 2)))

    @property
    def traffic(self) -> FloatArray:
        """Bytes from rank to rank, float64 ``[layers, from, to]``."""
        return np.asarray(self.copies * self.expert_bytes[:, None, None])

    @property
    def total_bytes(self) -> float:
        """Bytes of all layers."""
        return float((self.experts * self.expert_bytes).sum())

    @property
    def up(self) -> FloatArray:
        """Bytes inside scale-up domains, float64 ``[layers, from, to]``."""
        return np.asarray(self.traffic * self._inside)

    @property
    def out(self) -> FloatArray:
        """Bytes between domains, float64 ``[layers, from, to]``."""
        return np.asarray(self.traffic * ~self._inside)

    @property
    def staging_bytes(self) -> float:
        """Memory for the incoming experts of one layer, on the rank that receives most."""
        return float(self.traffic.sum(axis=1).max(initial=0.0))

    @property
    def _inside(self) -> BoolArray:
        home = np.arange(self.copies.shape[1]) // self.domain
        return np.asarray(home[:, None] == home[None, :])


def moves(
    plan: ExpertMap,
    current: ExpertMap,
    expert_bytes: float | FloatArray = 1.0,
    domain: int | None = None,
) -> Moves:
    """Copies that lead from the current plan to a new one.

    An expert comes from a rank that holds it, of the receiver's domain if possible, and of these from the one
    that has sent least.

    Parameters
    ----------
    plan, current
        Plans of one shape.
    expert_bytes
        Bytes of one expert, the same in all layers or float64 ``[layers]``.
    domain
        Ranks per scale-up domain; all of them if None.

    Raises
    ------
    ConfigError
        If the plans differ in layers, experts, ranks or slots.

    Examples
    --------
    >>> current = ExpertMap(np.array([[0, 1, 2, 3]]), num_experts=4, ranks=2)
    >>> swapped = ExpertMap(np.array([[0, 2, 1, 3]]), num_experts=4, ranks=2)
    >>> moves(swapped, current, expert_bytes=10.0).total_bytes
    20.0
    """
    _check(plan, current)
    ranks = plan.ranks
    domain = ranks if domain is None else domain
    old, new = held_by(current), held_by(plan)
    copies = copies_between(old, new & ~old, domain)
    filled = plan.physical_to_logical >= 0
    changed = (plan.physical_to_logical != current.physical_to_logical) & filled
    shifted = changed.sum(axis=1) - copies.sum(axis=(1, 2))
    sizes = np.broadcast_to(np.asarray(expert_bytes, dtype=np.float64), (plan.layers,)).copy()
    return Moves(copies, sizes, domain, np.maximum(shifted, 0))


def aligned(plan: ExpertMap, current: ExpertMap, nodes: int = 1, *, keep_nodes: bool = False) -> ExpertMap:
    """Relabel the ranks of a plan, and order its slots, so that fewest experts have to move.

    Of all relabellings this takes one with the fewest copies between ranks, and of these one with the fewest
    between nodes. An expert that stays on its rank stays in its slot.

    Parameters
    ----------
    plan, current
        Plans of one shape.
    nodes
        Nodes the ranks lie on, in order.
    keep_nodes
        Whether ranks of a node stay together: what shares a node in `plan` still does, so that traffic
        between nodes does not change either.

    Raises
    ------
    ConfigError
        If the plans differ in shape, or the nodes do not divide the ranks.

    Examples
    --------
    >>> current = ExpertMap(np.array([[0, 1, 2, 3, 4, 5]]), num_experts=6, ranks=2)
    >>> plan = ExpertMap(np.array([[3, 4, 0, 1, 2, 5]]), num_experts=6, ranks=2)
    >>> aligned(plan, current).physical_to_logical
    array([[5, 1, 2, 3, 4, 0]])
    """
    _check(plan, current)
    ranks = plan.ranks
    if ranks % nodes:
        raise ConfigError(Fault(f"{ranks} ranks do not lie evenly on {nodes} nodes", "nodes", nodes))
    old, new = held_by(current).astype(np.int64), held_by(plan).astype(np.int64)
    node = np.arange(ranks) // (ranks // nodes)
    near = np.stack([old[:, node == n].any(axis=1) for n in range(nodes)], axis=1)[:, node]
    stay, close = new @ old.transpose(0, 2, 1), new @ near.astype(np.int64).transpose(0, 2, 1)
    # One more expert that stays outweighs everything that may come from the same node.
    value = stay * (plan.slots + 1) + close
    table = plan.physical_to_logical.reshape(plan.layers, ranks, -1)
    ordered = np.empty_like(table)
    for layer in range(plan.layers):
        label = _by_node(value[layer], nodes) if keep_nodes else _assigned(value[layer])
        ordered[layer, label] = table[layer]
    _keep_slots(ordered, current.physical_to_logical.reshape(ordered.shape))
    return ExpertMap(ordered.reshape(plan.layers, -1), plan.num_experts, ranks)


def near_plans(
    problem: Problem, tables: Sequence[IntArray], seed: int = 0, effort: float = 1.0
) -> list[IntArray]:
    """Plans near `problem.current`: itself, relabelled ones, and points of a path of exchanges.

    Parameters
    ----------
    problem
        With the plan that is loaded now; its ranks are alike.
    tables
        Plans to relabel, physical_to_logical ``[layers, slots]``.
    seed, effort
        Change nothing: the path is one.

    Returns
    -------
    list
        Tables ``[layers, slots]``; those of the path have at most 1, 2, 4, ... moves in every layer.
    """
    del seed, effort
    current = problem.current
    if current is None or not problem.even or not current.full:
        return []
    nodes = problem.nodes if problem.ranks % problem.nodes == 0 else 1
    found = [current.physical_to_logical]
    found += [aligned(problem.plan(table), current, nodes).physical_to_logical for table in tables]
    path = exchanges(problem.steps, problem.ranks, current.physical_to_logical, most=problem.slots)
    most = 1
    while most < 2 * problem.slots:
        found.append(path.at(path.within(most)))
        most *= 2
    return found


def expert_bytes(model: Model, dtype: str = "auto") -> FloatArray:
    """Bytes of one expert of each MoE layer, float64 ``[layers]``."""
    precision = Precision.of(model, dtype)
    sizes = [
        sum(
            m.inputs * m.outputs * bytes_per_param(precision.weight(m.module))
            for m in layer_matrices(model.layers[layer], model.hidden)
            if m.module == "expert"
        )
        for layer in model.moe_layer_ids
    ]
    return np.array(sizes, dtype=np.float64)


def held_by(plan: ExpertMap) -> BoolArray:
    """Which rank holds which expert, bool ``[layers, ranks, experts]``."""
    held = np.zeros((plan.layers, plan.ranks, plan.num_experts + 1), dtype=np.bool_)
    table = plan.physical_to_logical.reshape(plan.layers, plan.ranks, -1)
    np.put_along_axis(held, table % (plan.num_experts + 1), True, axis=2)
    return held[:, :, :-1]


def copies_between(old: BoolArray, missing: BoolArray, domain: int) -> IntArray:
    """Experts that each rank sends to each, int64 ``[layers, from, to]``.

    Parameters
    ----------
    old
        Which rank holds which expert now, ``[layers, ranks, experts]``.
    missing
        Which it shall get. What no rank holds comes from elsewhere, and is left out.
    domain
        Ranks per scale-up domain.
    """
    layers, ranks, _ = old.shape
    copies = np.zeros((layers, ranks, ranks), dtype=np.int64)
    _sources(old, missing, domain, copies)
    return copies


def _check(plan: ExpertMap, current: ExpertMap) -> None:
    has, wanted = (
        (p.layers, p.num_experts, p.ranks, p.slots_per_rank if p.ranks else 0) for p in (plan, current)
    )
    if has != wanted:
        what = "(layers, experts, ranks, slots per rank) are not those of the current plan"
        raise ConfigError(Fault(what, "plan", has, str(wanted)))


def _assigned(value: IntArray) -> IntArray:
    """The old rank that each new one becomes, for the largest sum of values ``[new, old]``."""
    return np.asarray(linear_sum_assignment(value, maximize=True)[1])


def _by_node(value: IntArray, nodes: int) -> IntArray:
    """`_assigned`, with the ranks of a node kept together: ranks inside every pair of nodes, then nodes."""
    size = len(value) // nodes
    blocks = value.reshape(nodes, size, nodes, size)
    inside = np.array([[_assigned(blocks[a, :, b]) for b in range(nodes)] for a in range(nodes)])
    rows = np.arange(size)
    worth = np.array([[blocks[a, rows, b, inside[a, b]].sum() for b in range(nodes)] for a in range(nodes)])
    chosen = _assigned(worth)
    return np.concatenate([chosen[a] * size + inside[a, chosen[a]] for a in range(nodes)])


def _sources_kernel(old: BoolArray, missing: BoolArray, domain: int, copies: IntArray) -> None:
    """Choose where each missing expert comes from; `copies` ``[layers, from, to]`` is added to."""
    layers, ranks, experts = old.shape
    for layer in range(layers):
        sent = np.zeros(ranks, dtype=np.int64)
        for to in range(ranks):
            for e in range(experts):
                if not missing[layer, to, e]:
                    continue
                best = -1
                for r in range(ranks):
                    if not old[layer, r, e]:
                        continue
                    if best < 0:
                        best = r
                        continue
                    near = r // domain == to // domain
                    was = best // domain == to // domain
                    if (near and not was) or (near == was and sent[r] < sent[best]):
                        best = r
                if best >= 0:
                    sent[best] += 1
                    copies[layer, best, to] += 1


def _keep_slots_kernel(table: IntArray, current: IntArray) -> None:
    """Order the slots of every rank, in place: what is there already stays in its slot."""
    layers, ranks, room = table.shape
    for layer in range(layers):
        for r in range(ranks):
            row = table[layer, r].copy()
            taken = np.zeros(room, dtype=np.bool_)
            placed = np.zeros(room, dtype=np.bool_)
            for i in range(room):
                for j in range(room):
                    if not taken[j] and not placed[i] and row[i] == current[layer, r, j]:
                        table[layer, r, j] = row[i]
                        taken[j] = True
                        placed[i] = True
            j = 0
            for i in range(room):
                if placed[i]:
                    continue
                while taken[j]:
                    j += 1
                table[layer, r, j] = row[i]
                taken[j] = True


_sources = compiled(_sources_kernel)
_keep_slots = compiled(_keep_slots_kernel)
