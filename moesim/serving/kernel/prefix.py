"""The free blocks of a lane, in the order in which they will be taken, and the prefixes that they still keep.

As in vLLM's block pool there is one queue of free blocks: blocks are taken from its old end, and those given
back go to its new end, the last block of a request first; a free block keeps what it holds until it is taken
(``vllm/v1/core/block_pool.py``). SGLang's radix tree and TensorRT-LLM's block reuse also evict what was used
longest ago, leaves first, which is the same order.

An entry of the queue is one of three things: a *unit*, the blocks of a prompt that one name of the trace
stands for (several names where blocks are larger), found through a hash table by the names up to its own;
the blocks *kept* for a request that was thrown out; or *empty* blocks, which nobody will ask for: ends of
prompts and outputs, whose names a trace does not tell. Neighbouring empty entries are one, so that the queue
is as short as what is worth finding. Units in use are not in the queue, but in the table.
"""

from __future__ import annotations

import numpy as np

from moesim.compiled import inside
from moesim.serving.state import EMPTY, I4, UNIT, Records, Rules, State


@inside
def cached(state: State, rules: Rules) -> bool:
    """Whether free blocks keep anything."""
    return rules.caching and state.entries.shape[1] > 1


@inside
def unit_of(rules: Rules) -> int:
    """Tokens of a unit; 0 where prompts have no names. As `moesim.serving.state.unit_tokens`."""
    a, b = rules.hash_tokens, rules.block
    if a == 0 or not rules.caching:
        return 0
    while b:
        a, b = b, a % b
    return rules.hash_tokens // a * rules.block


@inside
def next_key(state: State, rules: Rules, r: int, unit: int, u: int, key: np.int64) -> np.int64:
    """The key of unit u of a prompt, from that of the one before: names may recur behind other prefixes."""
    many = unit // rules.hash_tokens
    at = state.asked[r].hash_at + u * many
    x = np.uint64(key)
    for i in range(many):
        x = (x ^ np.uint64(state.hashes[at + i])) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        x ^= x >> np.uint64(32)
    return np.int64(x)


@inside
def units_in(state: State, rules: Rules, r: int, unit: int, tokens: int) -> int:
    """Full units among the first tokens of a request; only prompts have names."""
    if unit == 0:
        return 0
    named = state.asked[r].names * rules.hash_tokens
    return int(min(tokens, state.asked[r].prompt, named) // unit)


@inside
def _find(row: Records, table: I4, key: np.int64) -> int:
    mask = len(table) - 1
    place = np.int64(key) & mask
    while table[place]:
        e = table[place] - 1
        if row[e].key == key:
            return int(e)
        place = (place + 1) & mask
    return -1


@inside
def _insert(row: Records, table: I4, e: int) -> None:
    mask = len(table) - 1
    place = row[e].key & mask
    while table[place]:
        place = (place + 1) & mask
    table[place] = e + 1


@inside
def _remove(row: Records, table: I4, e: int) -> None:
    """Take a unit out of the table; those behind it move up, so that no tombstones are needed."""
    mask = len(table) - 1
    place = row[e].key & mask
    while table[place] != e + 1:
        place = (place + 1) & mask
    ahead = place
    while True:
        ahead = (ahead + 1) & mask
        other = table[ahead]
        if other == 0:
            break
        home = row[other - 1].key & mask
        if ((ahead - home) & mask) >= ((ahead - place) & mask):
            table[place] = other
            place = ahead
    table[place] = 0


@inside
def _new(row: Records, here: Records, owner: int, blocks: int) -> int:
    """An entry in no queue; `_cache_sizes` has made room for all that can be."""
    e = here.spare
    if e >= 0:
        here.spare = row[e].newer
    else:
        e = here.fresh
        here.fresh += 1
    row[e].owner, row[e].blocks, row[e].refs = owner, blocks, 0
    return int(e)


@inside
def _drop(row: Records, here: Records, e: int) -> None:
    row[e].newer = here.spare
    here.spare = e


@inside
def _append(row: Records, here: Records, e: int) -> None:
    """Put an entry at the new end of the free ones."""
    last = here.newest
    row[e].older, row[e].newer = last, -1
    if last >= 0:
        row[last].newer = e
    else:
        here.oldest = e
    here.newest = e


@inside
def _cut(row: Records, here: Records, e: int) -> None:
    before, after = row[e].older, row[e].newer
    if before >= 0:
        row[before].newer = after
    else:
        here.oldest = after
    if after >= 0:
        row[after].older = before
    else:
        here.newest = before


@inside
def _unlink(row: Records, here: Records, e: int) -> None:
    """Take an entry out of the free ones; empty ones that become neighbours are one from then on."""
    before, after = row[e].older, row[e].newer
    _cut(row, here, e)
    if before >= 0 and after >= 0 and row[before].owner == EMPTY and row[after].owner == EMPTY:
        row[before].blocks += row[after].blocks
        _cut(row, here, after)
        _drop(row, here, after)


@inside
def give(row: Records, here: Records, blocks: int) -> None:
    """Blocks that nobody will ask for become free."""
    if blocks == 0:
        return
    last = here.newest
    if last >= 0 and row[last].owner == EMPTY:
        row[last].blocks += blocks
    else:
        _append(row, here, _new(row, here, EMPTY, blocks))


@inside
def take(row: Records, here: Records, table: I4, progress: Records, blocks: int) -> None:
    """Take free blocks, as many as there are at least; what they kept is forgotten."""
    while blocks > 0:
        e = here.oldest
        owner = row[e].owner
        if owner == UNIT:
            # Units are found whole: what is left of one is of no use.
            _remove(row, table, e)
            row[e].owner = EMPTY
            after = row[e].newer
            if after >= 0 and row[after].owner == EMPTY:
                row[e].blocks += row[after].blocks
                _cut(row, here, after)
                _drop(row, here, after)
        some = min(blocks, row[e].blocks)
        row[e].blocks -= some
        blocks -= some
        if row[e].blocks == 0:
            if owner >= 0:
                progress[owner].kept = 0
                here.keeps -= 1
            _cut(row, here, e)
            _drop(row, here, e)


@inside
def empty_cache(state: State, rules: Rules, lane: int) -> None:
    """Forget everything; all blocks that are not in use are empty. No request may hold units."""
    if not cached(state, rules):
        return
    row, here = state.entries[lane], state.lanes[lane]
    e = here.oldest
    while e >= 0:
        if row[e].owner >= 0:
            state.progress[row[e].owner].kept = 0
        e = row[e].newer
    state.table[lane, :] = 0
    here.oldest = here.newest = here.spare = -1
    here.fresh = here.keeps = 0
    give(row, here, here.capacity - here.used)


@inside
def match(state: State, rules: Rules, lane: int, r: int) -> tuple[int, int, int]:
    """What of a request is in the cache of a lane: units, blocks kept for itself, and free blocks among both.

    The places of the units are noted for `acquire`.
    """
    row, table, p = state.entries[lane], state.table[lane], state.progress[r]
    unit, at = unit_of(rules), state.asked[r].hash_at
    units, free, key = 0, 0, np.int64(0)
    for u in range(units_in(state, rules, r, unit, p.target)):
        key = next_key(state, rules, r, unit, u, key)
        e = _find(row, table, key)
        if e < 0:
            break
        state.slots[at + u] = e
        if row[e].refs == 0:
            free += row[e].blocks
        units += 1
    kept, e = 0, p.kept - 1
    # They lie behind the units that it held then.
    if e >= 0 and p.lane == lane and row[e].key == units:
        kept = int(row[e].blocks)
    return units, kept, free + kept


@inside
def found_tokens(state: State, rules: Rules, r: int, lane: int) -> int:
    """Prompt tokens of a request that a lane would not have to compute; one is always computed.

    vLLM computes the last block anew where all are found (``kv_cache_manager.get_computed_blocks``).
    """
    if not cached(state, rules):
        return 0
    units, kept, _ = match(state, rules, lane, r)
    found = units * unit_of(rules) + kept * rules.block
    return int(min(found, (state.progress[r].target - 1) // rules.block * rules.block))


@inside
def acquire(state: State, lane: int, r: int, units: int, kept: int) -> None:
    """Hold what `match` found."""
    row, here, p = state.entries[lane], state.lanes[lane], state.progress[r]
    at = state.asked[r].hash_at
    for u in range(units):
        _hold(row, here, state.slots[at + u])
    p.shared = units
    e = p.kept - 1
    if e < 0:
        return
    p.kept = 0
    here.keeps -= 1
    _unlink(row, here, e)
    if kept:
        p.held += kept
        here.used += kept
    else:
        give(row, here, row[e].blocks)
    _drop(row, here, e)


@inside
def _hold(row: Records, here: Records, e: int) -> None:
    if row[e].refs == 0:
        _unlink(row, here, e)
        here.used += row[e].blocks
    row[e].refs += 1


@inside
def register(state: State, rules: Rules, lane: int, r: int, tokens: int) -> None:
    """Units that are full with so many tokens can be found from now on.

    Where another request filled the same unit meanwhile, the request gives its copy back and shares the other
    (SGLang; vLLM keeps both until they end).
    """
    p, unit = state.progress[r], unit_of(rules)
    full = units_in(state, rules, r, unit, tokens)
    if full <= p.shared:
        return
    row, here, table = state.entries[lane], state.lanes[lane], state.table[lane]
    at, blocks = state.asked[r].hash_at, unit // rules.block
    key = np.int64(0)
    if p.shared:
        key = row[state.slots[at + p.shared - 1]].key
    for u in range(p.shared, full):
        key = next_key(state, rules, r, unit, u, key)
        e = _find(row, table, key)
        if e < 0:
            e = _new(row, here, UNIT, blocks)
            row[e].key, row[e].refs = key, 1
            _insert(row, table, e)
        else:
            here.used -= blocks
            give(row, here, blocks)
            _hold(row, here, e)
        p.held -= blocks
        p.shared += 1
        state.slots[at + u] = e


@inside
def release(state: State, rules: Rules, lane: int, r: int, keep: int) -> None:
    """Free all blocks of a request, the last first; so many of its own, in front, are kept for it."""
    row, here, p = state.entries[lane], state.lanes[lane], state.progress[r]
    here.used -= p.held
    if keep > 0 and here.keeps < state.running.shape[1]:
        give(row, here, p.held - keep)
        e = _new(row, here, r, keep)
        row[e].key = p.shared
        _append(row, here, e)
        here.keeps += 1
        p.kept = e + 1
    else:
        give(row, here, p.held)
    p.held = 0
    at, unit = state.asked[r].hash_at, unit_of(rules)
    for u in range(p.shared - 1, -1, -1):
        e = state.slots[at + u]
        row[e].refs -= 1
        if row[e].refs == 0:
            here.used -= row[e].blocks
            if (u + 1) * unit > p.done:
                # It was thrown out before it could fill what it had promised.
                _remove(row, state.table[lane], e)
                give(row, here, row[e].blocks)
                _drop(row, here, e)
            else:
                _append(row, here, e)
    p.shared = 0
