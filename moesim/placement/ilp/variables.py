"""Variables of placement programmes, as arrays of PuLP variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

#: Of PuLP variables or expressions.
Variables = npt.NDArray[np.object_]


def binaries(problem: Any, name: str, shape: tuple[int, ...]) -> Variables:
    """Variables that are 0 or 1."""
    return _array(shape, lambda index: problem.add_variable(_label(name, index), cat="Binary"))


def shares(problem: Any, name: str, shape: tuple[int, ...]) -> Variables:
    """Variables from 0 to 1; products of binaries, which need not be declared whole."""
    return _array(shape, lambda index: problem.add_variable(_label(name, index), 0, 1))


def amounts(problem: Any, name: str, shape: tuple[int, ...]) -> Variables:
    """Variables of 0 or more."""
    return _array(shape, lambda index: problem.add_variable(_label(name, index), 0))


def total(variables: Variables, weights: npt.ArrayLike = 1.0) -> Any:
    """Weighted sum of some variables; weights are broadcast over them."""
    import pulp

    weights = np.broadcast_to(np.asarray(weights, dtype=np.float64), variables.shape)
    pairs = zip(variables.ravel().tolist(), weights.ravel().tolist(), strict=True)
    return pulp.LpAffineExpression([(variable, weight) for variable, weight in pairs if weight])


def values(variables: Variables) -> npt.NDArray[np.float64]:
    """What a solved programme gave to some variables."""
    found = [variable.varValue or 0.0 for variable in variables.ravel().tolist()]
    return np.array(found, dtype=np.float64).reshape(variables.shape)


def _array(shape: tuple[int, ...], make: Callable[[tuple[int, ...]], Any]) -> Variables:
    array = np.empty(shape, dtype=np.object_)
    for index in np.ndindex(*shape):
        array[index] = make(index)
    return array


def _label(name: str, index: tuple[int, ...]) -> str:
    return "_".join([name, *map(str, index)])
