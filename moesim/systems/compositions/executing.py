"""Systems that leave experts where they are and compute there."""

from __future__ import annotations

from moesim.policy import Composition, Executor, Residency
from moesim.policy.placements import Popular, WholeLayers
from moesim.systems.compositions.types import Asked, Shape, System


def _fiddler(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(
        residency=Residency("static", lookup="token_batch"),
        placement=Popular(),
        executor=Executor("cheapest-max"),
    )


def _fiddler_code(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    # The longest of the two sums in the comment is their sum in the code: expert by expert the cheaper.
    return Composition(
        residency=Residency("static", lookup="token_batch"),
        placement=Popular(),
        executor=Executor("cheapest"),
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
        placement=WholeLayers(last=True),
        executor=Executor("mask", {"load_from_tokens": 32.0}),
    )


def _monde(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    alpha = ask.take("alpha", 1.0, 0.5, 2.0, "tuned online by the system; 1 is its formula")
    return Composition(
        residency=Residency("static", lookup="token_batch"), executor=Executor("split", {"alpha": alpha})
    )


def _duplex(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(
        residency=Residency("static", lookup="token_batch", start="first"), executor=Executor("prefix")
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
    System("duplex", "experts of fewest tokens beside the memory that holds all", _duplex),
    System("monde", "the hottest experts to the GPU, the rest near the data", _monde, cached=False),
)
