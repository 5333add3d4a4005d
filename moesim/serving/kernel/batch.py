"""Who is in a lane's next step, where prompts and decoding share steps: vLLM, TensorRT-LLM.

The order of things is that of ``vllm/v1/core/sched/scheduler.py``: running requests first, each as far as the
token budget goes; where blocks run out, the last (or, by priority, the least urgent) request gives its own
back. Only if none had to, waiting requests are taken in, in order, until the first that may not.
TensorRT-LLM's ``capacityScheduler.cpp`` differs in what has to be free for that: the blocks of a prompt and
of the whole output of everyone (GUARANTEED_NO_EVICT), or of the prompt (MAX_UTILIZATION, which pauses the
last that began, as vLLM does).
"""

from __future__ import annotations

from moesim.compiled import inside
from moesim.serving.kernel.admit import (
    admit,
    asks,
    decodes,
    lose,
    output_left,
    plan,
    throw_out,
    unplan,
    weigh,
)
from moesim.serving.kernel.blocks import SHARE_OF_OUTPUT, WHOLE_OUTPUT, draw, free_blocks, grow, lacks
from moesim.serving.kernel.prefix import cached, unit_of
from moesim.serving.kernel.prompts import form_prompts_first
from moesim.serving.kernel.queue import PRIORITY, before, queued
from moesim.serving.state import CONTEXT, PREFILL, PROMPTS, QUERIES, RUNNING, SEQUENCES, WASTED, Rules, State


@inside
def form(state: State, rules: Rules, lane: int, now: float) -> bool:
    """Choose what a lane computes; whether it is anything.

    A request that is at the head of an empty lane and still may not be taken in never will be: it is lost.
    """
    lanes = state.lanes
    load = state.load[lane]
    while True:
        load[:] = 0.0
        if rules.prefill_first:
            thrown = form_prompts_first(state, rules, lane, now)
        else:
            thrown = _form_shared(state, rules, lane, now)
        if load[PREFILL] + load[QUERIES] > 0 or lanes[lane].leavers > 0 or queued(state, lane) == 0:
            break
        if thrown:
            continue
        if lanes[lane].live > 0 or lanes[lane].pinned > 0:
            break
        lose(state, rules, lane)
    if rules.late and not (rules.prefill_first and load[PROMPTS] > 0):
        _decode_leavers(state, rules, lane)
    return bool(load[PREFILL] + load[QUERIES] > 0)


@inside
def _decode_leavers(state: State, rules: Rules, lane: int) -> None:
    """Requests that ended in the step before are in this one: it was planned when that was not known.

    SGLang's overlap schedule frees the token of such a request when it comes ("the one delayed token").
    """
    lanes = state.lanes
    for i in range(lanes[lane].leavers):
        r = state.leaving[lane, i]
        state.load[lane, SEQUENCES] += 1
        state.load[lane, QUERIES] += 1 + rules.drafts
        state.load[lane, CONTEXT] += state.progress[r].target
        state.tally.sums[lane // rules.lanes, WASTED] += 1 + rules.drafts


@inside
def _form_shared(state: State, rules: Rules, lane: int, now: float) -> bool:
    """Running requests, then waiting ones, within the budget; whether one was thrown out."""
    lanes, progress = state.lanes, state.progress
    row, left, thrown, i = state.running[lane], rules.budget, False, 0
    unit, load, here = unit_of(rules), state.load[lane], lanes[lane]
    entries, table = state.entries[lane], state.table[lane]
    keeps, whole = cached(state, rules), rules.admission == WHOLE_OUTPUT
    while i < lanes[lane].live and left > 0:
        r = row[i]
        p = progress[r]
        if decodes(p):
            # By far the most: calls that take all of the state are kept out of their way.
            many = min(asks(p, rules.drafts, 0), left)
            blocks = lacks(p, unit, rules.block, p.done + many)
            if blocks <= here.capacity - here.used:
                draw(entries, here, table, progress, p, blocks, keeps, whole)
                p.planned = many
                weigh(load, p, many, 1)
                left -= many
                i += 1
                continue
        many = min(asks(state.progress[r], rules.drafts, rules.long_prompt), left)
        while not grow(state, rules, lane, r, progress[r].done + many):
            place = _victim(state, rules, lane)
            victim = row[place]
            if place < i:
                left += progress[victim].planned
                unplan(state, lane, victim)
                i -= 1
            throw_out(state, rules, lane, place, True)
            thrown = True
            if victim == r:
                break
        if progress[r].stage != RUNNING:
            break
        plan(state, rules, lane, r, many)
        left -= many
        i += 1
    if thrown:
        return True
    room = 0.0
    if rules.admission == SHARE_OF_OUTPUT and queued(state, lane):
        room = float(free_blocks(state, lane) * rules.block)
        for i in range(lanes[lane].live):
            if decodes(state.progress[row[i]]):
                room -= output_left(state, row[i]) * lanes[lane].share
    while left > 0 and queued(state, lane) > 0 and lanes[lane].live + lanes[lane].leavers < rules.most:
        r = lanes[lane].head
        many, room = admit(state, rules, lane, left, room, now)
        if many <= 0:
            break
        plan(state, rules, lane, r, many)
        left -= many
    return False


@inside
def _victim(state: State, rules: Rules, lane: int) -> int:
    """Place in the batch of the request to throw out."""
    row, last = state.running[lane], state.lanes[lane].live - 1
    if rules.order != PRIORITY:
        return int(last)
    worst = 0
    for i in range(1, last + 1):
        if before(state, row[worst], row[i]):
            worst = i
    return worst
