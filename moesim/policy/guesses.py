"""What a predictor says: which experts later cells will ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Guesses:
    """Predicted accesses, by the cell in which they become known.

    Cell ``step * layers + layer`` knows the guesses ``starts[cell]:starts[cell + 1]`` once its own gate has
    run, best first. A guess is of the cell `ahead` cells later: 1 is the next layer, and the first layer of
    the next step comes after the last of this one.

    Parameters
    ----------
    starts
        First guess of every cell, int64 ``[cells + 1]``.
    ahead
        Cells from where it is known to where it is needed, at least 1, int32 ``[guesses]``.
    experts
        Expert of the target cell's layer, int32 ``[guesses]``.
    scores
        How sure, float32 ``[guesses]``; larger is surer.
    """

    starts: npt.NDArray[np.int64]
    ahead: npt.NDArray[np.int32]
    experts: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]

    @classmethod
    def none(cls, cells: int) -> Guesses:
        """No guess at all."""
        return cls(
            np.zeros(cells + 1, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.float32),
        )
