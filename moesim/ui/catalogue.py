"""What a page offers: models, machines, traces, and the ranges of its sliders."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from moesim._version import __version__
from moesim.hardware import Hardware
from moesim.layout.parallelism import heads_of
from moesim.model import Model, params
from moesim.provenance import clean
from moesim.ui.library import Library
from moesim.ui.scenario import CHOICES, RANGES, Scenario, predictable


def catalogue(library: Library) -> dict[str, Any]:
    """Everything that may be chosen, as plain JSON values.

    >>> found = catalogue(Library())
    >>> sorted(found)
    ['choices', 'defaults', 'hardware', 'limits', 'models', 'traces', 'version']
    """
    return dict(
        clean(
            {
                "version": __version__,
                "models": [
                    _model(name, library) for name in library.models if predictable(library.model(name))
                ],
                "hardware": [_machine(name, library.machine(name), library) for name in library.machines],
                "traces": [row.to_dict() for row in library.traces],
                "defaults": {"scenario": Scenario().to_dict()},
                "limits": {name: asdict(row) for name, row in RANGES.items()},
                "choices": {name: list(allowed) for name, allowed in CHOICES.items()},
            }
        )
    )


def _model(name: str, library: Library) -> dict[str, Any]:
    model = library.model(name)
    count = params(model)
    return {
        "name": name,
        "title": _title(name, model),
        "given": name in library.given,
        "moe": model.moe is not None,
        "num_experts": model.num_experts,
        "top_k": model.top_k,
        "layers": model.num_layers,
        "moe_layers": len(model.moe_layer_ids),
        "total_params": count.total,
        "active_params": count.active,
        "max_context": model.max_context,
        # What tp, and dp x tp / ep, must divide.
        "heads": sorted(heads_of(model)),
        "expert_width": model.moe.intermediate if model.moe else None,
    }


def _title(name: str, model: Model) -> str:
    if model.moe is None:
        return f"{name} (dense)"
    return f"{name} ({model.num_experts} experts, top {model.top_k})"


def _machine(name: str, machine: Hardware, library: Library) -> dict[str, Any]:
    device = machine.device
    return {
        "name": name,
        "title": machine.title,
        "given": name in library.given,
        "kind": machine.kind,
        "device": device.title,
        "devices_per_node": machine.devices_per_node,
        "nodes": machine.nodes,
        "max_nodes": min(machine.max_nodes or RANGES["nodes"].max, RANGES["nodes"].max),
        "memory_bytes": device.memory.capacity_bytes,
        "memory_bandwidth_bytes_per_s": device.memory.bandwidth_bytes_per_s,
        "usd_per_device_hour": device.price.usd_per_hour if device.price else None,
    }
