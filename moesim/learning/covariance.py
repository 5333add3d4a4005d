"""Covariances of many effects between all rows, and their slopes, compiled: most pairs share few effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

Array = npt.NDArray[Any]


@compiled
def covariance(equal: Array, values: Array, masks: Array, rates: Array, variances: Array) -> Array:
    """Sum of all effects between all rows, ``[rows, rows]``.

    Parameters
    ----------
    equal
        Bits of the categories in which two rows agree, int64 ``[rows, rows]``.
    values
        ``[rows, values]``; NaN, not recorded, is far from every other.
    masks
        Bits of the categories that each effect needs equal, int64 ``[effects]``.
    rates
        Half the inverse squared range of each value in each effect, ``[effects, values]``.
    variances
        Of the effects, ``[effects]``.
    """
    rows = equal.shape[0]
    found = np.zeros((rows, rows))
    for i in range(rows):
        for j in range(i + 1):
            total = 0.0
            for k in range(masks.shape[0]):
                if masks[k] & equal[i, j] != masks[k]:
                    continue
                distance = 0.0
                for v in range(values.shape[1]):
                    if rates[k, v] > 0.0:
                        step = values[i, v] - values[j, v]
                        distance += rates[k, v] * step * step
                # As in `moesim.correction.kernel`; NaN fails the comparison.
                if distance < 20.0:
                    total += variances[k] * np.exp(-distance)
            found[i, j] = total
            found[j, i] = total
    return found


@compiled
def slopes(
    equal: Array, values: Array, masks: Array, rates: Array, variances: Array, pull: Array
) -> tuple[Array, Array]:
    """Derivatives of a function of the covariance with regard to logarithms of variances and of ranges.

    Parameters
    ----------
    equal, values, masks, rates, variances
        As in `covariance`.
    pull
        Derivative of the function with regard to each covariance, symmetric ``[rows, rows]``.

    Returns
    -------
    tuple
        ``[effects]`` and ``[effects, values]``.
    """
    of_variances = np.zeros(masks.shape[0])
    of_ranges = np.zeros(rates.shape)
    for i in range(equal.shape[0]):
        for j in range(i + 1):
            weight = pull[i, j] if i == j else 2.0 * pull[i, j]
            for k in range(masks.shape[0]):
                if masks[k] & equal[i, j] != masks[k]:
                    continue
                distance = 0.0
                for v in range(values.shape[1]):
                    if rates[k, v] > 0.0:
                        step = values[i, v] - values[j, v]
                        distance += rates[k, v] * step * step
                if distance < 20.0:
                    part = weight * variances[k] * np.exp(-distance)
                    of_variances[k] += part
                    for v in range(values.shape[1]):
                        if rates[k, v] > 0.0:
                            step = values[i, v] - values[j, v]
                            of_ranges[k, v] += part * 2.0 * rates[k, v] * step * step
    return of_variances, of_ranges
