"""MoE-Infinity's expert activation matrices: the remembered request whose counts are most alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy.guesses import Guesses
from moesim.policy.predictors.common import Floats, Ints, best, packed, positive, table, unfitted
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace

Starts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ActivationMatrices:
    """Expert activation matrices (Xue et al. 2024, arXiv 2401.14361).

    A matrix M[l, e] counts the tokens of a request that chose expert e of layer l. The nearest of the store
    is that of the largest mean over layers of the cosine between rows. The guess for layer l' at layer l is
    (M[l', e] + 1e-8) (1 - (l' - l) / (L + 1)), M of the nearest.

    ``paper`` compares what this step has shown, its layers up to l. ``code`` (``expert_tracer.py`` of
    EfficientMoE/MoE-Infinity) overwrites the store's rows up to l with a constant before the comparison, so
    that it compares the layers after l, by what the request counted in earlier steps; the constant adds the
    same to all. A request with nothing counted yet gets the first matrix of the store.

    Parameters
    ----------
    width
        Guesses per target cell.
    distance
        Layers ahead, within the step.
    variant
        ``paper`` or ``code``.
    capacity
        Matrices kept, 1000 in the released configuration. Of more requests evenly spread ones are taken (the
        paper clusters them).
    store
        Counts, float32 ``[layers, experts, matrices]``, from `fit`. Finished requests of the replayed trace
        are not added.
    """

    width: int
    distance: int = 1
    variant: str = "paper"
    capacity: int = 1000
    store: Floats | None = None

    def __post_init__(self) -> None:
        positive(width=self.width, distance=self.distance, capacity=self.capacity)
        if self.variant not in ("paper", "code"):
            raise ConfigError(Fault("is unknown", "variant", self.variant, "paper, code"))

    def fit(self, train: RoutingTrace) -> ActivationMatrices:
        """One matrix per request."""
        numbers, index = np.unique(train.request, return_inverse=True)
        if len(numbers) == 0:
            raise ConfigError(Fault("has no tokens", "train", train.source or None))
        used = np.linspace(0, len(numbers) - 1, min(self.capacity, len(numbers))).round().astype(np.intp)
        column = np.full(len(numbers), -1)
        column[used] = np.arange(len(used))
        layers, experts = train.topk_ids.shape[1], train.num_experts
        store = np.zeros((layers, experts, len(used)), np.float32)
        rows = column[index]
        taken = rows >= 0
        for layer in range(layers):
            ids = train.topk_ids[taken, layer].astype(np.intp)
            flat = (ids * len(used) + rows[taken, None]).ravel()
            store[layer] = np.bincount(flat, minlength=experts * len(used)).reshape(experts, -1)
        return replace(self, store=store)

    def guess(self, steps: Steps) -> Guesses:
        """At every cell, of the layers that follow in its step."""
        if self.store is None:
            raise unfitted("activation-matrices")
        experts, scores = table(len(steps.starts) - 1, self.distance, min(self.width, steps.num_experts))
        norm = np.sqrt((self.store.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        unit = (self.store / np.maximum(norm, 1e-6)).astype(np.float32)
        kernel = _guess_paper if self.variant == "paper" else _guess_code
        kernel(
            steps.experts,
            steps.tokens,
            steps.starts,
            steps.request,
            steps.layers,
            self.store,
            unit,
            experts,
            scores,
        )
        return packed(experts, scores)


@compiled
def _tell(store: Floats, nearest: int, layer: int, experts: Ints, scores: Floats) -> None:
    """The guesses of one cell from its nearest matrix; `experts` and `scores` are ``[distance, width]``."""
    layers = store.shape[0]
    score = np.zeros(store.shape[1], np.float32)
    for h in range(min(experts.shape[0], layers - 1 - layer)):
        decay = 1.0 - (h + 1.0) / (layers + 1.0)
        for e in range(len(score)):
            score[e] = (store[layer + 1 + h, e, nearest] + 1e-8) * decay
        best(score, experts[h], scores[h])


@compiled
def _guess_paper(
    ids: Ints,
    tokens: Ints,
    starts: Starts,
    request: Ints,  # noqa: ARG001, a step is compared by itself
    layers: int,
    store: Floats,
    unit: Floats,
    experts: Ints,
    scores: Floats,
) -> None:
    alike = np.zeros(store.shape[2], np.float32)
    row = np.zeros(store.shape[2], np.float32)
    for cell in range(len(starts) - 1):
        layer = cell % layers
        if layer == 0:
            alike[:] = 0.0
        row[:] = 0.0
        norm = np.float32(0.0)
        for a in range(starts[cell], starts[cell + 1]):
            count = np.float32(tokens[a])
            row += count * unit[layer, ids[a]]
            norm += count * count
        if norm > 0.0:
            alike += row / np.sqrt(norm)
        if layer < layers - 1:
            _tell(store, int(np.argmax(alike)), layer, experts[cell], scores[cell])


@compiled
def _guess_code(
    ids: Ints,
    tokens: Ints,
    starts: Starts,
    request: Ints,
    layers: int,
    store: Floats,
    unit: Floats,
    experts: Ints,
    scores: Floats,
) -> None:
    counts = np.zeros((layers, store.shape[1]), np.float32)
    dot = np.zeros((layers, store.shape[2]), np.float32)
    norm = np.zeros(layers, np.float32)
    # later[l] is the likeness over the layers after l, by what was counted in earlier steps.
    later = np.zeros((layers, store.shape[2]), np.float32)
    last = request[0] if len(request) else 0
    for cell in range(len(starts) - 1):
        layer, step = cell % layers, cell // layers
        if layer == 0:
            if request[step] != last:
                counts[:], dot[:], norm[:] = 0.0, 0.0, 0.0
                last = request[step]
            for at in range(layers - 2, -1, -1):
                later[at] = later[at + 1]
                if norm[at + 1] > 0.0:
                    later[at] += dot[at + 1] / np.sqrt(norm[at + 1])
        if layer < layers - 1:
            _tell(store, int(np.argmax(later[layer])), layer, experts[cell], scores[cell])
        for a in range(starts[cell], starts[cell + 1]):
            e, count = ids[a], np.float32(tokens[a])
            norm[layer] += count * (2.0 * counts[layer, e] + count)
            counts[layer, e] += count
            dot[layer] += count * unit[layer, e]
