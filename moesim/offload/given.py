"""What the timed replay is given, and what it counts: arrays and numbers by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.offload.clocks import Clock
from moesim.offload.pools import Experts, Moment, Pools, Rule

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
I4 = npt.NDArray[np.int32]
F4 = npt.NDArray[np.float32]
I1 = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]

#: What is counted, by layer. Accesses are those that are not skipped; hits are there or on their way when
#: their gate has run, late ones on their way; loads are on demand; staged ones found no slot to stay in.
COUNTS = (
    "accesses",
    "hits",
    "late",
    "loads",
    "staged",
    "skipped",
    "prefetched",
    "useful",
    "wasted",
    "aborted",
    "written_back",
    "on_cpu",
    "on_near",
    "deferred",
)
ACCESSES, HITS, LATE, LOADS, STAGED, SKIPPED, PREFETCHED, USEFUL, WASTED, ABORTED, WRITTEN = range(11)
RUN_ON_CPU, RUN_ON_NEAR, PUT_OFF = range(11, 14)
N_COUNTS = len(COUNTS)
#: Who runs an access, as executors number it.
ON_GPU, LOADED, ON_CPU, ON_NEAR, DEFERRED = range(5)
SKIP = -1


class Demand(NamedTuple):
    """What is asked for: `experts`, `tokens`, `starts`, `request` as in `moesim.policy.Steps`.

    `wanted` is the level of each access, -1 for none. `next_use` is the position of the next access to the
    same expert of the same layer, `weights` its router weight, `high` whether it is among the weightiest;
    empty where no rule asks.
    """

    experts: I4
    tokens: I4
    starts: I8
    request: I4
    layers: int
    num_experts: int
    wanted: I1
    next_use: I8
    weights: F4
    high: Flags


class Rules(NamedTuple):
    """What the slots say.

    Parameters
    ----------
    rule
        Of the residency.
    batch
        Whether a cell's experts are looked up together, and protect each other.
    reset
        Whether pools go back to their start when the request changes.
    free_cold
        Whether an expert's first access counts as a hit.
    misses_only
        Whether residents of a better level are used as they are.
    nested
        Whether a resident of a better level is run in the one wanted.
    preemptible, write_back
        As in `moesim.policy.Transfer`.
    executor, parameters
        Number and parameters of the executor.
    """

    rule: Rule
    batch: bool
    reset: bool
    free_cold: bool
    misses_only: bool
    nested: bool
    preemptible: bool
    write_back: bool
    executor: int
    parameters: F8


class Ahead(NamedTuple):
    """What is fetched ahead, cell by cell in the order in which copies are asked for.

    A cell with guesses takes the place of all guesses before it that have not begun. `deferrable` says which
    accesses may wait for a layer.
    """

    starts: I8
    target: I8
    expert: I4
    deferrable: Flags


class Costs(NamedTuple):
    """Seconds and bytes.

    Parameters
    ----------
    gpu_s, cpu_s, near_s
        Of one expert, by level and tokens, ``[levels, tokens + 1]``.
    link_s, store_s, size
        To the device over the link, and from storage, and bytes, by what is there already (row 0: nothing;
        row ``l + 1``: level l) and what is to be there, ``[levels + 1, levels]``, without `latency_s`.
    out_s
        An expert of each level back to the host, ``[levels]``.
    latency_s
        Of a copy; copies on several channels overlap theirs.
    before, piece, beside, kind, tail
        As in `moesim.offload.rest.Rest`.
    hop_s
        Hidden states of a step to the host, or back, ``[steps]``.
    """

    gpu_s: F8
    cpu_s: F8
    near_s: F8
    link_s: F8
    store_s: F8
    size: F8
    out_s: F8
    latency_s: float
    before: F8
    piece: I8
    beside: F8
    kind: I8
    tail: F8
    hop_s: F8


#: Why an expert was loaded: fetched ahead, on demand to stay, on demand without a slot to stay in.
FETCHED, KEPT, PASSED = range(3)
#: What a row of the log holds.
LOGGED = ("cell", "expert", "victim", "why")


#: What a row of `Memory.spans` holds: one of `moesim.offload.clocks.RESOURCES`, by number; from when to when;
#: the cell; and the expert, or one of the names below.
SPANS = ("resource", "start_s", "end_s", "cell", "expert")
DENSE, TAIL = -1, -2


class Memory(NamedTuple):
    """What changes: experts, pools, who is in them, the clock, channels of the link and spare slots.

    `pool` is that of each layer, and `initial` are the experts that are resident at the start. Loads are
    written into `log`, int64 ``[most, 4]`` as `LOGGED` says, in their order, where it has room for them;
    without a victim that is -1. What each resource does is written into `spans`, float64 ``[most, 5]``, in
    the same way.
    """

    experts: Experts
    pools: Pools
    members: I8
    pool: I8
    initial: I8
    clock: Sequence[Clock]
    moment: Sequence[Moment]
    channel: F8
    spare: F8
    log: I8 = np.zeros((0, len(LOGGED)), np.int64)
    spans: F8 = np.zeros((0, len(SPANS)))
