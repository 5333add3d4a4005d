"""How measured rows were served, as far as it has to be assumed."""

from __future__ import annotations

from moesim.hardware import Hardware, load_hardware
from moesim.layout import Parallelism
from moesim.prediction import Engine
from moesim.validate.recipes import recipe_of
from moesim.validate.rows import ServingRow

MEMORY_UTILISATION = 0.92


def engine_of(row: ServingRow) -> Engine:
    """Settings of the engine of a row."""
    return Engine(
        dtype=row.dtype,
        kv_cache_dtype=recipe_of(row).kv_cache_dtype,
        memory_utilisation=MEMORY_UTILISATION,
        backend=row.backend,
    )


def machine_of(name: str, nodes: int | None, layout: Parallelism) -> Hardware:
    """The machine of a row, with nodes enough for a layout."""
    hardware = load_hardware(name, nodes=nodes)
    needed = -(-layout.world // hardware.devices_per_node)
    return hardware if hardware.nodes >= needed else hardware.with_nodes(needed)
