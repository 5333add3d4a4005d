"""Orders in which pipeline ranks do their forward and backward passes.

A *stage* is a piece of the model on one rank; stages make chains that micro-batches walk along. Plain and
interleaved schedules have one chain of ``pp x vpp`` stages, DualPipe two of ``pp`` each that run in opposite
directions over the same ranks.

Sources: 1F1B of PipeDream-Flush and interleaving of Narayanan et al. (arXiv:2104.04473, section 2.2);
DualPipe of DeepSeek-V3 (arXiv:2412.19437, section 3.2.1) in the order of the steps of its released code.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]

#: Whole backward; input gradients alone; weight gradients alone; a forward and a backward side by side.
FORWARD, BACKWARD, INPUT, WEIGHT, BOTH = range(5)


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """What each rank does, in order.

    Parameters
    ----------
    order
        ``[ranks, tasks, 5]``: kind, stage and micro-batch, and of a second task for `BOTH` (the backward).
    tasks
        Entries of `order` that count, ``[ranks]``.
    rank_of
        Rank of each stage, ``[stages]``.
    first, last
        Whether a stage starts or ends a chain, bool ``[stages]``.
    micro_batches
        Micro-batches that walk along each chain.
    """

    order: Ints
    tasks: Ints
    rank_of: Ints
    first: npt.NDArray[np.bool_]
    last: npt.NDArray[np.bool_]
    micro_batches: int

    @property
    def stages(self) -> int:
        """Stages of all chains."""
        return len(self.rank_of)


Task = tuple[int, int, int, int, int]


def _pack(ranks: list[list[Task]], rank_of: list[int], chain: int, micro_batches: int) -> Schedule:
    longest = max(map(len, ranks))
    order = np.zeros((len(ranks), longest, 5), dtype=np.int32)
    for rank, tasks in enumerate(ranks):
        order[rank, : len(tasks)] = tasks
    place = np.arange(len(rank_of)) % chain
    return Schedule(
        order,
        np.array([len(tasks) for tasks in ranks], dtype=np.int32),
        np.array(rank_of, dtype=np.int32),
        place == 0,
        place == chain - 1,
        micro_batches,
    )


@functools.lru_cache(maxsize=256)
def one_forward_one_backward(pp: int, micro_batches: int) -> Schedule:
    """Fill the pipeline, then alternate.

    >>> one_forward_one_backward(2, 2).order[0, :, 0].tolist()
    [0, 0, 1, 1]
    """
    micro = np.arange(micro_batches, dtype=np.int32)
    ranks = [
        _alternate(
            _rows(FORWARD, rank, micro), _rows(BACKWARD, rank, micro), min(pp - rank - 1, micro_batches)
        )
        for rank in range(pp)
    ]
    return _even(ranks, pp, pp, micro_batches)


def _rows(kind: int, stage: Ints | int, micro: Ints) -> Ints:
    rows = np.zeros((len(micro), 5), dtype=np.int32)
    rows[:, 0], rows[:, 1], rows[:, 2] = kind, stage, micro
    return rows


def _alternate(forward: Ints, backward: Ints, warm: int) -> Ints:
    """`warm` forward passes, then one of each, then the backward passes that are left."""
    total = len(forward)
    order = np.empty((2 * total, 5), dtype=np.int32)
    order[:warm] = forward[:warm]
    order[warm : 2 * total - warm : 2] = forward[warm:]
    order[warm + 1 : 2 * total - warm : 2] = backward[: total - warm]
    order[2 * total - warm :] = backward[total - warm :]
    return order


def _even(ranks: list[Ints], pp: int, stages: int, micro_batches: int) -> Schedule:
    """A schedule of one chain, in which all ranks have as many tasks."""
    order = np.stack(ranks)
    stage = np.arange(stages)
    return Schedule(
        order,
        np.full(pp, order.shape[1], dtype=np.int32),
        (stage % pp).astype(np.int32),
        stage == 0,
        stage == stages - 1,
        micro_batches,
    )


@functools.lru_cache(maxsize=256)
def interleaved(pp: int, vpp: int, micro_batches: int) -> Schedule:
    """Several stages per rank, `pp` micro-batches at a time through each.

    Micro-batches are a multiple of `pp`.
    """
    if micro_batches % pp:
        raise ValueError(f"{micro_batches} micro-batches are no multiple of {pp}")
    k = np.arange(micro_batches * vpp, dtype=np.int32)
    chunk, micro = k % (pp * vpp) // pp, k // (pp * vpp) * pp + k % pp
    ranks = []
    for rank in range(pp):
        warm = min((pp - rank - 1) * 2 + (vpp - 1) * pp, len(k)) if micro_batches > pp else len(k)
        ahead, behind = chunk * pp + rank, (vpp - 1 - chunk) * pp + rank
        ranks.append(_alternate(_rows(FORWARD, ahead, micro), _rows(BACKWARD, behind, micro), warm))
    return _even(ranks, pp, pp * vpp, micro_batches)


@functools.lru_cache(maxsize=64)
def dualpipe(pp: int, micro_batches: int) -> Schedule:
    """Half of the micro-batches from each end; each rank holds a stage of both directions.

    `pp` is even, `micro_batches` even and at least ``2 pp``.
    """
    half = micro_batches // 2
    if pp % 2 or micro_batches % 2 or micro_batches < 2 * pp:
        raise ValueError(f"{micro_batches} micro-batches over {pp} ranks")
    ranks = [_dualpipe_rank(rank, pp, half) for rank in range(pp)]
    return _pack(ranks, list(range(pp)) + list(range(pp))[::-1], pp, half)


def _dualpipe_rank(rank: int, pp: int, half: int) -> list[Task]:
    near = min(rank, pp - 1 - rank)
    middle = near == pp // 2 - 1
    # Direction 0 is the one that enters at this rank's end of the pipeline.
    own, other = (rank, pp + pp - 1 - rank) if rank < pp // 2 else (pp + pp - 1 - rank, rank)
    stage = (own, other)
    done = {FORWARD: [0, 0], BACKWARD: [0, 0]}
    waiting: list[tuple[int, int]] = []
    tasks: list[Task] = []

    def take(what: int, way: int) -> tuple[int, int]:
        micro = done[what][way]
        done[what][way] += 1
        return stage[way], micro

    def forward(way: int) -> None:
        tasks.append((FORWARD, *take(FORWARD, way), 0, 0))

    def backward(way: int, split: bool = False) -> None:
        at = take(BACKWARD, way)
        tasks.append((INPUT if split else BACKWARD, *at, 0, 0))
        if split:
            waiting.append(at)

    def weight() -> None:
        tasks.append((WEIGHT, *waiting.pop(0), 0, 0))

    def both(ahead: int, behind: int) -> None:
        tasks.append((BOTH, *take(FORWARD, ahead), *take(BACKWARD, behind)))

    for _ in range((pp // 2 - near - 1) * 2):
        forward(0)
    for _ in range(near + 1):
        forward(0)
        forward(1)
    for _ in range(pp // 2 - near - 1):
        backward(1, split=True)
        weight()
        forward(1)
    for i in range(half - pp + near + 1):
        if i == 0 and middle:
            forward(0)
            backward(1)
        else:
            both(0, 1)
        both(1, 0)
    for _ in range(pp // 2 - near - 1):
        backward(1)
        both(1, 0)
    split = False
    for i in range(near + 1):
        split |= i == (near + 1) // 2 and near % 2 == 1
        backward(1, split)
        split |= i == (near + 1) // 2 and near % 2 == 0
        backward(0, split)
    for _ in range(pp // 2 - near - 1):
        weight()
        backward(0, split=True)
    while waiting:
        weight()
    return tasks
