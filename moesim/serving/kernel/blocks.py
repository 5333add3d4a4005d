"""Blocks of the cache that requests take and give back."""

from __future__ import annotations

from moesim.compiled import inside
from moesim.serving.kernel.prefix import cached, give, match, release, take, unit_of
from moesim.serving.state import I4, Records, Rules, State

#: Admissions, as `moesim.serving.settings.ADMISSIONS` counts them.
NEXT_CHUNK, WHOLE_OUTPUT, SHARE_OF_OUTPUT, WHOLE_PROMPT = range(4)


@inside
def fill_lanes(state: State, rules: Rules) -> None:
    """Make all blocks of new lanes free."""
    if cached(state, rules):
        for lane in range(len(state.lanes)):
            if state.lanes[lane].fresh == 0:
                give(state.entries[lane], state.lanes[lane], state.lanes[lane].capacity)


@inside
def free_blocks(state: State, lane: int) -> int:
    """Blocks that can be taken."""
    return int(state.lanes[lane].capacity - state.lanes[lane].used)


@inside
def peak(state: State, rules: Rules, r: int) -> int:
    """Tokens a request has in the cache at most: its last is never computed, but drafts are."""
    if rules.prefill_only:
        given = min(state.progress[r].generated, state.asked[r].output - 1)
        return int(state.asked[r].prompt + given)
    return int(state.asked[r].prompt + state.asked[r].output - 1 + rules.drafts)


@inside
def look_up(state: State, rules: Rules, lane: int, r: int) -> tuple[int, int, int]:
    """Units in the prefix cache, blocks kept for the request, and free blocks among both."""
    if not cached(state, rules):
        return 0, 0, 0
    return match(state, rules, lane, r)


@inside
def lacks(p: Records, unit: int, block: int, tokens: int) -> int:
    """Blocks a request lacks to have so many tokens in the cache."""
    return int(max(-(-(tokens - p.shared * unit) // block) - p.held, 0))


@inside
def need(state: State, rules: Rules, r: int, tokens: int) -> int:
    """As `lacks`, for who does not know the unit."""
    return lacks(state.progress[r], unit_of(rules), rules.block, tokens)


@inside
def grow(state: State, rules: Rules, lane: int, r: int, tokens: int) -> bool:
    """Take the blocks a request lacks to have so many tokens in the cache; False where there are too few."""
    lanes, progress = state.lanes, state.progress
    many = need(state, rules, r, tokens)
    if many == 0:
        return True
    if many > free_blocks(state, lane):
        return False
    keeps, whole = cached(state, rules), rules.admission == WHOLE_OUTPUT
    draw(state.entries[lane], lanes[lane], state.table[lane], progress, progress[r], many, keeps, whole)
    return True


@inside
def draw(
    row: Records,
    here: Records,
    table: I4,
    progress: Records,
    p: Records,
    many: int,
    keeps: bool,
    whole: bool,
) -> None:
    """Give a request blocks that are free; of a lane whose free blocks keep something, or were promised."""
    if many == 0:
        return
    if keeps:
        take(row, here, table, progress, many)
    here.used += many
    p.held += many
    if whole:
        here.promised -= many


@inside
def promise(state: State, rules: Rules, lane: int, r: int) -> None:
    """Set aside what a request that is taken in will need until its end."""
    if rules.admission == WHOLE_OUTPUT:
        state.lanes[lane].promised += need(state, rules, r, peak(state, rules, r))


@inside
def end_promise(state: State, rules: Rules, lane: int, r: int) -> None:
    """A request will need no more than it has."""
    if rules.admission == WHOLE_OUTPUT:
        state.lanes[lane].promised -= need(state, rules, r, peak(state, rules, r))


@inside
def give_back(state: State, rules: Rules, lane: int, r: int, keep: int) -> None:
    """Free all blocks of a request; a prefix cache keeps so many of its own, in front, for it."""
    lanes, progress = state.lanes, state.progress
    if cached(state, rules):
        release(state, rules, lane, r, keep)
    else:
        lanes[lane].used -= progress[r].held
        progress[r].held = 0
