"""What could be rented: every layout of every model on every machine that is worth a look.

A `Shape` fixes what the seconds of a step depend on; the batch limits that are tried with it cost next to
nothing more. Shapes are made one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from moesim.hardware import Hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import Model
from moesim.planning.types import Candidate, Space
from moesim.prediction import Engine


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One replica, but for its batch limits.

    Parameters
    ----------
    model, layout, engine, redundant
        As of a `Candidate`.
    hardware
        As many nodes as the replica needs.
    """

    model: Model
    hardware: Hardware
    layout: Parallelism
    engine: Engine
    redundant: int = 0

    def __str__(self) -> str:
        parts = [self.model.name, f"{self.hardware.nodes} x {self.hardware.name}", str(self.layout)]
        if self.engine.dtype != "auto":
            parts.append(self.engine.dtype)
        if self.engine.kv_cache_dtype != "auto":
            parts.append(f"{self.engine.kv_cache_dtype} cache")
        if self.redundant:
            parts.append(f"{self.redundant} spare experts")
        return ", ".join(parts)

    def settings(self, space: Space) -> list[Engine]:
        """The batch limits that are tried with it; a step never holds more sequences than tokens."""
        return [
            replace(self.engine, chunk_tokens=float(chunk), max_sequences=float(most))
            for chunk in sorted(set(space.chunk_tokens))
            for most in sorted(set(space.max_sequences))
            if most <= chunk
        ]

    @property
    def per_rental(self) -> int:
        """Replicas on the nodes that are rented together: as many as a node holds, or one."""
        return max(self.hardware.devices_per_node // self.layout.world, 1)

    def candidate(self, engine: Engine, replicas: int) -> Candidate:
        """So many of it."""
        return Candidate(self.model, self.hardware, self.layout, replicas, engine, self.redundant)


def shapes(models: Iterable[Model], hardwares: Iterable[Hardware], space: Space) -> Iterator[Shape]:
    """Every shape of a space, in the same order every time.

    A replica takes whole nodes, or an even part of one.

    Parameters
    ----------
    models, hardwares
        Alternatives; nodes of the hardware are not looked at.
    space
        What may be tried.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> model, machine = load_model("gpt-oss-20b"), load_hardware("h100-sxm-8")
    >>> [str(s.layout) for s in shapes([model], [machine], Space(max_devices=2, pp=(1,)))][:3]
    ['tp=1 pp=1 dp=1 ep=1', 'tp=1 pp=1 dp=2 ep=1', 'tp=1 pp=1 dp=2 ep=2']
    """
    hardwares = list(hardwares)
    for model in models:
        for hardware in hardwares:
            for world, nodes in worlds(hardware, space):
                cluster = hardware.with_nodes(nodes)
                for layout in layouts(world, space):
                    yield from _typed(model, cluster, layout, space)


def worlds(hardware: Hardware, space: Space) -> list[tuple[int, int]]:
    """Devices of a replica, and the nodes they lie on.

    >>> from moesim.hardware import load_hardware
    >>> worlds(load_hardware("gb200-nvl72"), Space(max_devices=16))
    [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4)]
    """
    node = hardware.devices_per_node
    top = min(space.max_devices // node, hardware.max_nodes or space.max_devices)
    counts = sorted(set(space.nodes)) or [2**i for i in range(max(top, 1).bit_length())]
    found = [(n * node, n) for n in counts if n <= top]
    if 1 in counts:
        found += [(d, 1) for d in range(1, node) if node % d == 0 and d <= space.max_devices]
    return sorted(found)


def layouts(world: int, space: Space) -> Iterator[Parallelism]:
    """Every way to lay a model over `world` devices, valid or not for a model."""
    for pp in _degrees(world, space.pp):
        for tp in _degrees(world // pp, space.tp):
            stage = world // pp
            dp = stage // tp
            if space.dp and dp not in space.dp:
                continue
            for ep in _degrees(stage, space.ep):
                yield Parallelism(tp, pp, dp, ep)


def _degrees(n: int, chosen: tuple[int, ...]) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0 and (not chosen or d in chosen)]


def _typed(model: Model, hardware: Hardware, layout: Parallelism, space: Space) -> Iterator[Shape]:
    """A layout in every data type, with every number of spare experts that divides over its ranks."""
    for redundant in sorted(set(space.redundant)):
        if redundant and (model.moe is None or layout.ep == 1):
            continue
        if layout.faults(model, hardware, redundant):
            continue
        for dtype in dict.fromkeys(space.dtypes):
            if not _computes(hardware, dtype):
                continue
            for cache in dict.fromkeys(space.kv_dtypes):
                engine = replace(space.engine, dtype=dtype, kv_cache_dtype=cache)
                yield Shape(model, hardware, layout, engine, redundant)


def _computes(hardware: Hardware, dtype: str) -> bool:
    """Whether a device multiplies in a type; what it must unpack to 16 bits first is not offered as fp4."""
    peaks = hardware.device.processor.peak_flops_per_s
    return {"nvfp4": "fp4", "fp8": "fp8", "int8": "int8"}.get(dtype, "") in ("", *peaks)
