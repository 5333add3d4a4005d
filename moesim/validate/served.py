"""How measured rows were served, as far as it has to be assumed."""

from __future__ import annotations

from moesim.hardware import Hardware, load_hardware
from moesim.layout import Parallelism
from moesim.model import Latent, load_model
from moesim.prediction import Engine
from moesim.validate.rows import ServingRow

#: Assumed of quantised models, whose cache nobody recorded: with 16 bits, measured runs would not fit.
CACHE_DTYPE = "fp8"
MEMORY_UTILISATION = 0.92
#: Devices on which SGLang keeps a latent cache in 16 bits: its kernel for 8 was measured to be ten times
#: slower there. With it, 112 runs come out 1.6 (aggregated) and 2.8 times (disaggregated) as slow as they
#: were, in the median; with 16 bits 1.2 and 1.4 times.
_LATENT_IN_16_BITS = ("h100", "h200")


def engine_of(row: ServingRow) -> Engine:
    """Settings of the engine of a row."""
    return Engine(
        dtype=row.dtype,
        kv_cache_dtype=cache_dtype_of(row),
        memory_utilisation=MEMORY_UTILISATION,
        backend=row.backend,
    )


def cache_dtype_of(row: ServingRow) -> str:
    """Data type of the cache, ``auto`` for 16 bits."""
    latent = any(isinstance(layer.attention, Latent) for layer in load_model(row.model).layers)
    slow = latent and row.backend == "sglang" and row.hardware.startswith(_LATENT_IN_16_BITS)
    return "auto" if slow or row.dtype == "bf16" else CACHE_DTYPE


def machine_of(name: str, nodes: int | None, layout: Parallelism) -> Hardware:
    """The machine of a row, with nodes enough for a layout."""
    hardware = load_hardware(name, nodes=nodes)
    needed = -(-layout.world // hardware.devices_per_node)
    return hardware if hardware.nodes >= needed else hardware.with_nodes(needed)
