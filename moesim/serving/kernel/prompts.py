"""Who is in a lane's next step, where prompts go first and alone: SGLang.

After ``srt/managers/scheduler.py`` and ``schedule_policy.py`` (``PrefillAdder``): while prompts wait and
there is room, a step reads prompts alone, up to the chunk size, one of them in part; else all that is read
decodes. There is room for a request if its prompt and its whole output fit beside what is in use and a share
of the output still to come of all that run. The share falls with every step of decoding; if blocks run out,
requests with the least output go back to the end of the queue, and the share is estimated anew.
"""

from __future__ import annotations

from moesim.compiled import inside
from moesim.serving.kernel.admit import NO_ROOM, admit, asks, decodes, output_left, plan, throw_out, weigh
from moesim.serving.kernel.blocks import SHARE_OF_OUTPUT, WHOLE_OUTPUT, draw, free_blocks, grow, lacks
from moesim.serving.kernel.prefix import cached, unit_of
from moesim.serving.kernel.queue import LONGEST_PREFIX, queued, sort_by_prefix
from moesim.serving.state import PROMPTS, Rules, State

#: Steps of decoding that have to fit after requests were thrown out (``SGLANG_RETRACT_DECODE_STEPS``).
STEPS_AHEAD = 20


@inside
def form_prompts_first(state: State, rules: Rules, lane: int, now: float) -> bool:
    """Choose what a lane computes; whether requests were thrown out."""
    lanes = state.lanes
    row, last = state.running[lane], lanes[lane].live - 1
    if last < 0:
        lanes[lane].full = 0
    # One prompt at most is read in part; it came last.
    midway = last >= 0 and not decodes(state.progress[row[last]])
    if midway or (queued(state, lane) > 0 and not lanes[lane].full):
        if midway and not _read_on(state, rules, lane):
            return True
        _read(state, rules, lane, now)
        if state.load[lane, PROMPTS] > 0:
            return False
    return _decode(state, rules, lane)


@inside
def _left(state: State, rules: Rules, lane: int) -> int:
    """Tokens of prompts that fit into a step beside what decodes with them."""
    if not rules.mixed:
        return rules.budget
    row, n = state.running[lane], state.lanes[lane].live
    return int(rules.budget - n + (n > 0 and not decodes(state.progress[row[n - 1]])))


@inside
def _read_on(state: State, rules: Rules, lane: int) -> bool:
    """Plan more of the prompt that was read in part; False if there are no blocks and it was thrown out."""
    lanes, progress = state.lanes, state.progress
    r = state.running[lane, lanes[lane].live - 1]
    many = min(progress[r].target - progress[r].done, _left(state, rules, lane))
    if many <= 0:
        return True
    if not grow(state, rules, lane, r, progress[r].done + many):
        throw_out(state, rules, lane, lanes[lane].live - 1, False)
        # Those that decode come first now, or they would never free what it lacks.
        lanes[lane].full = 1
        return False
    plan(state, rules, lane, r, many)
    return True


@inside
def _read(state: State, rules: Rules, lane: int, now: float) -> None:
    """Plan prompts, and, where they are mixed, the decoding of all others."""
    lanes, progress = state.lanes, state.progress
    row, left = state.running[lane], _left(state, rules, lane)
    room = float(free_blocks(state, lane) * rules.block)
    for i in range(lanes[lane].live):
        r = row[i]
        if decodes(state.progress[r]):
            room -= output_left(state, r) * lanes[lane].share + (1.0 if rules.mixed else 0.0)
        elif progress[r].planned:
            left -= -(-progress[r].planned // rules.block) * rules.block
            room -= rules.block
            if progress[r].done + progress[r].planned == progress[r].target:
                room -= output_left(state, r)
    if rules.order == LONGEST_PREFIX:
        sort_by_prefix(state, rules, lane)
    while queued(state, lane) > 0 and left > 0 and (room > 0 or rules.admission != SHARE_OF_OUTPUT):
        if lanes[lane].live + lanes[lane].leavers >= rules.most:
            lanes[lane].full = 1
            break
        r = lanes[lane].head
        many, room = admit(state, rules, lane, left, room, now)
        if many <= 0:
            if many == NO_ROOM:
                lanes[lane].full = 1
            break
        if decodes(state.progress[r]):
            # It has its cache already, and decodes with the others.
            continue
        plan(state, rules, lane, r, many)
        left -= -(-many // rules.block) * rules.block
    if rules.mixed and state.load[lane, PROMPTS] > 0:
        for i in range(lanes[lane].live):
            r = row[i]
            if decodes(state.progress[r]) and grow(state, rules, lane, r, progress[r].done + 1):
                plan(state, rules, lane, r, 1)


@inside
def _decode(state: State, rules: Rules, lane: int) -> bool:
    """Plan a token for everyone, and throw out those for whom there are no blocks; whether there were any."""
    lanes, progress = state.lanes, state.progress
    row, total, unit = state.running[lane], 0, unit_of(rules)
    load = state.load[lane]
    for i in range(lanes[lane].live):
        p = progress[row[i]]
        if decodes(p):
            total += lacks(p, unit, rules.block, p.done + asks(p, rules.drafts, 0))
    thrown = total > free_blocks(state, lane)
    if thrown:
        _retract(state, rules, lane)
    elif lanes[lane].live > 0:
        lanes[lane].share = max(lanes[lane].share - rules.share_fall, rules.share_low)
    i, here = 0, lanes[lane]
    entries, table = state.entries[lane], state.table[lane]
    keeps, whole = cached(state, rules), rules.admission == WHOLE_OUTPUT
    while i < here.live:
        p = progress[row[i]]
        if decodes(p):
            many = asks(p, rules.drafts, 0)
            blocks = lacks(p, unit, rules.block, p.done + many)
            if blocks > here.capacity - here.used:
                throw_out(state, rules, lane, i, False)
                thrown = True
                continue
            draw(entries, here, table, progress, p, blocks, keeps, whole)
            p.planned = many
            weigh(load, p, many, 1)
        i += 1
    return thrown


@inside
def _retract(state: State, rules: Rules, lane: int) -> None:
    """Throw out who has the least output, of these the longest prompt, until steps ahead fit; one stays."""
    lanes, progress, asked = state.lanes, state.progress, state.asked
    row, first = state.running[lane], True
    while lanes[lane].live > 1:
        if not first and free_blocks(state, lane) * rules.block >= STEPS_AHEAD * lanes[lane].live:
            break
        first = False
        worst = 0
        for i in range(1, lanes[lane].live):
            r, w = row[i], row[worst]
            less = progress[r].generated < progress[w].generated
            equal = progress[r].generated == progress[w].generated
            if less or (equal and asked[r].prompt >= asked[w].prompt):
                worst = i
        throw_out(state, rules, lane, worst, False)
    given, asks_for = STEPS_AHEAD * lanes[lane].live, 0
    for i in range(lanes[lane].live):
        given += progress[row[i]].generated
        asks_for += asked[row[i]].output
    lanes[lane].share = min(given / max(asks_for, 1), 1.0)
    lanes[lane].full = 0
