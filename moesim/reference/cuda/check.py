"""Is every kernel right on this device? Each is held against float64, given what the one before it made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.reference.cuda.backend import Backend, download
from moesim.reference.cuda.layer import Layer
from moesim.reference.cuda.runner import CudaPrepared, CudaRunner
from moesim.reference.cuda.variants import VARIANTS, Variant
from moesim.reference.exact import LayerInputs, bf16_round, bf16_values, reference
from moesim.reference.layer import Case, LayerShape
from moesim.reference.routings import route

Float64 = npt.NDArray[np.float64]

#: Largest error of a kernel, relative in the Euclidean norm, beside float64 that is rounded to the same type.
LIMIT = 1e-3
#: Of a whole layer beside float64 without roundings. Three arrays are rounded to bf16 in turn (inside the
#: experts, their rows, the output), by at most 2^-8 of a value each; independent errors add in squares.
LAYER_LIMIT = 3**0.5 * 2.0**-8
#: Of weights, which are float32 made with the fast exponential.
WEIGHT_LIMIT = 1e-5
#: Sizes that reach every branch: experts without tokens, tiles that are not full, sums of a broken step.
SHAPES = (
    LayerShape("wide", num_experts=16, top_k=4, hidden=192, width=72),
    LayerShape("small", num_experts=8, top_k=2, hidden=128, width=64, renormalise=False),
)
BATCHES = ((1, "uniform"), (9, "zipf:1.2"), (40, "one-hot"), (23, "ragged"))


@dataclass(frozen=True, slots=True)
class Check:
    """How far a kernel is from what it should do.

    Parameters
    ----------
    name
        Of the kernel.
    error, limit
        What was found, and what is allowed.
    """

    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within its limit; a NaN is not."""
        return self.error <= self.limit


def check_kernels(
    backend: Backend,
    *,
    shapes: Iterable[LayerShape] = SHAPES,
    batches: Iterable[tuple[int, str]] = BATCHES,
    variants: Iterable[Variant] | None = None,
) -> list[Check]:
    """Run every kernel on small cases and compare.

    Parameters
    ----------
    backend
        The device.
    shapes, batches
        Layers, and tokens and routing of the cases of each.
    variants
        Of the experts' kernels; all that the device can run if absent.

    Returns
    -------
    list
        The worst case of each kernel with each variant.
    """
    worst: dict[str, Check] = {}
    for variant in usable(backend.capability) if variants is None else variants:
        with CudaRunner(backend=backend, variant=variant.name) as runner:
            for shape in shapes:
                for tokens, routing in batches:
                    case = Case(shape, tokens, routing, dtype="bf16")
                    prepared = runner.prepare(case, route(case))
                    for check in check_case(prepared):
                        name = f"{check.name} {variant.name}"
                        # A NaN stays.
                        error = float(np.maximum(check.error, worst[name].error if name in worst else 0.0))
                        worst[name] = Check(name, error, check.limit)
                    prepared.close()
    return list(worst.values())


def check_paths(backend: Backend, shape: LayerShape = SHAPES[0], tokens: int = 23) -> list[Check]:
    """Run a case in every way that a layer is run: all give the same bits.

    Returns
    -------
    list
        For graphs, repetitions, and half of the experts offloaded (kept by use, and none kept): values that
        differ from those of kernels that are called one by one.
    """
    case = Case(shape, tokens, "ragged", dtype="bf16")
    ids = route(case)
    plain: npt.NDArray[np.float32] | None = None
    found = []
    for name, graph_tokens, offloaded, rule in (
        ("calls", 0, 0.0, "lru"),
        ("graph", tokens, 0.0, "lru"),
        ("offloaded", 0, 0.5, "lru"),
        ("on demand", 0, 0.5, "on-demand"),
    ):
        with CudaRunner(backend=backend, graph_tokens=graph_tokens, rule=rule) as runner:
            prepared = runner.prepare(replace(case, offloaded=offloaded), ids)
            for _ in range(2):
                prepared.run()
                output = prepared.output()
                plain = output if plain is None else plain
                found.append(Check(f"bits: {name}", float((output != plain).sum()), 0.0))
    return found


def usable(capability: tuple[int, int]) -> list[Variant]:
    """Kernel variants that a device can run.

    >>> len(usable((9, 0))) == len(VARIANTS), [variant.name for variant in usable((12, 0))][:1]
    (True, ['mma_16x128'])
    """
    return [variant for variant in VARIANTS if capability == (9, 0) or not variant.tensor_maps]


def check_case(prepared: CudaPrepared) -> list[Check]:
    """Run a case once, and compare what every kernel made.

    Parameters
    ----------
    prepared
        Without offloaded experts; its ids may be given or chosen.
    """
    prepared.run(parts=False)
    whole = prepared.output()
    exact = reference(prepared.inputs(), prepared.ids, prepared.weights)
    return [*_parts(prepared, prepared.layer), Check("layer", distance(whole, exact), LAYER_LIMIT)]


def distance(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Euclidean norm of the difference by that of what is wanted.

    >>> round(distance(np.array([3.0, 4.4]), np.array([3.0, 4.0])), 6)
    0.08
    """
    norm = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(found - wanted)) / norm if norm else float(np.abs(found).max(initial=0.0))


def _parts(prepared: CudaPrepared, layer: Layer) -> Iterator[Check]:
    given, shape = prepared.inputs(), prepared.case.shape
    ids, weights = prepared.ids, prepared.weights
    space = layer.space

    def made(name: str) -> npt.NDArray[Any]:
        return download(space.backend, space.shared[name])

    logits = made("logits").sum(axis=0, dtype=np.float64)[:, : shape.num_experts]
    exact: Float64 = _wide(given.x) @ _wide(given.router).T
    yield Check("router", distance(logits, exact), WEIGHT_LIMIT)
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    chosen = np.take_along_axis(probability, ids.astype(np.int64), axis=1)
    chosen /= (chosen if shape.renormalise else probability).sum(axis=1, keepdims=True)
    yield Check("weights", distance(weights, chosen), WEIGHT_LIMIT)

    order = np.argsort(ids.ravel(), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    ends = np.cumsum(np.bincount(ids.ravel(), minlength=shape.num_experts))
    yield Check("plan", float((made("offsets") != np.concatenate([[0], ends])).sum()), 0.0)
    yield Check("place", float((made("place").ravel() != place).sum()), 0.0)
    rows = made("xp")
    yield Check("permute", float((rows != given.x[order // shape.top_k]).sum()), 0.0)

    h, y = _wide(download(space.backend, space.h)), _wide(made("y"))
    wanted_h, wanted_y = np.zeros_like(h), np.zeros_like(y)
    for expert, (start, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)):
        wanted_h[start:end] = _swiglu(_wide(rows[start:end]), given, expert)
        wanted_y[start:end] = h[start:end] @ _wide(given.down[expert]).T
    yield Check("experts_up", distance(h, _stored(wanted_h)), LIMIT)
    yield Check("experts_down", distance(y, _stored(wanted_y)), LIMIT)
    total = (weights[..., None].astype(np.float64) * y[place.reshape(ids.shape)]).sum(axis=1)
    yield Check("combine", distance(prepared.output(), _stored(total)), LIMIT)


def _swiglu(rows: Float64, given: LayerInputs, expert: int) -> Float64:
    gate, up = np.split(rows @ _wide(given.gate_up[expert]).T, 2, axis=1)
    inner: Float64 = gate * np.exp(-np.logaddexp(0.0, -gate)) * up
    return inner


def _wide(bits: npt.NDArray[Any]) -> Float64:
    return bf16_values(bits).astype(np.float64)


def _stored(values: Float64) -> Float64:
    """As memory keeps them: rounded to bf16."""
    return bf16_round(values.astype(np.float32)).astype(np.float64)
