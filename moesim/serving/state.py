"""What the serving loops read and write: tuples of arrays, one per noun.

A *replica* is an engine that steps on its own; its *lanes* are data-parallel ranks that step together, each
with a queue, a batch and a cache of its own. Lanes of all replicas are numbered through: ``r * lanes + l``.
Requests are numbered by arrival.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
I4 = npt.NDArray[np.int32]
I1 = npt.NDArray[np.int8]

#: Where a request is.
AHEAD, WAITING, RUNNING, DONE, LOST = range(5)
#: Columns of a lane's load, what a step is priced by: prompts read, their tokens of this step, pairs of these
#: with tokens before them; decoding sequences, their tokens of this step, their contexts in all; and tokens
#: of the prompts that are in the cache after the step.
PROMPTS, PREFILL, PAIRS, SEQUENCES, QUERIES, CONTEXT, STORED = range(7)
LOADS = 7
#: Logarithmic bins of gaps between tokens: `BINS_PER_E` to a factor of e, from `GAP_LOW_S`.
GAP_LOW_S, BINS_PER_E, BINS = 1e-6, 200, 5200


class Asked(NamedTuple):
    """What requests ask for, ``[requests]``; nothing in it changes.

    Parameters
    ----------
    arrival_s
        Rising; infinite where a request is sent by an event (a closed loop, a hand-over).
    prompt, output
        Tokens.
    priority
        Lower goes first.
    hashes, hash_ptr
        Names of the full blocks of each prompt, as in `moesim.requests.RequestTrace`; empty without.
    """

    arrival_s: F8
    prompt: I4
    output: I4
    priority: I4
    hashes: I8
    hash_ptr: I8


class Progress(NamedTuple):
    """How far requests are, ``[requests]``.

    Parameters
    ----------
    stage
        One of `AHEAD`, `WAITING`, `RUNNING`, `DONE`, `LOST`.
    done
        Tokens in the cache.
    target
        Tokens that have to be in the cache before the next one is given: prompt and what was generated.
    generated
        Output tokens given.
    planned
        Tokens the running step computes for it.
    held
        Blocks of its own; those it shares are not counted.
    shared
        Leading hashed blocks of its prompt that it holds in the prefix cache.
    cached
        Prompt tokens found in the prefix cache, at its first admission.
    lane
        Where it is or was; -1 before.
    preempted
        How often it was thrown out.
    following
        Next in the queue of its lane, -1 at its end.
    sent_s, scheduled_s, first_s, last_s
        When it was sent, first scheduled, gave its first and its last token so far; NaN before.
    """

    stage: I1
    done: I4
    target: I4
    generated: I4
    planned: I4
    held: I4
    shared: I4
    cached: I4
    lane: I4
    preempted: I4
    following: I4
    sent_s: F8
    scheduled_s: F8
    first_s: F8
    last_s: F8


class Lanes(NamedTuple):
    """Queues, batches and caches, ``[lanes]``.

    Parameters
    ----------
    running, live
        Requests in order of admission, ``[lanes, most]``, and how many there are.
    head, tail, waiting
        Ends of the queue, -1 if empty, and how many wait.
    used
        Blocks in use: those requests hold, and those of the prefix cache.
    capacity
        Blocks there are.
    tokens
        Tokens still to be computed of all requests of a lane, for routers.
    load
        Of the running step, ``[lanes, LOADS]``.
    """

    running: I4
    live: I4
    head: I4
    tail: I4
    waiting: I4
    used: I8
    capacity: I8
    tokens: I8
    load: F8


class Replicas(NamedTuple):
    """Engines, ``[replicas]``.

    Parameters
    ----------
    end_s
        When the running step ends; infinite if idle.
    began_s
        When it began.
    up
        Whether it works.
    speed
        Its seconds per step over those of the table: 1, or more for a slow one.
    stall_s
        Seconds that come before its next step: what a rebalancing or a swap costs.
    """

    end_s: F8
    began_s: F8
    up: I1
    speed: F8
    stall_s: F8


class Rules(NamedTuple):
    """How an engine forms steps, as numbers; see `moesim.serving.settings.Scheduler`."""

    lanes: int
    budget: int
    most: int
    block: int
    hash_tokens: int
    chunked: bool
    prefill_first: bool
    order: int
    admission: int
    share: float
    swap_s: float
    drafts: int
    acceptance: float
    seed: int
    router: int
    closed: int


class Tally(NamedTuple):
    """Sums over a run.

    Parameters
    ----------
    gaps
        Times between tokens of a request by logarithmic bins, ``[BINS]``.
    sums
        ``[replicas, SUMS]``, see the names below.
    log, logged
        Steps in order of their beginning, ``[room, LOG]``, and how many there were.
    """

    gaps: I8
    sums: F8
    log: F8
    logged: I8


#: Columns of `Tally.sums`: seconds busy, steps, tokens read and decoded, and the integrals over busy and idle
#: time of requests running and waiting and of blocks used; preemptions; prompt tokens found in the cache.
(BUSY_S, STEPS, READ, DECODED, RUNNING_S, WAITING_S, BLOCKS_S, PREEMPTED, FOUND) = range(9)
SUMS = 9
#: Columns of `Tally.log`.
(
    LOG_REPLICA,
    LOG_START,
    LOG_SECONDS,
    LOG_PREFILL,
    LOG_DECODE,
    LOG_RUNNING,
    LOG_WAITING,
    LOG_BLOCKS,
) = range(8)
LOG = 8


class Outbox(NamedTuple):
    """What a step brought about, for whoever runs the fleet.

    Parameters
    ----------
    first, firsts
        Requests that gave their first token in the last step of a replica that ended, and how many.
    finished, finishes
        Those that gave their last.
    """

    first: I4
    firsts: I8
    finished: I4
    finishes: I8


class State(NamedTuple):
    """All of it."""

    asked: Asked
    progress: Progress
    lanes: Lanes
    replicas: Replicas
    tally: Tally
    outbox: Outbox


def new_state(
    asked: Asked, replicas: int, lanes: int, most: int, blocks: npt.ArrayLike, logged: int = 0
) -> State:
    """Everything empty and idle.

    Parameters
    ----------
    asked
        The requests.
    replicas, lanes, most
        Engines, data-parallel ranks of each, and requests that run at once on a rank.
    blocks
        Of the cache, of every lane or ``[replicas * lanes]``.
    logged
        Steps that are kept one by one.
    """
    n, total = len(asked.arrival_s), replicas * lanes
    i4: Any = np.int32
    never = np.full(n, np.nan)
    progress = Progress(
        np.full(n, AHEAD, np.int8),
        np.zeros(n, i4),
        asked.prompt.copy(),
        np.zeros(n, i4),
        np.zeros(n, i4),
        np.zeros(n, i4),
        np.zeros(n, i4),
        np.zeros(n, i4),
        np.full(n, -1, i4),
        np.zeros(n, i4),
        np.full(n, -1, i4),
        asked.arrival_s.copy(),
        never,
        never.copy(),
        never.copy(),
    )
    rows = Lanes(
        np.zeros((total, most), i4),
        np.zeros(total, i4),
        np.full(total, -1, i4),
        np.full(total, -1, i4),
        np.zeros(total, i4),
        np.zeros(total, np.int64),
        np.broadcast_to(np.asarray(blocks, np.int64), (total,)).copy(),
        np.zeros(total, np.int64),
        np.zeros((total, LOADS)),
    )
    engines = Replicas(
        np.full(replicas, np.inf),
        np.zeros(replicas),
        np.ones(replicas, np.int8),
        np.ones(replicas),
        np.zeros(replicas),
    )
    tally = Tally(
        np.zeros(BINS, np.int64), np.zeros((replicas, SUMS)), np.zeros((logged, LOG)), np.zeros(1, np.int64)
    )
    outbox = Outbox(
        np.zeros(most * lanes, i4), np.zeros(1, np.int64), np.zeros(most * lanes, i4), np.zeros(1, np.int64)
    )
    return State(asked, progress, rows, engines, tally, outbox)
