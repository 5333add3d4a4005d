"""Whether a calibration was fitted to a row: the error of such a row says nothing about new ones."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from moesim.correction import Family, Identity

Array = npt.NDArray[np.float64]

#: Digits that calibrations are written with.
DIGITS = 5


def was_seen(family: Family, identity: Identity, load: tuple[Array, Array, Array]) -> bool:
    """Whether a configuration was among the training rows, at this load and in this campaign.

    A calibration keeps the configurations that it was fitted to, not what was measured of them. A row that
    agrees with one in everything is the same measurement, or its repetition on the same day.

    Parameters
    ----------
    family
        The part of the calibration that corrects the row.
    identity
        What the row is.
    load
        Mean input, mean output and concurrency, one each.
    """
    codes = family.tpot.encode([identity.labels()])
    return _key(codes[0], identity.values(*load)[0]) in _training(family)


@lru_cache(maxsize=16)
def _training(family: Family) -> frozenset[str]:
    process = family.tpot
    return frozenset(_key(codes, values) for codes, values in zip(process.codes, process.values, strict=True))


def _key(codes: npt.NDArray[np.int64], values: Array) -> str:
    return " ".join([*map(str, codes), *(f"{value:.{DIGITS}g}" for value in values)])
