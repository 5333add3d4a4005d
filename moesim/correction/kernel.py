"""The sum over training rows that makes a process's mean, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

Array = npt.NDArray[Any]

#: Half squared distance beyond which a row says nothing.
FAR = 20.0


@compiled
def mean(
    codes: Array,
    values: Array,
    known_codes: Array,
    known_values: Array,
    weights: Array,
    masks: Array,
    rates: Array,
    variances: Array,
) -> Array:
    """Mean of a process at each query, ``[queries]``.

    Parameters
    ----------
    codes, values
        The queries: int64 ``[queries, categories]`` and float64 ``[queries, values]``.
    known_codes, known_values, weights
        The training rows.
    masks
        Bits of the categories that each component needs equal, int64 ``[components]``.
    rates
        Half the inverse squared distance of each value in each component, ``[components, values]``.
    variances
        Of the components, ``[components]``.
    """
    found = np.zeros(codes.shape[0])
    start = 0
    while start < len(found):
        stop = start + 1
        while stop < len(found) and np.all(codes[stop] == codes[start]):
            stop += 1
        _add(
            found[start:stop],
            codes[start],
            values[start:stop],
            known_codes,
            known_values,
            weights,
            masks,
            rates,
            variances,
        )
        start = stop
    return found


@compiled
def _add(
    found: Array,
    code: Array,
    values: Array,
    known_codes: Array,
    known_values: Array,
    weights: Array,
    masks: Array,
    rates: Array,
    variances: Array,
) -> None:
    """Add the mean of queries of the same categories to `found`.

    A covariance is a product over values. What all queries share is evaluated once per training row, and so
    is every distinct value of the others: a sweep has few of each.
    """
    queries, columns = values.shape
    # Distinct values of every column that varies, and where each query's is among them.
    varying = np.zeros(columns, dtype=np.int64)
    place = np.zeros((columns, queries), dtype=np.int64)
    distinct = np.zeros((columns, queries))
    sizes = np.zeros(columns, dtype=np.int64)
    many = 0
    for v in range(columns):
        unlike = False
        for q in range(1, queries):
            both_missing = np.isnan(values[q, v]) and np.isnan(values[0, v])
            unlike = unlike or (values[q, v] != values[0, v] and not both_missing)
        if unlike:
            order = np.argsort(values[:, v])
            for rank in range(queries):
                q = order[rank]
                if rank == 0 or values[q, v] != distinct[v, sizes[v] - 1]:
                    distinct[v, sizes[v]] = values[q, v]
                    sizes[v] += 1
                place[v, q] = sizes[v] - 1
            varying[many] = v
            many += 1
    factors = np.ones((columns, queries))
    product = np.empty(queries)
    for row in range(known_codes.shape[0]):
        equal = 0
        for c in range(len(code)):
            if code[c] >= 0 and code[c] == known_codes[row, c]:
                equal |= 1 << c
        for k in range(len(masks)):
            if masks[k] & equal != masks[k]:
                continue
            shared = 0.0
            for v in range(columns):
                if rates[k, v] > 0.0 and sizes[v] == 0:
                    step = values[0, v] - known_values[row, v]
                    shared += rates[k, v] * step * step
            # A value that was not recorded is far from every other: NaN fails the comparison.
            if not shared < FAR:
                continue
            whole = weights[row] * variances[k] * np.exp(-shared)
            product[:] = whole
            for i in range(many):
                v = varying[i]
                if rates[k, v] <= 0.0:
                    continue
                for u in range(sizes[v]):
                    step = distinct[v, u] - known_values[row, v]
                    distance = rates[k, v] * step * step
                    factors[v, u] = np.exp(-distance) if distance < FAR else 0.0
                for q in range(queries):
                    product[q] *= factors[v, place[v, q]]
            for q in range(queries):
                found[q] += product[q]
