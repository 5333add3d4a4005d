"""A Gaussian process over configurations: what measured runs say beyond physics.

The logarithm of measured over physical time is a sum of independent effects: of the engine, of the model,
of the machine, of a layout, of the campaign that measured it, each alone or varying smoothly with
concurrency and lengths. Each effect is a covariance: equal categories, times a squared exponential of the
distance. So a configuration like the measured ones is corrected by its neighbours, one of a new model only
by what all models share, and one of nothing known not at all (Rasmussen and Williams, Gaussian Processes
for Machine Learning, 2006, ch. 2).

Nothing here depends on a number of a hardware description: an edited machine is corrected like the
original, and the physics alone moves the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: A category that was not recorded is like no other.
UNKNOWN = -1
#: Deployments whose near training rows are kept.
KEPT = 32


@dataclass(frozen=True, slots=True)
class Component:
    """One effect.

    Parameters
    ----------
    categories
        Columns of categories that must be equal.
    scales
        Column of a value, and the distance over which the effect changes.
    variance
        Prior variance of the effect, in squared logarithm.
    """

    categories: tuple[int, ...]
    scales: tuple[tuple[int, float], ...]
    variance: float


@dataclass(frozen=True, slots=True, eq=False)
class Process:
    """A fitted process.

    Parameters
    ----------
    components
        Its effects.
    labels
        By category column, the label of each code.
    codes
        Categories of the training rows, int64 ``[rows, categories]``.
    values
        Values of the training rows, ``[rows, values]``.
    weights
        What each training row adds to the mean per unit of covariance, ``[rows]``.
    offset
        Mean far from all rows.
    """

    components: tuple[Component, ...]
    labels: tuple[tuple[str, ...], ...]
    codes: IntArray
    values: Array
    weights: Array
    offset: float = 0.0
    _tables: tuple[Any, ...] = field(init=False, repr=False)
    _known: tuple[dict[str, int], ...] = field(init=False, repr=False)
    _near: dict[tuple[bytes, bytes], tuple[IntArray, IntArray, Array]] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tables", tables(self.components, self.values.shape[1]))
        known = tuple({label: code for code, label in enumerate(column)} for column in self.labels)
        object.__setattr__(self, "_known", known)

    def encode(self, categories: Sequence[Sequence[str]]) -> IntArray:
        """Codes of labels, ``[queries, categories]``; a label never seen is like no other."""
        return np.array(
            [[self._known[i].get(label, UNKNOWN) for i, label in enumerate(row)] for row in categories],
            dtype=np.int64,
        ).reshape(len(categories), len(self.labels))

    def mean(self, codes: IntArray, values: Array) -> Array:
        """Mean of the process, ``[queries]``, in logarithm.

        Parameters
        ----------
        codes, values
            As `encode` gives them, and values in the order of the training rows.
        """
        from moesim.correction.kernel import LOADS, add

        found = np.empty(len(values))
        start = 0
        # Loads of one deployment follow each other.
        keys = [(code.tobytes(), own.tobytes()) for code, own in zip(codes, values[:, LOADS:], strict=True)]
        while start < len(found):
            stop = start + 1
            while stop < len(found) and keys[stop] == keys[start]:
                stop += 1
            pairs = self._pairs(keys[start], codes[start], values[start])
            found[start:stop] = add(values[start:stop], *pairs, self.values, self._tables[1])
            start = stop
        return self.offset + found

    def _pairs(
        self, key: tuple[bytes, bytes], code: IntArray, own: Array
    ) -> tuple[IntArray, IntArray, Array]:
        """Training rows and effects near a deployment, kept for its next load."""
        from moesim.correction.kernel import near

        known = self._near.get(key)
        if known is None:
            if len(self._near) >= KEPT:
                self._near.clear()
            known = near(code, own, self.codes, self.values, self.weights, *self._tables[:3])
            self._near[key] = known
        return known

    @property
    def effects(self) -> tuple[IntArray, Array, Array]:
        """Categories that must be equal, rates and variances of the components; see `tables`."""
        masks, rates, variances = self._tables[:3]
        return masks, rates, variances

    def with_rows(self, categories: Sequence[Sequence[str]], values: Array, weights: Array) -> Process:
        """The process with more rows.

        Parameters
        ----------
        categories, values, weights
            Of the new rows; labels may be new, too.
        """
        labels = tuple(
            (*column, *dict.fromkeys(row[i] for row in categories if row[i] not in column))
            for i, column in enumerate(self.labels)
        )
        wider = replace(self, labels=labels)
        return replace(
            wider,
            codes=np.vstack([self.codes, wider.encode(categories)]),
            values=np.vstack([self.values, values]),
            weights=np.concatenate([self.weights, weights]),
        )

    def rows_dict(self) -> dict[str, Any]:
        """The training rows as plain values; processes of the same rows share them."""
        return {
            "labels": [list(column) for column in self.labels],
            "codes": self.codes.T.tolist(),
            "values": [[_short(v, 5) for v in column] for column in self.values.T],
        }

    def effects_dict(self) -> dict[str, Any]:
        """Components and weights as plain values, with more digits than the process is sure of."""
        return {
            "components": [
                {
                    "categories": list(c.categories),
                    "scales": [[int(i), _short(s, 4)] for i, s in c.scales],
                    "variance": _short(c.variance, 4),
                }
                for c in self.components
            ],
            "weights": [_short(w, 6) for w in self.weights],
            "offset": _short(self.offset, 4),
        }

    @classmethod
    def from_dicts(cls, rows: Mapping[str, Any], effects: Mapping[str, Any]) -> Process:
        """The process that `rows_dict` and `effects_dict` described."""
        components = tuple(
            Component(
                tuple(c["categories"]), tuple((int(i), float(s)) for i, s in c["scales"]), c["variance"]
            )
            for c in effects["components"]
        )
        values = [[np.nan if v is None else v for v in column] for column in rows["values"]]
        return cls(
            components,
            tuple(tuple(column) for column in rows["labels"]),
            np.array(rows["codes"], dtype=np.int64).T.copy(),
            np.array(values, dtype=np.float64).T.copy(),
            np.array(effects["weights"], dtype=np.float64),
            float(effects["offset"]),
        )


def _short(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def tables(components: Sequence[Component], values: int) -> tuple[IntArray, Array, Array, BoolArray]:
    """Components as arrays.

    Parameters
    ----------
    components
        The effects.
    values
        Columns of values.

    Returns
    -------
    tuple
        Bits of the categories that must be equal ``[components]``, half the inverse squared scales
        ``[components, values]`` (0 where a value does not matter), variances, and whether any value
        matters, ``[components]``.
    """
    masks = np.array([sum(1 << i for i in c.categories) for c in components], dtype=np.int64)
    rates = np.zeros((len(components), values))
    for row, c in enumerate(components):
        for column, scale in c.scales:
            rates[row, column] = 0.5 / scale**2
    variances = np.array([c.variance for c in components], dtype=np.float64)
    return masks, rates, variances, np.asarray(rates.any(axis=1), dtype=np.bool_)
