"""What a gate leaves of a trace: whose slots are used, and by which experts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """A trace as a gate lets it through.

    A `RoutingTrace` has as many experts per token everywhere, so slots that a gate leaves empty are told
    apart by a mask. Batchers count only the slots that are kept.

    Parameters
    ----------
    trace
        Ids and weights after the gate; rows, requests and phases are those of the trace before it.
    kept
        Which slots are used, bool of the shape of ``trace.topk_ids``; None where all are.
    """

    trace: RoutingTrace
    kept: npt.NDArray[np.bool_] | None = None

    @property
    def dropped(self) -> float:
        """Part of the slots that is left empty."""
        return 0.0 if self.kept is None else 1.0 - float(self.kept.mean())
