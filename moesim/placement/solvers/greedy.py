"""Greedy replicate-and-pack: the method of EPLB, as pure array functions over all layers at once.

1. *Replicate*: give each spare slot to the expert whose replicas carry most.
2. *Pack*: heaviest replica first, each to the least loaded rank that has a free slot.
3. The hierarchical variant first packs groups of experts to nodes, then does 1 and 2 inside each node.

A rank never holds two replicas of one expert: the second one would balance nothing.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def replicate(loads: FloatArray, slots: int, max_copies: int | None = None) -> IntArray:
    """Replicas of each expert that minimise the largest load of a replica.

    Giving every next slot to the largest ``load / replicas`` is optimal: as long as it is the largest, no
    choice for the other experts lowers the maximum. Equal ones go to the expert with fewer replicas, then
    to the lower id.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    slots
        Physical experts per layer, at least one each.
    max_copies
        Replicas an expert may have; unlimited if None.

    Returns
    -------
    ndarray
        int64 ``[layers, experts]``; each row sums to `slots`.

    Examples
    --------
    >>> replicate(np.array([[90.0, 30.0, 20.0]]), slots=5)
    array([[3, 1, 1]])
    """
    layers, experts = loads.shape
    counts = np.ones((layers, experts), dtype=np.int64)
    rows = np.arange(layers)
    most = slots if max_copies is None else max_copies
    for _ in range(slots - experts):
        share = np.where(counts < most, loads / counts, -1.0)
        largest = share == share.max(axis=1, keepdims=True)
        counts[rows, np.where(largest, counts, slots + 1).argmin(axis=1)] += 1
    return counts


def pack(
    weights: FloatArray,
    bins: int,
    labels: IntArray | None = None,
    rooms: IntArray | None = None,
    speeds: FloatArray | None = None,
) -> IntArray:
    """Pack items into bins, heaviest first, each into the bin with room that is lightest with it.

    Parameters
    ----------
    weights
        float64 ``[layers, items]``.
    bins
        Number of bins.
    labels
        int64 ``[layers, items]``: items of one label are kept apart, which needs at most `bins` of each.
    rooms
        Items that each bin takes, int64 ``[bins]``, ``items`` in sum; equal ones if None.
    speeds
        What the weight of a bin is divided by, float64 ``[bins]``; 1 if None.

    Returns
    -------
    ndarray
        int64 ``[layers, bins, largest room]``: the items of each bin, in order of arrival, then -1.

    Examples
    --------
    >>> pack(np.array([[5.0, 4.0, 3.0, 2.0]]), bins=2)
    array([[[0, 3],
            [1, 2]]])
    """
    layers, items = weights.shape
    room = np.full(bins, items // bins) if rooms is None else rooms
    labels = np.broadcast_to(np.arange(items), weights.shape) if labels is None else labels
    held = np.zeros((layers, bins, int(labels.max(initial=0)) + 1), dtype=bool)
    packed = np.full((layers, bins, int(room.max())), -1, dtype=np.int64)
    fill = np.zeros((layers, bins), dtype=np.int64)
    total = np.zeros((layers, bins))
    rows = np.arange(layers)
    for item in np.argsort(-weights, axis=1, kind="stable").T:
        label = labels[rows, item]
        open_bins = (fill < room) & ~held[rows, :, label]
        for layer in np.flatnonzero(~open_bins.any(axis=1)):
            freed = _make_room(
                packed[layer],
                room,
                held[layer],
                fill[layer],
                total[layer],
                labels[layer],
                weights[layer],
                label[layer],
            )
            open_bins[layer, freed] = True
        filled = total if speeds is None else (total + weights[rows, item][:, None]) / speeds
        chosen = np.where(open_bins, filled, np.inf).argmin(axis=1)
        packed[rows, chosen, fill[rows, chosen]] = item
        held[rows, chosen, label] = True
        fill[rows, chosen] += 1
        total[rows, chosen] += weights[rows, item]
    return packed


def _make_room(
    packed: IntArray,
    rooms: IntArray,
    held: npt.NDArray[np.bool_],
    fill: IntArray,
    total: FloatArray,
    labels: IntArray,
    weights: FloatArray,
    label: int,
) -> int:
    """Move one item of a full bin without `label` to a bin with room, and return the bin that lost it.

    Every bin with room holds `label` already. A full bin without `label` exists, for at most ``bins`` items
    carry it; where bins are equal it holds more labels than the bin with room, so one of its items may move.
    Of all such moves the one that leaves the lighter pair of bins is made. Arrays are those of one layer,
    changed in place.

    Raises
    ------
    ConfigError
        If bins of unequal room leave no such move.
    """
    best = (math.inf, -1, -1, -1)
    for source in np.flatnonzero((fill == rooms) & ~held[:, label]).tolist():
        for target in np.flatnonzero(fill < rooms).tolist():
            for place, item in enumerate(packed[source, : rooms[source]]):
                if not held[target, labels[item]]:
                    heavier = max(total[source] - weights[item], total[target] + weights[item])
                    best = min(best, (float(heavier), source, target, place))
    _, source, target, place = best
    if source < 0:
        raise ConfigError(
            Fault("the ranks with room hold the expert already", "slots of ranks", rooms.tolist())
        )
    item, room = packed[source, place], rooms[source]
    packed[source, place : room - 1] = packed[source, place + 1 : room]
    packed[target, fill[target]] = item
    held[source, labels[item]], held[target, labels[item]] = False, True
    fill[source], fill[target] = room - 1, fill[target] + 1
    total[source], total[target] = total[source] - weights[item], total[target] + weights[item]
    return source


def greedy(
    loads: FloatArray,
    ranks: int,
    redundant: int = 0,
    groups: int = 1,
    nodes: int = 1,
    *,
    rooms: IntArray | None = None,
    speeds: FloatArray | None = None,
) -> IntArray:
    """Place experts by greedy replication and packing.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks
        Expert-parallel ranks; a multiple of `nodes`.
    redundant
        Slots beyond one per expert; ``experts + redundant`` is a multiple of `ranks`.
    groups
        Expert groups of node-limited routing; a multiple of `nodes`. A group stays on one node.
    nodes
        Nodes the ranks lie on; with 1 the placement is flat and `groups` has no effect.
    rooms, speeds
        Of the ranks of a flat placement, as in `pack`.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``; -1 where a rank has less room than others.

    Examples
    --------
    >>> greedy(np.array([[6.0, 1.0, 2.0]]), ranks=2, redundant=1)
    array([[0, 2, 0, 1]])
    """
    layers, experts = loads.shape
    slots = experts + redundant
    if nodes == 1:
        return _flat(loads, ranks, slots, rooms, speeds)
    size = experts // groups
    by_group = loads.reshape(layers, groups, size)
    groups_of_node = pack(by_group.sum(axis=2), nodes)
    parts = []
    for node in range(nodes):
        members = (groups_of_node[:, node, :, None] * size + np.arange(size)).reshape(layers, -1)
        local = _flat(np.take_along_axis(loads, members, axis=1), ranks // nodes, slots // nodes)
        parts.append(np.take_along_axis(members, local, axis=1))
    return np.concatenate(parts, axis=1)


def _flat(
    loads: FloatArray,
    ranks: int,
    slots: int,
    rooms: IntArray | None = None,
    speeds: FloatArray | None = None,
) -> IntArray:
    layers, experts = loads.shape
    counts = replicate(loads, slots, max_copies=ranks)
    replicas = np.repeat(np.tile(np.arange(experts), layers), counts.ravel()).reshape(layers, slots)
    packed = pack(np.take_along_axis(loads / counts, replicas, axis=1), ranks, replicas, rooms, speeds)
    order = packed.reshape(layers, -1)
    return np.where(order >= 0, np.take_along_axis(replicas, order, axis=1), -1)
