"""Which replica each rank of SGLang is given for good, drawn as SGLang draws it.

A rank takes a replica of its own; else the first of its node, if its node has some but not all of them;
else what a generator gives it. Every rank has a generator of its own, Python's Mersenne twister with one
seed, which runs on from layer to layer and meets only the experts that have no replica near *this* rank. For
such an expert it shuffles as fair a list as there is, over all the ranks that have none near, and the rank
takes its own place in it. Each shuffles a list of its own, so what all of them take together is not fair.

What is drawn thus depends, expert by expert in order, on how many replicas there are and on which ranks have
one near; and on nothing about the experts that have a single replica.

The rules were read in ``expert_location.py`` of sglang 0.5.23, as it treats a plan that comes from a file
when it has an all-to-all backend; the generator is that of Python's `random.sample` and `random.shuffle`.
"""

from __future__ import annotations

import math
import random

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

IntArray = npt.NDArray[np.int64]
StateArray = npt.NDArray[np.uint64]

#: Words of the generator's state; the last one counts those used up.
_WORDS = 624


def generators(seed: int, ranks: int) -> StateArray:
    """State of each rank's generator, all alike, uint64 ``[ranks, 625]``."""
    return np.tile(np.array(random.Random(seed).getstate()[1], dtype=np.uint64), (ranks, 1))


def _next(state: StateArray) -> np.uint64:
    """Give the next 32 bits of one generator."""
    at = np.int64(state[624])
    if at >= 624:
        for k in range(624):
            y = (state[k] & np.uint64(0x80000000)) | (state[(k + 1) % 624] & np.uint64(0x7FFFFFFF))
            twist = np.uint64(0x9908B0DF) if y & np.uint64(1) else np.uint64(0)
            state[k] = state[(k + 397) % 624] ^ (y >> np.uint64(1)) ^ twist
        at = np.int64(0)
    y = state[at]
    state[624] = np.uint64(at + 1)
    y ^= y >> np.uint64(11)
    y ^= (y << np.uint64(7)) & np.uint64(0x9D2C5680)
    y ^= (y << np.uint64(15)) & np.uint64(0xEFC60000)
    y ^= y >> np.uint64(18)
    return np.uint64(y)


_next_word = compiled(_next)


def _bounded(state: StateArray, limit: int) -> np.int64:
    """Draw a number below `limit`: as many bits as it has, again and again until they fit."""
    bits = 0
    while limit >> bits:
        bits += 1
    shift = np.uint64(32 - bits)
    found = np.int64(_next_word(state) >> shift)
    while found >= limit:
        found = np.int64(_next_word(state) >> shift)
    return found


_below = compiled(_bounded)


def _fair(state: StateArray, choices: IntArray, number: int, found: IntArray) -> None:
    """Shuffle into `found` a list of `number` choices, each as often as the others or once more."""
    many = len(choices)
    whole = number // many
    for i in range(whole * many):
        found[i] = choices[i % many]
    rest = number - whole * many
    # Python samples from a shrinking pool, or from a set where the pool would be much larger than the sample.
    pooled = many <= 21 or (rest > 5 and many <= 21 + 4 ** math.ceil(math.log(rest * 3) / math.log(4)))
    pool = choices.copy()
    taken = np.zeros(many, dtype=np.bool_)
    for i in range(rest):
        if pooled:
            j = _below(state, many - i)
            found[whole * many + i] = pool[j]
            pool[j] = pool[many - i - 1]
        else:
            j = _below(state, many)
            while taken[j]:
                j = _below(state, many)
            taken[j] = True
            found[whole * many + i] = choices[j]
    for i in range(number - 1, 0, -1):
        j = _below(state, i + 1)
        found[i], found[j] = found[j], found[i]


_fair_choices = compiled(_fair)


def _layer(
    replicas: IntArray,
    copies: IntArray,
    room: int,
    per_node: int,
    states: StateArray,
    draw: bool,
    chosen: IntArray,
) -> None:
    """Choose the slot that each rank sends to, for one layer.

    Parameters
    ----------
    replicas, copies
        Slots of each expert in order, ``[experts, most]``, and how many there are, ``[experts]``.
    room, per_node
        Slots of a rank, ranks of a node.
    states
        Generators ``[ranks, 625]``, which run on.
    draw
        Whether to ask them; else -1 stands where they would be asked.
    chosen
        Where the slots go, ``[ranks, experts]``.
    """
    ranks, experts = chosen.shape
    open_ranks = np.empty(ranks, dtype=np.int64)
    shuffled = np.empty(ranks, dtype=np.int64)
    for e in range(experts):
        many = copies[e]
        number = 0
        for k in range(ranks):
            near, own, first = 0, np.int64(-1), np.int64(-1)
            for i in range(many):
                rank = replicas[e, i] // room
                if rank == k:
                    own = replicas[e, i]
                if rank // per_node == k // per_node:
                    if near == 0:
                        first = replicas[e, i]
                    near += 1
            if own >= 0:
                chosen[k, e] = own
            elif many == 1:
                chosen[k, e] = replicas[e, 0]
            elif 0 < near < many:
                chosen[k, e] = first
            else:
                chosen[k, e] = -1
                open_ranks[number] = k
                number += 1
        if draw:
            for j in range(number):
                k = open_ranks[j]
                _fair_choices(states[k], replicas[e, :many], number, shuffled)
                chosen[k, e] = shuffled[j]


draw_layer = compiled(_layer)
