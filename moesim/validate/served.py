"""How measured rows were served, as far as it has to be assumed."""

from __future__ import annotations

from moesim.hardware import Hardware, load_hardware
from moesim.layout import Parallelism
from moesim.prediction import Engine
from moesim.validate.rows import ServingRow

#: Assumed of quantised models, whose cache nobody recorded: with 16 bits, measured runs would not fit.
CACHE_DTYPE = "fp8"
MEMORY_UTILISATION = 0.92


def engine_of(row: ServingRow) -> Engine:
    """Settings of the engine of a row."""
    return Engine(
        dtype=row.dtype,
        kv_cache_dtype="auto" if row.dtype == "bf16" else CACHE_DTYPE,
        memory_utilisation=MEMORY_UTILISATION,
        backend=row.backend,
    )


def machine_of(name: str, nodes: int | None, layout: Parallelism) -> Hardware:
    """The machine of a row, with nodes enough for a layout."""
    hardware = load_hardware(name, nodes=nodes)
    needed = -(-layout.world // hardware.devices_per_node)
    return hardware if hardware.nodes >= needed else hardware.with_nodes(needed)
