"""Requests that arrive at a rate, whether or not earlier ones are answered.

By Little's law as many requests are in the system as arrive while one of them is served. Arrivals that are
nearly Poisson find the system as it is on average, so that a request shares it with all of those: its latency
is that in a closed loop of one more, ``C = rate x E2EL(C + 1)``, but for the queue. Prompts arrive one by one
instead of all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from moesim.engine.load import Load
from moesim.engine.routing import Array
from moesim.engine.steady import Steady
from moesim.metrics import e2el_s

Bools = npt.NDArray[np.bool_]

#: Numbers of requests in the system between which the crossing is interpolated.
POINTS = 48


def settled(answer: Callable[[Load], Steady], load: Load) -> tuple[Load, Bools]:
    """Requests in the system when they arrive at ``load.request_rate``.

    Parameters
    ----------
    answer
        Steady state of a load.
    load
        With a rate; its concurrency is not looked at.

    Returns
    -------
    tuple
        The load with the requests that a request shares the system with, itself included, and whether the
        deployment keeps up, ``[batches]``.
    """
    rate = load.request_rate
    assert rate is not None
    grid, served = _served(answer, load)
    keeps_up = served >= rate
    k = np.maximum(keeps_up.argmax(axis=0), 1)
    column = np.arange(len(rate))
    below, above = served[k - 1, column], served[k, column]
    part = np.clip((rate - below) / np.maximum(above - below, 1e-300), 0.0, 1.0)
    found = grid[k - 1, column] + part * (grid[k, column] - grid[k - 1, column])
    return load.at(found), np.asarray(keeps_up.any(axis=0))


def most_rate(answer: Callable[[Load], Steady], load: Load) -> Array:
    """Requests per second that the deployment keeps up with at most, ``[batches]``."""
    # Without a queue: with one, the wait at a rate beyond the most hides what is served.
    slow = replace(load, request_rate=np.full(len(load.input_len), 1e-12))
    return np.asarray(_served(answer, slow)[1].max(axis=0))


def _served(answer: Callable[[Load], Steady], load: Load) -> tuple[Array, Array]:
    """Requests that share the system, and the rate that keeps them as many, each ``[points, n]``."""
    one = load.at(np.ones(len(load.input_len)))
    # More than run at once cannot be served faster.
    top = np.log(np.maximum(answer(one).limit, 1.0))
    grid = np.exp(np.linspace(0.0, 1.0, POINTS)[:, None] * top[None, :])
    many = load.repeated(POINTS).at(grid.ravel())
    others = grid.ravel() - 1.0
    return grid, (others / _whole(answer(many), many)).reshape(grid.shape)


def _whole(state: Steady, load: Load) -> Array:
    return np.asarray(e2el_s(state.ttft_s, state.tpot_s, load.output_len))
