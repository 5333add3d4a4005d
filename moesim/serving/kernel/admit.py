"""Taking a request in, and throwing one out."""

from __future__ import annotations

import math

from moesim.compiled import inside
from moesim.serving.kernel.blocks import (
    NEXT_CHUNK,
    SHARE_OF_OUTPUT,
    WHOLE_OUTPUT,
    end_promise,
    free_blocks,
    give_back,
    grow,
    look_up,
    peak,
    promise,
)
from moesim.serving.kernel.prefix import acquire, cached, register, unit_of
from moesim.serving.kernel.queue import dequeue, enqueue, put_back
from moesim.serving.state import (
    CONTEXT,
    F8,
    FOUND,
    LOST,
    PAIRS,
    PREEMPTED,
    PREFILL,
    PROMPTS,
    QUERIES,
    RUNNING,
    SEQUENCES,
    STORED,
    SWAPPED,
    Records,
    Rules,
    State,
)

#: Output beyond this is not reckoned with (SGLang's ``CLIP_MAX_NEW_TOKENS``).
CLIPPED_OUTPUT = 4096
#: What `admit` says where it takes nobody in: not in this step, or not while there is so little room.
LATER, NO_ROOM = 0, -1


@inside
def decodes(p: Records) -> bool:
    """Whether a request only lacks its last token in the cache, and is past its first."""
    return bool(p.generated > 0 and p.done + 1 >= p.target)


@inside
def asks(p: Records, drafts: int, long_prompt: int) -> int:
    """Tokens a request would compute now: what is left, or the next token and drafts behind it."""
    many = p.target - p.done
    if many == 1 and p.gave:
        return 1 + drafts
    if 0 < long_prompt < many:
        return long_prompt
    return int(many)


@inside
def plan(state: State, rules: Rules, lane: int, r: int, many: int) -> None:
    """Put tokens of a request into the step."""
    state.progress[r].planned = many
    weigh(state.load[lane], state.progress[r], many, 1)
    if rules.eager and cached(state, rules) and not decodes(state.progress[r]):
        register(state, rules, lane, r, state.progress[r].done + many)


@inside
def unplan(state: State, lane: int, r: int) -> None:
    """Take a request's tokens out of the step."""
    weigh(state.load[lane], state.progress[r], state.progress[r].planned, -1)


@inside
def weigh(load: F8, p: Records, many: int, sign: int) -> None:
    """Count tokens of a request into a step, or out of it."""
    done = p.done
    if decodes(p):
        load[SEQUENCES] += sign
        load[QUERIES] += sign * many
        load[CONTEXT] += sign * (done + 1)
    else:
        load[PROMPTS] += sign
        load[PREFILL] += sign * many
        load[PAIRS] += sign * many * (done + many / 2.0)
        load[STORED] += sign * (done + many)


@inside
def output_left(state: State, r: int) -> int:
    """Output that SGLang reckons with."""
    return int(min(state.asked[r].output - state.progress[r].generated, CLIPPED_OUTPUT))


@inside
def admit(state: State, rules: Rules, lane: int, left: int, room: float, now: float) -> tuple[int, float]:
    """Take the first in the queue into the batch, if it may.

    Parameters
    ----------
    left
        Tokens the step may still compute.
    room
        Tokens of the cache that are neither in use nor reckoned with; only for a share of the output.

    Returns
    -------
    many
        Tokens it may compute in this step, or `LATER` or `NO_ROOM`.
    room
        What is left of it.
    """
    lanes, progress = state.lanes, state.progress
    r = lanes[lane].head
    holds = progress[r].held + progress[r].shared > 0
    units, kept, free = progress[r].shared, 0, 0
    if not holds:
        units, kept, free = look_up(state, rules, lane, r)
    unit, target = unit_of(rules), progress[r].target
    found = units * unit + kept * rules.block
    found = min(found, (target - 1) // rules.block * rules.block) if not holds else 0
    start = max(progress[r].done, found)
    many = target - start
    if 0 < rules.long_prompt < many:
        many = rules.long_prompt
    if many > left:
        alone = state.load[lane, PREFILL] + state.load[lane, QUERIES] == 0
        if not rules.chunked and not (alone and (rules.prefill_first or many > rules.budget)):
            return LATER, room
        if rules.chunked or not rules.prefill_first:
            many = left
            if rules.prefill_first:
                many = left // rules.block * rules.block
                if many == 0:
                    return LATER, room
    upto = start + many if rules.admission in (NEXT_CHUNK, SHARE_OF_OUTPUT) else target
    mine = units * unit + (kept + progress[r].held) * rules.block
    lacks = max(-(-(upto - mine) // rules.block), 0) + free
    if lacks > free_blocks(state, lane):
        return NO_ROOM, room
    if rules.admission == WHOLE_OUTPUT and not holds:
        whole = max(-(-(peak(state, rules, r) - mine) // rules.block), 0) + free
        if whole > free_blocks(state, lane) - lanes[lane].promised:
            return NO_ROOM, room
    if rules.admission == SHARE_OF_OUTPUT:
        later = output_left(state, r)
        if target - start + later + rules.block >= room - free * rules.block:
            return NO_ROOM, room
        room -= (free + -(-many // rules.block) + 1) * rules.block
        if start + many == target:
            room -= later
    _enter(state, rules, lane, r, start, units, kept, holds, now)
    grow(state, rules, lane, r, upto)
    return int(many), room


@inside
def _enter(
    state: State, rules: Rules, lane: int, r: int, start: int, units: int, kept: int, holds: bool, now: float
) -> None:
    lanes, progress = state.lanes, state.progress
    replica = lane // rules.lanes
    dequeue(state, rules, lane)
    state.running[lane, lanes[lane].live] = r
    lanes[lane].live += 1
    progress[r].stage = RUNNING
    if holds:
        lanes[lane].pinned -= 1
    else:
        if cached(state, rules):
            acquire(state, lane, r, units, kept)
        promise(state, rules, lane, r)
    if progress[r].swapped:
        back = max(-(-(progress[r].done - units * unit_of(rules)) // rules.block), 0)
        state.replicas[replica].stall_s += back * rules.swap_s
        state.tally.sums[replica, SWAPPED] += back
        progress[r].swapped = 0
    found = start - progress[r].done
    progress[r].done = start
    lanes[lane].tokens -= found
    state.tally.sums[replica, FOUND] += found
    if math.isnan(progress[r].scheduled_s):
        progress[r].scheduled_s = now
        progress[r].cached = found


@inside
def throw_out(state: State, rules: Rules, lane: int, place: int, front: bool) -> None:
    """Take a running request's blocks away and put it back into the queue, at the front or the end.

    What it computed is lost, but for what the prefix cache keeps: in vLLM and TensorRT-LLM all its full
    blocks, in SGLang those of its prompt. Or it is copied to the host, and back when it is taken in again.
    """
    lanes, progress = state.lanes, state.progress
    replica, row = lane // rules.lanes, state.running[lane]
    r = row[place]
    lanes[lane].live -= 1
    for i in range(place, lanes[lane].live):
        row[i] = row[i + 1]
    own = progress[r].done
    if rules.prefill_first and not rules.swap:
        own = min(own, state.asked[r].prompt)
    own = max(own - progress[r].shared * unit_of(rules), 0)
    end_promise(state, rules, lane, r)
    progress[r].planned = progress[r].gave = 0
    progress[r].preempted += 1
    state.tally.sums[replica, PREEMPTED] += 1
    if rules.swap:
        out = -(-own // rules.block)
        state.replicas[replica].stall_s += out * rules.swap_s
        state.tally.sums[replica, SWAPPED] += out
        progress[r].swapped = 1
        give_back(state, rules, lane, r, 0)
    else:
        give_back(state, rules, lane, r, own // rules.block)
        lanes[lane].tokens += progress[r].done
        progress[r].done = 0
    if front:
        put_back(state, rules, lane, r)
    else:
        enqueue(state, rules, lane, r)


@inside
def lose(state: State, rules: Rules, lane: int) -> None:
    """The first in the queue can never be served."""
    r = dequeue(state, rules, lane)
    progress, box = state.progress, state.outbox
    state.lanes[lane].tokens -= progress[r].target - progress[r].done
    progress[r].stage = LOST
    box.lost[box.losts[0]] = r
    box.losts[0] += 1
