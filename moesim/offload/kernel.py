"""The replay with time: steps x layers over clocks of resources, without an event queue.

Each resource has a clock: when it is free. A task starts at the maximum of its resource's clock and of what
it needs, and moves the clock to its end (max-plus algebra). Which experts miss is known when a gate has run;
their loads go before copies ahead that wait, and behind those that have begun.
"""

from __future__ import annotations

import numpy as np

from moesim.compiled import compiled
from moesim.offload.clocks import (
    CPU,
    GPU,
    NEAR,
    STORAGE,
    TO_DEVICE,
    break_off,
    copy_in,
    note,
    run_on_gpu,
    soonest,
    take_slot,
)
from moesim.offload.given import (
    ABORTED,
    ACCESSES,
    DEFERRED,
    DENSE,
    F8,
    FETCHED,
    HITS,
    I1,
    I8,
    KEPT,
    LATE,
    LOADED,
    LOADS,
    N_COUNTS,
    ON_CPU,
    ON_GPU,
    ON_NEAR,
    PASSED,
    PREFETCHED,
    PUT_OFF,
    RUN_ON_CPU,
    RUN_ON_NEAR,
    SKIP,
    SKIPPED,
    STAGED,
    TAIL,
    USEFUL,
    WASTED,
    WRITTEN,
    Ahead,
    Costs,
    Demand,
    Flags,
    Memory,
    Rules,
)
from moesim.offload.pools import (
    BELADY,
    COST,
    LFU,
    LRU,
    LRU_AHEAD,
    MRS,
    SCH,
    STATIC,
    Experts,
    empty,
    make_room,
    put,
    remove,
)
from moesim.offload.scores import begin_request, look_ahead, record, reprice, shrink, speak, use
from moesim.policy.executors import assign


@compiled
def _count_wasted(experts: Experts, gone: I8, first: int, last: int) -> int:
    """Victims that were fetched ahead for nothing."""
    found = 0
    for g in range(first, last):
        if experts[gone[g]].fetched:
            found += 1
            experts[gone[g]].fetched = False
    return found


@compiled
def _write(memory: Memory, cell: int, x: int, gone: I8, first: int, last: int, why: int) -> None:
    """Log a load, where there is a log."""
    clock = memory.clock[0]
    if clock.logged < len(memory.log):
        row = memory.log[clock.logged]
        row[0], row[1], row[2], row[3] = cell, x, gone[first] if last > first else -1, why
        clock.logged += 1


@compiled
def _note_copy(memory: Memory, link_s: float, store_s: float, cell: int, x: int) -> None:
    """Write down the copy that was asked for last."""
    clock, expert = memory.clock[0], memory.experts[x]
    if expert.stock:
        note(clock, memory.spans, STORAGE, expert.stored - store_s, expert.stored, cell, x)
    note(clock, memory.spans, TO_DEVICE, clock.to_device - link_s, clock.to_device, cell, x)


@compiled
def _fetch_ahead(
    ahead: Ahead,
    rules: Rules,
    costs: Costs,
    memory: Memory,
    counts: I8,
    gone: I8,
    gone_level: I1,
    layers: int,
    num_experts: int,
    cell: int,
    known: float,
    until: float,
    head: int,
    end: int,
) -> int:
    """Begin copies ahead that can begin before `until`; how far the queue ``head:end`` got."""
    experts, clock, moment, rule = memory.experts, memory.clock[0], memory.moment[0], rules.rule
    while head < end:
        target = ahead.target[head]
        layer = target % layers
        x = layer * num_experts + ahead.expert[head]
        expert = experts[x]
        level = expert.ahead
        if target < cell or level < 0 or 0 <= expert.level <= level:
            if target >= cell and expert.level >= 0:
                expert.guard = max(expert.guard, target)
            head += 1
            continue
        opens = clock.storage if expert.stock else memory.channel[soonest(memory.channel)]
        if max(known, opens) >= until:
            break
        head += 1
        pool, held = memory.pool[layer], expert.level
        last, room = make_room(
            experts, memory.pools, memory.members, rule, moment,
            x, pool, level, False, gone, gone_level, 0,
        )  # fmt: skip
        counts[WASTED, layer] += _count_wasted(experts, gone, 0, last)
        if rules.write_back:
            counts[WRITTEN, layer] += last
        slot = take_slot(
            clock, memory.spare, experts, costs.out_s, costs.size[0], gone, gone_level, 0, last,
            rules.write_back, max(known, opens), memory.spans, cell,
        )  # fmt: skip
        if not room:
            if len(memory.pools) == 1 and len(rule.size) == 1:
                head = end  # nothing may leave, so nothing behind finds room either
            continue
        clock.events += 1
        put(experts, memory.pools, memory.members, rule, x, pool, level, clock.events, False)
        copy_in(
            clock, memory.channel, costs.latency_s, costs.link_s[held + 1, level],
            costs.store_s[held + 1, level], costs.size[held + 1, level], expert, max(known, slot),
        )  # fmt: skip
        _note_copy(memory, costs.link_s[held + 1, level], costs.store_s[held + 1, level], cell, x)
        expert.busy = 0.0
        expert.fetched = True
        expert.guard = max(expert.guard, target)
        clock.flight = x
        _write(memory, cell, x, gone, 0, last, FETCHED)
        counts[PREFETCHED, layer] += 1
    return head


@compiled
def _hand_out(
    demand: Demand,
    rules: Rules,
    costs: Costs,
    memory: Memory,
    deferrable: Flags,
    counts: I8,
    where: I1,
    used: I1,
    order: I8,
    step: int,
    layer: int,
    gate: float,
) -> int:
    """Let the executor say who runs what; fills `where` and `order`, returns how many accesses run."""
    cell = step * demand.layers + layer
    first = demand.starts[cell]
    asked = demand.starts[cell + 1] - first
    accesses, tokens = np.empty(asked, np.int64), np.empty(asked, np.int32)
    resident, seconds = np.empty(asked, np.bool_), np.empty((4, asked))
    chosen, turn, free = np.empty(asked, np.int8), np.empty(asked, np.int64), np.empty(4)
    n = 0
    for j in range(asked):
        if where[j] == SKIP:
            continue
        expert = memory.experts[layer * demand.num_experts + demand.experts[first + j]]
        level, many, held = used[j], demand.tokens[first + j], expert.level + 1
        accesses[n], tokens[n], resident[n] = j, many, where[j] == ON_GPU
        load = costs.latency_s + costs.link_s[held, level]
        if expert.stock:
            load += costs.store_s[held, level]
        seconds[0, n], seconds[1, n] = costs.gpu_s[level, many], costs.cpu_s[level, many]
        seconds[2, n], seconds[3, n] = load, costs.near_s[level, many]
        if expert.stock:
            seconds[1, n] += costs.store_s[0, level]
        chosen[n] = DEFERRED if deferrable[first + j] else ON_GPU
        n += 1
    clock, hop = memory.clock[0], costs.hop_s[step]
    free[0] = clock.gpu - gate
    free[1] = max(clock.cpu - gate, hop)
    free[2] = max(memory.channel[soonest(memory.channel)] - gate, 0.0)
    free[3] = max(clock.near - gate, hop)
    assign(
        rules.executor, tokens[:n], resident[:n], seconds[0, :n], seconds[1, :n], seconds[2, :n],
        seconds[3, :n], free, rules.parameters, chosen[:n], turn[:n],
    )  # fmt: skip
    for place in range(n):
        j = accesses[turn[place]]
        order[place] = j
        who = chosen[turn[place]]
        if who == DEFERRED and layer == demand.layers - 1:
            who = ON_CPU  # no layer behind it whose output it could join
        where[j] = who
        counts[RUN_ON_CPU, layer] += 1 if who in (ON_CPU, DEFERRED) else 0
        counts[RUN_ON_NEAR, layer] += 1 if who == ON_NEAR else 0
        counts[PUT_OFF, layer] += 1 if who == DEFERRED else 0
    return n


@compiled
def _start(rules: Rules, memory: Memory) -> None:
    """Put on the device what is there at the start."""
    experts, clock, moment = memory.experts, memory.clock[0], memory.moment[0]
    for x in memory.initial:
        clock.events += 1
        put(
            experts, memory.pools, memory.members, rules.rule, x, memory.pool[x // moment.num_experts],
            experts[x].ahead, clock.events, False,
        )  # fmt: skip
        experts[x].seen = True


@compiled
def _needed(demand: Demand, cell: int, layer: int, x: int) -> bool:
    """Whether a cell asks for an expert."""
    for i in range(demand.starts[cell], demand.starts[cell + 1]):
        if layer * demand.num_experts + demand.experts[i] == x:
            return True
    return False


@compiled
def replay_timed(demand: Demand, ahead: Ahead, rules: Rules, costs: Costs, memory: Memory) -> tuple[F8, I8]:
    """Run all steps; `memory` holds the rest of the result.

    Returns
    -------
    ends
        When each step is done, ``[steps]``.
    counts
        `COUNTS` by layer, int64 ``[counts, layers]``.
    """
    layers, num_experts, starts = demand.layers, demand.num_experts, demand.starts
    experts, pools, members, clock = memory.experts, memory.pools, memory.members, memory.clock[0]
    channel, spare, rule, moment = memory.channel, memory.spare, rules.rule, memory.moment[0]
    gpu_s, out_s, number = costs.gpu_s, costs.out_s, rules.rule.number
    scored = number in (LRU, LFU) or number > STATIC
    link_s, store_s, size = costs.link_s, costs.store_s, costs.size
    steps = len(demand.request)
    ends = np.zeros(steps)
    counts = np.zeros((N_COUNTS, layers), np.int64)
    most = 1
    for cell in range(steps * layers):
        most = max(most, starts[cell + 1] - starts[cell])
    # Of each access of a cell: who runs it, its level, the level there before, its slot, its victims.
    where, used, held = np.empty(most, np.int8), np.empty(most, np.int8), np.empty(most, np.int8)
    slotted, order = np.empty(most, np.bool_), np.empty(most, np.int64)
    gone_first, gone_last = np.zeros(most, np.int64), np.zeros(most, np.int64)
    gone = np.empty(len(experts) + 2 * most, np.int64)
    gone_level = np.empty(len(experts) + 2 * most, np.int8)
    head, tail, known, deferred = 0, 0, 0.0, 0.0
    moment.layers, moment.num_experts = layers, num_experts
    _start(rules, memory)
    window, grown = 0, 1.0
    for step in range(steps):
        moment.step = step
        if step == 0 or demand.request[step] != demand.request[step - 1]:
            moment.begun = step
            begin_request(experts, rule)
            if rules.reset and step > 0:
                empty(experts, pools, number)
                _start(rules, memory)
                head = tail
        if number == MRS:
            grown /= 1.0 - rule.parameters[0]
            if shrink(experts, grown):
                grown = 1.0
        elif number == SCH:
            until = step
            while until < min(step + rule.parameters[0], steps) and not (
                rules.reset and demand.request[until] != demand.request[step]
            ):
                until += 1
            look_ahead(experts, demand.experts, starts, moment, window, until * layers)
            window = max(window, until * layers)
        hop = costs.hop_s[step]
        for layer in range(layers):
            cell = step * layers + layer
            moment.cell, moment.layer = cell, layer
            first, asked, base = starts[cell], starts[cell + 1] - starts[cell], layer * num_experts
            before = costs.before[costs.piece[layer], step]
            beside = costs.beside[costs.kind[layer], step]
            gate = clock.gpu + before
            if head < tail:
                head = _fetch_ahead(
                    ahead, rules, costs, memory, counts, gone, gone_level, layers, num_experts,
                    cell, known, gate, head, tail,
                )  # fmt: skip
            if number == MRS:
                speak(experts, demand.experts, demand.weights, starts, moment, rule, grown)
            note(clock, memory.spans, GPU, clock.gpu, gate + beside, cell, DENSE)
            clock.gpu = gate + beside
            clock.busy_gpu += before + beside
            pool = memory.pool[layer]
            if rules.batch:
                for i in range(first, first + asked):
                    expert = experts[base + demand.experts[i]]
                    expert.guard = max(expert.guard, cell)
            # Look up: what is there runs first, misses in the order of accesses.
            runs, misses, leaving = 0, 0, 0
            for j in range(asked):
                i = first + j
                x = base + demand.experts[i]
                expert = experts[x]
                want, have = demand.wanted[i], expert.level
                used[j] = want
                following = demand.next_use[i] if len(demand.next_use) else 0
                if number == BELADY:  # known of every expert, whoever runs it
                    expert.key = -following
                if want < 0 and (have < 0 or not rules.misses_only):
                    where[j] = SKIP
                    counts[SKIPPED, layer] += 1
                    continue
                counts[ACCESSES, layer] += 1
                clock.events += 1
                hit = have >= 0 and (want < 0 or have <= want)
                if scored:
                    weight = float(demand.weights[i]) if len(demand.weights) else 0.0
                    high = demand.high[i] if len(demand.high) else False
                    record(experts, pools, rule, moment, pool, x, hit, weight, high, clock.events)
                if hit:
                    where[j] = ON_GPU
                    order[runs] = j
                    runs += 1
                    if not rules.nested or want < 0:
                        used[j] = have
                    counts[HITS, layer] += 1
                    if expert.ready > gate:
                        counts[LATE, layer] += 1
                    if expert.fetched:
                        counts[USEFUL, layer] += 1
                        expert.fetched = False
                    use(experts, number, x, following)
                else:
                    where[j] = LOADED
                    misses += 1
                    if rules.free_cold and not expert.seen:
                        counts[HITS, layer] += 1
                    flying = clock.flight
                    if rules.preemptible and flying >= 0:
                        level = experts[flying].level
                        if experts[flying].ready > gate and not _needed(demand, cell, layer, flying):
                            break_off(
                                clock,
                                channel,
                                link_s[0, level],
                                size[0, level],
                                experts[flying].ready,
                                gate,
                                memory.spans,
                            )
                            remove(experts, pools, members, rule, flying, memory.pool[flying // num_experts])
                            experts[flying].fetched = False
                            counts[ABORTED, flying // num_experts] += 1
                    if not rules.batch:
                        held[j] = have
                        gone_first[j] = leaving
                        leaving, slotted[j] = make_room(
                            experts, pools, members, rule, moment, x, pool, want, True,
                            gone, gone_level, leaving,
                        )  # fmt: skip
                        gone_last[j] = leaving
                        if slotted[j]:
                            put(experts, pools, members, rule, x, pool, want, clock.events, True)
                            if number == COST:
                                reprice(experts, pools, rule, pool, x)
                        use(experts, number, x, following)
                expert.seen = True
            if misses:
                for j in range(asked):
                    if where[j] == LOADED:
                        order[runs] = j
                        runs += 1
            if rules.executor != 0:
                runs = _hand_out(
                    demand, rules, costs, memory, ahead.deferrable, counts, where, used, order,
                    step, layer, gate,
                )  # fmt: skip
            if rules.batch and misses:
                together = clock.events  # by the time of loads, those of a cell are alike
                for o in range(runs):
                    j = order[o]
                    if where[j] != LOADED:
                        continue
                    x = base + demand.experts[first + j]
                    clock.events += 1
                    held[j] = experts[x].level
                    gone_first[j] = leaving
                    leaving, slotted[j] = make_room(
                        experts, pools, members, rule, moment, x, pool, used[j], True,
                        gone, gone_level, leaving,
                    )  # fmt: skip
                    gone_last[j] = leaving
                    if slotted[j]:
                        came = together if number == LRU_AHEAD else clock.events
                        put(experts, pools, members, rule, x, pool, used[j], came, True)
                    following = demand.next_use[first + j] if len(demand.next_use) else 0
                    use(experts, number, x, following)
                if number == COST:
                    for o in range(runs):
                        x = base + demand.experts[first + order[o]]
                        if where[order[o]] == LOADED and experts[x].level >= 0:
                            reprice(experts, pools, rule, pool, x)
            if leaving:
                counts[WASTED, layer] += _count_wasted(experts, gone, 0, leaving)
                if rules.write_back:
                    counts[WRITTEN, layer] += leaving
            cpu_end, near_end, later = 0.0, 0.0, 0.0
            for o in range(runs):
                j = order[o]
                expert = experts[base + demand.experts[first + j]]
                level, many = used[j], demand.tokens[first + j]
                who = where[j]
                x = base + demand.experts[first + j]
                if who == ON_GPU:
                    run_on_gpu(clock, expert, gpu_s[level, many])
                    note(clock, memory.spans, GPU, clock.gpu - gpu_s[level, many], clock.gpu, cell, x)
                elif who == LOADED:
                    counts[LOADS, layer] += 1
                    why = KEPT if slotted[j] else PASSED
                    _write(memory, cell, x, gone, gone_first[j], gone_last[j], why)
                    slot, lane = 0.0, 0
                    if slotted[j]:
                        slot = take_slot(
                            clock, spare, experts, out_s, size[0], gone, gone_level,
                            gone_first[j], gone_last[j], rules.write_back,
                            max(gate, channel[soonest(channel)]), memory.spans, cell,
                        )  # fmt: skip
                    else:
                        counts[STAGED, layer] += 1
                        lane = soonest(spare)
                        slot = spare[lane]
                    copy_in(
                        clock, channel, costs.latency_s, link_s[held[j] + 1, level],
                        store_s[held[j] + 1, level], size[held[j] + 1, level], expert, max(gate, slot),
                    )  # fmt: skip
                    _note_copy(memory, link_s[held[j] + 1, level], store_s[held[j] + 1, level], cell, x)
                    run_on_gpu(clock, expert, gpu_s[level, many])
                    note(clock, memory.spans, GPU, clock.gpu - gpu_s[level, many], clock.gpu, cell, x)
                    if not slotted[j]:
                        spare[lane] = clock.gpu
                elif who == ON_NEAR:
                    run = costs.near_s[level, many]
                    clock.near = max(clock.near, gate + hop) + run
                    clock.busy_near += run
                    note(clock, memory.spans, NEAR, clock.near - run, clock.near, cell, x)
                    near_end = clock.near + hop
                else:
                    run = costs.cpu_s[level, many]
                    if cpu_end == 0.0 and later == 0.0:
                        run += rules.parameters[0]
                    there = gate + hop
                    if expert.stock:  # read from storage first
                        clock.storage = max(clock.storage, gate) + store_s[0, level]
                        clock.busy_storage += store_s[0, level]
                        clock.bytes_storage += size[0, level]
                        there = max(there, clock.storage)
                        read = clock.storage - store_s[0, level]
                        note(clock, memory.spans, STORAGE, read, clock.storage, cell, x)
                    clock.cpu = max(clock.cpu, there) + run
                    clock.busy_cpu += run
                    note(clock, memory.spans, CPU, clock.cpu - run, clock.cpu, cell, x)
                    if who == ON_CPU:
                        cpu_end = clock.cpu + hop
                    else:
                        later = clock.cpu + hop
            joined = max(cpu_end, deferred)
            if joined > clock.gpu:
                clock.wait_cpu += joined - clock.gpu
                clock.gpu = joined
            if near_end > clock.gpu:
                clock.wait_near += near_end - clock.gpu
                clock.gpu = near_end
            deferred = later
            if ahead.starts[cell] < ahead.starts[cell + 1]:
                head, tail, known = ahead.starts[cell], ahead.starts[cell + 1], gate
        note(clock, memory.spans, GPU, clock.gpu, clock.gpu + costs.tail[step], step * layers, TAIL)
        clock.gpu += costs.tail[step]
        clock.busy_gpu += costs.tail[step]
        ends[step] = clock.gpu
    return ends, counts
