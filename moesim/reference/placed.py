"""Which expert is loaded into which slot: decisions of the replay engine, for a run on real memory.

The policy objects that systems are replayed with (`moesim.policy.Composition`) decide here what a real run
copies. The engine itself makes the decisions and logs its loads (`moesim.offload`); this module gives the log
physical slots, and cuts what a cell runs into rounds, so that no slot is written while its expert is still to
run (`moesim.reference.slots`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.offload.box import Box
from moesim.offload.decisions import GPU_ONLY, decisions_of, faults_of
from moesim.offload.given import COUNTS, Costs
from moesim.offload.kernel import replay_timed
from moesim.offload.prepare import costs_of, prompts_of, quota_of, stored_of
from moesim.policy import RULES, Composition, Residency, Steps
from moesim.policy.batchers.gather import gather
from moesim.policy.precision import Levels
from moesim.reference.layer import Case
from moesim.reference.routings import route
from moesim.reference.slots import Cell, Load, Round, Slots
from moesim.trace.types import RoutingTrace

I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]

#: Names of this module's own, beside those of `moesim.policy.Residency`.
ON_DEMAND = "on-demand"

__all__ = ["Cell", "Load", "Placed", "PlacedCase", "Round", "placed", "placed_case", "warm_up_tokens"]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """What is loaded where, for a sequence of steps.

    Parameters
    ----------
    cells
        Cell ``step * layers + layer``.
    layers, num_experts
        MoE layers, and routed experts in each.
    slots
        Of the device's memory: those of all pools, and the spare ones.
    counts
        What the engine counted, by name as in `moesim.offload.given.COUNTS`, int64 ``[layers]`` each.
    """

    cells: tuple[Cell, ...]
    layers: int
    num_experts: int
    slots: int
    counts: Mapping[str, I8]

    @property
    def hits(self) -> int:
        """Over all cells."""
        return int(self.counts["hits"].sum())

    @property
    def loads(self) -> int:
        """Copies on demand, over all cells."""
        return int(self.counts["loads"].sum())

    def before(self, cell: int) -> I4:
        """Slot of every expert when a cell begins, before its copies ahead, int32 ``[layers, experts]``."""
        found = np.full(self.layers * self.num_experts, -1, np.int32)
        for number, one in enumerate(self.cells[: cell + 1]):
            if one.fill is not None:
                found[:] = -1
            fill = one.fill or ()
            on_demand = (load for part in one.rounds for load in part.loads)
            for load in fill if number == cell else (*fill, *one.ahead, *on_demand):
                if load.victim >= 0:
                    found[load.victim] = -1
                if load.stays:
                    found[load.expert] = load.slot
        return found.reshape(self.layers, self.num_experts)


def placed(
    composition: Composition,
    asked: RoutingTrace | Steps,
    slots: int | I8,
    *,
    train: RoutingTrace | None = None,
    box: Box | None = None,
    seed: int = 0,
    spares: int = 1,
) -> Placed:
    """Decide what a run loads, and where it lies.

    Parameters
    ----------
    composition
        Residency, transfer and predictor; experts run on the GPU and have one precision. Given steps, gate
        and batcher have no say.
    asked
        Routing, or steps that are formed already.
    slots
        Of the pools: in all, or of each, as for `moesim.offload.run`.
    train
        A disjoint trace that tables are learnt from; with steps the composition has to be fitted.
    box
        What things cost, which says what is fetched ahead in time: exactly the decisions of
        `moesim.offload.run`. None has copies take no time, so that all is fetched ahead that width, distance
        and room allow.
    seed
        Of what is resident at the start, where that is random.
    spares
        Slots beside the pools; copies without a place in a pool pass through them.

    Raises
    ------
    ConfigError
        If a decision cannot be made on real memory, with every fault.

    Examples
    --------
    Three tokens, one layer, two slots and a spare one (number 2). Expert 0 comes into the spare slot; the
    slot of 1, which has waited longest, becomes spare:

    >>> ids = np.array([1, 2, 0], np.uint8)[:, None, None]
    >>> zeros = np.zeros(3, np.int32)
    >>> trace = RoutingTrace(ids, zeros, 3, (0,), np.arange(3, dtype=np.int32), np.ones(3, np.int8))
    >>> found = placed(Composition(), trace, 2)
    >>> found.hits, found.loads, found.slots
    (0, 3, 3)
    >>> found.cells[2].rounds[0].loads
    (Load(expert=0, slot=2, victim=1, stays=True),)
    >>> found.cells[2].rounds[0].slot_of_expert.tolist()
    [2, -1, 1]
    """
    trace = asked if isinstance(asked, RoutingTrace) else None
    if train is not None and trace is not None:
        composition = composition.fit(train, trace)
    steps = composition.steps(asked) if isinstance(asked, RoutingTrace) else asked
    faults = faults_of(composition, steps, train, spares)
    for name, value, allowed in (
        ("executor", composition.executor.kind, GPU_ONLY[0]),
        ("precision", composition.precision, None),
        ("transfer.preemptible", composition.transfer.preemptible, False),
    ):
        if value != allowed:
            faults.append(Fault("is not run on real memory", name, value, str(allowed)))
    if box is not None and trace is None:
        faults.append(Fault("is not enough with a box, which needs a trace", "asked", "steps"))
    if faults:
        raise ConfigError(faults)
    quota = quota_of(composition, slots, steps, train)
    levels = Levels(np.array([1.0]), np.zeros(steps.accesses, np.int8))
    stored = None if box is None else stored_of(box, steps, train)
    made = decisions_of(
        composition, steps, levels, quota, train, stored=stored, seed=seed, spares=spares, logged=True
    )
    costs = (
        _free(steps)
        if box is None or trace is None
        else costs_of(box, steps, levels, prompts_of(steps, trace))
    )
    _, counts = replay_timed(*made[:3], costs, made.memory)
    memory = made.memory
    log = memory.log[: int(np.asarray(memory.clock)[0]["logged"])]
    slotted = Slots(quota, memory.pool, memory.initial, spares, steps.num_experts)
    return Placed(
        cells=tuple(slotted.cells(steps, log, made.rules.reset)),
        layers=steps.layers,
        num_experts=steps.num_experts,
        slots=int(quota.sum()) + spares,
        counts=dict(zip(COUNTS, counts, strict=True)),
    )


def _free(steps: Steps) -> Costs:
    """Costs of a box in which only the layers before a gate take time, so that every copy ahead begins."""
    per_token = np.zeros((1, int(steps.tokens.max(initial=1)) + 1))
    copies, per_layer = np.zeros((2, 1)), np.zeros(steps.layers, np.int64)
    per_step = np.zeros(steps.num_steps)
    return Costs(
        gpu_s=per_token,
        cpu_s=per_token,
        near_s=per_token,
        link_s=copies,
        store_s=copies,
        size=copies,
        out_s=np.zeros(1),
        latency_s=0.0,
        before=np.ones((1, steps.num_steps)),
        piece=per_layer,
        beside=np.zeros((1, steps.num_steps)),
        kind=per_layer,
        tail=per_step,
        hop_s=per_step,
    )


@dataclass(frozen=True, slots=True, eq=False)
class PlacedCase:
    """What one run of a layer loads.

    Parameters
    ----------
    cell
        The run: its rounds and loads.
    resident
        Slot of every expert before it, int32 ``[experts]``, -1 on the host. To repeat the run, this is
        restored while no clock runs.
    slots
        Of the device's memory, spare ones included.
    """

    cell: Cell
    resident: I4
    slots: int

    @property
    def loads(self) -> int:
        """Experts that the run copies from slow memory."""
        return self.cell.loads

    @property
    def hits(self) -> int:
        """Experts that are there already."""
        return self.cell.hits


def warm_up_tokens(case: Case) -> int:
    """Tokens that go through the layer before a run: two steps or more, four accesses or more per expert."""
    steps = -(-4 * case.shape.num_experts // (case.tokens * case.shape.top_k))
    return max(steps, 2) * case.tokens


def placed_case(
    case: Case, ids: I4, *, before: I4 | None = None, rule: str | Composition = "lru", spares: int = 2
) -> PlacedCase:
    """Decide what a run of one layer loads, from a cache that has seen other tokens of the same routing.

    The device has room for the experts that `Case.offloaded` leaves, drawn at random at first, and for
    `spares` copies that pass through. Steps of `before` go through the layer first, as many tokens each as
    the run has.

    Parameters
    ----------
    case
        Its shape, part offloaded, and seed.
    ids
        Experts of each token of the run, int32 ``[tokens, top_k]``.
    before
        Experts of other tokens, at least `warm_up_tokens`. None draws them by the case's routing; where that
        is a trace, with every expert as often as in `ids` and once more, which is a guess where tokens are
        few: those before in the trace are better.
    rule
        ``on-demand`` (nothing stays), ``static`` (what was drawn stays), or another rule of
        `moesim.policy.RULES`, each looking a step's experts up together; or a composition for one layer.
    spares
        Slots for copies that pass through.

    Examples
    --------
    >>> from moesim.reference.layer import LayerShape
    >>> case = Case(LayerShape("small", 8, 2, 64, 64), tokens=3, offloaded=0.5)
    >>> found = placed_case(case, np.array([[0, 1], [1, 2], [0, 2]], np.int32))
    >>> found.hits + found.loads, found.slots, int((found.resident >= 0).sum())
    (3, 6, 4)
    """
    experts = case.shape.num_experts
    if before is None and case.routing.startswith("trace:"):
        before = _drawn(case, ids)
    elif before is None:
        before = route(case, tokens=warm_up_tokens(case), draw=1)
    else:
        before = before[: len(before) // case.tokens * case.tokens]
    rows = np.concatenate([before, ids]).astype(np.min_scalar_type(experts - 1))
    room = experts - round(case.offloaded * experts)
    if isinstance(rule, str):
        if rule not in (*RULES, ON_DEMAND):
            raise ConfigError(Fault("is unknown", "rule", rule, ", ".join((ON_DEMAND, *RULES))))
        room = 0 if rule == ON_DEMAND else room
        residency = Residency("lru" if rule == ON_DEMAND else rule, lookup="token_batch", start="random")
        rule = Composition(residency)
    numbers = np.arange(len(rows), dtype=np.int32)
    trace = RoutingTrace(rows[:, None], numbers * 0, experts, (0,), numbers, np.ones(len(rows), np.int8))
    bounds = np.arange(len(rows) // case.tokens + 1) * case.tokens
    steps = gather(trace, np.arange(len(rows)), bounds)
    found = placed(rule, steps, room, seed=case.seed, spares=spares)
    last = len(found.cells) - 1
    return PlacedCase(found.cells[last], found.before(last)[0], found.slots)


def _drawn(case: Case, ids: I4) -> I4:
    """Tokens with experts as often as `ids` has them, none twice in a token, int32 ``[tokens, top_k]``."""
    rng = np.random.default_rng((case.seed, case.tokens))
    often = np.bincount(ids.ravel(), minlength=case.shape.num_experts) + 1.0
    # The largest of log weight + Gumbel noise: a draw without replacement.
    keys = np.log(often) + rng.gumbel(size=(warm_up_tokens(case), case.shape.num_experts))
    return np.argsort(-keys, axis=1)[:, : ids.shape[1]].astype(np.int32)
