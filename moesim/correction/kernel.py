"""The sum over training rows that makes a process's mean, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

Array = npt.NDArray[Any]


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
    smooth: Array,
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
    smooth
        Whether a component depends on any value, ``[components]``.
    """
    rows, effects = known_codes.shape[0], masks.shape[0]
    found = np.zeros(codes.shape[0])
    # Pairs of row and effect whose categories agree, and the sum of those that depend on nothing else.
    pair_row = np.empty(rows * effects, dtype=np.int64)
    pair_effect = np.empty(rows * effects, dtype=np.int64)
    pairs = 0
    constant = 0.0
    for q in range(codes.shape[0]):
        fresh = q == 0
        for c in range(codes.shape[1]):
            fresh = fresh or codes[q, c] != codes[q - 1, c]
        if fresh:
            pairs = 0
            constant = 0.0
            for row in range(rows):
                equal = 0
                for c in range(codes.shape[1]):
                    if codes[q, c] >= 0 and codes[q, c] == known_codes[row, c]:
                        equal |= 1 << c
                for k in range(effects):
                    if masks[k] & equal != masks[k]:
                        continue
                    if smooth[k]:
                        pair_row[pairs] = row
                        pair_effect[pairs] = k
                        pairs += 1
                    else:
                        constant += weights[row] * variances[k]
        total = constant
        for p in range(pairs):
            row, k = pair_row[p], pair_effect[p]
            distance = 0.0
            for v in range(values.shape[1]):
                rate = rates[k, v]
                if rate > 0.0:
                    step = values[q, v] - known_values[row, v]
                    distance += rate * step * step
            # A value that was not recorded is far from every other: NaN fails the comparison.
            if distance < 20.0:
                total += weights[row] * variances[k] * np.exp(-distance)
        found[q] = total
    return found
