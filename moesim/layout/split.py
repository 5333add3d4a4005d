"""Split the loads of replicated experts over their replicas so that the busiest rank carries least.

This is the linear programme that SGLang's ``--ep-dispatch-algorithm lp`` (LPLB) solves for every batch and
layer: shares of each expert's tokens, no further condition. It is a flow from experts to ranks, and its
optimum is the largest of ``load that only ranks of a set can take / ranks of the set`` over all sets of
ranks. The set is found by Dinkelbach's iteration: send as much as fits under a limit, beginning with the
mean; what does not fit names the ranks that it is confined to, and their mean is the next limit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def _split(
    loads: FloatArray, replicas: IntArray, copies: IntArray, ranks: int, room: int, shares: FloatArray
) -> float:
    """Split the loads of one layer, and return the load of the busiest rank.

    Parameters
    ----------
    loads
        ``[experts]``.
    replicas, copies
        Slots of each expert ``[experts, most]``, no two on one rank, and how many there are ``[experts]``.
    ranks, room
        Ranks, and slots of each.
    shares
        Where the part of its expert's load that each slot takes goes, ``[slots]``.
    """
    experts, most = replicas.shape
    fixed = np.zeros(ranks)
    total = 0.0
    for e in range(experts):
        total += loads[e]
        if copies[e] == 1:
            fixed[replicas[e, 0] // room] += loads[e]
            shares[replicas[e, 0]] = 1.0
        elif loads[e] <= 0.0:
            for i in range(copies[e]):
                shares[replicas[e, i]] = 1.0 / copies[e]
    limit = total / ranks
    for k in range(ranks):
        limit = max(limit, fixed[k])
    # Flows and room below these are rounding; many ranks' room must not add up to what is left over.
    nothing, no_room = 1e-13 * total, 1e-16 * total
    flow = np.zeros((experts, most))
    left = np.zeros(experts)
    used = fixed.copy()
    # Experts that have a choice.
    free = np.empty(experts, dtype=np.int64)
    number = 0
    for e in range(experts):
        if copies[e] > 1:
            left[e] = loads[e]
            free[number] = e
            number += 1
    # Nodes of the search: experts, then ranks; `came` is where a node was reached from.
    came_expert = np.empty(experts, dtype=np.int64)
    came_rank = np.empty(ranks, dtype=np.int64)
    queue = np.empty(experts, dtype=np.int64)
    while True:
        confined = False
        for n in range(number):
            source = free[n]
            while left[source] > nothing:
                # Breadth first from the expert to a rank with room, past experts that could step aside.
                for m in range(number):
                    came_expert[free[m]] = -2
                for k in range(ranks):
                    came_rank[k] = -1
                came_expert[source] = -1
                queue[0] = source
                head, tail, goal = 0, 1, -1
                while head < tail and goal < 0:
                    e = queue[head]
                    head += 1
                    for i in range(copies[e]):
                        k = replicas[e, i] // room
                        if came_rank[k] >= 0:
                            continue
                        came_rank[k] = e
                        if limit - used[k] > no_room:
                            goal = k
                            break
                        for m in range(number):
                            other = free[m]
                            if came_expert[other] != -2:
                                continue
                            for j in range(copies[other]):
                                if replicas[other, j] // room == k and flow[other, j] > nothing:
                                    came_expert[other] = k
                                    queue[tail] = other
                                    tail += 1
                if goal < 0:
                    confined = True
                    break
                amount = min(left[source], limit - used[goal])
                k = goal
                while True:
                    e = came_rank[k]
                    back = came_expert[e]
                    if back < 0:
                        break
                    for j in range(copies[e]):
                        if replicas[e, j] // room == back:
                            amount = min(amount, flow[e, j])
                    k = back
                k = goal
                while True:
                    e = came_rank[k]
                    back = came_expert[e]
                    for j in range(copies[e]):
                        rank = replicas[e, j] // room
                        if rank == k:
                            flow[e, j] += amount
                        elif rank == back:
                            flow[e, j] -= amount
                    if back < 0:
                        break
                    k = back
                left[source] -= amount
                used[goal] += amount
            if confined:
                # What was reached can go nowhere else: these ranks carry it all, at best alike.
                carried, members = 0.0, 0
                for k in range(ranks):
                    if came_rank[k] >= 0:
                        carried += fixed[k]
                        members += 1
                for m in range(number):
                    if came_expert[free[m]] != -2:
                        carried += loads[free[m]]
                limit = max(limit, carried / members) * (1.0 + 1e-14)
                break
        if not confined:
            break
    for e in range(experts):
        if copies[e] > 1 and loads[e] > 0.0:
            sent = 0.0
            for i in range(copies[e]):
                sent += flow[e, i]
            for i in range(copies[e]):
                shares[replicas[e, i]] = flow[e, i] / sent
    busiest = 0.0
    for k in range(ranks):
        busiest = max(busiest, used[k])
    return busiest


split_layer = compiled(_split)
