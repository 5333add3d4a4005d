"""What the serving loops read and write: arrays of records, one per noun.

A *replica* is an engine that steps on its own; its *lanes* are data-parallel ranks that step together, each
with a queue, a batch and a cache of its own. Lanes of all replicas are numbered through: ``r * lanes + l``.
Requests are numbered by arrival.

Records keep the number of arrays small: compiled functions take every array apart at every call, and would
take minutes to compile with an array for every field. Outside of them, ``state.progress.first_s`` is an
array.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
I4 = npt.NDArray[np.int32]
I1 = npt.NDArray[np.int8]
#: An array of records, ``np.recarray``, or one of them: what mypy knows nothing of.
Records = Any

#: Where a request is. A held one has left a batch after its first token and keeps its blocks until they are
#: fetched; a reserved one has blocks and waits for what goes into them.
AHEAD, WAITING, RUNNING, DONE, LOST, HELD, RESERVED = range(7)
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
        Names of the blocks of each prompt, as in `moesim.requests.RequestTrace`; empty without.
    session
        Conversation each is part of, -1 for none; empty without.
    """

    arrival_s: F8
    prompt: I4
    output: I4
    priority: I4
    hashes: I8
    hash_ptr: I8
    session: I4 = np.zeros(0, np.int32)


#: `Asked` as the loops take it: names of blocks begin at ``hash_at`` of `State.hashes`, and there are
#: ``names``.
ASKED = np.dtype(
    [
        ("arrival_s", "f8"),
        ("hash_at", "i8"),
        ("names", "i4"),
        ("prompt", "i4"),
        ("output", "i4"),
        ("priority", "i4"),
        ("session", "i4"),
    ],
    align=True,
)

#: How far requests are.
PROGRESS = np.dtype(
    [
        # When it was sent, first scheduled, gave its first and its last token so far; NaN before.
        ("sent_s", "f8"),
        ("scheduled_s", "f8"),
        ("first_s", "f8"),
        ("last_s", "f8"),
        # Tokens in the cache.
        ("done", "i4"),
        # Tokens that have to be in it before the next one is given: the prompt and what was generated.
        ("target", "i4"),
        # Output tokens given.
        ("generated", "i4"),
        # Tokens that the running step computes for it.
        ("planned", "i4"),
        # Blocks of its own; those it shares are not counted.
        ("held", "i4"),
        # Leading units of its prompt that it holds in the prefix cache; see `moesim.serving.kernel.prefix`.
        ("shared", "i4"),
        # Prompt tokens found in the prefix cache, at its first admission.
        ("cached", "i4"),
        # Where it is or was; -1 before.
        ("lane", "i4"),
        # How often it was thrown out.
        ("preempted", "i4"),
        # Next in the queue of its lane, or beside it in a queue by priority, and the first below it there;
        # -1.
        ("following", "i4"),
        ("child", "i4"),
        # 1 + the entry of its own blocks in the prefix cache, from when it was thrown out; 0 for none.
        ("kept", "i4"),
        # One of `AHEAD` to `RESERVED`.
        ("stage", "i1"),
        # Whether its last step gave a token: only then are there drafts to check.
        ("gave", "i1"),
        # Whether its cache was copied to the host.
        ("swapped", "i1"),
    ],
    align=True,
)

#: Queues, batches and caches.
LANES = np.dtype(
    [
        # Of the output of running requests, what has to be free before another is taken in.
        ("share", "f8"),
        # Blocks that requests hold, their own and those of the prefix cache. All others are free, whether
        # they keep a prefix that no running request uses or nothing.
        ("used", "i8"),
        ("capacity", "i8"),
        # Blocks that running requests will still need, where admission promises them the whole output.
        ("promised", "i8"),
        # Tokens still to be computed of all requests, for routers.
        ("tokens", "i8"),
        # Requests that run.
        ("live", "i4"),
        # Ends of the queue, -1 if empty, and how many wait, newcomers too.
        ("head", "i4"),
        ("tail", "i4"),
        ("waiting", "i4"),
        # Requests that came while a step ran behind which another was planned: they are not in the queue yet.
        ("door", "i4"),
        ("door_tail", "i4"),
        ("newcomers", "i4"),
        # Requests that ended, but whose seats and blocks the next step was planned without.
        ("leavers", "i4"),
        # Requests outside the batch that hold blocks.
        ("pinned", "i4"),
        # Ends of the free entries of the prefix cache, -1 without; entries to use: the first of those given
        # back,
        # -1 for none, and the first never used; and how many keep blocks for a request.
        ("oldest", "i4"),
        ("newest", "i4"),
        ("spare", "i4"),
        ("fresh", "i4"),
        ("keeps", "i4"),
        # Whether prompts wait until a request ends, as one did not fit (SGLang's ``batch_is_full``).
        ("full", "i1"),
    ],
    align=True,
)

#: Free blocks of a lane in the order in which they will be taken, and what they keep.
ENTRIES = np.dtype(
    [
        # Of a unit of a prefix, or, of blocks kept for a request, the units that came before them.
        ("key", "i8"),
        # Requests that use a unit; it is free at 0.
        ("refs", "i4"),
        ("blocks", "i4"),
        # `UNIT`, `EMPTY` or the request that its blocks are kept for.
        ("owner", "i4"),
        # Neighbours among free entries, -1 at the ends.
        ("older", "i4"),
        ("newer", "i4"),
    ],
    align=True,
)
#: Owners of entries that are no requests.
UNIT, EMPTY = -1, -2

#: Engines.
REPLICAS = np.dtype(
    [
        # When the running step ends, infinite if idle; set by `moesim.serving.kernel.ends.set_end` alone.
        ("end_s", "f8"),
        # When it began.
        ("began_s", "f8"),
        # Its seconds per step over those of the table: 1, or more for a slow one.
        ("speed", "f8"),
        # Seconds that come before its next step: what a rebalancing or a swap costs.
        ("stall_s", "f8"),
        # Up to when `Tally.sums` holds its integrals.
        ("seen_s", "f8"),
        # Whether it works.
        ("up", "i1"),
    ],
    align=True,
)


if TYPE_CHECKING:

    class _Records(np.recarray[Any, Any]):
        def __getitem__(self, key: Any) -> Any: ...  # noqa: ANN401

    class _Progress(_Records):
        sent_s: F8
        scheduled_s: F8
        first_s: F8
        last_s: F8
        done: I4
        target: I4
        generated: I4
        cached: I4
        lane: I4
        preempted: I4
        stage: I1

    class _Lanes(_Records):
        used: I8
        capacity: I8
        live: I4
        waiting: I4

    class _Replicas(_Records):
        end_s: F8
        began_s: F8
        speed: F8
        stall_s: F8
        up: I1


class Rules(NamedTuple):
    """How an engine forms steps, as numbers; see `moesim.serving.settings.Scheduler`.

    Parameters
    ----------
    lanes
        Data-parallel ranks that step together.
    budget, most
        Tokens of a step, and requests that run at once, on a rank.
    block, hash_tokens
        Tokens of a block of the cache, and of what a name of `Asked.hashes` stands for.
    chunked, prefill_first, order, admission, share
        As in `Scheduler`; indices into its tuples of names.
    swap_s
        Seconds to copy a block to or from the host.
    drafts, acceptance
        Tokens drafted for each sequence, and the chance that one is right if those before it are.
    seed
        Of drafts and routers.
    router, closed
        Index into `ROUTERS`, and requests a client has in flight at most; 0 for no limit.
    caching
        Whether blocks of prompts are kept and shared.
    eager
        Whether a block can be found from the moment its filling is planned (vLLM), or after it.
    swap
        Whether requests that are thrown out are copied to the host.
    long_prompt
        Most tokens of one prompt in a step; 0 for no limit.
    mixed
        Whether prompt-first steps carry decoding along (SGLang's mixed chunk).
    share_low, share_fall
        What the share falls to, and by how much with every step of decoding.
    ahead
        Whether a step is planned while the one before it runs.
    late
        Whether requests that end are decoded once more, as the next step was planned before that was known.
    prefill_only
        Whether requests leave after their first token and keep their blocks until they are released.
    """

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
    caching: bool = False
    eager: bool = True
    swap: bool = False
    long_prompt: int = 0
    mixed: bool = False
    share_low: float = 0.098
    share_fall: float = 0.602 / 600
    ahead: bool = False
    late: bool = False
    prefill_only: bool = False


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
#: time of requests running and waiting and of blocks used; preemptions; prompt tokens found in the cache;
#: blocks copied to and from the host; tokens computed for requests that had ended.
(
    BUSY_S,
    STEPS,
    READ,
    DECODED,
    RUNNING_S,
    WAITING_S,
    BLOCKS_S,
    PREEMPTED,
    FOUND,
    SWAPPED,
    WASTED,
) = range(11)
SUMS = 11
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
    """What an event brought about, for whoever runs the fleet.

    Parameters
    ----------
    first, firsts
        Requests that gave their first token in the last step that ended, and how many.
    finished, finishes
        Those that gave their last.
    lost, losts
        Those that can never be served, since the last event.
    """

    first: I4
    firsts: I8
    finished: I4
    finishes: I8
    lost: I4
    losts: I8


class State(NamedTuple):
    """All of it.

    Parameters
    ----------
    asked, progress
        Records ``[requests]`` of `ASKED` and `PROGRESS`.
    hashes
        Names of blocks of all prompts.
    lanes
        Records ``[lanes]`` of `LANES`.
    running, leaving
        Requests in the batch, in order of admission, and those of `LANES`'s leavers, ``[lanes, most]``.
    load
        Of the running step, ``[lanes, LOADS]``.
    replicas
        Records ``[replicas]`` of `REPLICAS`.
    tree
        Winners of a tournament for the earliest end of a step, ``[2 places]``; the root is 1.
    tally, outbox
        What is counted, and what just happened.
    entries
        Records ``[lanes, most entries]`` of `ENTRIES`; one a lane without a prefix cache.
    table
        Where units are, 1 + entry by hash, ``[lanes, slots]``; 0 is empty.
    slots
        Entries of the units each request holds, at the places of its names.
    """

    asked: Records
    hashes: I8
    progress: _Progress
    lanes: _Lanes
    running: I4
    leaving: I4
    load: F8
    replicas: _Replicas
    tree: I4
    tally: Tally
    outbox: Outbox
    entries: Records
    table: I4
    slots: I4


def unit_tokens(hash_tokens: int, block: int) -> int:
    """Tokens that are found in the prefix cache together: whole names and whole blocks; 0 without names.

    Examples
    --------
    >>> unit_tokens(512, 16), unit_tokens(16, 64), unit_tokens(0, 16)
    (512, 64, 0)
    """
    return math.lcm(hash_tokens, block)


def new_state(
    asked: Asked,
    replicas: int,
    lanes: int,
    most: int,
    blocks: npt.ArrayLike,
    logged: int = 0,
    rules: Rules | None = None,
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
    rules
        Where they ask for a prefix cache, there is one.
    """
    n, total = len(asked.arrival_s), replicas * lanes
    # More blocks than entries can count are as good as no limit.
    capacity = np.minimum(np.broadcast_to(np.asarray(blocks, np.int64), (total,)), 2**31 - 1)
    units, entries, slots = _cache_sizes(asked, capacity, most, rules)
    sent, room = most * lanes, max(n, 1)
    return State(
        asked=_records(
            ASKED,
            n,
            arrival_s=asked.arrival_s,
            hash_at=asked.hash_ptr[:-1],
            names=np.diff(asked.hash_ptr),
            prompt=asked.prompt,
            output=asked.output,
            priority=asked.priority,
            session=asked.session if len(asked.session) else -1,
        ),
        hashes=np.ascontiguousarray(asked.hashes),
        progress=_records(
            PROGRESS,
            n,
            sent_s=asked.arrival_s,
            scheduled_s=np.nan,
            first_s=np.nan,
            last_s=np.nan,
            target=asked.prompt,
            lane=-1,
            following=-1,
            child=-1,
        ),
        lanes=_records(
            LANES,
            total,
            share=0.0 if rules is None else rules.share,
            capacity=capacity,
            head=-1,
            tail=-1,
            door=-1,
            door_tail=-1,
            oldest=-1,
            newest=-1,
            spare=-1,
        ),
        running=np.zeros((total, most), np.int32),
        leaving=np.zeros((total, most), np.int32),
        load=np.zeros((total, LOADS)),
        replicas=_records(REPLICAS, replicas, end_s=np.inf, speed=1.0, up=1),
        tree=_tournament(replicas),
        tally=Tally(np.zeros(BINS, np.int64), np.zeros((replicas, SUMS)), np.zeros((logged, LOG)), _one()),
        outbox=Outbox(
            np.zeros(sent, np.int32),
            _one(),
            np.zeros(sent, np.int32),
            _one(),
            np.zeros(room, np.int32),
            _one(),
        ),
        entries=_records(ENTRIES, (total, entries)),
        table=np.zeros((total, slots), np.int32),
        slots=np.empty(len(asked.hashes) if units else 0, np.int32),
    )


def _one() -> I8:
    return np.zeros(1, np.int64)


def _records(kind: np.dtype[Any], shape: Any, **values: Any) -> Records:  # noqa: ANN401
    """Zeros, but for some fields."""
    made = np.zeros(shape, kind).view(np.recarray)
    for name, value in values.items():
        made[name] = value
    return made


def _tournament(replicas: int) -> I4:
    places = 1
    while places < replicas:
        places *= 2
    tree = np.zeros(2 * places, np.int32)
    tree[places:] = np.minimum(np.arange(places), replicas - 1)
    for i in range(places - 1, 0, -1):
        tree[i] = min(tree[2 * i], tree[2 * i + 1])
    return tree


def _cache_sizes(asked: Asked, capacity: I8, most: int, rules: Rules | None) -> tuple[int, int, int]:
    """Units that can be in the cache of a lane, and room for entries and in the table.

    What is never touched takes no memory.
    """
    if rules is None or not rules.caching:
        return 0, 1, 1
    units, slots = 0, 1
    if rules.hash_tokens and len(asked.hashes):
        blocks = unit_tokens(rules.hash_tokens, rules.block) // rules.block
        units = min(int(capacity.max()) // blocks, len(asked.hashes))
    while slots < 2 * units:
        slots *= 2
    # Between any two units or kept blocks there may be empty ones.
    return units, 2 * (units + most) + 3, slots
