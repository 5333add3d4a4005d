"""Fit a Gaussian process to residuals: strengths and ranges of its effects by marginal likelihood.

The likelihood of the residuals is maximised over the logarithms of all variances and ranges, each held by a
broad prior (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 5.4). Rows that
contradict the others get more noise, as under Student's t, so that single strange runs do not bend others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from moesim.correction.process import Component, Process

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Degrees of freedom of the residuals' distribution, and rounds of reweighting.
FREEDOM, ROUNDS = 4.0, 4
#: Width of the prior of a logarithm, around the value that a component starts with.
PRIOR = 1.5
ITERATIONS = 40
#: Noise of a row beyond which nothing is learnt from it.
MOST_NOISE = 1e3


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A process and what its fit found.

    Parameters
    ----------
    process
        Ready to be used.
    parameters
        Logarithms of variances, ranges and noise: start values for a fit to similar rows.
    noise
        Variance of a row's own noise, in squared logarithm.
    left_out
        Residual of every row when it is predicted from all others, ``[rows]``.
    """

    process: Process
    parameters: Array
    noise: float
    left_out: Array


@dataclass(slots=True, eq=False)
class _Problem:
    components: Sequence[Component]
    equal: list[Array | None]
    squares: list[list[Array]]
    y: Array
    start: Array
    weights: Array

    def split(self, parameters: Array) -> tuple[list[float], list[Array], float]:
        """Log variances, log ranges, log noise."""
        variances, ranges, i = [], [], 0
        for c in self.components:
            variances.append(float(parameters[i]))
            ranges.append(parameters[i + 1 : i + 1 + len(c.scales)])
            i += 1 + len(c.scales)
        return variances, ranges, float(parameters[-1])

    def parts(self, parameters: Array) -> list[Array]:
        """Covariance of each component."""
        variances, ranges, _ = self.split(parameters)
        n = len(self.y)
        found = []
        for equal, squares, v, scale in zip(self.equal, self.squares, variances, ranges, strict=True):
            part = np.full((n, n), np.exp(v)) if equal is None else np.exp(v) * equal
            if squares:
                distance = sum(s * np.exp(-2.0 * r) for s, r in zip(squares, scale, strict=True))
                part = part * np.exp(-0.5 * distance)
            found.append(part)
        return found

    def objective(self, parameters: Array) -> tuple[float, Array]:
        """Negative log posterior of the parameters, and its gradient."""
        parts = self.parts(parameters)
        noise = np.exp(parameters[-1]) * self.weights
        whole = np.sum(parts, axis=0)
        whole[np.diag_indices_from(whole)] += noise + 1e-9
        try:
            factor = cho_factor(whole, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e12, np.zeros_like(parameters)
        solved = cho_solve(factor, self.y, check_finite=False)
        value = 0.5 * self.y @ solved + np.log(np.diag(factor[0])).sum()
        pull = cho_solve(factor, np.eye(len(self.y)), check_finite=False) - np.outer(solved, solved)
        slopes = []
        _, ranges, _ = self.split(parameters)
        for part, squares, scale in zip(parts, self.squares, ranges, strict=True):
            weighted = pull * part
            slopes.append(0.5 * weighted.sum())
            slopes += [
                0.5 * np.vdot(weighted, s) * np.exp(-2.0 * r) for s, r in zip(squares, scale, strict=True)
            ]
        slopes.append(0.5 * np.sum(np.diag(pull) * noise))
        off = (parameters - self.start) / PRIOR
        return float(value + 0.5 * off @ off), np.array(slopes) + off / PRIOR

    def solve(self, parameters: Array) -> tuple[Array, Array, Array]:
        """Weights of the rows, and residuals and variances when each is left out."""
        whole = np.sum(self.parts(parameters), axis=0)
        whole[np.diag_indices_from(whole)] += np.exp(parameters[-1]) * self.weights + 1e-9
        inverse = cho_solve(cho_factor(whole, lower=True, check_finite=False), np.eye(len(self.y)))
        solved = inverse @ self.y
        diagonal = np.diag(inverse)
        return solved, solved / diagonal, 1.0 / diagonal


def fit_process(
    components: Sequence[Component],
    labels: Sequence[Sequence[str]],
    values: Array,
    y: Array,
    *,
    noise: float = 0.003,
    parameters: Array | None = None,
) -> Fitted:
    """Fit a process to residuals.

    Parameters
    ----------
    components
        The effects, with the variances and ranges to start from.
    labels
        Categories of every row.
    values
        Values of every row, ``[rows, values]``; NaN where unknown.
    y
        Logarithm of measured over physical, ``[rows]``.
    noise
        Variance to start from.
    parameters
        Known parameters; then only the rows' weights are found.

    Returns
    -------
    Fitted
    """
    columns = [tuple(sorted({row[i] for row in labels} - {""})) for i in range(len(labels[0]))]
    where = [{label: code for code, label in enumerate(column)} for column in columns]
    codes = np.array([[where[i].get(v, -1) for i, v in enumerate(row)] for row in labels], dtype=np.int64)
    problem = _problem(components, codes, values, np.asarray(y, dtype=np.float64), noise)
    if parameters is None:
        bounds = [(s - 6.0, s + 5.0) for s in problem.start]
        parameters = np.asarray(
            minimize(
                problem.objective,
                problem.start,
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": ITERATIONS},
            ).x
        )
    weights, residual, variance = problem.solve(parameters)
    for _ in range(ROUNDS):
        problem.weights = np.clip((residual**2 / variance + FREEDOM) / (FREEDOM + 1.0), 0.6, MOST_NOISE)
        weights, residual, variance = problem.solve(parameters)
    variances, ranges, log_noise = problem.split(parameters)
    fitted = tuple(
        Component(
            c.categories,
            tuple((column, float(np.exp(r))) for (column, _), r in zip(c.scales, scale, strict=True)),
            float(np.exp(v)),
        )
        for c, v, scale in zip(components, variances, ranges, strict=True)
    )
    process = Process(fitted, tuple(columns), codes, values, weights)
    return Fitted(process, parameters, float(np.exp(log_noise)), residual)


def _problem(
    components: Sequence[Component], codes: IntArray, values: Array, y: Array, noise: float
) -> _Problem:
    equal: list[Array | None] = []
    squares = []
    same = [
        (codes[:, None, i] == codes[None, :, i]) & (codes[:, None, i] >= 0) for i in range(codes.shape[1])
    ]
    apart = [(values[:, None, i] - values[None, :, i]) ** 2 for i in range(values.shape[1])]
    # A value that was not recorded is far from every other.
    apart = [np.where(np.isfinite(a), a, 1e6) for a in apart]
    start = []
    for c in components:
        table = None
        for i in c.categories:
            table = same[i] if table is None else table & same[i]
        equal.append(None if table is None else table.astype(np.float64))
        squares.append([apart[column] for column, _ in c.scales])
        start += [np.log(c.variance), *(np.log(scale) for _, scale in c.scales)]
    return _Problem(
        components, equal, squares, y, np.array([*start, np.log(noise)]), np.ones(len(y), dtype=np.float64)
    )
