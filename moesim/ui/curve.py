"""What a deployment does as traffic grows: all points at once, each with its bound and interval."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from moesim.bounds import Bounds, bounds_of
from moesim.correction import Calibration, Corrected
from moesim.engine.load import Load
from moesim.engine.routing import Array
from moesim.prediction import Workload
from moesim.prediction.calibrated import interval_of, kept_up
from moesim.prediction.question import load_of
from moesim.prediction.served import Served
from moesim.ui.scenario import Asked

#: Points of a curve.
POINTS = 24
#: A curve reaches at least so many requests, and so many times those that are asked about.
_LEAST, _BEYOND = 1024, 4
#: Rates of an open loop, as shares of the most that is kept up with.
_SHARES = np.concatenate([np.geomspace(0.01, 0.5, 10), np.linspace(0.55, 0.99, POINTS - 10)])
METRICS = ("ttft_s", "tpot_s", "e2el_s", "request_throughput", "output_throughput")
_SPANS = ("ttft_s", "tpot_s", "output_throughput")


def curve(asked: Asked, served: Served) -> dict[str, Any] | None:
    """Latency and throughput of the same deployment and requests, from little traffic to much.

    Parameters
    ----------
    asked, served
        The question, and what answers it.

    Returns
    -------
    dict or None
        ``by`` is what grows: ``concurrency`` of a closed loop, ``request_rate`` of an open one; lists by
        metric, with ``low`` and ``high`` ends of the interval (None without one) and the ``bound``. None if
        not one request fits.
    """
    base = load_of([asked.workload], served.engine)
    if not served.fits(base)[0]:
        return None
    if asked.workload.request_rate is None:
        load = load_of([replace(asked.workload, concurrency=c) for c in grid(asked.workload)], served.engine)
    else:
        most = float(served.most_rate(base)[0])
        rates = [replace(asked.workload, request_rate=float(most * share)) for share in _SHARES]
        load, stable = served.settled(load_of(rates, served.engine))
        load = load.part(stable)
        if not len(load.input_len):
            return None
    state, found = served.answer(load)
    rows = len(load.input_len)

    def full(values: Array | float) -> Array:
        return np.broadcast_to(np.asarray(values, dtype=np.float64), rows)

    values = {name: full(value) for name, value in served.metrics(state, load).items()}
    limits = {name: full(getattr(bounds_of(state, load), name)) for name in METRICS}
    spans = _spans(served, load, values, found, limits, full(state.limit))
    return {
        "by": "concurrency" if load.request_rate is None else "request_rate",
        "concurrency": load.concurrency,
        "request_rate": load.request_rate,
        **{name: values[name] for name in METRICS},
        "bound": {name: limits[name] for name in _SPANS},
        "low": None if spans is None else {name: [span[name][0] for span in spans] for name in _SPANS},
        "high": None if spans is None else {name: [span[name][1] for span in spans] for name in _SPANS},
        "feasible": [True] * rows,
    }


def grid(workload: Workload) -> list[float]:
    """Numbers of requests of a curve: powers of two at its ends, and what is asked about among them.

    >>> points = grid(Workload(1024, 1024, 100))
    >>> len(points), points[0], points[-1], 100 in points
    (24, 1.0, 1024.0, True)
    """
    asked = workload.concurrency or 1.0
    top = 2.0 ** np.ceil(np.log2(max(_LEAST, _BEYOND * asked)))
    points = np.geomspace(1.0, top, POINTS)
    points[1:-1] = np.maximum(np.round(points[1:-1]), np.arange(2, POINTS))
    nearest = 1 + int(np.argmin(np.abs(np.log(points[1:-1] / asked))))
    if asked > 1.0:
        points[nearest] = asked
    return [float(p) for p in points]


def _spans(
    served: Served,
    load: Load,
    values: dict[str, Array],
    found: Corrected | None,
    limits: dict[str, Array],
    most: Array,
) -> list[dict[str, Any]] | None:
    """The interval of every point; None where no measured run is like it."""
    if found is None:
        return None
    inside = _measured(served, load, found)
    spans = []
    for row in range(len(load.input_len)):
        own = found if inside is None or row >= len(inside.tpot_factor) else inside
        answers = {name: float(value[row]) for name, value in values.items()}
        proven = Bounds(**{name: float(limit[row]) for name, limit in limits.items()})
        span = interval_of(answers, own, proven, served.calibration, row)
        assert span is not None
        if load.request_rate is not None:
            span = kept_up(span, answers, float(load.request_rate[row]), float(most[row]))
        spans.append(span)
    return spans


def _measured(served: Served, load: Load, found: Corrected) -> Corrected | None:
    """What is known of the first points, as far as measured runs go; None where all points are alike.

    Traffic beyond all measured runs widens the interval of its own point, not that of the others.
    """
    if not found.beyond:
        return None
    rows = np.arange(len(load.input_len))

    def first(many: int) -> Corrected:
        known = served.answer(load.part(rows < many))[1]
        assert known is not None
        return known

    # Points are sorted: halve what is unknown.
    low, high = 0, len(rows)
    known = None
    while high - low > 1:
        middle = (low + high) // 2
        one = first(middle)
        if one.beyond:
            high = middle
        else:
            low, known = middle, one
    return known


def served_for(asked: Asked, calibration: Calibration) -> Served:
    """What answers questions about a scenario's loads."""
    return Served.of(
        asked.model,
        asked.hardware,
        asked.layout,
        asked.engine,
        calibration,
        asked.routing,
        asked.plan,
        asked.scenario.seed,
    )
