"""Is every number of a plausible size for its kind? Outside somebody wrote GB for bytes, or ms for us."""

from __future__ import annotations

from collections.abc import Iterator

from moesim.errors import Fault
from moesim.hardware.check_links import MOST_WIRES, links_of
from moesim.hardware.quantity import Quantity
from moesim.hardware.spec import EnergySpec, LinkSpec, MemorySpec, ProcessorSpec, Spec, WireSpec
from moesim.units import show

_MEMORY_CAPACITY = (1e8, 1e16)
_MEMORY_BANDWIDTH = (1e8, 1e17)
_LINK_BANDWIDTH = (1e8, 1e14)
LINK_LATENCY = (0.0, 1e-2)
_PEAK = (1e9, 1e19)
_POWER = (0.1, 1e6)
_PRICE = (1e-3, 1e4)
_CACHE_CAPACITY = (1e3, 1e11)
_CACHE_LATENCY = (0.0, 1e-4)
_ENERGY_PER_BYTE = (1e-14, 1e-8)
_ENERGY_PER_FLOP = (1e-15, 1e-9)
_AREA_MM2 = (1e-3, 1e5)


def check_ranges(spec: Spec) -> Iterator[Fault]:
    """Capacities, bandwidths, peaks and latencies of a plausible size for their kind."""
    for where, memory in _memories(spec):
        yield from in_range(f"{where}.capacity", memory.capacity, _MEMORY_CAPACITY)
        yield from in_range(f"{where}.bandwidth", memory.bandwidth, _MEMORY_BANDWIDTH)
        yield from in_range(f"{where}.latency", memory.latency, LINK_LATENCY)
    for where, processor in processors_of(spec):
        for dtype, peak in processor.peak.items():
            yield from in_range(f"{where}.peak.{dtype}", peak, _PEAK)
        for name, bandwidth in processor.bandwidth.items():
            yield from in_range(f"{where}.bandwidth.{name}", bandwidth, _MEMORY_BANDWIDTH)
    for where, link in _connections(spec):
        yield from in_range(f"{where}.bandwidth", link.bandwidth, _LINK_BANDWIDTH)
        yield from in_range(f"{where}.latency", link.latency, LINK_LATENCY)
        if isinstance(link, LinkSpec):
            yield from in_range(f"{where}.hop", link.hop, LINK_LATENCY)
    for name, device in spec.devices.items():
        if device.power:
            yield from in_range(f"devices.{name}.power.tdp", device.power.tdp, _POWER)
            yield from in_range(f"devices.{name}.power.idle", device.power.idle, _POWER)
        if device.price:
            yield from in_range(f"devices.{name}.price.per_hour", device.price.per_hour, _PRICE)


def check_caches(spec: Spec) -> Iterator[Fault]:
    """A cache is smaller than a memory, and answers faster than a link."""
    for name, device in spec.devices.items():
        if device.cache is None:
            continue
        at = f"devices.{name}.cache"
        yield from in_range(f"{at}.capacity", device.cache.capacity, _CACHE_CAPACITY)
        for key in ("hit", "miss", "write"):
            yield from in_range(f"{at}.{key}", getattr(device.cache, key), _CACHE_LATENCY)


def check_energies(spec: Spec) -> Iterator[Fault]:
    """Energies per byte and FLOP, and areas, of a plausible size, of memories there are."""
    for where, memory in _memories(spec):
        yield from _energy(f"{where}.energy", memory.energy)
    for where, link in links_of(spec):
        yield from _energy(f"{where}.energy", link.energy)
    for where, processor in processors_of(spec):
        if processor.energy:
            for dtype, cost in processor.energy.per_flop.items():
                yield from in_range(f"{where}.energy.per_flop.{dtype}", cost, _ENERGY_PER_FLOP)
        for memory_name, path in processor.path_energy.items():
            yield from _energy(f"{where}.path_energy.{memory_name}", path)
        area = processor.area_mm2
        if area is not None and not _AREA_MM2[0] <= area.value <= _AREA_MM2[1]:
            low, high = _AREA_MM2
            yield Fault(
                "implausible", f"{where}.area_mm2", area.value, f"{low:g} to {high:g} square millimetres"
            )


def _energy(where: str, energy: EnergySpec | None) -> Iterator[Fault]:
    if energy is not None:
        yield from in_range(f"{where}.per_byte", energy.per_byte, _ENERGY_PER_BYTE)


def in_range(where: str, quantity: Quantity | None, limits: tuple[float, float]) -> Iterator[Fault]:
    """A fault if a number is given and lies outside its limits."""
    if quantity is None:
        return
    low, high = limits
    if not low <= quantity.value <= high:
        allowed = f"{show(low, quantity.kind)} to {show(high, quantity.kind)}; a bare number is in SI units"
        yield Fault("implausible", where, quantity.text, allowed)


def _memories(spec: Spec) -> Iterator[tuple[str, MemorySpec]]:
    for name, device in spec.devices.items():
        for key, memory in device.memories.items():
            yield f"devices.{name}.memories.{key}", memory
    if spec.node.host:
        yield "node.host.memory", spec.node.host.memory
        if spec.node.host.storage:
            yield "node.host.storage", spec.node.host.storage


def processors_of(spec: Spec) -> Iterator[tuple[str, ProcessorSpec]]:
    """Every processor with its path, those of the host too."""
    for name, device in spec.devices.items():
        for key, processor in device.processors.items():
            yield f"devices.{name}.processors.{key}", processor
    if spec.node.host:
        yield "node.host.processor", spec.node.host.processor


def _connections(spec: Spec) -> Iterator[tuple[str, LinkSpec | WireSpec]]:
    yield from links_of(spec)
    for index, wire in enumerate(spec.fabric.links[:MOST_WIRES] if spec.fabric else ()):
        yield f"fabric.links.{index}", wire
