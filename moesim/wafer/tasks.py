"""Who computes what: evenly without regard to where experts lie, experts at home, or allocation."""

from __future__ import annotations

import numpy as np

from moesim.compiled import compiled
from moesim.cost import ExpertShape
from moesim.cost.roofline import at
from moesim.wafer.layer import Bools, Floats, Work
from moesim.wafer.machine import Ints, Wafer

#: Requests that are placed at a time, and how far from an expert's die they may go (arXiv:2510.05497, IV-E).
BLOCK, REACH = 50, 1


def shared(counts: Floats, dies: int) -> Work:
    """Every expert's columns spread over all dies: each does the same amount of each expert.

    >>> shared(np.array([6.0, 0.0]), 2).tokens.tolist(), shared(np.array([6.0, 0.0]), 2).reads.tolist()
    ([[3.0, 3.0], [0.0, 0.0]], [[0.5, 0.5], [0.0, 0.0]])
    """
    tokens = np.repeat(np.asarray(counts, np.float64)[:, None] / dies, dies, axis=1)
    return Work(tokens, np.where(tokens > 0, 1.0 / dies, 0.0))


def dealt(counts: Floats, dies: int, rows: int) -> Work:
    """Blocks of `rows` tokens of one expert each, dealt out to the dies in turn.

    This is what the command processor of one large GPU does with the blocks of a grouped GEMM that are as
    wide as the expert: all dies are alike to it, and each gets the same number of blocks. A block reads its
    expert's weights.

    Parameters
    ----------
    counts
        Tokens of each expert, ``[experts]``, whole numbers.
    dies
        How many take turns.
    rows
        Tokens of a block.

    Examples
    --------
    >>> dealt(np.array([5.0, 2.0]), 2, 2).tokens.tolist()
    [[3.0, 2.0], [0.0, 2.0]]
    """
    experts = len(counts)
    blocks = np.ceil(counts / rows).astype(np.int64)
    expert = np.repeat(np.arange(experts), blocks)
    first = np.cumsum(blocks) - blocks
    number = np.arange(len(expert)) - first[expert]
    size = np.minimum(counts[expert] - number * rows, rows)
    cell = expert * dies + np.arange(len(expert)) % dies
    tokens = np.bincount(cell, size, experts * dies).reshape(experts, dies)
    reads = np.bincount(cell, minlength=experts * dies).reshape(experts, dies)
    return Work(np.asarray(tokens, np.float64), np.asarray(reads, np.float64))


def at_home(counts: Floats, owner: Ints, dies: int) -> Work:
    """Every expert on the die where it lies: expert parallelism, no weights travel.

    >>> at_home(np.array([5.0, 0.0]), np.array([0, 1]), 2).reads.tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    tokens = np.zeros((len(counts), dies))
    tokens[np.arange(len(counts)), owner] = counts
    return Work(tokens, (tokens > 0).astype(np.float64))


def balance_tokens(wafer: Wafer, shape: ExpertShape) -> float:
    """Tokens of an expert from which multiplying takes longer than reading its weights once."""
    curve = wafer.efficiency
    read = shape.weight_bytes / (wafer.memory_bytes_per_s * float(at(curve.memory, shape.weight_bytes)))
    rate = wafer.flops_per_s * float(at(curve.compute, read * wafer.flops_per_s))
    return read * rate / shape.flops_per_pair


def allocated(
    wafer: Wafer,
    shape: ExpertShape,
    counts: Floats,
    owner: Ints,
    copies: Bools,
    block: int = BLOCK,
    reach: int = REACH,
) -> Work:
    """Tasks near the weights, split where that is faster (Algorithm 1 of arXiv:2510.05497).

    Experts come in rising order of their requests. Those of an expert go, `block` at a time, to whichever
    candidate would be done first; candidates are the dies that hold the expert and those within `reach` of
    where it lies. What the text leaves open is read thus. A die is done after the longer of its multiplying
    and its memory's reading, and what it waits for weights from other dies. Holders of an expert are
    candidates before other dies, and of both the least loaded. There are as many candidates as parts that the
    requests can be split into without any being shorter than the reading of the weights, one at least: so
    that few requests stay where the expert is, as the paper says of small batches.

    Parameters
    ----------
    wafer, shape
        The machine and one expert.
    counts
        Tokens of each expert, ``[experts]``.
    owner, copies
        Where each expert lies, ``[experts]``, and which other die has a copy, bool ``[experts, dies]``.

    Returns
    -------
    Work
        Each die reads an expert's weights once.
    """
    near = np.where(copies, 0, wafer.hops()[owner])
    curve = wafer.efficiency
    read_s = shape.weight_bytes / (wafer.memory_bytes_per_s * float(at(curve.memory, shape.weight_bytes)))
    token_s = read_s / balance_tokens(wafer, shape)
    tokens = np.zeros(copies.shape)
    order = np.argsort(counts, kind="stable")
    link_s = shape.weight_bytes / wafer.link_bytes_per_s
    _allocate(order, np.asarray(counts, np.float64), near.astype(np.int64), float(block), reach,
              token_s, read_s, link_s, 2.0 * wafer.hop_s, tokens)  # fmt: skip
    return Work(tokens, (tokens > 0).astype(np.float64))


@compiled
def _allocate(
    order: Ints,
    counts: Floats,
    near: Ints,
    block: float,
    reach: int,
    token_s: float,
    read_s: float,
    link_s: float,
    trip_s: float,
    tokens: Floats,
) -> None:
    """Fill `tokens` ``[experts, dies]``; seconds of a token, an expert read, one sent, and a round trip."""
    dies = tokens.shape[1]
    compute, memory, waits = np.zeros(dies), np.zeros(dies), np.zeros(dies)
    for e in order:
        left = counts[e]
        if left <= 0:
            continue
        parts = max(1, int(left * token_s / read_s))
        candidates = np.full(dies, -1, np.int64)
        found = 0
        for away in (False, True):
            start = found
            for d in range(dies):
                if (near[e, d] > 0) != away or near[e, d] > reach:
                    continue
                load = max(compute[d], memory[d]) + waits[d]
                at = found
                while at > start:
                    other = candidates[at - 1]
                    if max(compute[other], memory[other]) + waits[other] <= load:
                        break
                    candidates[at] = other
                    at -= 1
                candidates[at] = d
                found += 1
        found = min(found, parts)
        while left > 0:
            size = min(block, left)
            best, least = -1, np.inf
            for c in range(found):
                d = candidates[c]
                read, wait = 0.0, 0.0
                if tokens[e, d] == 0:
                    read = read_s if near[e, d] == 0 else 0.0
                    wait = link_s + trip_s * near[e, d] if near[e, d] > 0 else 0.0
                done = max(compute[d] + size * token_s, memory[d] + read) + waits[d] + wait
                if done < least:
                    best, least = d, done
            if tokens[e, best] == 0:
                if near[e, best] > 0:
                    waits[best] += link_s + trip_s * near[e, best]
                else:
                    memory[best] += read_s
            compute[best] += size * token_s
            tokens[e, best] += size
            left -= size
