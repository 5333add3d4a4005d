"""How engines choose among the replicas of an expert, and what part of its tokens each replica gets.

Home ranks hold equal parts of a batch. What a rule gives is a share per slot: the part of its expert's tokens
that the slot receives. The shares of an expert's replicas sum to one.

even
    Replicas share alike: what EPLB assumes. So does, on average, an engine that takes any replica at random.
sglang-static
    Each home rank sends all its tokens of an expert to one replica: its own, else the first of its node if
    the node has some but not all of them, else one drawn when the plan is loaded (`moesim.layout.draws`).
    SGLang's ``--ep-dispatch-algorithm static``, its default with an all-to-all backend.
sglang-dynamic
    A replica that is near, by the same rule, else any at random for each token: SGLang's ``dynamic`` on a
    plan that it read from a file. Shares are expected ones; those of a batch scatter round them.
vllm-ascend
    Home rank ``r`` sends to replica ``r modulo replicas``, replicas in the order of their slots: the log2phy
    map of vllm-ascend.
lp
    For each batch and layer the split that loads the busiest rank least (`moesim.layout.split`): SGLang's
    ``lp`` (LPLB). Its shares depend on the loads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, nearest
from moesim.hardware.types import Hardware
from moesim.layout.expert_map import ExpertMap

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

DISPATCH = ("even", "sglang-static", "sglang-dynamic", "vllm-ascend", "lp")
#: What engines and people call them.
ALIASES = {
    "static": "sglang-static",
    "dynamic": "sglang-dynamic",
    "sglang-lp": "lp",
    "modulo": "vllm-ascend",
    "random": "even",
}
#: Rules by which a home rank always sends an expert's tokens to one slot.
FIXED = ("sglang-static", "vllm-ascend")
#: Seed of SGLang's draws.
SEED = 42


def rule_of(name: str) -> str:
    """Resolve a name to one of `DISPATCH`; an unknown one stays what it is.

    Examples
    --------
    >>> rule_of("static")
    'sglang-static'
    """
    return ALIASES.get(name, name)


def dispatch_faults(name: str, option: str = "dispatch") -> list[Fault]:
    """What keeps a name from being a dispatch rule."""
    if rule_of(name) in DISPATCH:
        return []
    near = nearest(name, (*DISPATCH, *ALIASES))
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return [Fault("is no dispatch rule", option, name, hint + ", ".join(DISPATCH))]


def hosts_of(devices: int, hardware: Hardware) -> int:
    """Hosts that so many devices fill, which is what SGLang calls nodes; a rack of one domain has many."""
    return max(1, devices // hardware.devices_per_node)


def slots_of_sources(
    plan: ExpertMap,
    dispatch: str = "sglang-static",
    nodes: int = 1,
    *,
    seed: int = SEED,
    rows: Sequence[int] | None = None,
) -> IntArray:
    """Slot to which each home rank sends its tokens of each expert, for good.

    Parameters
    ----------
    plan
        The placement.
    dispatch
        One of `FIXED`.
    nodes
        Nodes the ranks lie on, in order.
    seed
        Of SGLang's draws.
    rows
        Which row of the map that SGLang loads each layer is, rising: the decoder index of the MoE layers.
        Rows between hold experts in order, as plans are emitted; they are drawn for as well. All rows in
        turn if None.

    Returns
    -------
    ndarray
        int64 ``[moe_layers, ranks, num_experts]``.

    Raises
    ------
    ConfigError
        If the rule has no fixed slots, or the rows are not one for each layer, rising from 0 or later.

    Examples
    --------
    >>> plan = ExpertMap(np.array([[0, 1, 2, 0]]), num_experts=3, ranks=2)
    >>> slots_of_sources(plan)
    array([[[0, 1, 2],
            [3, 1, 2]]])
    """
    rule = rule_of(dispatch)
    found = dispatch_faults(dispatch)
    if not found and rule not in FIXED:
        found.append(
            Fault("does not send to the same slots for good", "dispatch", dispatch, ", ".join(FIXED))
        )
    if rows is not None and (len(rows) != plan.layers or np.any(np.diff([-1, *rows]) < 1)):
        found.append(Fault("must be one for each layer, rising", "rows", list(rows), f"{plan.layers} rows"))
    if found:
        raise ConfigError(found)
    if rule == "vllm-ascend":
        turn = np.arange(plan.ranks)[None, :, None] % plan.replica_counts[:, None, :]
        return np.take_along_axis(plan.logical_to_physical, turn.transpose(0, 2, 1), axis=2).transpose(
            0, 2, 1
        )
    return _static(plan, nodes, seed, rows)


def slot_shares(
    plan: ExpertMap,
    dispatch: str = "even",
    nodes: int = 1,
    *,
    loads: FloatArray | None = None,
    seed: int = SEED,
    rows: Sequence[int] | None = None,
) -> FloatArray:
    """Part of its expert's tokens that each slot receives.

    Parameters
    ----------
    plan
        The placement.
    dispatch
        One of `DISPATCH`, or an alias.
    nodes
        Nodes the ranks lie on, in order.
    loads
        What ``lp`` splits, float64 ``[moe_layers, num_experts]``; no other rule looks at it.
    seed, rows
        As `slots_of_sources` takes them.

    Returns
    -------
    ndarray
        float64 ``[moe_layers, slots]``; 0 for an empty slot.

    Raises
    ------
    ConfigError
        If there is no such rule, or ``lp`` has no loads.

    Examples
    --------
    >>> plan = ExpertMap(np.array([[0, 1, 2, 0]]), num_experts=3, ranks=2)
    >>> slot_shares(plan)
    array([[0.5, 1. , 1. , 0.5]])
    >>> slot_shares(plan, "lp", loads=np.array([[6.0, 2.0, 4.0]])).round(3)
    array([[0.667, 1.   , 1.   , 0.333]])
    """
    rule = rule_of(dispatch)
    found = dispatch_faults(dispatch)
    if rule == "lp" and loads is None:
        found.append(Fault("splits loads, so they must be given", "loads"))
    if found:
        raise ConfigError(found)
    # Nothing to choose; and compiled code is slow to load.
    if rule == "even" or not plan.redundant:
        copies = np.take_along_axis(plan.replica_counts, plan.physical_to_logical, axis=1)
        return np.where(plan.physical_to_logical >= 0, 1.0 / copies, 0.0)
    if rule == "lp":
        assert loads is not None
        return _balanced(plan, loads)[0]
    if rule == "sglang-dynamic":
        chosen = near_slots(plan, nodes)
    else:
        chosen = slots_of_sources(plan, rule, nodes, seed=seed, rows=rows)
    layer = np.arange(plan.layers)[:, None, None]
    cell = np.where(chosen >= 0, chosen + layer * plan.slots, plan.layers * plan.slots)
    sources = np.bincount(cell.ravel(), minlength=plan.layers * plan.slots + 1)[:-1]
    # Ranks that have none near are spread over all replicas alike.
    undecided = (chosen < 0).sum(axis=1) / plan.replica_counts
    spread = np.take_along_axis(undecided, plan.physical_to_logical, axis=1)
    spread = np.where(plan.physical_to_logical >= 0, spread, 0.0)
    return np.asarray((sources.reshape(plan.layers, plan.slots) + spread) / plan.ranks)


def rank_loads_lp(plan: ExpertMap, loads: FloatArray) -> FloatArray:
    """Load of each rank under the split that loads the busiest one least, float64 ``[moe_layers, ranks]``.

    Parameters
    ----------
    plan
        The placement.
    loads
        float64 ``[moe_layers, num_experts]``.

    Examples
    --------
    >>> plan = ExpertMap(np.array([[0, 1, 2, 0]]), num_experts=3, ranks=2)
    >>> rank_loads_lp(plan, np.array([[6.0, 2.0, 4.0]]))
    array([[6., 6.]])
    """
    return plan.rank_loads(loads, slot_shares(plan, "lp", loads=loads))


def near_slots(plan: ExpertMap, nodes: int = 1) -> IntArray:
    """Slot that is near each home rank by SGLang's rule, int64 ``[moe_layers, ranks, num_experts]``.

    The rank's own; else the first of its node, if the node has some but not all of them; the only one, where
    there is no other. -1 if none is near.
    """
    return _static(plan, nodes, None, None)


def draws(plan: ExpertMap, nodes: int = 1) -> IntArray:
    """Pairs of rank and expert for which SGLang's ``static`` draws, int64 ``[moe_layers]``.

    Without draws, a plan is used in the same way whatever the seed, the version and the rows before it.
    """
    return np.asarray((near_slots(plan, nodes) < 0).sum(axis=(1, 2)))


def _static(plan: ExpertMap, nodes: int, seed: int | None, rows: Sequence[int] | None) -> IntArray:
    """`slots_of_sources` of SGLang; without a seed, -1 where a draw would decide."""
    from moesim.layout.draws import draw_layer, generators

    room, ranks, experts = plan.slots_per_rank, plan.ranks, plan.num_experts
    per_node = max(1, ranks // nodes)
    chosen = np.empty((plan.layers, ranks, experts), dtype=np.int64)
    states = generators(0 if seed is None else seed, ranks)
    rows = range(plan.layers) if rows is None else rows
    between = ExpertMap.contiguous(1, experts, ranks, plan.redundant) if seed is not None else plan
    unused = np.empty((ranks, experts), dtype=np.int64)
    before = -1
    for layer, row in enumerate(rows):
        if seed is not None:
            table, copies = between.logical_to_physical[0], between.replica_counts[0]
            for _ in range(before + 1, row):
                draw_layer(table, copies, room, per_node, states, True, unused)
        table, copies = plan.logical_to_physical[layer], plan.replica_counts[layer]
        draw_layer(table, copies, room, per_node, states, seed is not None, chosen[layer])
        before = row
    return chosen


def _balanced(plan: ExpertMap, loads: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Shares of the best split ``[moe_layers, slots]``, and the load of the busiest rank ``[moe_layers]``."""
    from moesim.layout.split import split_layer

    shares = np.zeros(plan.physical_to_logical.shape)
    busiest = np.empty(plan.layers)
    for layer in range(plan.layers):
        busiest[layer] = split_layer(
            np.ascontiguousarray(loads[layer], dtype=np.float64),
            plan.logical_to_physical[layer],
            plan.replica_counts[layer],
            plan.ranks,
            plan.slots_per_rank,
            shares[layer],
        )
    return shares, busiest
