"""Where a configuration lies among the measured ones: its categories, and its values in octaves."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, nan

import numpy as np
import numpy.typing as npt

from moesim.layout.parallelism import Parallelism

Array = npt.NDArray[np.float64]

CATEGORIES = ("model", "system", "backend", "dtype", "source", "campaign", "layout", "sizes")
VALUES = ("concurrency", "input", "output", "devices", "tp", "dp", "ep", "prefill_devices", "month")


#: Releases of one shape that are measured as one model.
_ONE_MODEL = {"deepseek-v3": "deepseek-r1"}


def known_as(model: str) -> str:
    """The model that runs of a catalogue model are measured as.

    >>> known_as("deepseek-v3")
    'deepseek-r1'
    """
    return _ONE_MODEL.get(model, model)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a deployment is, without its load.

    Parameters
    ----------
    model, system
        Catalogue names of the model and of the device.
    backend
        Serving engine.
    dtype
        Of expert weights, or of dense blocks.
    layout
        Of the deployment, or of one decode worker.
    prefill
        Of one prefill worker of a disaggregated deployment.
    workers
        Prefill and decode workers; None where unknown.
    source, campaign
        Kind of source, and source with date, of a measurement; empty if it is none.
    month
        Months from January 2025 to the measurement; NaN if unknown.
    """

    model: str
    system: str
    backend: str
    dtype: str
    layout: Parallelism
    prefill: Parallelism | None = None
    workers: tuple[int | None, int | None] = (None, None)
    source: str = ""
    campaign: str = ""
    month: float = nan

    def labels(self) -> tuple[str, ...]:
        """Label of each of `CATEGORIES`."""
        layout = str(self.layout) if self.prefill is None else f"{self.prefill} + {self.layout}"
        sizes = "" if self.prefill is None else "x".join("?" if n is None else str(n) for n in self.workers)
        return (
            self.model,
            self.system,
            self.backend,
            self.dtype,
            self.source,
            self.campaign,
            layout,
            sizes,
        )

    def values(self, input_len: Array, output_len: Array, concurrency: Array) -> Array:
        """Value of each of `VALUES` for every load of mean lengths, ``[loads, values]``."""
        layout = self.layout
        decode_workers = self.workers[1] or 1
        own = (
            log2(layout.world * decode_workers),
            log2(layout.tp),
            log2(layout.dp),
            log2(layout.ep),
            nan if self.prefill is None else log2(self.prefill.world * (self.workers[0] or 1)),
            self.month,
        )
        loads = [np.log2(np.maximum(a, 1.0)) for a in (concurrency, input_len, output_len)]
        return np.column_stack([*loads, *(np.full(len(input_len), v) for v in own)])
