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
    for q in range(codes.shape[0]):
        total = 0.0
        for row in range(known_codes.shape[0]):
            equal = 0
            for c in range(codes.shape[1]):
                if codes[q, c] >= 0 and codes[q, c] == known_codes[row, c]:
                    equal |= 1 << c
            covariance = 0.0
            for k in range(masks.shape[0]):
                if masks[k] & equal != masks[k]:
                    continue
                distance = 0.0
                for v in range(values.shape[1]):
                    rate = rates[k, v]
                    if rate > 0.0:
                        # A value that was not recorded is far from every other: NaN makes the term vanish.
                        step = values[q, v] - known_values[row, v]
                        distance += rate * step * step
                if distance < 30.0:
                    covariance += variances[k] * np.exp(-distance)
            total += weights[row] * covariance
        found[q] = total
    return found
