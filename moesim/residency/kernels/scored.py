"""Rules that score what is held when something has to leave: the lowest score leaves.

One loop serves them all; it looks at every resident of the pool for each victim. Of equal scores the one
looked up longest ago leaves. Records are of a pool's own accesses, and are forgotten where the pool starts
anew. An expert's own lookup is recorded before it is loaded, and with a lookup by batch those of its whole
cell; what has no record yet scores lowest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.residency.kernels.accesses import FIRST, FULL, HIT, Ids, Outcomes, PoolAccesses

P_FREQ, HOBBIT, COST, SCH, EAM, LRU_AHEAD = range(6)


def p_freq(accesses: PoolAccesses, out: Outcomes) -> None:
    """Score: probability times frequency (fMoE evicts the largest ``1 / (p freq)``).

    ``p`` is the newest router weight of the expert: what fMoE's map of probabilities says of it is in no
    trace of choices. Frequency counts lookups since the expert was loaded, the load included; ``keep`` counts
    on after it left. ``truncate`` cuts the product to a whole number as the released code does, where
    everything below 1 is alike (there ties are broken by chance).
    """
    a = accesses
    parameters = (float(a.parameters.get("keep", 0)), float(a.parameters.get("truncate", 0)))
    _run(a, out, P_FREQ, parameters, weights=True)


def hobbit(accesses: PoolAccesses, out: Outcomes) -> None:
    """HOBBIT's four terms: ``lru R/T + lfu F/T + lhu H/T + fld (1 - d/L)``.

    Of a request, ``T`` counts its steps so far, ``R`` is the step of the last lookup, ``F`` the lookups and
    ``H`` those at high precision (weights above add up to at most ``high``, 0.6 in the paper); ``d`` is how
    many layers ahead of the present one the expert's is, around the end, of ``L``. Records last for one
    request. The paper fits the four weights to each model; without a fit they are alike.
    """
    names = ("lru", "lfu", "lhu", "fld", "high")
    values = (0.25, 0.25, 0.25, 0.25, 0.6)
    given = tuple(float(accesses.parameters.get(n, v)) for n, v in zip(names, values, strict=True))
    _run(accesses, out, HOBBIT, given, weights=given[2] != 0)


def cost(accesses: PoolAccesses, out: Outcomes) -> None:
    """GreedyDual-Size: ``H = L + cost / size``, set at each lookup; ``L`` is the score of the last that left.

    What is loaded has it set once room is made.

    With ``frequency`` the quotient is multiplied by the lookups since the load (GreedyDual-Size-Frequency;
    Cao and Irani, USITS 1997; Cherkasova, HPL-98-69). Sizes are in slots: a load pushes out as many as it
    needs. Where no sizes and costs are given, all are 1.
    """
    a = accesses
    _run(a, out, COST, (float(a.parameters.get("frequency", 1)),), sizes=a.sizes, costs=a.costs)


def sch(accesses: PoolAccesses, out: Outcomes) -> None:
    """Score: lookups in the window of ``window`` steps from the present one, then the last lookup.

    The window holds what of the present step is still to come, and the steps after it; it ends with the
    request if the pool does (moe-lrc's segment cache; `moesim.residency.consistency` counts as that does).
    """
    _run(accesses, out, SCH, (float(accesses.parameters.get("window", 16)),))


def eam(accesses: PoolAccesses, out: Outcomes) -> None:
    """MoE-Infinity's "priority": place of the layer times the request's own choices times visits.

    As its Python cache computes it: the three are divided by their sums over the pool's experts and 1e-6 is
    added. The place is 1 up to the present layer and ``(i - L // 2) / (L // 2 + 1)`` of layer ``i`` after it
    (for the code the first half are an encoder, whose layers to come have ``1 - i / (L // 2)``);
    the request's choices are divided by their sum in each layer; visits are counted since the load.
    """
    _run(accesses, out, EAM, ())


def lru_ahead(accesses: PoolAccesses, out: Outcomes) -> None:
    """Least recently used, but experts of the present layer and the ``layers - 1`` after it leave last.

    MoE-Infinity's ``lru_ds`` with 3 layers. Its code goes by when an expert was loaded: ``loaded``.
    """
    p = accesses.parameters
    _run(accesses, out, LRU_AHEAD, (float(p.get("layers", 3)), float(p.get("loaded", 0))))


def _run(
    a: PoolAccesses,
    out: Outcomes,
    rule: int,
    parameters: tuple[float, ...],
    weights: bool = False,
    sizes: npt.NDArray[np.float64] | None = None,
    costs: npt.NDArray[np.float64] | None = None,
) -> None:
    if not len(a.items):
        return
    faults = [
        Fault("is not a number from 0", name, value)
        for name, value in a.parameters.items()
        if not 0 <= value < np.inf
    ]
    if weights and a.weights is None:
        faults.append(Fault("needs router weights, which the trace does not have", "rule", ""))
    size = np.ones(a.num_members) if sizes is None else sizes
    price = np.ones(a.num_members) if costs is None else costs
    if size.max() > a.slots:
        faults.append(Fault("is larger than a pool", "sizes", float(size.max()), f"at most {a.slots}"))
    if faults:
        raise ConfigError(faults)
    given = np.zeros(8)
    given[: len(parameters)] = parameters
    high = np.zeros(len(a.items), np.bool_)
    layer_of = (a.members // a.num_experts).astype(np.int32)
    if weights and rule == HOBBIT and a.weights is not None:
        _important(a.weights, a.cells, given[4], high)
    none = np.zeros(0, np.float32)
    _scored(
        a.items, none if a.weights is None else a.weights, high, a.cells, a.cell_layers, a.cell_steps, a.ends,
        a.requests, layer_of, a.layers, float(a.slots), a.start, a.batch, rule, given, size, price, out,
    )  # fmt: skip


@compiled
def _important(
    weights: npt.NDArray[np.float32],
    cells: npt.NDArray[np.int64],
    most: float,
    high: npt.NDArray[np.bool_],
) -> None:
    """Accesses of a cell before which, by weight, at most `most` of its weight comes."""
    for c in range(len(cells) - 1):
        total = np.float64(0)
        for i in range(cells[c], cells[c + 1]):
            total += weights[i]
        for i in range(cells[c], cells[c + 1]):
            above = np.float64(0)
            for j in range(cells[c], cells[c + 1]):
                if weights[j] > weights[i] or (weights[j] == weights[i] and j < i):
                    above += weights[j]
            high[i] = above <= most * total


@compiled
def _scored(
    items: Ids,
    weights: npt.NDArray[np.float32],
    high: npt.NDArray[np.bool_],
    cells: npt.NDArray[np.int64],
    cell_layers: npt.NDArray[np.int32],
    cell_steps: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int64],
    requests: npt.NDArray[np.int64],
    layer_of: npt.NDArray[np.int32],
    layers: int,
    slots: float,
    start: npt.NDArray[np.int32],
    batch: bool,
    rule: int,
    par: npt.NDArray[np.float64],
    size: npt.NDArray[np.float64],
    price: npt.NDArray[np.float64],
    out: Outcomes,
) -> None:
    members = len(layer_of)
    held = np.empty(members, np.int32)  # who is there, in no order
    where = np.full(members, -1, np.int32)  # at which place of `held`
    seen = np.zeros(members, np.bool_)
    used = np.zeros(members, np.int64)  # clock of the last lookup
    came = np.zeros(members, np.int64)  # clock of the load
    token = np.zeros(members, np.int64)  # step of the last lookup
    count = np.zeros(members, np.float64)  # lookups that the rule counts
    fine = np.zeros(members, np.float64)  # of them, at high precision
    score = np.zeros(members, np.float64)  # newest weight, or GreedyDual's
    soon = np.zeros(members, np.int64)  # lookups in the window
    chosen = np.zeros(members, np.float64)  # by the request
    of_layer = np.zeros(layers, np.float64)  # the same, of all experts of a layer
    mine = np.zeros(members, np.bool_)  # asked for by this cell
    per_layer = np.zeros(layers, np.int64)
    for x in range(members):
        per_layer[layer_of[x]] += 1
    clock, c, r, ahead = 0, 0, 0, 0
    for segment in range(len(ends) - 1):
        number, space, floor, visits = 0, slots, 0.0, 0.0
        where[:] = -1
        seen[:] = False
        count[:] = 0
        fine[:] = 0
        score[:] = 0
        soon[:] = 0
        token[:] = -1
        for item in start:
            held[number] = item
            where[item] = number
            number += 1
            space -= size[item]
            used[item] = came[item] = clock
            clock += 1
            seen[item] = True
        first = int(cell_steps[c]) if c < len(cell_steps) else 0
        ahead = c
        while c < len(cells) - 1 and cells[c] < ends[segment + 1]:
            begin, end = cells[c], cells[c + 1]
            layer, step = int(cell_layers[c]), int(cell_steps[c])
            if r < len(requests) - 1 and begin >= requests[r]:
                while r < len(requests) - 1 and begin >= requests[r]:
                    r += 1
                chosen[:] = 0
                of_layer[:] = 0
                if rule == HOBBIT:
                    count[:] = 0
                    fine[:] = 0
                    token[:] = -1
                    first = step
            if rule == SCH:
                while ahead < len(cells) - 1 and cells[ahead] < ends[segment + 1]:
                    if cell_steps[ahead] >= step + par[0]:
                        break
                    for i in range(cells[ahead], cells[ahead + 1]):
                        soon[items[i]] += 1
                    ahead += 1
            others = number
            if batch:
                for i in range(begin, end):
                    x = items[i]
                    mine[x] = True
                    others -= where[x] >= 0
            for turn in range(2 if batch else 1):
                for i in range(begin, end):
                    x = items[i]
                    if turn == 0:
                        # Recorded, and looked up.
                        here = where[x] >= 0
                        out[i] = HIT if here else (0 if seen[x] else FIRST)
                        seen[x] = True
                        used[x] = clock
                        clock += 1
                        token[x] = step
                        if rule == P_FREQ:
                            score[x] = weights[i]
                            count[x] = count[x] + 1 if here or par[0] else 1
                        elif rule == HOBBIT:
                            count[x] += 1
                            fine[x] += high[i]
                        elif rule == COST:
                            count[x] = count[x] + 1 if here else 1
                            score[x] = floor + (count[x] if par[0] else 1) * price[x] / size[x]
                        elif rule == SCH:
                            soon[x] -= 1
                        elif rule == EAM:
                            chosen[x] += 1
                            of_layer[layer_of[x]] += 1
                            count[x] = count[x] + 1 if here else 1
                            visits += here
                    if (batch and turn == 0) or out[i] & HIT:
                        continue
                    # Loaded; what has to make room for it goes, but nothing of the cell before all is there.
                    if space < size[x]:
                        out[i] |= FULL
                    held[number] = x
                    where[x] = number
                    number += 1
                    space -= size[x]
                    came[x] = clock
                    visits += rule == EAM
                    while space < 0 and (others > 0 or not batch):
                        gone = _lowest(
                            held, number, x, batch, mine, rule, par, layer, layers, step, first, used, came,
                            token, count, fine, score, soon, chosen, of_layer, layer_of, per_layer, visits,
                        )  # fmt: skip
                        others -= 1
                        if rule == COST:
                            floor = max(floor, score[gone])
                        visits -= count[gone]
                        number -= 1
                        space += size[gone]
                        held[where[gone]] = held[number]
                        where[held[number]] = where[gone]
                        where[gone] = -1
                    if rule == COST:
                        score[x] = floor + (count[x] if par[0] else 1) * price[x] / size[x]
            if batch and rule == COST:
                for i in range(begin, end):
                    x = items[i]
                    if not out[i] & HIT:
                        score[x] = floor + (count[x] if par[0] else 1) * price[x] / size[x]
            while space < 0:
                gone = _lowest(
                    held, number, -1, False, mine, rule, par, layer, layers, step, first, used, came,
                    token, count, fine, score, soon, chosen, of_layer, layer_of, per_layer, visits,
                )  # fmt: skip
                if rule == COST:
                    floor = max(floor, score[gone])
                visits -= count[gone]
                number -= 1
                space += size[gone]
                held[where[gone]] = held[number]
                where[held[number]] = where[gone]
                where[gone] = -1
            if batch:
                for i in range(begin, end):
                    mine[items[i]] = False
            c += 1


@compiled
def _lowest(
    held: npt.NDArray[np.int32],
    number: int,
    new: int,
    guard: bool,
    mine: npt.NDArray[np.bool_],
    rule: int,
    par: npt.NDArray[np.float64],
    layer: int,
    layers: int,
    step: int,
    first: int,
    used: npt.NDArray[np.int64],
    came: npt.NDArray[np.int64],
    token: npt.NDArray[np.int64],
    count: npt.NDArray[np.float64],
    fine: npt.NDArray[np.float64],
    score: npt.NDArray[np.float64],
    soon: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.float64],
    of_layer: npt.NDArray[np.float64],
    layer_of: npt.NDArray[np.int32],
    per_layer: npt.NDArray[np.int64],
    visits: float,
) -> int:
    """Who leaves: the lowest score, then the one looked up longest ago.

    Not the new one, and with `guard` none of this cell.
    """
    half = layers // 2
    places = 0.0
    if rule == EAM:
        for other in range(layers):
            places += _place(other, layer, half) * per_layer[other]
    best, victim = np.inf, -1
    for n in range(number):
        x = held[n]
        if x == new or (guard and mine[x]):
            continue
        key = 0.0
        if rule == P_FREQ:
            key = score[x] * count[x]
            if par[1]:
                key = np.floor(key)
        elif rule == HOBBIT:
            ahead = (layer_of[x] - layer) % layers
            recent = (token[x] - first + 1) if token[x] >= 0 else 0
            key = (par[0] * recent + par[1] * count[x] + par[2] * fine[x]) / (step - first + 1)
            key += par[3] * (1 - ahead / layers)
        elif rule == COST:
            key = score[x]
        elif rule == SCH:
            key = np.float64(soon[x])
        elif rule == EAM:
            row = of_layer[layer_of[x]]
            share = chosen[x] / row if row else 1.0 / per_layer[layer_of[x]]
            key = _place(layer_of[x], layer, half) / places + 1e-6
            key *= (share / layers + 1e-6) * (count[x] / max(visits, 1.0) + 1e-6)
        elif rule == LRU_AHEAD:
            near = layer <= layer_of[x] < layer + par[0]
            key = np.float64(came[x] if par[1] else used[x]) + (1e15 if near else 0.0)
        if key < best or (key == best and used[x] < used[victim]):
            best, victim = key, x
    return victim


@compiled
def _place(other: int, layer: int, half: int) -> float:
    """Place of a layer in MoE-Infinity's priority, seen from the present one."""
    if other < half:
        if layer < half and other <= layer:
            return 1.0
        return 1.0 - other / half
    if layer >= half and other <= layer:
        return 1.0
    return (other - half) / (half + 1)
