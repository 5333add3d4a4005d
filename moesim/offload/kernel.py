"""The replay with time: steps x layers over clocks of resources, without an event queue.

Each resource has a clock: when it is free. A task starts at the maximum of its resource's clock and of what
it needs, and moves the clock to its end (max-plus algebra). Which experts miss is known when a gate has run;
their loads go before prefetches that wait, and behind those that have begun.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.offload.pools import Rules, State, empty, make_room, note_use, put, remove
from moesim.policy.executors import assign

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
I4 = npt.NDArray[np.int32]
I1 = npt.NDArray[np.int8]

#: What is counted, by layer. Accesses are those that are not skipped; hits are there or on their way when
#: their gate has run, late those on their way; loads are on demand; staged ones found no slot.
COUNTS = (
    "accesses",
    "hits",
    "late",
    "loads",
    "staged",
    "skipped",
    "prefetched",
    "useful",
    "wasted",
    "aborted",
    "written_back",
    "on_cpu",
    "on_near",
    "deferred",
)
ACCESSES, HITS, LATE, LOADS, STAGED, SKIPPED, PREFETCHED, USEFUL, WASTED, ABORTED, WRITTEN = range(11)
ON_CPU_COUNT, ON_NEAR_COUNT, DEFERRED_COUNT = range(11, 14)
N_COUNTS = len(COUNTS)
#: Resources; seconds are those that each is busy.
BUSY = ("gpu", "cpu", "near", "to_device", "from_device", "storage")
GPU, CPU, NEAR, LINK, OUT, STORE = range(6)
#: What the GPU waits for.
WAITS = ("to_device", "storage", "cpu", "near")
WAIT_LINK, WAIT_STORE, WAIT_CPU, WAIT_NEAR = range(4)


#: What bytes cross.
PATHS = ("to_device", "from_device", "storage")
TO_DEVICE, FROM_DEVICE, FROM_STORAGE = range(3)
#: Who runs an access, as executors number it.
ON_GPU, LOADED, ON_CPU, ON_NEAR, DEFERRED = range(5)
SKIP = -1


class Demand(NamedTuple):
    """What is asked for: `experts`, `tokens`, `starts`, `request` as in `moesim.policy.Steps`.

    `wanted` is the level of each access, -1 for none; `misses_only` says that residents of a better level are
    used as they are.
    """

    experts: I4
    tokens: I4
    starts: I8
    request: I4
    layers: int
    num_experts: int
    wanted: I1
    misses_only: bool


class Ahead(NamedTuple):
    """What is fetched ahead, cell by cell in the order in which copies are asked for.

    A cell with guesses takes the place of all guesses before it that have not begun. `level` is the level of
    each expert ``layer * num_experts + expert``.
    """

    starts: I8
    target: I8
    expert: I4
    level: I1
    preemptible: bool
    write_back: bool


class Hands(NamedTuple):
    """Who runs experts: number and parameters of the executor, and which accesses may wait for a layer."""

    kind: int
    parameters: F8
    deferrable: npt.NDArray[np.bool_]


class Costs(NamedTuple):
    """Seconds and bytes.

    Parameters
    ----------
    gpu_s, cpu_s, near_s
        Of one expert, by level and tokens, ``[levels, tokens + 1]``.
    link_s, store_s, bytes
        To the device over the link, and from storage, by what is there already (row 0: nothing; row
        ``l + 1``: level l) and what is to be there, ``[levels + 1, levels]``, without `latency_s`.
    out_s
        An expert of each level back to the host, ``[levels]``.
    latency_s
        Of a copy; copies on several channels overlap theirs.
    stored
        Whether an expert comes from storage, bool ``[layers * experts]``.
    nested
        Whether an expert that is there in a better level than wanted is run in the one wanted.
    before, piece, beside, kind, tail
        As in `moesim.offload.rest.Rest`.
    hop_s
        Hidden states of a step to the host, or back, ``[steps]``.
    """

    gpu_s: F8
    cpu_s: F8
    near_s: F8
    link_s: F8
    store_s: F8
    bytes: F8
    out_s: F8
    latency_s: float
    stored: npt.NDArray[np.bool_]
    nested: bool
    before: F8
    piece: I8
    beside: F8
    kind: I8
    tail: F8
    hop_s: F8


class Clocks(NamedTuple):
    """When things are free: `free` by resource, `channel` of the link, `spare` slots beside the pools.

    `busy` and `wait` add up seconds, `bytes` what crossed `PATHS`. `flight` is the last prefetch, or -1.
    """

    free: F8
    channel: F8
    spare: F8
    busy: F8
    wait: F8
    bytes: F8
    flight: I8


class Scratch(NamedTuple):
    """Of one cell: by access, who runs it, in which level, whether it has a slot, and where its victims are.

    `order` is that in which accesses start, `gone` and `gone_level` the victims one after the other. The rest
    is what an executor takes and gives: `asked` are the accesses it is about, `seconds` those on GPU, CPU,
    link and near unit, ``[4, accesses]``.
    """

    where: I1
    level: I1
    held: I1
    slotted: npt.NDArray[np.bool_]
    gone_first: I8
    gone_last: I8
    order: I8
    gone: I8
    gone_level: I1
    asked: I8
    tokens: I4
    resident: npt.NDArray[np.bool_]
    seconds: F8
    free: F8
    chosen: I1
    turn: I8


def new_clocks(channels: int, spares: int) -> Clocks:
    """Everything free at 0."""
    return Clocks(
        np.zeros(len(BUSY)),
        np.zeros(channels),
        np.zeros(spares),
        np.zeros(len(BUSY)),
        np.zeros(len(WAITS)),
        np.zeros(len(PATHS)),
        np.full(1, -1, np.int64),
    )


@compiled
def copy_in(
    clocks: Clocks, costs: Costs, state: State, x: int, held: int, level: int, earliest: float
) -> None:
    """Copy an expert to the device, not before `earliest`; `held` is the level that is there, or -1."""
    free, channel = clocks.free, clocks.channel
    state.stored[x] = 0.0
    if costs.stored[x]:
        seconds = costs.store_s[held + 1, level]
        earliest = max(earliest, free[STORE]) + seconds
        free[STORE] = earliest
        clocks.busy[STORE] += seconds
        clocks.bytes[FROM_STORAGE] += costs.bytes[held + 1, level]
        state.stored[x] = earliest
    seconds = costs.link_s[held + 1, level]
    lane = np.argmin(channel)
    end = max(max(earliest, channel[lane]) + costs.latency_s, free[LINK]) + seconds
    channel[lane] = end
    free[LINK] = end
    clocks.busy[LINK] += seconds
    clocks.bytes[TO_DEVICE] += costs.bytes[held + 1, level]
    state.ready[x] = end


@compiled
def vacate(
    clocks: Clocks, costs: Costs, state: State, ahead: Ahead, scratch: Scratch, first: int, last: int
) -> float:
    """When the slots of some victims are free: they have run, and are written back."""
    free = 0.0
    for g in range(first, last):
        # A victim that was never used is free once it is there.
        x, level = scratch.gone[g], scratch.gone_level[g]
        until = max(state.busy[x], state.ready[x])
        if ahead.write_back:
            until = max(until, clocks.free[OUT]) + costs.out_s[level]
            clocks.free[OUT] = until
            clocks.busy[OUT] += costs.out_s[level]
            clocks.bytes[FROM_DEVICE] += costs.bytes[0, level]
        free = max(free, until)
    return free


@compiled
def take_slot(
    clocks: Clocks, costs: Costs, state: State, ahead: Ahead, scratch: Scratch, first: int, last: int
) -> float:
    """When a copy may begin to write: a spare slot is filled, and those of the victims are spare after."""
    if last <= first:
        return 0.0
    spare = np.argmin(clocks.spare)
    begin = clocks.spare[spare]
    clocks.spare[spare] = vacate(clocks, costs, state, ahead, scratch, first, last)
    return float(begin)


@compiled
def count_wasted(state: State, scratch: Scratch, first: int, last: int) -> int:
    """Victims that were fetched ahead for nothing."""
    found = 0
    for g in range(first, last):
        if state.fetched[scratch.gone[g]]:
            found += 1
            state.fetched[scratch.gone[g]] = False
    return found


@compiled
def fetch_ahead(
    demand: Demand,
    ahead: Ahead,
    costs: Costs,
    rules: Rules,
    state: State,
    clocks: Clocks,
    scratch: Scratch,
    counts: I8,
    cell: int,
    known: float,
    until: float,
    head: int,
    end: int,
) -> int:
    """Begin prefetches that can begin before `until`; how far the queue ``head:end`` got."""
    while head < end:
        target = ahead.target[head]
        layer = target % demand.layers
        x = layer * demand.num_experts + ahead.expert[head]
        level, have = ahead.level[x], state.level[x]
        if target < cell or level < 0 or 0 <= have <= level:
            if target >= cell and have >= 0:
                state.guard[x] = max(state.guard[x], target)
            head += 1
            continue
        opens = clocks.free[STORE] if costs.stored[x] else clocks.channel[np.argmin(clocks.channel)]
        if max(known, opens) >= until:
            break
        head += 1
        pool = rules.pool[layer]
        last, room = make_room(state, rules, x, pool, level, cell, False, scratch.gone, scratch.gone_level, 0)
        counts[WASTED, layer] += count_wasted(state, scratch, 0, last)
        counts[WRITTEN, layer] += last if ahead.write_back else 0
        slot = take_slot(clocks, costs, state, ahead, scratch, 0, last)
        if not room:
            continue
        put(state, rules, x, pool, level)
        copy_in(clocks, costs, state, x, -1, level, max(known, slot))
        state.busy[x] = 0.0
        state.fetched[x] = True
        state.guard[x] = max(state.guard[x], target)
        clocks.flight[0] = x
        counts[PREFETCHED, layer] += 1
    return head


@compiled
def break_off(
    demand: Demand, costs: Costs, rules: Rules, state: State, clocks: Clocks, counts: I8, now: float
) -> None:
    """Stop the prefetch that is under way; what was copied is lost, and its slot is free."""
    x = clocks.flight[0]
    level, layer = state.level[x], x // demand.num_experts
    rest = min(state.ready[x] - now, costs.link_s[0, level])
    clocks.busy[LINK] -= rest
    clocks.bytes[TO_DEVICE] -= costs.bytes[0, level] * rest / costs.link_s[0, level]
    clocks.free[LINK] = now
    clocks.channel[0] = now
    remove(state, rules, x, rules.pool[layer])
    clocks.flight[0] = -1
    counts[ABORTED, layer] += 1


@compiled
def run_on_gpu(clocks: Clocks, state: State, x: int, seconds: float) -> None:
    """Run an expert as soon as the GPU and its weights are there."""
    now = clocks.free[GPU]
    start = max(now, state.ready[x])
    if start > now:
        stored = min(max(state.stored[x] - now, 0.0), start - now)
        clocks.wait[WAIT_STORE] += stored
        clocks.wait[WAIT_LINK] += start - now - stored
    clocks.free[GPU] = start + seconds
    clocks.busy[GPU] += seconds
    state.busy[x] = start + seconds


@compiled
def wait_for(clocks: Clocks, what: int, until: float) -> None:
    """Let the GPU wait."""
    if until > clocks.free[GPU]:
        clocks.wait[what] += until - clocks.free[GPU]
        clocks.free[GPU] = until


@compiled
def make_slot(
    demand: Demand,
    rules: Rules,
    ahead: Ahead,
    state: State,
    scratch: Scratch,
    counts: I8,
    cell: int,
    layer: int,
    j: int,
    leaving: int,
) -> int:
    """Give a missing expert a slot, if it can have one; victims so far."""
    i = demand.starts[cell] + j
    x = layer * demand.num_experts + demand.experts[i]
    pool = rules.pool[layer]
    level = scratch.level[j]
    scratch.held[j] = state.level[x]
    scratch.gone_first[j] = leaving
    last, room = make_room(
        state, rules, x, pool, level, cell, True, scratch.gone, scratch.gone_level, leaving
    )
    counts[WASTED, layer] += count_wasted(state, scratch, leaving, last)
    counts[WRITTEN, layer] += last - leaving if ahead.write_back else 0
    counts[LOADS, layer] += 1
    scratch.gone_last[j] = last
    scratch.slotted[j] = room
    if room:
        put(state, rules, x, pool, level)
    else:
        counts[STAGED, layer] += 1
    return last


@compiled
def needed(demand: Demand, cell: int, layer: int, x: int) -> bool:
    """Whether a cell asks for an expert."""
    for i in range(demand.starts[cell], demand.starts[cell + 1]):
        if layer * demand.num_experts + demand.experts[i] == x:
            return True
    return False


@compiled
def hand_out(
    demand: Demand,
    hands: Hands,
    costs: Costs,
    state: State,
    clocks: Clocks,
    scratch: Scratch,
    counts: I8,
    step: int,
    layer: int,
    gate: float,
) -> int:
    """Let the executor say who runs what; fills `where` and `order`, returns how many accesses run."""
    cell = step * demand.layers + layer
    first = demand.starts[cell]
    n = 0
    for j in range(demand.starts[cell + 1] - first):
        if scratch.where[j] == SKIP:
            continue
        x = layer * demand.num_experts + demand.experts[first + j]
        level, tokens = scratch.level[j], demand.tokens[first + j]
        held = state.level[x]
        scratch.asked[n] = j
        scratch.tokens[n] = tokens
        scratch.resident[n] = scratch.where[j] == ON_GPU
        scratch.seconds[0, n] = costs.gpu_s[level, tokens]
        scratch.seconds[1, n] = costs.cpu_s[level, tokens]
        load = costs.latency_s + costs.link_s[held + 1, level]
        scratch.seconds[2, n] = load + (costs.store_s[held + 1, level] if costs.stored[x] else 0.0)
        scratch.seconds[3, n] = costs.near_s[level, tokens]
        scratch.chosen[n] = DEFERRED if hands.deferrable[first + j] else ON_GPU
        n += 1
    hop = costs.hop_s[step]
    scratch.free[0] = clocks.free[GPU] - gate
    scratch.free[1] = max(clocks.free[CPU] - gate, hop)
    scratch.free[2] = max(clocks.free[LINK] - gate, 0.0)
    scratch.free[3] = max(clocks.free[NEAR] - gate, hop)
    assign(
        hands.kind,
        scratch.tokens[:n],
        scratch.resident[:n],
        scratch.seconds[0, :n],
        scratch.seconds[1, :n],
        scratch.seconds[2, :n],
        scratch.seconds[3, :n],
        scratch.free,
        hands.parameters,
        scratch.chosen[:n],
        scratch.turn[:n],
    )
    for turn in range(n):
        j = scratch.asked[scratch.turn[turn]]
        scratch.order[turn] = j
        who = scratch.chosen[scratch.turn[turn]]
        if who == DEFERRED and layer == demand.layers - 1:
            who = ON_CPU  # no layer behind it whose output it could join
        scratch.where[j] = who
        counts[ON_CPU_COUNT, layer] += 1 if who in (ON_CPU, DEFERRED) else 0
        counts[ON_NEAR_COUNT, layer] += 1 if who == ON_NEAR else 0
        counts[DEFERRED_COUNT, layer] += 1 if who == DEFERRED else 0
    return n


@compiled
def run_elsewhere(clocks: Clocks, what: int, earliest: float, seconds: float) -> float:
    """Run an expert on the CPU or the near unit; when it is done."""
    end = max(clocks.free[what], earliest) + seconds
    clocks.free[what] = end
    clocks.busy[what] += seconds
    return float(end)


@compiled
def replay_timed(
    demand: Demand,
    ahead: Ahead,
    hands: Hands,
    costs: Costs,
    rules: Rules,
    state: State,
    clocks: Clocks,
) -> tuple[F8, I8]:
    """Run all steps; `state` and `clocks` hold the rest of the result.

    Returns
    -------
    ends
        When each step is done, ``[steps]``.
    counts
        `COUNTS` by layer, int64 ``[counts, layers]``.
    """
    layers, num_experts = demand.layers, demand.num_experts
    steps = len(demand.request)
    ends = np.zeros(steps)
    counts = np.zeros((N_COUNTS, layers), np.int64)
    most = 1
    for cell in range(steps * layers):
        most = max(most, demand.starts[cell + 1] - demand.starts[cell])
    every = layers * num_experts
    scratch = Scratch(
        np.empty(most, np.int8),
        np.empty(most, np.int8),
        np.empty(most, np.int8),
        np.empty(most, np.bool_),
        np.zeros(most, np.int64),
        np.zeros(most, np.int64),
        np.empty(most, np.int64),
        np.empty(every + 2 * most, np.int64),
        np.empty(every + 2 * most, np.int8),
        np.empty(most, np.int64),
        np.empty(most, np.int32),
        np.empty(most, np.bool_),
        np.empty((4, most)),
        np.empty(4),
        np.empty(most, np.int8),
        np.empty(most, np.int64),
    )
    where, order = scratch.where, scratch.order
    free = clocks.free
    head, tail, known, deferred = 0, 0, 0.0, 0.0
    for step in range(steps):
        if rules.reset and step > 0 and demand.request[step] != demand.request[step - 1]:
            empty(state, rules)
            head = tail
        for layer in range(layers):
            cell = step * layers + layer
            first = demand.starts[cell]
            asked = demand.starts[cell + 1] - first
            before = costs.before[costs.piece[layer], step]
            beside = costs.beside[costs.kind[layer], step]
            gate = free[GPU] + before
            if head < tail:
                head = fetch_ahead(
                    demand, ahead, costs, rules, state, clocks, scratch, counts, cell, known, gate, head, tail
                )
            free[GPU] = gate + beside
            clocks.busy[GPU] += before + beside
            base = layer * num_experts
            if rules.batch:
                for i in range(first, first + asked):
                    state.guard[base + demand.experts[i]] = max(cell, state.guard[base + demand.experts[i]])
            # Look up: what is there runs first.
            runs, misses, leaving = 0, 0, 0
            for j in range(asked):
                i = first + j
                x = base + demand.experts[i]
                want, have = demand.wanted[i], state.level[x]
                scratch.level[j] = want
                if want < 0 and (have < 0 or not demand.misses_only):
                    where[j] = SKIP
                    counts[SKIPPED, layer] += 1
                    continue
                counts[ACCESSES, layer] += 1
                if have >= 0 and (want < 0 or have <= want):
                    where[j] = ON_GPU
                    order[runs] = j
                    runs += 1
                    if not costs.nested:
                        scratch.level[j] = have
                    counts[HITS, layer] += 1
                    counts[LATE, layer] += 1 if state.ready[x] > gate else 0
                    counts[USEFUL, layer] += 1 if state.fetched[x] else 0
                    state.fetched[x] = False
                    note_use(state, rules, x, i)
                else:
                    where[j] = LOADED
                    misses += 1
                    counts[HITS, layer] += 1 if rules.free_cold and not state.seen[x] else 0
                    if ahead.preemptible and clocks.flight[0] >= 0:
                        flying = clocks.flight[0]
                        if state.ready[flying] > gate and not needed(demand, cell, layer, flying):
                            break_off(demand, costs, rules, state, clocks, counts, gate)
                    if not rules.batch:
                        leaving = make_slot(
                            demand, rules, ahead, state, scratch, counts, cell, layer, j, leaving
                        )
                        note_use(state, rules, x, i)
                state.seen[x] = True
            for j in range(asked):
                if where[j] == LOADED:
                    order[runs] = j
                    runs += 1
            if hands.kind != 0:
                runs = hand_out(demand, hands, costs, state, clocks, scratch, counts, step, layer, gate)
            if rules.batch and misses:
                for o in range(runs):
                    j = order[o]
                    if where[j] == LOADED:
                        leaving = make_slot(
                            demand, rules, ahead, state, scratch, counts, cell, layer, j, leaving
                        )
                        note_use(state, rules, base + demand.experts[first + j], first + j)
            hop = costs.hop_s[step]
            cpu_end, near_end, later = 0.0, 0.0, 0.0
            for o in range(runs):
                j = order[o]
                i = first + j
                x = base + demand.experts[i]
                level = scratch.level[j]
                spare = -1
                if where[j] == ON_CPU or where[j] == DEFERRED:
                    seconds = costs.cpu_s[level, demand.tokens[i]]
                    if cpu_end == 0.0 and later == 0.0:
                        seconds += hands.parameters[0]
                    end = run_elsewhere(clocks, CPU, gate + hop, seconds) + hop
                    if where[j] == ON_CPU:
                        cpu_end = max(cpu_end, end)
                    else:
                        later = max(later, end)
                    continue
                if where[j] == ON_NEAR:
                    seconds = costs.near_s[level, demand.tokens[i]]
                    near_end = run_elsewhere(clocks, NEAR, gate + hop, seconds) + hop
                    continue
                if where[j] == LOADED:
                    if scratch.slotted[j]:
                        slot = take_slot(
                            clocks, costs, state, ahead, scratch, scratch.gone_first[j], scratch.gone_last[j]
                        )
                    else:
                        spare = int(np.argmin(clocks.spare))
                        slot = clocks.spare[spare]
                    copy_in(clocks, costs, state, x, scratch.held[j], level, max(gate, slot))
                run_on_gpu(clocks, state, x, costs.gpu_s[level, demand.tokens[i]])
                if spare >= 0:
                    clocks.spare[spare] = free[GPU]
            wait_for(clocks, WAIT_CPU, max(cpu_end, deferred))
            wait_for(clocks, WAIT_NEAR, near_end)
            deferred = later
            if ahead.starts[cell] < ahead.starts[cell + 1]:
                head, tail, known = ahead.starts[cell], ahead.starts[cell + 1], gate
        free[GPU] += costs.tail[step]
        clocks.busy[GPU] += costs.tail[step]
        ends[step] = free[GPU]
    return ends, counts
