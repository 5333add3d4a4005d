"""Compiled loops: the scheduler, the rows of scheduled tokens, and loads per step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.trace.types import DECODE, PREFILL

Array = npt.NDArray[Any]

#: Places in the scheduler's state.
RUNNING, WAITING, WRITTEN, PROMPTS, PREFILLED, PAST, DECODED, CONTEXT = range(8)
STATE = 8


@compiled
def advance(
    arrival_s: Array,
    prompt: Array,
    total: Array,
    budget: int,
    most: int,
    mixed: bool,
    step_s: float,
    clock: Array,
    state: Array,
    running: Array,
    done: Array,
    request: Array,
    position: Array,
    phase: Array,
    step_ptr: Array,
    start_s: Array,
) -> int:
    """Run steps until all requests are served or there is no room for another step; return how many ran.

    Parameters
    ----------
    arrival_s, prompt, total
        Arrival, prompt tokens, and tokens that pass through the model, ``[requests]``.
    budget, most, mixed, step_s
        Tokens per step, requests at once, whether prompts share a step with decoding, and a step's seconds.
    clock, state, running, done
        What is kept between calls: the time ``[1]``, counts ``[STATE]``, running requests in order of
        admission ``[most]``, tokens done of each request ``[requests]``.
    request, position, phase
        Where the tokens scheduled are written, ``[all tokens]``.
    step_ptr, start_s
        Where the end and start of each step are written, ``[room]``.
    """
    n, steps = len(arrival_s), 0
    now, live, first, at = clock[0], state[RUNNING], state[WAITING], state[WRITTEN]
    while steps < len(step_ptr) and (live > 0 or first < n):
        if live == 0 and arrival_s[first] > now:
            now = arrival_s[first]
        start_s[steps] = now
        left, context, before = budget, 0, at
        read, past = 0, 0
        prompts = live < most and first < n and arrival_s[first] <= now
        for i in range(live):
            prompts = prompts or done[running[i]] < prompt[running[i]]
        if mixed or not prompts:
            for i in range(live):
                r = running[i]
                if done[r] >= prompt[r]:
                    request[at], position[at], phase[at] = r, done[r], DECODE
                    at += 1
                    done[r] += 1
                    context += done[r]
        decoded = at - before
        left -= decoded
        i = 0
        while prompts and left > 0:
            if i == live:
                if live == most or first == n or arrival_s[first] > now:
                    break
                running[live] = first
                live += 1
                first += 1
            r = running[i]
            i += 1
            size = min(left, prompt[r] - done[r])
            if size <= 0:
                continue
            for j in range(size):
                request[at], position[at], phase[at] = r, done[r] + j, PREFILL
                at += 1
            read += 1
            past += done[r]
            done[r] += size
            left -= size
        kept = 0
        for i in range(live):
            if done[running[i]] < total[running[i]]:
                running[kept] = running[i]
                kept += 1
        live = kept
        state[PROMPTS], state[PREFILLED], state[PAST] = read, at - before - decoded, past
        state[DECODED], state[CONTEXT] = decoded, context
        step_ptr[steps] = at
        steps += 1
        now += step_s
    clock[0], state[RUNNING], state[WAITING], state[WRITTEN] = now, live, first, at
    return steps


@compiled
def rows_of(
    request: Array,
    position: Array,
    phase: Array,
    prompt: Array,
    sequence: Array,
    parts: Array,
    order: Array,
    resample: bool,
    seed: int,
    rows: Array,
) -> int:
    """Row of the trace that each scheduled token takes; return how many lie beyond their sequence's end.

    Parameters
    ----------
    request, position, phase
        Scheduled tokens ``[tokens]``.
    prompt, sequence
        Prompt tokens and routing sequence of each request ``[requests]``.
    parts
        Start and length of each sequence's prefill and decode rows in `order`, int64 ``[sequences, 4]``; a
        sequence with one phase alone has it twice.
    order
        Rows of the trace, sequence after sequence.
    resample
        Whether a token beyond the end takes a row of another sequence; else it starts over.
    seed
        Which other sequence.
    rows
        Where the rows are written ``[tokens]``.
    """
    beyond = 0
    for t in range(len(request)):
        r = request[t]
        s, kind = sequence[r], 2 * phase[t]
        start, length, at = parts[s, kind], parts[s, kind + 1], position[t]
        # With both phases recorded, decoding has rows of its own, counted from its first token.
        if phase[t] == DECODE and parts[s, 0] != parts[s, 2]:
            at -= prompt[r]
        if at >= length:
            beyond += 1
            turn, at = at // length, at % length
            if resample:
                # Counter-based: splitmix64 of seed, request, turn and phase.
                x = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(r)
                x = x * np.uint64(0x9E3779B97F4A7C15) + np.uint64(2 * turn + phase[t])
                x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                x = x ^ (x >> np.uint64(31))
                s = np.int64(x % np.uint64(len(parts)))
                start = parts[s, kind]
                at %= parts[s, kind + 1]
        rows[t] = order[start + at]
    return beyond


@compiled
def count_steps(ids: Array, rows: Array, step_ptr: Array, every: int, counts: Array) -> None:
    """Add the selections of every step to `counts` ``[steps, layers, experts]``.

    `ids` are ``[tokens, layers, top_k]``; `every` neighbouring steps are counted as one.
    """
    for step in range(len(step_ptr) - 1):
        to = step // every
        for t in range(step_ptr[step], step_ptr[step + 1]):
            row = rows[t]
            for layer in range(ids.shape[1]):
                for j in range(ids.shape[2]):
                    counts[to, layer, ids[row, layer, j]] += 1.0
