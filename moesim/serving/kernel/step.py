"""One step of a replica: who is in it, how long it takes, what it brings about."""

from __future__ import annotations

import math

import numpy as np

from moesim.compiled import compiled
from moesim.serving.kernel.price import Prices, seconds_of
from moesim.serving.kernel.queue import dequeue, enqueue, put_back
from moesim.serving.state import (
    BINS,
    BINS_PER_E,
    BLOCKS_S,
    BUSY_S,
    CONTEXT,
    DECODED,
    DONE,
    GAP_LOW_S,
    LOG_BLOCKS,
    LOG_DECODE,
    LOG_PREFILL,
    LOG_REPLICA,
    LOG_RUNNING,
    LOG_SECONDS,
    LOG_START,
    LOG_WAITING,
    PAIRS,
    PREEMPTED,
    PREFILL,
    PROMPTS,
    QUERIES,
    READ,
    RUNNING,
    RUNNING_S,
    SEQUENCES,
    STEPS,
    STORED,
    WAITING_S,
    Rules,
    State,
)

__all__ = ["begin_step", "enqueue", "finish_step"]


@compiled
def begin_step(state: State, rules: Rules, prices: Prices, replica: int, now: float, period: int) -> bool:
    """Form the batches of a replica's lanes and price them; False where there is nothing to do."""
    lanes, engines = state.lanes, state.replicas
    first = replica * rules.lanes
    busy = False
    for lane in range(first, first + rules.lanes):
        _form(state, rules, lane, now)
        busy = busy or lanes.load[lane, PREFILL] + lanes.load[lane, QUERIES] > 0
    if not busy:
        engines.end_s[replica] = np.inf
        return False
    seconds = seconds_of(prices, lanes.load[first : first + rules.lanes], period) * engines.speed[replica]
    seconds += engines.stall_s[replica]
    engines.stall_s[replica] = 0.0
    engines.began_s[replica], engines.end_s[replica] = now, now + seconds
    _count(state, rules, replica, now, seconds)
    return True


@compiled
def _form(state: State, rules: Rules, lane: int, now: float) -> None:
    """Choose what a lane computes: running requests first, then those that wait, within the budget."""
    lanes, progress = state.lanes, state.progress
    load, row = lanes.load[lane], lanes.running[lane]
    load[:] = 0.0
    left, thrown = rules.budget, False
    i = 0
    while i < lanes.live[lane] and left > 0:
        r = row[i]
        many = progress.target[r] - progress.done[r]
        if many == 1:
            many += rules.drafts
        many = min(many, left)
        while not _grow(state, rules, lane, r, many):
            # The last one admitted gives its blocks back and computes all anew, later.
            last = row[lanes.live[lane] - 1]
            _throw_out(state, rules, lane)
            thrown = True
            if last == r:
                break
        if progress.stage[r] != RUNNING:
            break
        _plan(state, load, r, many)
        left -= many
        i += 1
    while left > 0 and not thrown and lanes.live[lane] < rules.most and lanes.waiting[lane] > 0:
        r = lanes.head[lane]
        many = progress.target[r] - progress.done[r]
        if many > left:
            if not rules.chunked and load[PREFILL] + load[QUERIES] > 0:
                break
            many = left
        if not _grow(state, rules, lane, r, many):
            break
        dequeue(state, lane)
        row[lanes.live[lane]] = r
        lanes.live[lane] += 1
        progress.stage[r] = RUNNING
        if math.isnan(progress.scheduled_s[r]):
            progress.scheduled_s[r] = now
        _plan(state, load, r, many)
        left -= many


@compiled
def _plan(state: State, load: np.ndarray, r: int, many: int) -> None:
    progress = state.progress
    done = progress.done[r]
    progress.planned[r] = many
    if progress.generated[r] > 0 and done + 1 >= progress.target[r]:
        load[SEQUENCES] += 1
        load[QUERIES] += many
        load[CONTEXT] += done + 1
    else:
        load[PROMPTS] += 1
        load[PREFILL] += many
        load[PAIRS] += many * (done + many / 2.0)
        load[STORED] += done + many


@compiled
def _grow(state: State, rules: Rules, lane: int, r: int, many: int) -> bool:
    """Take the blocks that so many more tokens of a request need; False where there are too few."""
    lanes, progress = state.lanes, state.progress
    own = progress.done[r] + many - progress.shared[r] * rules.hash_tokens
    need = -(-own // rules.block) - progress.held[r]
    if need <= 0:
        return True
    if lanes.used[lane] + need > lanes.capacity[lane]:
        return False
    lanes.used[lane] += need
    progress.held[r] += need
    return True


@compiled
def _release(state: State, lane: int, r: int) -> None:
    state.lanes.used[lane] -= state.progress.held[r]
    state.progress.held[r] = 0


@compiled
def _throw_out(state: State, rules: Rules, lane: int) -> None:
    lanes, progress = state.lanes, state.progress
    lanes.live[lane] -= 1
    r = lanes.running[lane, lanes.live[lane]]
    _release(state, lane, r)
    lanes.tokens[lane] += progress.done[r]
    progress.done[r] = 0
    progress.planned[r] = 0
    progress.preempted[r] += 1
    state.tally.sums[lane // rules.lanes, PREEMPTED] += 1
    put_back(state, lane, r)


@compiled
def finish_step(state: State, rules: Rules, replica: int) -> None:
    """Apply the step that ends: tokens are given, requests end; the outbox says which."""
    lanes, progress, box, tally = state.lanes, state.progress, state.outbox, state.tally
    now = state.replicas.end_s[replica]
    box.firsts[0] = 0
    box.finishes[0] = 0
    for lane in range(replica * rules.lanes, (replica + 1) * rules.lanes):
        row, kept = lanes.running[lane], 0
        for i in range(lanes.live[lane]):
            r = row[i]
            many = progress.planned[r]
            progress.planned[r] = 0
            decodes = progress.generated[r] > 0 and progress.done[r] + 1 >= progress.target[r]
            progress.done[r] += many
            lanes.tokens[lane] -= many
            if many > 0 and progress.done[r] >= progress.target[r]:
                given = _given(progress.generated[r], r, many, rules) if decodes else 1
                given = min(given, state.asked.output[r] - progress.generated[r])
                if progress.generated[r] == 0:
                    progress.first_s[r] = now
                    box.first[box.firsts[0]] = r
                    box.firsts[0] += 1
                else:
                    place = int(math.log(max((now - progress.last_s[r]) / GAP_LOW_S, 1.0)) * BINS_PER_E)
                    tally.gaps[min(place, BINS - 1)] += 1
                    # Tokens of one step come together.
                    tally.gaps[0] += given - 1
                progress.last_s[r] = now
                progress.generated[r] += given
                progress.done[r] = progress.target[r] + given - 1
                progress.target[r] += given
                if progress.generated[r] >= state.asked.output[r]:
                    _release(state, lane, r)
                    progress.stage[r] = DONE
                    box.finished[box.finishes[0]] = r
                    box.finishes[0] += 1
                    continue
                lanes.tokens[lane] += 1
            row[kept] = r
            kept += 1
        lanes.live[lane] = kept
    state.replicas.end_s[replica] = np.inf


@compiled
def _given(generated: int, r: int, many: int, rules: Rules) -> int:
    """Tokens a step yields: one, and the drafts accepted before the first that was not."""
    given = 1
    x = np.uint64(rules.seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(r) * np.uint64(0xD1B54A32D192ED03)
    x += np.uint64(generated)
    for _ in range(many - 1):
        x += np.uint64(0x9E3779B97F4A7C15)
        z = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        if np.float64(z >> np.uint64(11)) * 2.0**-53 >= rules.acceptance:
            break
        given += 1
    return given


@compiled
def _count(state: State, rules: Rules, replica: int, now: float, seconds: float) -> None:
    lanes, sums = state.lanes, state.tally.sums[replica]
    running, waiting, blocks, read, decoded = 0, 0, 0, 0.0, 0.0
    for lane in range(replica * rules.lanes, (replica + 1) * rules.lanes):
        running += lanes.live[lane]
        waiting += lanes.waiting[lane]
        blocks += lanes.used[lane]
        read += lanes.load[lane, PREFILL]
        decoded += lanes.load[lane, QUERIES]
    sums[BUSY_S] += seconds
    sums[STEPS] += 1
    sums[READ] += read
    sums[DECODED] += decoded
    sums[RUNNING_S] += running * seconds
    sums[WAITING_S] += waiting * seconds
    sums[BLOCKS_S] += blocks * seconds
    at = state.tally.logged[0]
    state.tally.logged[0] += 1
    if at < len(state.tally.log):
        row = state.tally.log[at]
        row[LOG_REPLICA], row[LOG_START], row[LOG_SECONDS] = replica, now, seconds
        row[LOG_PREFILL], row[LOG_DECODE] = read, decoded
        row[LOG_RUNNING], row[LOG_WAITING], row[LOG_BLOCKS] = running, waiting, blocks
