"""What predictors share: cells, tables of guesses, and checks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy.guesses import Guesses
from moesim.policy.split import taken
from moesim.policy.steps import Steps, token_steps
from moesim.trace.types import RoutingTrace

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

#: Guesses that fit into one table, 8 bytes each; above it a predictor asks for fewer.
_LARGEST = 400_000_000


def table(cells: int, distance: int, width: int) -> tuple[Ints, Floats]:
    """Empty guesses: experts all -1 and scores, ``[cells, distance, width]``.

    Raises
    ------
    ConfigError
        When they would take more than 3 GB.
    """
    if cells * distance * width > _LARGEST:
        raise ConfigError(
            Fault(
                f"takes {cells * distance * width:,} guesses; replay fewer tokens, or guess less far or wide",
                "predictor",
                allowed=f"{_LARGEST:,}",
            )
        )
    shape = (cells, distance, width)
    return np.full(shape, -1, np.int32), np.zeros(shape, np.float32)


def packed(experts: Ints, scores: Floats, first: int = 1) -> Guesses:
    """A table as `Guesses`, each cell's best first and of equals the nearer.

    Parameters
    ----------
    experts
        -1 where there is no guess, int32 ``[cells, distance, width]``; entry ``[cell, h]`` is of the cell
        ``first + h`` later.
    scores
        Of the same shape.
    """
    counts = (experts >= 0).sum(axis=(1, 2))
    starts = np.zeros(len(experts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    total = int(starts[-1])
    ahead, chosen, sure = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.float32)
    _pack(experts, scores, first, starts, ahead, chosen, sure)
    return Guesses(starts, ahead, chosen, sure)


@compiled
def _pack(
    experts: Ints,
    scores: Floats,
    first: int,
    starts: npt.NDArray[np.int64],
    ahead: Ints,
    chosen: Ints,
    sure: Floats,
) -> None:
    cells, distance, width = experts.shape
    for cell in range(cells):
        begin = starts[cell]
        end = begin
        for h in range(distance):
            for w in range(width):
                if experts[cell, h, w] < 0:
                    continue
                # Insertion keeps equals in order of distance, then of place.
                at = end
                score = scores[cell, h, w]
                while at > begin and sure[at - 1] < score:
                    sure[at], chosen[at], ahead[at] = sure[at - 1], chosen[at - 1], ahead[at - 1]
                    at -= 1
                sure[at], chosen[at], ahead[at] = score, experts[cell, h, w], first + h
                end += 1


@compiled
def best(scores: Floats, experts: Ints, sure: Floats) -> None:
    """The ``len(experts)`` largest positive scores, ties to the lower expert; -1 where there are fewer.

    Parameters
    ----------
    scores
        By expert, float32 ``[num_experts]``.
    experts, sure
        Filled, ``[width]``.
    """
    width, found = len(experts), 0
    for e in range(len(scores)):
        score = scores[e]
        if score <= 0.0 or (found == width and score <= sure[width - 1]):
            continue
        at = found if found < width else width - 1
        while at > 0 and sure[at - 1] < score:
            sure[at], experts[at] = sure[at - 1], experts[at - 1]
            at -= 1
        sure[at], experts[at] = score, e
        if found < width:
            found += 1
    for w in range(found, width):
        experts[w] = -1


def best_rows(scores: Floats, width: int) -> tuple[Ints, Floats]:
    """`best` of every row of scores ``[..., num_experts]``, as ``[..., width]``."""
    width = min(width, scores.shape[-1])
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :width]
    sure = np.take_along_axis(scores, order, -1)
    return np.where(sure > 0, order, -1).astype(np.int32), sure.astype(np.float32)


def positive(**values: int) -> None:
    """Check that whole numbers are at least 1."""
    faults = [Fault("is too small", name, value, "1 or more") for name, value in values.items() if value < 1]
    if faults:
        raise ConfigError(faults)


def unfitted(name: str) -> ConfigError:
    """The error of a predictor that is asked before it has learnt."""
    message = "needs a trace to learn from, disjoint from what is replayed; give --train"
    return ConfigError(Fault(message, "predictor", name))


def share_of_cell(steps: Steps) -> Floats:
    """How much of its cell each access is: by router weight, else by tokens; float32 ``[accesses]``."""
    amount = steps.tokens.astype(np.float64) if steps.weights is None else steps.weights.astype(np.float64)
    sums = np.add.reduceat(np.r_[amount, 0.0], np.minimum(steps.starts[:-1], len(amount)))
    sums[np.diff(steps.starts) == 0] = 1.0
    sums = np.where(sums > 0, sums, 1.0)
    part: Floats = (amount / np.repeat(sums, np.diff(steps.starts))).astype(np.float32)
    return part


def learning_steps(train: RoutingTrace, limit: int | None = None) -> Steps:
    """The training trace token by token; at most `limit` tokens of it, evenly spread."""
    if train.num_tokens == 0:
        raise ConfigError(Fault("has no tokens", "train", train.source or None))
    if limit is not None and train.num_tokens > limit:
        rows = np.linspace(0, train.num_tokens - 1, limit).astype(np.int64)
        train = taken(train, rows)
    return token_steps(train)
