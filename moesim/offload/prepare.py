"""From a composition and a box to the arrays that the timed kernel takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.offload.box import Box
from moesim.offload.given import Ahead, Costs
from moesim.policy import Composition, Guesses, Steps, Transfer
from moesim.policy.precision import Levels
from moesim.trace import RoutingTrace

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


@compiled
def next_uses(experts: npt.NDArray[np.int32], starts: I8, layers: int, num_experts: int) -> tuple[I8, I8]:
    """Position of the next access to the same expert of the same layer, and of the first one.

    Returns
    -------
    ndarray
        int64 ``[accesses]``; the number of accesses where there is none.
    ndarray
        int64 ``[layers * experts]``, likewise.
    """
    accesses = len(experts)
    following = np.full(layers * num_experts, accesses, np.int64)
    found = np.empty(accesses, np.int64)
    for cell in range(len(starts) - 2, -1, -1):
        base = cell % layers * num_experts
        for i in range(starts[cell + 1] - 1, starts[cell] - 1, -1):
            x = base + experts[i]
            found[i] = following[x]
            following[x] = i
    return found, following


def prompts_of(steps: Steps, trace: RoutingTrace) -> I8:
    """Requests that each step works on, int64 ``[steps]``."""
    step = np.repeat(np.arange(steps.num_steps), steps.step_tokens)
    pairs = np.unique(step * (int(trace.request.max(initial=0)) + 1) + trace.request[steps.rows])
    return np.bincount(pairs // (int(trace.request.max(initial=0)) + 1), minlength=steps.num_steps)


def stored_of(box: Box, steps: Steps, train: RoutingTrace | None) -> npt.NDArray[np.bool_]:
    """Experts that lie in storage, bool ``[layers * experts]``: those beyond what host memory holds."""
    every = steps.layers * steps.num_experts
    stored = np.zeros(every, np.bool_)
    if box.host_experts is not None:
        # Without a trace to learn from, host memory holds the first experts of each layer.
        rank = np.arange(every).reshape(steps.layers, -1).T.ravel()
        if train is not None:
            rank = np.argsort(-train.load_counts().totals.ravel(), kind="stable")
        stored[rank[box.host_experts :]] = True
    return stored


def costs_of(box: Box, steps: Steps, levels: Levels, prompts: I8) -> Costs:
    """Seconds of all that these steps can ask for."""
    most = int(steps.tokens.max(initial=1))
    rest = box.rest(steps.phase, steps.step_tokens, steps.context, prompts)
    sizes = np.array([width.bytes for width in box.widths])
    moved = np.repeat(sizes[None], len(sizes) + 1, axis=0)
    if levels.nested:
        moved[1:] = np.maximum(sizes[None] - sizes[:, None], 0.0)
    link = box.to_device.bytes_per_s if box.to_device is not None else np.inf
    back = box.from_device.bytes_per_s if box.from_device is not None else np.inf
    store = np.zeros_like(moved)
    if box.storage is not None:
        store = box.storage.latency_s + moved / box.storage.bytes_per_s
    latency = box.to_device.latency_s if box.to_device is not None else 0.0
    return Costs(
        gpu_s=box.gpu_seconds(most),
        cpu_s=box.cpu_seconds(most),
        near_s=box.near_seconds(most),
        link_s=moved / link,
        store_s=store,
        size=moved,
        out_s=latency + sizes / back,
        latency_s=latency,
        before=rest.before,
        piece=rest.piece,
        beside=rest.beside,
        kind=rest.kind,
        tail=rest.tail,
        hop_s=box.hop_seconds(steps.step_tokens.astype(np.float64)),
    )


def ahead_of(guesses: Guesses, transfer: Transfer, steps: Steps, deferrable: npt.NDArray[np.bool_]) -> Ahead:
    """What a transfer makes of guesses: the best of each target cell within reach, in its order."""
    cells = steps.num_steps * steps.layers
    known = np.repeat(np.arange(cells), np.diff(guesses.starts))
    target = known + guesses.ahead
    near = (guesses.ahead <= transfer.distance) & (target < cells) & (transfer.width > 0)
    known, target, expert = known[near], target[near], guesses.experts[near]
    distance, score = guesses.ahead[near].astype(np.float64), guesses.scores[near].astype(np.float64)
    # Guesses come best first: count them within each pair of cells, and keep the first `width`.
    by_target = np.lexsort((target, known))
    new = np.ones(len(known), np.bool_)
    new[1:] = (np.diff(known[by_target]) != 0) | (np.diff(target[by_target]) != 0)
    begin = np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))
    rank = np.empty(len(known), np.int64)
    rank[by_target] = np.arange(len(known)) - begin
    kept = rank < transfer.width
    known, target, expert = known[kept], target[kept], expert[kept]
    distance, score = distance[kept], score[kept]
    keys = {
        "score": (-score,),
        "near": (-score, distance),
        "near-score": (-score / np.maximum(distance, 1.0),),
    }
    if transfer.order not in keys:
        raise ConfigError(Fault("is unknown", "transfer.order", transfer.order, ", ".join(keys)))
    order = np.lexsort((*keys[transfer.order], known))
    starts = np.searchsorted(known[order], np.arange(cells + 1))
    return Ahead(
        starts.astype(np.int64),
        target[order].astype(np.int64),
        expert[order].astype(np.int32),
        deferrable,
    )


def quota_of(composition: Composition, slots: int | I8, steps: Steps, train: RoutingTrace | None) -> I8:
    """Slots of each pool, int64 ``[pools]``."""
    pools = steps.layers if composition.residency.pool == "layer" else 1
    if not isinstance(slots, int | np.integer):
        given = np.asarray(slots, np.int64)
        if given.shape != (pools,) or (given < 0).any():
            raise ConfigError(
                Fault("needs one number for each pool, at least 0", "slots", given.tolist(), str(pools))
            )
        return given
    total = int(slots)
    if total < 0:
        raise ConfigError(Fault("is no number of slots", "slots", total, "at least 0"))
    if pools == 1:
        return np.array([min(total, steps.layers * steps.num_experts)], np.int64)
    if composition.placement is not None and train is not None:
        return np.asarray(composition.placement.quota(total, train), np.int64)
    each = total // pools + (np.arange(pools) < total % pools)
    return np.asarray(np.minimum(each, steps.num_experts), np.int64)


def start_of(
    composition: Composition, quota: I8, steps: Steps, train: RoutingTrace | None, seed: int
) -> npt.NDArray[np.bool_] | None:
    """What is resident at first, bool ``[layers, experts]``, or None for nothing."""
    start, layers, experts = composition.residency.start, steps.layers, steps.num_experts
    per_layer = quota
    if len(quota) != layers:
        total = int(quota[0])
        per_layer = np.minimum(total // layers + (np.arange(layers) < total % layers), experts)
    if composition.placement is not None and train is not None:
        if len(quota) != layers:
            # A pool that layers share is filled as the placement would deal it to them.
            per_layer = np.asarray(composition.placement.quota(int(quota[0]), train), np.int64)
        return np.asarray(composition.placement.resident(per_layer, train), np.bool_)
    if start == "empty":
        return None
    if start == "first":
        rank = np.tile(np.arange(experts), (layers, 1))
    elif start == "random":
        rng = np.random.default_rng(seed)
        rank = np.argsort(rng.random((layers, experts)), axis=1)
    else:
        if train is None:
            raise ConfigError(
                Fault("needs a disjoint trace that says what is popular", "train", None, "--train")
            )
        counts = train.load_counts().totals
        rank = np.argsort(np.argsort(-counts, axis=1, kind="stable"), axis=1)
    return np.asarray(rank < per_layer[:, None])
