"""Other layouts of the same devices, the nearest to the one at hand first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import log2
from typing import Any

import numpy as np

from moesim.correction import shipped
from moesim.layout import Parallelism
from moesim.planning import Space
from moesim.planning.candidates import layouts
from moesim.prediction.question import load_of
from moesim.prediction.spares import spare_faults, with_spares
from moesim.provenance import clean
from moesim.ui.curve import served_for
from moesim.ui.library import Library
from moesim.ui.scenario import RANGES, Asked, read_scenario

#: More layouts than this are not looked at; those of few stages come first.
MOST = 96
_DEGREES = ("tp", "pp", "dp", "ep")
_ONE: Mapping[str, int] = dict.fromkeys(_DEGREES, 1)
#: Moving a pipeline stage changes more than moving the others.
_WEIGHTS = {"tp": 1.0, "pp": 2.0, "dp": 1.0, "ep": 1.0}


def any_layout(raw: object, library: Library) -> Asked:
    """A scenario whose layout may be wrong: read as if of one device.

    Raises
    ------
    ConfigError
        With everything else that is wrong.
    """
    bare = raw if not isinstance(raw, dict) else {**raw, **_ONE, "redundant": 0}
    return read_scenario(bare, library)


def layout_in(raw: object) -> Parallelism:
    """The degrees that were asked for, as far as they are numbers."""
    given = raw if isinstance(raw, dict) else {}

    def degree(name: str) -> int:
        value = given.get(name, 1)
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and 1 <= value <= RANGES[name].max else 1

    return Parallelism(*map(degree, _DEGREES))


def redundant_in(raw: object) -> int:
    """The redundant experts that were asked for, as far as that is a number."""
    value = raw.get("redundant", 0) if isinstance(raw, dict) else 0
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= RANGES["redundant"].max else 0


def others(asked: Asked, near: Parallelism, redundant: int = 0) -> list[Asked]:
    """The scenario in every layout of all devices, the nearest to one first.

    Parameters
    ----------
    asked
        Model, machine and traffic; its layout is not looked at.
    near
        Where to start; it is among them if it can be laid out, also on fewer devices.
    redundant
        Redundant experts, where they go on the ranks; none elsewhere.
    """
    found = [*layouts(asked.hardware.num_devices, Space()), near]
    valid = [
        laid_out(asked, layout, redundant)
        for layout in sorted(dict.fromkeys(found), key=lambda layout: _distance(layout, near))
        if not layout.faults(asked.model, asked.hardware)
    ]
    return valid[:MOST]


def laid_out(asked: Asked, layout: Parallelism, redundant: int) -> Asked:
    """The scenario in another layout; without redundant experts where they do not go."""
    model = asked.model
    if layout.faults(model, asked.hardware, redundant) or spare_faults(model, layout, redundant):
        redundant = 0
    degrees = {name: getattr(layout, name) for name in _DEGREES}
    return replace(
        asked,
        scenario=asked.scenario.model_copy(update={**degrees, "redundant": redundant}),
        layout=layout,
        plan=with_spares(model, layout, redundant),
    )


def assess(asked: Asked, near: Parallelism) -> dict[str, Any]:
    """One layout's latency and throughput, or why it cannot serve."""
    served = served_for(asked, shipped())
    load = load_of([asked.workload], served.engine)
    values: dict[str, Any] = dict.fromkeys(("ttft_s", "tpot_s", "output_throughput"))
    reason = ""
    if not served.fits(load)[0]:
        reason = "does not fit in memory"
    else:
        load, stable = served.settled(load)
        if not stable[0]:
            reason = "does not keep up with the requests"
        else:
            metrics = served.metrics(served.state(load), load)
            values = {name: float(np.asarray(metrics[name])[0]) for name in values}
    return dict(
        clean(
            {
                **{name: getattr(asked.layout, name) for name in _DEGREES},
                "redundant": asked.scenario.redundant,
                "feasible": not reason,
                "reason": reason,
                **values,
                "current": asked.layout == near,
            }
        )
    )


def holds(asked: Asked) -> bool:
    """Whether weights and one request fit."""
    served = served_for(asked, shipped())
    return bool(served.fits(load_of([asked.workload], served.engine))[0])


def _distance(layout: Parallelism, near: Parallelism) -> tuple[float, tuple[int, ...]]:
    apart = sum(w * abs(log2(getattr(layout, n) / getattr(near, n))) for n, w in _WEIGHTS.items())
    return apart, (layout.pp, layout.tp, layout.dp, layout.ep)
