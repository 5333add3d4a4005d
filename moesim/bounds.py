"""What cannot be beaten: limits that follow from peaks and sizes alone.

Every limit assumes full overlap of all resources at their peak rates, ranks that share experts equally, no
queue, no launch cost and no latency. It holds for the same model, layout, routing and running requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.engine.load import Load
from moesim.engine.steady import Steady
from moesim.metrics import Array, e2el_s, output_throughput, request_throughput


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Limits of every alternative, ``[batches]``: latencies from below, throughput from above."""

    ttft_s: Array | float
    tpot_s: Array | float
    e2el_s: Array | float
    request_throughput: Array | float
    output_throughput: Array | float

    def loosened(self, other: Bounds) -> Bounds:
        """What neither this nor `other` allows to be beaten."""
        lower = {n: np.minimum(getattr(self, n), getattr(other, n)) for n in ("ttft_s", "tpot_s", "e2el_s")}
        upper = {
            n: np.maximum(getattr(self, n), getattr(other, n))
            for n in ("request_throughput", "output_throughput")
        }
        return Bounds(**lower, **upper)


def bounds_of(state: Steady, load: Load) -> Bounds:
    """Limits of a steady state.

    Parameters
    ----------
    state
        Gives the limits of a lone prefill and of a decode step.
    load
        The traffic.
    """
    whole = e2el_s(state.bound_ttft_s, state.bound_tpot_s, load.output_len)
    # No more requests than run can be served at once, each for its shortest time.
    requests = request_throughput(state.running, whole)
    return Bounds(
        state.bound_ttft_s, state.bound_tpot_s, whole, requests, output_throughput(requests, load.output_len)
    )
