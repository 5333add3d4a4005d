"""Deployments kept between questions, with their draws of routing."""

from __future__ import annotations

from collections import OrderedDict

from moesim.engine.deployment import Deployment
from moesim.engine.eager import LAUNCH_S
from moesim.engine.routing import source_of
from moesim.engine.traits import Traits
from moesim.hardware.types import Hardware
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.ops import Precision
from moesim.prediction.question import Engine
from moesim.trace.types import LoadCounts, RoutingTrace

_KEPT: OrderedDict[tuple[object, ...], tuple[Deployment, tuple[object, ...]]] = OrderedDict()
_KEEP = 512


def deployment_of(
    model: Model,
    hardware: Hardware,
    layout: Parallelism,
    engine: Engine,
    trace: RoutingTrace | LoadCounts | None,
    plan: ExpertMap | None,
    seed: int,
    traits: Traits | None = None,
) -> Deployment:
    """A deployment with its draws of routing, kept for the next question about the same objects."""
    objects = (model, hardware, trace, plan)
    key = (
        *map(id, objects),
        layout,
        engine.dtype,
        engine.kv_cache_dtype,
        engine.overlap,
        seed,
        engine.backend,
        engine.speculation,
        engine.enforce_eager,
        engine.routing,
        engine.dispatch,
        traits,
    )
    if key in _KEPT:
        _KEPT.move_to_end(key)
        return _KEPT[key][0]
    deployment = Deployment(
        model,
        hardware,
        layout,
        Precision.of(model, engine.dtype, engine.kv_cache_dtype),
        source_of(trace, model.top_k) if trace is not None else None,
        plan,
        engine.overlap,
        seed,
        engine.backend,
        traits or Traits(),
        engine.speculation,
        LAUNCH_S if engine.enforce_eager else 0.0,
        engine.routing,
        engine.dispatch,
    )
    # The objects are held as well: an id stays theirs as long as they live.
    _KEPT[key] = (deployment, objects)
    if len(_KEPT) > _KEEP:
        _KEPT.popitem(last=False)
    return deployment
