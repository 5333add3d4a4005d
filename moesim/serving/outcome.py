"""What a simulation says: every request, and sums over steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.requests import RequestTrace
from moesim.serving.state import DONE, Rules, State

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What happened; arrays are ``[requests]`` in order of arrival.

    Parameters
    ----------
    requests
        Who was served.
    state
        What the loops left behind.
    rules
        Of the engines.
    """

    requests: RequestTrace
    state: State
    rules: Rules

    @property
    def done(self) -> npt.NDArray[np.bool_]:
        """Requests that got all their tokens."""
        return np.asarray(self.state.progress.stage == DONE)

    @property
    def ttft_s(self) -> F8:
        """From sending to the first token."""
        return self.state.progress.first_s - self.state.progress.sent_s

    @property
    def e2el_s(self) -> F8:
        """From sending to the last token."""
        return self.state.progress.last_s - self.state.progress.sent_s

    @property
    def tpot_s(self) -> F8:
        """Mean time between tokens of each request; NaN with one token."""
        later = self.requests.output_tokens - 1
        whole = self.state.progress.last_s - self.state.progress.first_s
        return np.where(later > 0, whole / np.maximum(later, 1), np.nan)
