"""How far measured runs have been from what the model says: between what a plan's latencies may lie."""

from __future__ import annotations

import numpy as np

from moesim.correction import Calibration
from moesim.engine.load import Load
from moesim.layout.expert_map import ExpertMap
from moesim.planning.crowd import Crowd
from moesim.planning.types import Candidate
from moesim.prediction.served import Served
from moesim.trace.types import Routing


def doubt(
    candidate: Candidate,
    crowd: Crowd,
    running: float,
    calibration: Calibration,
    trace: Routing | None = None,
    placement: ExpertMap | None = None,
    seed: int = 0,
) -> tuple[dict[str, tuple[float, float]], str]:
    """Lowest and highest ratio of measured to simulated means, by metric, and why they are far apart.

    The interval is that of `moesim.prediction.predict`: errors on measured runs, each predicted from others,
    wider for machines, layouts and loads that nobody measured.

    Parameters
    ----------
    candidate
        One replica of it counts.
    crowd
        The traffic.
    running
        Requests in a replica.
    calibration
        What measured runs taught.
    trace, placement, seed
        As of `moesim.planning.search.plan`.

    Returns
    -------
    tuple
        By ``ttft_s``, ``tpot_s`` and ``e2el_s``; empty where no measured run is like it.
    """
    served = Served.of(
        candidate.model,
        candidate.hardware,
        candidate.layout,
        candidate.engine,
        calibration,
        trace,
        placement,
        seed,
    )
    load = Load(
        np.array([float(crowd.prompt.mean())]),
        np.array([float(crowd.output.mean())]),
        np.array([max(running, 1.0)]),
        candidate.engine.chunk_tokens,
        candidate.engine.max_sequences,
    )
    state, found = served.answer(load)
    if found is None:
        return {}, "no measured run is like it"
    physical = served.physical(load)
    shift = {
        "ttft_s": float(np.asarray(state.ttft_s / physical.ttft_s).reshape(-1)[0]),
        "tpot_s": float(np.asarray(state.tpot_s / physical.tpot_s).reshape(-1)[0]),
    }
    shift["e2el_s"] = shift["tpot_s"]
    spans = {}
    for name, by in shift.items():
        low, high = (float(np.asarray(end).reshape(-1)[0]) for end in found.spans[name.removesuffix("_s")])
        spans[name] = by * low, by * high
    why = found.why
    if not found.known_system:
        why = f"no measured run is on {candidate.hardware.device.name}"
    return spans, why
