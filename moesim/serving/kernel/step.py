"""One step of a replica: its lanes form batches, the step is priced, and what it brings about is noted."""

from __future__ import annotations

import math

import numpy as np

from moesim.compiled import inside
from moesim.serving.kernel.admit import decodes
from moesim.serving.kernel.batch import form
from moesim.serving.kernel.blocks import end_promise, give_back
from moesim.serving.kernel.ends import set_end
from moesim.serving.kernel.prefix import cached, register
from moesim.serving.kernel.price import Prices, seconds_of
from moesim.serving.kernel.queue import open_door
from moesim.serving.state import (
    BINS,
    BINS_PER_E,
    BLOCKS_S,
    BUSY_S,
    DECODED,
    DONE,
    GAP_LOW_S,
    HELD,
    I8,
    LOG_BLOCKS,
    LOG_DECODE,
    LOG_PREFILL,
    LOG_REPLICA,
    LOG_RUNNING,
    LOG_SECONDS,
    LOG_START,
    LOG_WAITING,
    PREFILL,
    QUERIES,
    READ,
    RUNNING_S,
    STEPS,
    WAITING_S,
    Rules,
    State,
)

__all__ = ["accrue", "begin_step", "finish_step", "leave"]


@inside
def accrue(state: State, rules: Rules, replica: int, now: float) -> None:
    """Carry the integrals of a replica up to now; to be called before anything of them changes."""
    lanes, engines, sums = state.lanes, state.replicas, state.tally.sums[replica]
    seconds = now - engines[replica].seen_s
    if seconds <= 0.0:
        return
    engines[replica].seen_s = now
    running, waiting, blocks = 0, 0, 0
    for lane in range(replica * rules.lanes, (replica + 1) * rules.lanes):
        running += lanes[lane].live
        waiting += lanes[lane].waiting
        blocks += lanes[lane].used
    sums[RUNNING_S] += running * seconds
    sums[WAITING_S] += waiting * seconds
    sums[BLOCKS_S] += blocks * seconds


@inside
def begin_step(state: State, rules: Rules, prices: Prices, replica: int, now: float, period: int) -> bool:
    """Form the batches of a replica's lanes and price them; False where there is nothing to do.

    Where a step is planned while the one before it runs, those that came meanwhile are not in it, and the
    seats and blocks of those that ended are not free for it. An engine with nothing to do looks again at
    once.
    """
    lanes, engines = state.lanes, state.replicas
    first = replica * rules.lanes
    accrue(state, rules, replica, now)
    busy = False
    while not busy:
        for lane in range(first, first + rules.lanes):
            busy = form(state, rules, lane, now) or busy
        changed = False
        for lane in range(first, first + rules.lanes):
            changed = leave(state, rules, lane) or changed
            changed = open_door(state, rules, lane) or changed
        if not changed:
            break
    if not busy:
        for lane in range(first, first + rules.lanes):
            lanes[lane].share = rules.share
        set_end(state, replica, np.inf)
        return False
    seconds = seconds_of(prices, state.load[first : first + rules.lanes], period) * engines[replica].speed
    seconds += engines[replica].stall_s
    engines[replica].stall_s = 0.0
    engines[replica].began_s = now
    set_end(state, replica, now + seconds)
    _count(state, rules, replica, now, seconds)
    return True


@inside
def leave(state: State, rules: Rules, lane: int) -> bool:
    """Free seats and blocks of those that ended; whether there were any."""
    lanes = state.lanes
    some = lanes[lane].leavers > 0
    for i in range(lanes[lane].leavers):
        r = state.leaving[lane, i]
        end_promise(state, rules, lane, r)
        give_back(state, rules, lane, r, 0)
    lanes[lane].leavers = 0
    if some:
        lanes[lane].full = 0
    return bool(some)


@inside
def finish_step(state: State, rules: Rules, replica: int) -> None:
    """Apply the step that ends: tokens are given, requests end; the outbox says which."""
    lanes, progress, box, gaps = state.lanes, state.progress, state.outbox, state.tally.gaps
    now = state.replicas[replica].end_s
    accrue(state, rules, replica, now)
    box.firsts[0] = box.finishes[0] = box.losts[0] = 0
    for lane in range(replica * rules.lanes, (replica + 1) * rules.lanes):
        row, kept = state.running[lane], 0
        for i in range(lanes[lane].live):
            r = row[i]
            p, many, given = progress[r], progress[r].planned, 1
            if many > 0 and decodes(p) and not rules.prefill_only:
                # By far the most: calls that take all of the state are kept out of their way.
                wants = state.asked[r].output
                if many > 1:
                    given = _given(p.generated, r, many, rules.seed, rules.acceptance)
                if p.generated + given < wants:
                    _note_gap(gaps, now - p.last_s, given)
                    p.last_s, p.gave, p.planned = now, 1, 0
                    p.done = p.target + given - 1
                    p.generated += given
                    p.target += given
                    row[kept] = r
                    kept += 1
                    continue
            if many > 0:
                before = progress[r].target - progress[r].done
                stays = _advance(state, rules, lane, r, many, now)
                lanes[lane].tokens -= before
                if not stays:
                    continue
                lanes[lane].tokens += progress[r].target - progress[r].done
            row[kept] = r
            kept += 1
        lanes[lane].live = kept
    set_end(state, replica, np.inf)


@inside
def _advance(state: State, rules: Rules, lane: int, r: int, many: int, now: float) -> bool:
    """Tokens of one request are computed; whether it stays in the batch."""
    lanes, progress, asked = state.lanes, state.progress, state.asked
    box, gaps = state.outbox, state.tally.gaps
    progress[r].planned = 0
    given = 1
    if decodes(state.progress[r]):
        given = _given(progress[r].generated, r, many, rules.seed, rules.acceptance)
        given = min(given, asked[r].output - progress[r].generated)
        progress[r].done = progress[r].target + given - 1
    else:
        progress[r].done += many
        if not rules.eager and cached(state, rules):
            register(state, rules, lane, r, progress[r].done)
        if progress[r].done < progress[r].target:
            return True
    if progress[r].generated == 0:
        progress[r].first_s = now
        box.first[box.firsts[0]] = r
        box.firsts[0] += 1
    else:
        _note_gap(gaps, now - progress[r].last_s, given)
    progress[r].last_s = now
    progress[r].gave = 1
    ends = progress[r].generated + given >= asked[r].output
    if rules.prefill_only and not ends:
        end_promise(state, rules, lane, r)
    progress[r].generated += given
    progress[r].target += given
    if ends:
        _end(state, rules, lane, r)
        return False
    if rules.prefill_only:
        progress[r].stage = HELD
        lanes[lane].pinned += 1
        lanes[lane].full = 0
        return False
    return True


@inside
def _end(state: State, rules: Rules, lane: int, r: int) -> None:
    lanes, box = state.lanes, state.outbox
    state.progress[r].stage = DONE
    box.finished[box.finishes[0]] = r
    box.finishes[0] += 1
    lanes[lane].full = 0
    if rules.ahead:
        state.leaving[lane, lanes[lane].leavers] = r
        lanes[lane].leavers += 1
    else:
        end_promise(state, rules, lane, r)
        give_back(state, rules, lane, r, 0)


@inside
def _note_gap(gaps: I8, seconds: float, given: int) -> None:
    """Count a gap before the first token of a step, and none between those that come with it."""
    place = int(math.log(max(seconds / GAP_LOW_S, 1.0)) * BINS_PER_E)
    gaps[min(place, BINS - 1)] += 1
    gaps[0] += given - 1


@inside
def _given(generated: int, r: int, many: int, seed: int, acceptance: float) -> int:
    """Tokens a step yields: one, and the drafts accepted before the first that was not.

    Draws depend on the request and its token alone, so that batching does not change them.
    """
    given = 1
    x = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(r) * np.uint64(0xD1B54A32D192ED03)
    x += np.uint64(generated) * np.uint64(0x8CB92BA72F3D8DD7)
    for _ in range(many - 1):
        x += np.uint64(0x9E3779B97F4A7C15)
        z = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        if np.float64(z >> np.uint64(11)) * 2.0**-53 >= acceptance:
            break
        given += 1
    return given


@inside
def _count(state: State, rules: Rules, replica: int, now: float, seconds: float) -> None:
    lanes, sums = state.lanes, state.tally.sums[replica]
    read, decoded = 0.0, 0.0
    for lane in range(replica * rules.lanes, (replica + 1) * rules.lanes):
        read += state.load[lane, PREFILL]
        decoded += state.load[lane, QUERIES]
    sums[BUSY_S] += seconds
    sums[STEPS] += 1
    sums[READ] += read
    sums[DECODED] += decoded
    at = state.tally.logged[0]
    state.tally.logged[0] += 1
    if at < len(state.tally.log):
        running, waiting, blocks = 0, 0, 0
        for lane in range(replica * rules.lanes, (replica + 1) * rules.lanes):
            running += lanes[lane].live
            waiting += lanes[lane].waiting
            blocks += lanes[lane].used
        row = state.tally.log[at]
        row[LOG_REPLICA], row[LOG_START], row[LOG_SECONDS] = replica, now, seconds
        row[LOG_PREFILL], row[LOG_DECODE] = read, decoded
        row[LOG_RUNNING], row[LOG_WAITING], row[LOG_BLOCKS] = running, waiting, blocks
