"""The sum over training rows that makes a process's mean, compiled.

A covariance is a product over values, so that what all loads of a deployment share is evaluated once: `near`
finds the pairs of training row and effect that say anything of a deployment, and `add` sums them for its
loads, evaluating every distinct value once: a sweep has few of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

Array = npt.NDArray[Any]

#: Half squared distance beyond which a row says nothing.
FAR = 20.0
#: Values that belong to a load, the first ones; the others belong to a deployment.
LOADS = 3


@compiled
def near(
    code: Array,
    own: Array,
    known_codes: Array,
    known_values: Array,
    weights: Array,
    masks: Array,
    rates: Array,
    variances: Array,
) -> tuple[Array, Array, Array]:
    """Training rows and effects that say something of a deployment.

    Parameters
    ----------
    code, own
        Categories of the deployment, int64, and its values, of which those of a load are not looked at.
    known_codes, known_values, weights
        The training rows: int64 ``[rows, categories]``, float64 ``[rows, values]`` and ``[rows]``.
    masks
        Bits of the categories that each effect needs equal, int64 ``[effects]``.
    rates
        Half the inverse squared distance of each value in each effect, ``[effects, values]``.
    variances
        Of the effects, ``[effects]``.

    Returns
    -------
    tuple
        Row, effect and weight of every pair, each ``[pairs]``.
    """
    most = known_codes.shape[0] * len(masks)
    rows, effects, found = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most)
    pairs = 0
    for row in range(known_codes.shape[0]):
        equal = 0
        for c in range(len(code)):
            if code[c] >= 0 and code[c] == known_codes[row, c]:
                equal |= 1 << c
        for k in range(len(masks)):
            if masks[k] & equal != masks[k]:
                continue
            distance = 0.0
            for v in range(LOADS, rates.shape[1]):
                if rates[k, v] > 0.0:
                    step = own[v] - known_values[row, v]
                    distance += rates[k, v] * step * step
            weight = weights[row] * variances[k]
            # A value that was not recorded is far from every other: NaN fails the comparison.
            if distance < FAR and weight != 0.0:
                rows[pairs], effects[pairs] = row, k
                found[pairs] = weight * np.exp(-distance)
                pairs += 1
    return rows[:pairs].copy(), effects[:pairs].copy(), found[:pairs].copy()


@compiled
def add(
    loads: Array, rows: Array, effects: Array, weights: Array, known_values: Array, rates: Array
) -> Array:
    """Mean at the loads of one deployment, ``[loads]``.

    Parameters
    ----------
    loads
        Values of each load, ``[loads, values]``, of which only those of a load are looked at.
    rows, effects, weights
        As `near` found them.
    known_values, rates
        As in `near`.
    """
    queries, columns = loads.shape[0], min(LOADS, loads.shape[1])
    place = np.zeros((columns, queries), dtype=np.int64)
    distinct = np.zeros((columns, queries))
    sizes = np.zeros(columns, dtype=np.int64)
    for v in range(columns):
        order = np.argsort(loads[:, v])
        for rank in range(queries):
            q = order[rank]
            if rank == 0 or loads[q, v] != distinct[v, sizes[v] - 1]:
                distinct[v, sizes[v]] = loads[q, v]
                sizes[v] += 1
            place[v, q] = sizes[v] - 1
    found = np.zeros(queries)
    factors = np.ones((columns, queries))
    product = np.empty(queries)
    for p in range(len(rows)):
        row, k = rows[p], effects[p]
        whole = weights[p]
        product[:] = whole
        single = 0.0
        for v in range(columns):
            if rates[k, v] <= 0.0:
                continue
            if sizes[v] == 1:
                step = distinct[v, 0] - known_values[row, v]
                single += rates[k, v] * step * step
                continue
            for u in range(sizes[v]):
                step = distinct[v, u] - known_values[row, v]
                distance = rates[k, v] * step * step
                factors[v, u] = np.exp(-distance) if distance < FAR else 0.0
            for q in range(queries):
                product[q] *= factors[v, place[v, q]]
        if single < FAR:
            scale = np.exp(-single) if single > 0.0 else 1.0
            for q in range(queries):
                found[q] += product[q] * scale
    return found
