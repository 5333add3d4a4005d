"""What a placement is asked to do, and everything that can be wrong with the question."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.layout import ExpertMap
from moesim.layout.sharing import dispatch_faults
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.trace.types import RoutingTrace


class Clock(Protocol):
    """What times plans; solvers reach an engine only through it."""

    def seconds(self, plan: ExpertMap) -> FloatArray:
        """Seconds of each MoE layer, float64 ``[layers]``."""

    def costs(self, plan: ExpertMap, copies: int) -> FloatArray:
        """Seconds a replica adds to its rank, float64 ``[layers, steps, experts, copies]``, near a plan."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Experts with loads, ranks with slots, and how an engine sends tokens to replicas.

    Parameters
    ----------
    loads
        Token-expert selections, float64 ``[layers, experts]``; or ``[steps, layers, experts]``, when the
        plan has to hold for each of several steps, or for each of several kinds of traffic. A layer without
        any load keeps its experts in order, as an engine starts.
    ranks
        Expert-parallel ranks.
    redundant
        Slots beyond one per expert.
    nodes, groups
        Nodes the ranks lie on, in order, and expert groups of node-limited routing.
    dispatch
        How an engine chooses among replicas, one of `moesim.layout.DISPATCH`.
    speeds
        Relative speed of each rank, float64 ``[ranks]``; equal ones if None. A rank's load counts divided by
        its speed.
    rooms
        Slots of each rank, ``[ranks]``; equal ones if None.
    current
        The plan that is loaded now, when what has to be moved matters.
    tokens
        Token-level routing, when traffic between ranks matters.
    clock
        What times plans, when seconds matter.
    rows
        Decoder index of each layer: what SGLang draws for a layer depends on those before. In turn if None.
    folds
        Part of the requests that each step was drawn from, int64 ``[steps]``. If given, a plan that is fitted
        to steps is kept only if it does better than greedy on parts it was not fitted to.
    totals
        float64 ``[layers, experts]``; follows from `loads`.

    Raises
    ------
    ConfigError
        With everything that is wrong.

    Examples
    --------
    >>> problem = Problem(np.array([[4.0, 3.0, 2.0, 1.0]]), ranks=2)
    >>> problem.slots, problem.room
    (4, 2)
    """

    loads: FloatArray
    ranks: int
    redundant: int = 0
    nodes: int = 1
    groups: int = 1
    dispatch: str = "even"
    speeds: FloatArray | None = None
    rooms: IntArray | None = None
    current: ExpertMap | None = None
    tokens: RoutingTrace | None = None
    clock: Clock | None = None
    rows: tuple[int, ...] | None = None
    folds: IntArray | None = None
    totals: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        loads = np.asarray(self.loads, dtype=np.float64)
        object.__setattr__(self, "loads", loads)
        if self.speeds is not None:
            object.__setattr__(self, "speeds", np.asarray(self.speeds, dtype=np.float64))
        if self.rooms is not None:
            object.__setattr__(self, "rooms", np.asarray(self.rooms))
        found = faults(self)
        if found:
            raise ConfigError(found, "placement problem")
        object.__setattr__(self, "totals", loads if loads.ndim == 2 else loads.sum(axis=0))

    @property
    def steps(self) -> FloatArray:
        """Loads as a series, float64 ``[steps, layers, experts]``; totals are one step."""
        return self.loads if self.loads.ndim == 3 else self.loads[None]

    @property
    def layers(self) -> int:
        """MoE layers."""
        return int(self.loads.shape[-2])

    @property
    def experts(self) -> int:
        """Logical experts per layer."""
        return int(self.loads.shape[-1])

    @property
    def slots(self) -> int:
        """Slots per layer, those that ranks of less room leave empty included."""
        return self.room * self.ranks

    @property
    def room(self) -> int:
        """Slots of the rank that has most."""
        if self.rooms is not None:
            return int(self.rooms.max())
        return (self.experts + self.redundant) // self.ranks

    @property
    def even(self) -> bool:
        """Whether all ranks have the same room and speed."""
        return self.rooms is None and self.speeds is None

    @property
    def idle(self) -> npt.NDArray[np.bool_]:
        """Layers without load, ``[layers]``."""
        return np.asarray(~self.totals.any(axis=1))

    def plan(self, table: IntArray) -> ExpertMap:
        """Make the plan of a table ``[layers, slots]``, with experts of idle layers in order."""
        used = (
            np.arange(self.room)
            < (np.full(self.ranks, self.room) if self.rooms is None else self.rooms)[:, None]
        )
        order = np.where(used.ravel(), (used.ravel().cumsum() - 1) % self.experts, -1)
        return ExpertMap(np.where(self.idle[:, None], order, table), self.experts, self.ranks)


def faults(problem: Problem) -> list[Fault]:
    """Everything that keeps a problem from being solved."""
    loads, ranks = problem.loads, problem.ranks
    found = load_faults(loads)
    sizes = (
        ("ranks", ranks, 1),
        ("redundant", problem.redundant, 0),
        ("nodes", problem.nodes, 1),
        ("groups", problem.groups, 1),
    )
    small = [
        Fault("is too small", name, value, f"{least} or more")
        for name, value, least in sizes
        if value < least
    ]
    found += dispatch_faults(problem.dispatch)
    if small or loads.ndim not in (2, 3) or 0 in loads.shape:
        return found + small
    layers, experts = loads.shape[-2:]
    if problem.rooms is None:
        found += _shape_faults(experts, ranks, problem.redundant)
    else:
        found += _room_faults(problem.rooms, experts, ranks, problem.redundant)
    speeds, current, tokens = problem.speeds, problem.current, problem.tokens
    if speeds is not None:
        if speeds.shape != (ranks,):
            found.append(Fault("must have one number per rank", "speeds", speeds.shape, f"({ranks},)"))
        elif not (np.isfinite(speeds) & (speeds > 0)).all():
            found.append(Fault("must be positive numbers", "speeds", speeds.tolist()))
    if current is not None:
        has = (current.layers, current.num_experts, current.ranks, current.slots)
        wanted = (layers, experts, ranks, experts + problem.redundant)
        if problem.rooms is None and has != wanted:
            found.append(Fault("(layers, experts, ranks, slots) do not fit", "current", has, str(wanted)))
    if problem.rows is not None and (
        len(problem.rows) != layers or any(a >= b for a, b in pairwise((-1, *problem.rows)))
    ):
        found.append(Fault("must be one for each layer, rising", "rows", problem.rows, f"{layers} rows"))
    folds = problem.folds
    if folds is not None and (loads.ndim == 2 or folds.shape != loads.shape[:1]):
        found.append(Fault("must have one entry per step", "folds", folds.shape, str(loads.shape[:1])))
    if tokens is not None:
        shape = (len(tokens.moe_layer_ids), tokens.num_experts)
        if shape != (layers, experts):
            found.append(Fault("(layers, experts) do not fit", "tokens", shape, str((layers, experts))))
    return found


def load_faults(loads: FloatArray) -> list[Fault]:
    """What keeps an array from being loads ``[(steps,) layers, experts]``."""
    if loads.ndim not in (2, 3) or 0 in loads.shape:
        return [Fault("must have axes [layers, experts] or [steps, layers, experts]", "loads", loads.shape)]
    found = []
    # Beyond 1e300 a sum over experts could overflow.
    for fault, bad in (("is not a finite number", ~(abs(loads) <= 1e300)), ("is negative", loads < 0)):
        where = np.argwhere(bad)
        if len(where):
            first = tuple(where[0].tolist())
            more = f", and {len(where) - 1} more" if len(where) > 1 else ""
            found.append(
                Fault(
                    f"{fault}{more}", f"loads[{', '.join(map(str, first))}]", float(loads[first]), "0 or more"
                )
            )
    return found


def _shape_faults(experts: int, ranks: int, redundant: int) -> list[Fault]:
    found = []
    slots = experts + redundant
    if slots % ranks:
        fitting = redundant + -slots % ranks
        spare = f" and {redundant} redundant ones" if redundant else ""
        found.append(
            Fault(
                f"{experts} experts{spare} do not divide over {ranks} ranks",
                "redundant",
                redundant,
                f"{fitting} would fit",
            )
        )
    most = experts * (ranks - 1)
    if redundant > most:
        found.append(
            Fault(
                "no expert goes twice on a rank, so each has at most one replica per rank",
                "redundant",
                redundant,
                f"0 to {most}",
            )
        )
    return found


def _room_faults(rooms: IntArray, experts: int, ranks: int, redundant: int) -> list[Fault]:
    if rooms.shape != (ranks,) or rooms.dtype.kind not in "iu":
        return [Fault("must have one whole number per rank", "rooms", rooms.shape, f"({ranks},)")]
    found = []
    if ((rooms < 1) | (rooms > experts)).any():
        found.append(
            Fault("must have slots, each for another expert", "rooms", rooms.tolist(), f"1 to {experts}")
        )
    if (given := int(rooms.sum())) != experts + redundant:
        wanted = f"redundant = {given - experts}" if given >= experts else f"{experts} or more"
        found.append(
            Fault(f"hold {given} of {experts} experts and {redundant} redundant ones", "rooms", given, wanted)
        )
    return found


def hierarchy_faults(problem: Problem) -> list[Fault]:
    """What keeps the hierarchical greedy method from being used."""
    found = []
    nodes, groups, ranks, experts = problem.nodes, problem.groups, problem.ranks, problem.experts
    for name, whole in (("groups", groups), ("ranks", ranks), ("experts + redundant", problem.slots)):
        if whole % nodes:
            found.append(Fault(f"must be a multiple of the {nodes} nodes", name, whole))
    if experts % groups:
        found.append(Fault(f"must divide the {experts} experts", "groups", groups))
    if not ranks % nodes and problem.redundant > (most := experts * (ranks // nodes - 1)):
        found.append(
            Fault(
                "no expert goes twice on a rank, so each has at most one replica per rank of its node",
                "redundant",
                problem.redundant,
                f"0 to {most}",
            )
        )
    return found
