"""Does it fit, and if not, what would hold it."""

from __future__ import annotations

from moesim.engine.deployment import Deployment
from moesim.engine.load import Load
from moesim.engine.memory import MemoryUse, cache_per_sequence, memory_use
from moesim.errors import InfeasibleError
from moesim.layout.parallelism import Parallelism
from moesim.prediction.question import Engine
from moesim.units import show


def check_room(deployment: Deployment, load: Load, memory: MemoryUse, engine: Engine) -> None:
    """Raise `InfeasibleError` unless weights, workspace and one request fit."""
    one = deployment.cache_bytes(load.input_len + load.output_len)
    needed = memory.weights_bytes + memory.workspace_bytes
    hardware, model = deployment.hardware, deployment.model
    name = hardware.device.memory.name
    if memory.apart_bytes is None:
        needed += float(one[0])
    elif needed <= memory.budget_bytes and float(one[0]) > memory.apart_bytes:
        raise InfeasibleError(
            f"one request's cache takes {show(float(one[0]), 'bytes')} of memory {hardware.device.kv_in} per "
            f"device, {hardware.name} has {show(memory.apart_bytes, 'bytes')} to use",
            resource=f"memory {hardware.device.kv_in}",
            needed=float(one[0]),
            available=memory.apart_bytes,
        )
    if needed <= memory.budget_bytes:
        return
    out = fewest_nodes(deployment, load, engine)
    way = (
        f"the fewest such nodes that hold it: {out[0]}, laid out {out[1]}"
        if out
        else "no number of such nodes up to 64 holds it in a layout with these degrees"
    )
    raise InfeasibleError(
        f"{model.name} needs {show(needed, 'bytes')} of memory {name} per device "
        f"(weights {show(memory.weights_bytes, 'bytes')}, workspace {show(memory.workspace_bytes, 'bytes')}, "
        f"one request's cache {show(float(one[0]), 'bytes')}), {hardware.name} has "
        f"{show(memory.budget_bytes, 'bytes')} to use of {show(memory.capacity_bytes, 'bytes')}: "
        f"{show(needed - memory.budget_bytes, 'bytes')} short with {deployment.layout}; {way}",
        resource=f"memory {name}",
        needed=needed,
        available=memory.budget_bytes,
        details={
            "weights_bytes": memory.weights_bytes,
            "workspace_bytes": memory.workspace_bytes,
            "cache_bytes": float(one[0]),
            "short_bytes": needed - memory.budget_bytes,
            "fewest_nodes": out[0] if out else None,
            "fewest_nodes_layout": str(out[1]) if out else None,
        },
    )


def fewest_nodes(deployment: Deployment, load: Load, engine: Engine) -> tuple[int, Parallelism] | None:
    """Fewest nodes of the same kind that hold weights and one request, and the layout that does it.

    Layouts keep the tensor-parallel degree, and use all devices either by spreading experts over more
    data-parallel ranks or by more pipeline stages; the first that fits is taken, experts first.
    """
    model, hardware, given = deployment.model, deployment.hardware, deployment.layout
    plan = deployment.plan
    redundant, copies = (plan.redundant, plan.mean_copies) if plan is not None else (0, 0.0)
    for nodes in range(1, 65):
        if hardware.max_nodes is not None and nodes > hardware.max_nodes:
            return None
        cluster = hardware.with_nodes(nodes)
        devices = cluster.num_devices
        ranks = devices // given.tp
        layouts = [Parallelism(given.tp, 1, ranks, devices if model.moe else 1)] if ranks else []
        layouts += [
            Parallelism(given.tp, pp, ranks // pp, ranks // pp * given.tp) for pp in _pipelines(ranks)
        ]
        layouts += [Parallelism(given.tp, pp, ranks // pp, 1) for pp in _pipelines(ranks)]
        for layout in layouts:
            if layout.faults(model, cluster, redundant) or (
                layout.world <= given.world and nodes < hardware.nodes
            ):
                continue
            use = memory_use(
                model,
                deployment.kinds,
                layout,
                deployment.precision,
                cluster,
                redundant=copies,
                chunk_tokens=engine.chunk_tokens,
                utilisation=engine.memory_utilisation,
            )
            one = cache_per_sequence(
                deployment.kinds, layout, deployment.precision, load.input_len + load.output_len
            )
            if use.cache_budget_bytes >= float(one[0]):
                return nodes, layout
    return None


def _pipelines(ranks: int) -> list[int]:
    return [pp for pp in range(2, ranks + 1) if ranks % pp == 0]
