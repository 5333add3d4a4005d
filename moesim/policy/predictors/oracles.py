"""Guesses made from the answer: exact ones, and ones with a stated error.

Systems that run a later layer's gate early, or a trained network, guess from hidden states, which traces do
not hold. They are stood in for by an oracle with the recall and precision that their authors report, and
results say so. What a trace with such columns would give is not read: no reader yields them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.policy.gates import by_depth
from moesim.policy.guesses import Guesses
from moesim.policy.predictors.common import positive, share_of_cell
from moesim.policy.published import ADAPMOE_NEXT_GATE
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True)
class NoisyOracle:
    """The accesses of coming cells, some of them missed and some wrong ones among them.

    Each true expert of a target cell is guessed with probability `recall` times `decay` per further cell;
    wrong ones are drawn from the others so that the part of right guesses is `precision`. Wrong guesses get
    scores from the same range as right ones, so that an order by score does not tell them apart.

    Parameters
    ----------
    recall, precision
        Of the nearest distance, 0 to 1.
    horizon
        Cells ahead that are guessed for.
    decay
        By what recall and precision are multiplied with each further cell.
    wrap
        Whether guesses go on into the next step: a gate applied early cannot know the next token.
    only_last
        Whether only a step's last cell guesses: a path predictor that runs before the next step begins.
    seed
        Of the errors.
    """

    recall: float = 1.0
    precision: float = 1.0
    horizon: int = 1
    decay: float = 1.0
    wrap: bool = False
    only_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        positive(horizon=self.horizon)
        faults = [
            Fault("is out of range", name, value, "above 0, at most 1")
            for name, value in (("precision", self.precision), ("decay", self.decay))
            if not 0 < value <= 1
        ]
        if not 0 <= self.recall <= 1:
            faults.append(Fault("is out of range", "recall", self.recall, "0 to 1"))
        if faults:
            raise ConfigError(faults)

    def fit(self, train: RoutingTrace) -> NoisyOracle:  # noqa: ARG002
        """Itself; it knows the answer."""
        return self

    def guess(self, steps: Steps) -> Guesses:
        """At every cell, or every step's last."""
        rng = np.random.default_rng(self.seed)
        share, parts = share_of_cell(steps), []
        for h in range(1, self.horizon + 1):
            recall, precision = self.recall * self.decay ** (h - 1), self.precision * self.decay ** (h - 1)
            part = _targets(steps, h, self.wrap, self.only_last)
            right = part[2] & (rng.random(steps.accesses) < recall)
            # So many wrong ones per right one, by chance rounded so that the mean is kept.
            odds = (1.0 - precision) / precision
            rate = _per_cell(steps, right) * odds
            wrong = np.floor(rate + rng.random(len(rate))).astype(np.int64)
            parts.append(_join(steps, h, right, wrong, share, rng))
        return _gather(len(steps.starts) - 1, parts)


@dataclass(frozen=True, slots=True)
class NextGate:
    """The next layer's gate applied to this layer's hidden state, as an oracle with errors.

    Guesses exactly `width` experts of the next layer; each true one is among them with probability `recall`
    (for one token, never more than `width` of them), the others are drawn.

    Parameters
    ----------
    width
        Guesses per target cell and token of the step.
    recall
        One for all layers, or one per layer that is guessed; by default AdapMoE's, measured on Mixtral and
        stretched by relative depth over other models: an assumption.
    seed
        Of the errors.
    """

    width: int
    recall: float | Sequence[float] = ADAPMOE_NEXT_GATE
    seed: int = 0

    def __post_init__(self) -> None:
        positive(width=self.width)
        values = [self.recall] if isinstance(self.recall, float | int) else list(self.recall)
        if not values or not all(0 <= v <= 1 for v in values):
            raise ConfigError(Fault("is out of range", "recall", self.recall, "0 to 1"))

    def fit(self, train: RoutingTrace) -> NextGate:  # noqa: ARG002
        """Itself; it knows the answer."""
        return self

    def guess(self, steps: Steps) -> Guesses:
        """At every cell but a step's last."""
        rng = np.random.default_rng(self.seed)
        values = [self.recall] if isinstance(self.recall, float | int) else self.recall
        recall = np.r_[0.0, by_depth(values, max(steps.layers - 1, 1))][: steps.layers]
        target = _targets(steps, 1, wrap=False, only_last=False)
        layer = np.repeat(np.arange(len(steps.starts) - 1) % steps.layers, np.diff(steps.starts))
        right = target[2] & (rng.random(steps.accesses) < recall[layer])
        room = np.minimum(
            self.width * np.repeat(steps.step_tokens.astype(np.int64), steps.layers), steps.num_experts
        )
        right &= _rank_in_cell(steps, right, share_of_cell(steps)) < np.repeat(room, np.diff(steps.starts))
        guessing = np.arange(len(room)) % steps.layers != 0
        wrong = np.where(guessing, np.maximum(room - _per_cell(steps, right), 0), 0)
        part = _join(steps, 1, right, wrong, share_of_cell(steps), rng)
        return _gather(len(steps.starts) - 1, [part])


def oracle(window: int, wrap: bool = True) -> NoisyOracle:
    """Everything that the next `window` cells ask for: what no predictor can beat at that distance."""
    return NoisyOracle(horizon=window, wrap=wrap)


def path_oracle(flip: float, layers: int, seed: int = 0) -> NoisyOracle:
    """ExpertFlow's routing path predictor: all layers before the step begins, a part `flip` of them wrong.

    Parameters
    ----------
    flip
        Part of the guessed experts that are others than the true ones; ExpertFlow reports over 90 % right in
        its domain.
    layers
        MoE layers of the model.
    seed
        Of the errors.
    """
    return NoisyOracle(1 - flip, 1 - flip, horizon=layers, wrap=True, only_last=True, seed=seed)


Bools = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]
Part = tuple[Longs, npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]


def _targets(steps: Steps, h: int, wrap: bool, only_last: bool) -> tuple[Longs, Longs, Bools]:
    """Cell of each access, its source cell `h` before, and whether that source may guess it."""
    cell = np.repeat(np.arange(len(steps.starts) - 1), np.diff(steps.starts))
    source = cell - h
    asked = source >= 0
    if not wrap:
        asked &= source // steps.layers == cell // steps.layers
    if only_last:
        asked &= (source % steps.layers == steps.layers - 1) & (h <= steps.layers)
    return cell, source, asked


def _per_cell(steps: Steps, chosen: Bools) -> Longs:
    """Chosen accesses of each cell, int64 ``[cells]``."""
    sums = np.r_[0, np.cumsum(chosen)]
    found: Longs = sums[steps.starts[1:]] - sums[steps.starts[:-1]]
    return found


def _rank_in_cell(steps: Steps, chosen: Bools, share: npt.NDArray[np.float32]) -> Longs:
    """Place of each access among the chosen ones of its cell, heaviest first."""
    cell = np.repeat(np.arange(len(steps.starts) - 1), np.diff(steps.starts))
    order = np.lexsort((-share, ~chosen, cell))
    rank = np.empty(len(cell), np.int64)
    rank[order] = np.arange(len(cell)) - steps.starts[:-1][cell]
    return rank


def _join(
    steps: Steps,
    h: int,
    right: Bools,
    wrong: Longs,
    share: npt.NDArray[np.float32],
    rng: np.random.Generator,
) -> Part:
    """Right guesses and `wrong` others per target cell, all `h` ahead: source cell, ahead, expert, score."""
    cells = len(steps.starts) - 1
    asked = np.diff(steps.starts)
    wrong = np.minimum(wrong, steps.num_experts - asked)
    cell = np.repeat(np.arange(cells), asked)
    target = np.repeat(np.arange(cells), wrong)
    false = _others(steps, wrong, rng)
    scores = share[right]
    if len(false):
        pool = share if len(share) else np.ones(1, np.float32)
        scores = np.r_[scores, rng.choice(pool, len(false))]
    source = np.r_[cell[right], target] - h
    return source, np.full(len(source), h, np.int32), np.r_[steps.experts[right], false], scores


def _others(steps: Steps, wrong: Longs, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """`wrong` different experts per cell that the cell does not ask for, int32, cell by cell."""
    cells = np.flatnonzero(wrong)
    found = []
    for block in np.array_split(cells, max(len(cells) * steps.num_experts // 4_000_000, 1)):
        draw = rng.random((len(block), steps.num_experts), np.float32)
        counts = np.diff(steps.starts)[block]
        row = np.repeat(np.arange(len(block)), counts)
        at = np.repeat(steps.starts[block], counts) + _within(counts)
        draw[row, steps.experts[at]] = 2.0  # last in the order
        order = np.argsort(draw, axis=1)
        found.append(order[np.arange(steps.num_experts) < wrong[block][:, None]].astype(np.int32))
    return np.concatenate(found) if found else np.zeros(0, np.int32)


def _within(counts: Longs) -> Longs:
    """0, 1, ... within each run of the given lengths."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _gather(cells: int, parts: list[Part]) -> Guesses:
    """Parts as one CSR, each cell's best first and of equals the nearer."""
    source, ahead, experts, scores = (np.concatenate([p[i] for p in parts]) for i in range(4))
    order = np.lexsort((ahead, -scores, source))
    starts = np.zeros(cells + 1, np.int64)
    np.cumsum(np.bincount(source, minlength=cells), out=starts[1:])
    return Guesses(
        starts,
        ahead[order].astype(np.int32),
        experts[order].astype(np.int32),
        scores[order].astype(np.float32),
    )
