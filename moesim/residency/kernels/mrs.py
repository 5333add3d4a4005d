"""Decayed router scores (HybriMoE's minus-recent-score cache), exact and without a scan of all residents.

At every step the scores of all experts decay alike, ``S <- (1 - alpha) S``, and those asked for gain
``alpha`` times their router weight. What is not asked for keeps its place in the order. So scores are kept
undecayed, ``G = S / (1 - alpha)^t``, in one number each; a resident lies in a bucket by the leading bits of
its ``G``, and the victim is the least of the lowest bucket that holds anything.

With ``alpha = 0.5`` the scale is a power of two and ``G`` rounds exactly as ``S`` does in float64, except
that it never runs into denormal numbers: experts asked for long ago keep their order. Of equal scores the
lower member leaves.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled, trailing_zeros
from moesim.errors import ConfigError, Fault
from moesim.residency.kernels.accesses import FIRST, FULL, HIT, Ids, Outcomes, PoolAccesses

#: Powers of two that scores grow by before all are scaled back.
GROWTH = 64
#: Scores below it when scaled back are aged instead: they count as ``G * 2^(-GROWTH * age)``. What an aged
#: expert adds to its next score is less than half a unit in the last place of any weight above 2^-79.
AGED = 2.0**-70
#: Buckets: of the aged and of scores of 0, then one for each power of two. Beyond the last, one for all.
BUCKETS = 224
#: Biased exponent of float64 that bucket 1 begins with: 2^-134, the least that is not aged.
LOWEST = 1023 - 134


def mrs(accesses: PoolAccesses, out: Outcomes) -> None:
    """Victim: the expert of the lowest decayed score.

    ``alpha`` is the part of the newest weights (0.5 in HybriMoE's code). HybriMoE adds the ``2 k`` best
    scores of a token; a trace that holds the ``k`` chosen ones has no more. Scores are updated before the
    lookups of a step: the gate has spoken. In a pool that layers share, all of them decay once a step.
    """
    a = accesses
    if not len(a.items):
        return
    alpha = float(a.parameters.get("alpha", 0.5))
    faults = []
    if not 0 < alpha < 1:
        faults.append(Fault("is not between 0 and 1", "alpha", alpha))
    if a.weights is None:
        faults.append(Fault("needs router weights, which the trace does not have", "rule", "mrs"))
    elif a.weights.min(initial=0) < 0:
        faults.append(Fault("needs router weights from 0", "weights", float(a.weights.min())))
    if faults:
        raise ConfigError(faults)
    growth = 1 / (1 - alpha)
    window = max(1, int(GROWTH / math.log2(growth)))
    power = growth ** np.arange(window + 1, dtype=np.float64)
    score = np.zeros(a.num_members)
    bits = score.view(np.uint64)
    assert a.weights is not None
    _mrs(
        a.items, a.weights, a.cells, a.cell_steps, a.ends, a.slots, a.start, a.batch, alpha, power,
        score, bits, out,
    )  # fmt: skip


@compiled
def _mrs(
    items: Ids,
    weights: npt.NDArray[np.float32],
    cells: npt.NDArray[np.int64],
    cell_steps: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int64],
    slots: int,
    start: npt.NDArray[np.int32],
    batch: bool,
    alpha: float,
    power: npt.NDArray[np.float64],
    score: npt.NDArray[np.float64],
    bits: npt.NDArray[np.uint64],
    out: Outcomes,
) -> None:
    """`bits` are those of `score`; unsigned indices spare numba the question whether they are negative."""
    none, one, six, low6 = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63)
    fraction, lowest, last = np.uint64(52), np.uint64(LOWEST), np.uint64(BUCKETS - 1)
    away = np.uint64(BUCKETS)
    members = len(score)
    words = np.uint64((members + 63) >> 6)
    window = len(power) - 1
    back = 1 / power[window]
    rows = np.zeros(np.uint64(BUCKETS) * words, np.uint64)  # who is in which bucket
    age = np.zeros(members, np.int32)
    bucket = np.full(members, BUCKETS, np.uint64)
    seen = np.zeros(members, np.bool_)
    c = 0
    for segment in range(len(ends) - 1):
        rows[:] = 0
        score[:] = 0
        age[:] = 0
        bucket[:] = away
        seen[:] = False
        for item in start:
            x = np.uint64(item)
            rows[x >> six] |= one << (x & low6)
            bucket[x] = none
            seen[x] = True
        held, low, grown = len(start), none, 0
        before = np.int64(-1)
        while c < len(cells) - 1 and cells[c] < ends[segment + 1]:
            begin, end = cells[c], cells[c + 1]
            if np.int64(cell_steps[c]) != before:
                before = np.int64(cell_steps[c])
                grown += 1
            if grown > window:
                grown = 1
                rows[:] = 0
                low = last
                for y in range(members):
                    x = np.uint64(y)
                    if score[x] >= AGED:
                        score[x] *= back
                    elif score[x] > 0:
                        age[x] += 1
                    if bucket[x] != away:
                        b = none
                        if score[x] > 0 and age[x] == 0:
                            b = min(max((bits[x] >> fraction) - lowest, one), last)
                        bucket[x] = b
                        rows[b * words + (x >> six)] |= one << (x & low6)
                        low = min(low, b)
            gain = alpha * power[grown]
            others = held
            for i in range(begin, end):
                x = np.uint64(items[i])
                more = weights[i] * gain
                b = bucket[x]
                if more > 0:
                    score[x] = more if age[x] else score[x] + more
                    age[x] = 0
                if batch:
                    # Out of the buckets while others leave.
                    out[i] = HIT if b != away else 0
                    if b != away:
                        rows[b * words + (x >> six)] &= ~(one << (x & low6))
                        others -= 1
                elif b != away and more > 0:
                    to = min(max((bits[x] >> fraction) - lowest, one), last)
                    rows[b * words + (x >> six)] &= ~(one << (x & low6))
                    rows[to * words + (x >> six)] |= one << (x & low6)
                    bucket[x] = to
            for i in range(begin, end):
                x = np.uint64(items[i])
                if bucket[x] != away:
                    if not batch:
                        out[i] = HIT
                    continue
                code = 0 if seen[x] else FIRST
                seen[x] = True
                if held < slots:
                    held += 1
                elif not others and batch:
                    code |= FULL
                    held += 1  # one of the cell leaves below
                else:
                    code |= FULL
                    others -= 1
                    victim, least = away, ~none
                    while least == ~none:
                        row = low * words
                        for w in range(words):
                            word = rows[row + np.uint64(w)]
                            while word:
                                y = (np.uint64(w) << six) + trailing_zeros(word)
                                word &= word - one
                                if bits[y] < least:
                                    least, victim = bits[y], y
                        low += one
                    low -= one
                    if low == none:
                        # The aged and those without a score, the oldest first; here the lower member wins.
                        victim = away
                        for w in range(words):
                            word = rows[np.uint64(w)]
                            while word:
                                y = (np.uint64(w) << six) + trailing_zeros(word)
                                word &= word - one
                                if victim == away or _less(score, age, y, victim):
                                    victim = y
                    rows[low * words + (victim >> six)] &= ~(one << (victim & low6))
                    bucket[victim] = away
                out[i] = code
                if not batch:
                    b = none
                    if score[x] > 0 and age[x] == 0:
                        b = min(max((bits[x] >> fraction) - lowest, one), last)
                    bucket[x] = b
                    rows[b * words + (x >> six)] |= one << (x & low6)
                    low = min(low, b)
            if batch:
                for i in range(begin, end):
                    bucket[np.uint64(items[i])] = none
                while held > slots:
                    victim = away
                    for i in range(begin, end):
                        x = np.uint64(items[i])
                        if bucket[x] != away and (
                            victim == away
                            or _less(score, age, x, victim)
                            or (x < victim and not _less(score, age, victim, x))
                        ):
                            victim = x
                    bucket[victim] = away
                    held -= 1
                for i in range(begin, end):
                    x = np.uint64(items[i])
                    if bucket[x] == away:
                        continue
                    b = none
                    if score[x] > 0 and age[x] == 0:
                        b = min(max((bits[x] >> fraction) - lowest, one), last)
                    bucket[x] = b
                    rows[b * words + (x >> six)] |= one << (x & low6)
                    low = min(low, b)
            c += 1


@compiled
def _less(score: npt.NDArray[np.float64], age: npt.NDArray[np.int32], x: np.uint64, y: np.uint64) -> bool:
    """Whether `x` has the lower score, ages considered."""
    if score[x] == 0 or score[y] == 0:
        return bool(score[y] > 0 and score[x] == 0)
    return bool(age[x] > age[y] or (age[x] == age[y] and score[x] < score[y]))
