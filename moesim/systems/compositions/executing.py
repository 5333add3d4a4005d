"""Systems that leave experts where they are and compute there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.policy import Composition, Executor, Residency
from moesim.systems.compositions.types import Asked, Shape, System
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True)
class LastLayers:
    """llama.cpp's ``-ncmoe N``: experts of the first N layers stay on the CPU, all others on the GPU."""

    def quota(self, slots: int, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """Whole layers from the last backwards; what is left over is not used."""
        layers, experts = train.topk_ids.shape[1], train.num_experts
        full = min(slots // experts, layers)
        quota = np.zeros(layers, np.int64)
        quota[layers - full :] = experts
        return quota

    def resident(self, quota: npt.NDArray[np.int64], train: RoutingTrace) -> npt.NDArray[np.bool_]:
        """All experts of a layer or none."""
        return np.arange(train.num_experts)[None, :] < quota[:, None]


def _fiddler(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(
        residency=Residency("static", lookup="token_batch", start="popular"),
        executor=Executor("cheapest-max"),
    )


def _fiddler_code(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    # The longest of the two sums in the comment is their sum in the code: expert by expert the cheaper.
    return Composition(
        residency=Residency("static", lookup="token_batch", start="popular"), executor=Executor("cheapest")
    )


def _ktransformers(shape: Shape, ask: Asked) -> Composition:
    if shape.top_k < 2:
        return _ktransformers_code(shape, ask)
    most = shape.top_k - 1
    deferred = ask.take("deferred_experts", min(2, most), 0, most, "2 is recommended; the class default is 0")
    if not shape.weights:
        ask.without("router weights: which experts are put off goes by the stored order")
    return Composition(
        residency=Residency("static", lookup="token_batch", start="first"),
        executor=Executor("defer", {"deferred": deferred}),
    )


def _ktransformers_code(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(
        residency=Residency("static", lookup="token_batch", start="first"), executor=Executor("mask")
    )


def _llama_cpp(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(
        residency=Residency("static", lookup="token_batch"),
        placement=LastLayers(),
        executor=Executor("mask", {"load_from_tokens": 32.0}),
    )


def _monde(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    alpha = ask.take("alpha", 1.0, 0.5, 2.0, "tuned online by the system; 1 is its formula")
    return Composition(
        residency=Residency("static", lookup="token_batch"), executor=Executor("split", {"alpha": alpha})
    )


SYSTEMS = (
    System("fiddler", "popular experts stay; the others where it is cheaper", _fiddler, _fiddler_code, True),
    System(
        "ktransformers",
        "as many experts of each layer stay; CPU for the rest, the lightest put off to the next layer",
        _ktransformers,
        _ktransformers_code,
    ),
    System("llama.cpp", "whole last layers on the GPU, the first on the CPU", _llama_cpp, learns=True),
    System("monde", "the hottest experts to the GPU, the rest near the data", _monde),
)
