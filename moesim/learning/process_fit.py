"""Fit a Gaussian process to residuals: strengths and ranges of its effects by marginal likelihood.

The likelihood of the residuals is maximised over the logarithms of all variances and ranges, each held by a
broad prior (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 5.4). Rows that
contradict the others get more noise, as under Student's t, so that single strange runs do not bend others
(iteratively reweighted; Lange, Little and Taylor, Robust statistical modeling using the t distribution,
JASA 1989). Strengths are found twice, the second time with that noise: else what is strange in few rows
would pass for large effects of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from moesim.correction.process import Component, Process, tables
from moesim.learning.covariance import covariance, slopes

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Degrees of freedom of the residuals' distribution, and rounds of reweighting.
FREEDOM, ROUNDS = 4.0, 4
#: Width of the prior of a logarithm, around the value that a component starts with.
PRIOR = 1.5
#: Steps of the first and second search.
ITERATIONS = (20, 20)
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
    equal: IntArray
    values: Array
    y: Array
    start: Array
    weights: Array

    def fitted(self, parameters: Array) -> tuple[tuple[Component, ...], float]:
        """Components with these parameters, and the noise."""
        found, at = [], 0
        for c in self.components:
            scales = np.exp(parameters[at + 1 : at + 1 + len(c.scales)])
            own = tuple((column, float(s)) for (column, _), s in zip(c.scales, scales, strict=True))
            found.append(Component(c.categories, own, float(np.exp(parameters[at]))))
            at += 1 + len(c.scales)
        return tuple(found), float(np.exp(parameters[-1]))

    def covariance(self, parameters: Array) -> Array:
        """Covariance of what rows share."""
        components, _ = self.fitted(parameters)
        masks, rates, variances, _ = tables(components, self.values.shape[1])
        return np.asarray(covariance(self.equal, self.values, masks, rates, variances))

    def inverse(self, shared: Array, noise: float) -> tuple[Array, float] | None:
        """Inverse of the covariance of the measurements, and half its log determinant."""
        whole = shared.copy()
        whole[np.diag_indices_from(whole)] += noise * self.weights + 1e-9
        factor, failed = lapack.dpotrf(whole.T, lower=1, overwrite_a=1)
        if failed:
            return None
        half = float(np.log(np.diag(factor)).sum())
        low = np.tril(lapack.dpotri(factor, lower=1, overwrite_c=1)[0])
        return low + np.tril(low, -1).T, half

    def objective(self, parameters: Array) -> tuple[float, Array]:
        """Negative log posterior of the parameters, and its gradient."""
        components, noise = self.fitted(parameters)
        found = self.inverse(self.covariance(parameters), noise)
        if found is None:
            return 1e12, np.zeros_like(parameters)
        inverse, half = found
        solved = inverse @ self.y
        value = 0.5 * self.y @ solved + half
        pull = 0.5 * (inverse - np.outer(solved, solved))
        masks, rates, variances, _ = tables(components, self.values.shape[1])
        of_variances, of_ranges = slopes(self.equal, self.values, masks, rates, variances, pull)
        slope: list[float] = []
        for k, c in enumerate(components):
            slope += [of_variances[k], *(of_ranges[k, column] for column, _ in c.scales)]
        slope.append(float(np.sum(np.diag(pull) * noise * self.weights)))
        off = (parameters - self.start) / PRIOR
        return float(value + 0.5 * off @ off), np.array(slope) + off / PRIOR

    def search(self, parameters: Array, iterations: int) -> Array:
        """Parameters of the highest posterior."""
        # A thousand products of matrices so small that threads would mostly wait for each other.
        with threadpool_limits(1, user_api="blas"):
            found = minimize(
                self.objective,
                parameters,
                jac=True,
                method="L-BFGS-B",
                bounds=[(s - 6.0, s + 5.0) for s in self.start],
                options={"maxiter": iterations},
            )
        return np.asarray(found.x)

    def solve(self, shared: Array, noise: float) -> tuple[Array, Array, Array]:
        """Weights of the rows, and residuals and variances when each is left out."""
        found = self.inverse(shared, noise)
        assert found is not None  # The search stays where it has found values.
        solved = found[0] @ self.y
        diagonal = np.diag(found[0])
        return solved, solved / diagonal, 1.0 / diagonal

    def reweighted(self, parameters: Array, rounds: int = ROUNDS) -> tuple[Array, Array]:
        """Give strange rows more noise; weights and left-out residuals then."""
        shared, noise = self.covariance(parameters), self.fitted(parameters)[1]
        self.weights = np.ones_like(self.y)
        solved, residual, variance = self.solve(shared, noise)
        for _ in range(rounds):
            self.weights = np.clip((residual**2 / variance + FREEDOM) / (FREEDOM + 1.0), 0.6, MOST_NOISE)
            solved, residual, variance = self.solve(shared, noise)
        return solved, residual


def fit_process(
    components: Sequence[Component],
    labels: Sequence[Sequence[str]],
    values: Array,
    y: Array,
    *,
    noise: float = 0.003,
    parameters: Array | None = None,
    rounds: int = ROUNDS,
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
    rounds
        Of giving strange rows more noise.

    Returns
    -------
    Fitted
    """
    columns = [tuple(sorted({row[i] for row in labels} - {""})) for i in range(len(labels[0]))]
    where = [{label: code for code, label in enumerate(column)} for column in columns]
    codes = np.array([[where[i].get(v, -1) for i, v in enumerate(row)] for row in labels], dtype=np.int64)
    values, y = np.ascontiguousarray(values, dtype=np.float64), np.asarray(y, dtype=np.float64)
    start = _start(components, noise)
    problem = _Problem(components, equal_bits(codes), values, y, start, np.ones_like(y))
    if parameters is None:
        first, second = ITERATIONS
        parameters = problem.search(start, first)
        problem.reweighted(parameters)
        parameters = problem.search(parameters, second)
    weights, residual = problem.reweighted(parameters, rounds)
    fitted, found_noise = problem.fitted(parameters)
    return Fitted(Process(fitted, tuple(columns), codes, values, weights), parameters, found_noise, residual)


def _start(components: Sequence[Component], noise: float) -> Array:
    found: list[float] = []
    for c in components:
        found += [np.log(c.variance), *(np.log(scale) for _, scale in c.scales)]
    return np.array([*found, np.log(noise)])


def equal_bits(codes: IntArray) -> IntArray:
    """Bits of the categories in which rows agree; one not recorded agrees with none."""
    found = np.zeros((len(codes), len(codes)), dtype=np.int64)
    for i, column in enumerate(codes.T):
        same = (column[:, None] == column[None, :]) & (column[:, None] >= 0)
        found |= same.astype(np.int64) << i
    return found
