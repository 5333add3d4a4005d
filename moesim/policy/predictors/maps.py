"""fMoE's expert maps: the remembered token whose path through the layers so far is most alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy.guesses import Guesses
from moesim.policy.predictors.common import (
    Floats,
    Ints,
    best,
    learning_steps,
    packed,
    positive,
    share_of_cell,
    table,
    unfitted,
)
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace

Starts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ExpertMaps:
    """Expert maps (Yu et al. 2025, arXiv 2502.05370; FineMoE in its released code).

    A map holds the gate's probabilities of one token, ``[layers, experts]``. At layer l the map is taken
    whose rows 0..l have the largest cosine with those of the step; with score s, delta = clip(1 - s, 0, 1),
    and of a target layer l' the smallest set of experts is guessed whose probabilities add up to delta, but
    at least top-k: the less sure, the more.

    ``paper`` guesses the layer `ahead` further at priority p / (l' - l). ``code`` guesses all layers from
    there to the last, all experts of them (a released 1e-6 puts every expert above zero; the set comes first)
    with the decay 1 - (l' - start) / (end + 1).

    A trace has the probabilities of the chosen experts alone (ids only: equal ones), so that maps are zero
    elsewhere. The first layers, which the system matches by the prompt's embedding, are matched by the path
    as well: traces have no embeddings.

    Parameters
    ----------
    width
        Guesses per target cell at most.
    ahead
        d, from the observed layer to the first that is guessed; 6 in the released demo for Qwen1.5-MoE.
    distance
        Cells ahead at most; only the code's variant goes beyond `ahead`.
    variant
        ``paper`` or ``code``.
    capacity
        Maps kept, 1000. What exceeds it replaces the map that it is most alike: RDY = (d/L) cos_embedding +
        (1 - d/L) cos_map, of which the second part is known.
    samples
        Tokens of the training trace that are offered to the store, evenly spread.
    store
        Probabilities, float32 ``[layers, experts, maps]``, from `fit`.
    top_k
        Experts per token, from `fit`.
    """

    width: int
    ahead: int = 1
    distance: int = 1
    variant: str = "paper"
    capacity: int = 1000
    samples: int = 10_000
    store: Floats | None = None
    top_k: int = 1

    def __post_init__(self) -> None:
        positive(width=self.width, ahead=self.ahead, capacity=self.capacity, samples=self.samples)
        faults = []
        if self.variant not in ("paper", "code"):
            faults.append(Fault("is unknown", "variant", self.variant, "paper, code"))
        if self.distance < self.ahead:
            faults.append(Fault("is less than ahead", "distance", self.distance, f"{self.ahead} or more"))
        if faults:
            raise ConfigError(faults)

    def fit(self, train: RoutingTrace) -> ExpertMaps:
        """Fill the store in stored order."""
        steps = learning_steps(train, self.samples)
        size = min(self.capacity, steps.num_steps)
        store = np.zeros((steps.layers, steps.num_experts, size), np.float32)
        _fill(steps.experts, share_of_cell(steps), steps.starts, steps.layers, store)
        return replace(self, store=store, top_k=train.top_k)

    def guess(self, steps: Steps) -> Guesses:
        """At every cell that has a layer `ahead` further in its step."""
        if self.store is None:
            raise unfitted("expert-maps")
        last = self.ahead if self.variant == "paper" else min(self.distance, steps.layers - 1)
        depth = max(last - self.ahead + 1, 1)
        experts, scores = table(len(steps.starts) - 1, depth, min(self.width, steps.num_experts))
        squares = np.cumsum((self.store.astype(np.float64) ** 2).sum(axis=1), axis=0).astype(np.float32)
        _guess(
            steps.experts,
            share_of_cell(steps),
            steps.starts,
            steps.layers,
            self.store,
            squares,
            self.ahead,
            self.top_k,
            self.variant == "code",
            experts,
            scores,
        )
        return packed(experts, scores, first=self.ahead)


@compiled
def _fill(ids: Ints, share: Floats, starts: Starts, layers: int, store: Floats) -> None:
    """Maps into the store; once it is full, each over the one with the largest cosine with it."""
    size = store.shape[2]
    alike, square = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for step in range((len(starts) - 1) // layers):
        at = step
        if step >= size:
            alike[:] = 0.0
            for layer in range(layers):
                cell = step * layers + layer
                for a in range(starts[cell], starts[cell + 1]):
                    alike += share[a] * store[layer, ids[a]]
            at = int(np.argmax(alike / np.sqrt(np.maximum(square, np.float32(1e-12)))))
            store[:, :, at] = 0.0
        square[at] = 0.0
        for layer in range(layers):
            cell = step * layers + layer
            for a in range(starts[cell], starts[cell + 1]):
                store[layer, ids[a], at] = share[a]
                square[at] += share[a] * share[a]


@compiled
def _guess(
    ids: Ints,
    share: Floats,
    starts: Starts,
    layers: int,
    store: Floats,
    squares: Floats,
    ahead: int,
    top_k: int,
    code: bool,
    experts: Ints,
    scores: Floats,
) -> None:
    num_experts, width = store.shape[1], experts.shape[2]
    alike = np.zeros(store.shape[2], np.float32)
    score = np.zeros(num_experts, np.float32)
    own = np.float32(0.0)
    for cell in range(len(starts) - 1):
        layer = cell % layers
        if layer == 0:
            alike[:] = 0.0
            own = np.float32(0.0)
        for a in range(starts[cell], starts[cell + 1]):
            alike += share[a] * store[layer, ids[a]]
            own += share[a] * share[a]
        if layer + ahead >= layers or own == 0.0:
            continue
        cosine = alike / np.sqrt(np.maximum(squares[layer] * own, np.float32(1e-12)))
        nearest = np.argmax(cosine)
        delta = min(max(1.0 - cosine[nearest], 0.0), 1.0)
        for h in range(experts.shape[1]):
            target = layer + ahead + h
            if target >= layers:
                break
            # The code's 1e-6 and the paper's floor of top-k both reach experts of probability 0.
            for e in range(num_experts):
                score[e] = store[target, e, nearest] + 1e-6
            best(score, experts[cell, h], scores[cell, h])
            total, kept = 0.0, width
            for w in range(width):
                if not code and w >= top_k and total >= delta:
                    kept = w
                    break
                total += store[target, experts[cell, h, w], nearest]
            experts[cell, h, kept:] = -1
            decay = 1.0 - h / (layers - layer - ahead + 1.0) if code else 1.0 / (ahead + h)
            scores[cell, h] *= decay
