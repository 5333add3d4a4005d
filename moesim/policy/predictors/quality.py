"""How good guesses are: recall and precision by distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.policy.guesses import Guesses
from moesim.policy.predictors.common import Ints
from moesim.policy.steps import Steps

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Quality:
    """Guesses of one distance against what was asked for.

    Parameters
    ----------
    ahead
        Cells from the guess to its target.
    cells
        Target cells: all of the layers that are guessed from this far.
    wanted, guessed, right
        Accesses of those cells, guesses made for them, and guesses that came true.
    """

    ahead: int
    cells: int
    wanted: int
    guessed: int
    right: int

    @property
    def recall(self) -> float:
        """Part of the accesses that was guessed."""
        return self.right / max(self.wanted, 1)

    @property
    def precision(self) -> float:
        """Part of the guesses that came true."""
        return self.right / max(self.guessed, 1)


def quality(guesses: Guesses, steps: Steps, width: int | None = None) -> list[Quality]:
    """Recall and precision by distance.

    Parameters
    ----------
    guesses
        Of the same steps.
    steps
        What was asked for.
    width
        Guesses that count per target cell, the best ones; None counts all.

    Returns
    -------
    list of Quality
        One per distance that occurs, nearest first. Guesses beyond the last cell are left out.

    Examples
    --------
    One step of two layers; layer 0 says that layer 1 will ask for experts 3 and 0, and it asks for 1 and 3.

    >>> from moesim.policy.steps import token_steps
    >>> from moesim.trace import RoutingTrace
    >>> trace = RoutingTrace(np.array([[[0, 2], [1, 3]]], np.uint8), np.zeros(1, np.int32), 4, (0, 1),
    ...                      np.zeros(1, np.int32), np.ones(1, np.int8))
    >>> said = Guesses(np.array([0, 2, 2]), np.ones(2, np.int32), np.array([3, 0], np.int32),
    ...                np.array([0.9, 0.5], np.float32))
    >>> (found,) = quality(said, token_steps(trace))
    >>> found.recall, found.precision
    (0.5, 0.5)
    >>> quality(said, token_steps(trace), width=1)[0].precision
    1.0
    """
    distances = np.unique(guesses.ahead)
    place = np.zeros(int(distances[-1]) + 1 if len(distances) else 1, np.int64)
    place[distances] = np.arange(len(distances))
    counts = np.zeros((len(distances), 4), np.int64)
    cells = len(steps.starts) - 1
    source = np.repeat(np.arange(cells), np.diff(guesses.starts))
    asked = np.zeros((len(distances), steps.layers), np.bool_)
    asked[place[guesses.ahead], source % steps.layers] = True
    for at, ahead in enumerate(distances.tolist()):
        target = np.arange(ahead, cells)
        target = target[asked[at, (target - ahead) % steps.layers]]
        counts[at, 0] = len(target)
        counts[at, 1] = np.diff(steps.starts)[target].sum()
    most = steps.num_experts if width is None else width
    _tally(guesses.starts, guesses.ahead, guesses.experts, steps.experts, steps.starts, most, place, counts)
    return [Quality(int(a), *map(int, row)) for a, row in zip(distances, counts, strict=True) if row[0]]


@compiled
def _tally(
    first: Counts,
    ahead: Ints,
    said: Ints,
    ids: Ints,
    starts: Counts,
    most: int,
    place: Counts,
    counts: Counts,
) -> None:
    cells = len(starts) - 1
    used = np.zeros(counts.shape[0], np.int64)
    for cell in range(cells):
        used[:] = 0
        for g in range(first[cell], first[cell + 1]):
            target = cell + ahead[g]
            at = place[ahead[g]]
            if target >= cells or used[at] >= most:
                continue
            used[at] += 1
            counts[at, 2] += 1
            for a in range(starts[target], starts[target + 1]):
                if ids[a] == said[g]:
                    counts[at, 3] += 1
                    break
