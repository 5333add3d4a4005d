"""Make the frozen values of `moesim.hardware.types` from a validated description."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from moesim.hardware.curves import Efficiency, Surfaces
from moesim.hardware.kernels import surfaces_of
from moesim.hardware.provenance import Provenance
from moesim.hardware.quantity import Quantity
from moesim.hardware.spec import (
    CacheSpec,
    CollectiveSpec,
    DeviceSpec,
    EfficiencyFile,
    EfficiencySpec,
    EfficiencyTable,
    EnergySpec,
    ExchangeSpec,
    FabricSpec,
    HostSpec,
    LegSpec,
    LinkSpec,
    MemorySpec,
    OneWaySpec,
    PriceSpec,
    ProcessorSpec,
    Spec,
    TilesSpec,
)
from moesim.hardware.tiles import Tile, TileLaw
from moesim.hardware.types import (
    Cache,
    CollectiveFit,
    Device,
    Energy,
    Exchange,
    Fabric,
    Hardware,
    Host,
    Leg,
    Link,
    Memory,
    OneWay,
    Price,
    Processor,
    Wire,
)

#: Reads an efficiency family by name: the file, and the origin of its entries by path.
FamilyReader = Callable[[str], tuple[EfficiencyFile, Mapping[str, str]]]
#: Reads a file of measured kernels by name.
KernelReader = Callable[[str], Surfaces]
#: Kind of operation whose efficiency a measured kernel stands in for.
KIND_OF = {
    "gemm": "gemm",
    "mla_bmm": "gemm",
    "experts": "expert_gemm",
    "experts_ep": "expert_gemm",
    "expert": "expert_gemm",
    "top_k": "elementwise",
    "weighted_sum": "elementwise",
    "attention_decode": "attention_decode",
    "attention_decode_window": "attention_decode",
    "mla_decode": "attention_decode",
    "attention_mixed": "attention_prefill",
    "attention_prefill": "attention_prefill",
    "attention_prefill_window": "attention_prefill",
    "mla_prefill": "attention_prefill",
}


def build(
    spec: Spec,
    origins: Iterable[Provenance],
    family: FamilyReader,
    kernels: KernelReader,
    path: str,
    nodes: int,
) -> Hardware:
    """The machine a description describes.

    Parameters
    ----------
    spec
        The description.
    origins
        Origin of each of its numbers.
    family
        Reads a named efficiency family.
    kernels
        Reads named measured kernels.
    path
        Where the description lies.
    nodes
        Number of nodes.
    """
    sources = {origin.path: str(origin) for origin in origins}
    ((name, device),) = spec.devices.items()
    node, cluster = spec.node, spec.cluster
    at = f"devices.{name}"
    reach = (max_nodes(spec) or nodes) * _whole(node.devices)
    return Hardware(
        name=spec.name,
        title=spec.title,
        kind=spec.kind,
        device=_device(name, device, family, kernels, sources, at),
        devices_per_node=_whole(node.devices),
        scale_up=_link(node.scale_up, "node.scale_up", sources, _whole(node.scale_up.domain)),
        scale_out=_link(cluster.network, "cluster.network", sources, reach) if cluster else None,
        host=_host(node.host, family, kernels, sources, "node.host") if node.host else None,
        host_link=_link(node.host_link, "node.host_link", sources, 1) if node.host_link else None,
        nodes=nodes,
        max_nodes=max_nodes(spec),
        exchanges={
            name: _exchange(part, sources, f"exchanges.{name}") for name, part in spec.exchanges.items()
        },
        sources=sources,
        path=path,
        fabric=_fabric(spec.fabric) if spec.fabric else None,
    )


def max_nodes(spec: Spec) -> int | None:
    """Most nodes such a machine can have: one without a network, None for no limit."""
    if spec.cluster is None:
        return 1
    return _whole(spec.cluster.max_nodes) if spec.cluster.max_nodes else None


def default_nodes(spec: Spec) -> int:
    """Nodes of the machine as it is sold: all trays of a rack, else one."""
    return _whole(spec.cluster.default_nodes) if spec.cluster and spec.cluster.default_nodes else 1


def _whole(quantity: Quantity) -> int:
    return int(quantity.value)


def _device(
    name: str,
    spec: DeviceSpec,
    family: FamilyReader,
    kernels: KernelReader,
    sources: Mapping[str, str],
    at: str,
) -> Device:
    power = spec.power
    return Device(
        name=name,
        title=spec.title,
        processors=tuple(
            _processor(key, part, spec.memories, family, kernels, sources, f"{at}.processors.{key}")
            for key, part in spec.processors.items()
        ),
        memories=tuple(_memory(key, part) for key, part in spec.memories.items()),
        tdp_w=power.tdp.value if power and power.tdp else None,
        idle_w=power.idle.value if power and power.idle else None,
        price=_price(spec.price) if spec.price else None,
        cache=_cache(spec.cache) if spec.cache else None,
    )


def _cache(spec: CacheSpec) -> Cache:
    return Cache(spec.capacity.value, spec.hit.value, spec.miss.value, spec.write.value)


def _fabric(spec: FabricSpec) -> Fabric:
    wires = (Wire((w.ends[0], w.ends[1]), w.bandwidth.value, w.latency.value) for w in spec.links)
    return Fabric(tuple(spec.switches), tuple(wires), spec.topology)


def _energy(spec: EnergySpec | None) -> Energy | None:
    return Energy(spec.per_byte.value, spec.scope) if spec else None


def _processor(
    name: str,
    spec: ProcessorSpec,
    memories: Mapping[str, MemorySpec],
    family: FamilyReader,
    kernels: KernelReader,
    sources: Mapping[str, str],
    at: str,
) -> Processor:
    own = {key: value.value for key, value in spec.bandwidth.items()}
    return Processor(
        name=name,
        peak_flops_per_s={dtype: peak.value for dtype, peak in spec.peak.items()},
        cores=_whole(spec.cores) if spec.cores else None,
        bandwidth_bytes_per_s={key: m.bandwidth.value for key, m in memories.items()} | own,
        efficiency=_efficiency(spec.efficiency, family, sources, f"{at}.efficiency")
        if spec.efficiency
        else {},
        kernels=_kernels(spec, kernels),
        measured_on=_measured_on(spec, at),
        energy_per_flop={
            dtype: Energy(cost.value, spec.energy.scope) for dtype, cost in spec.energy.per_flop.items()
        }
        if spec.energy
        else {},
        energy_per_byte={
            key: Energy(cost.per_byte.value, cost.scope) for key, cost in spec.path_energy.items()
        },
        area_mm2=spec.area_mm2.value if spec.area_mm2 else None,
        tile_rows=_whole(spec.tile_rows) if spec.tile_rows else None,
        tiles={
            dtype: _tiles(law, sources.get(f"{at}.tiles.{dtype}.launch", ""))
            for dtype, law in spec.tiles.items()
        },
    )


def _tiles(spec: TilesSpec, source: str) -> TileLaw:
    return TileLaw(
        tiles=tuple(
            Tile(
                tile.name,
                _whole(tile.rows),
                _whole(tile.columns),
                tile.compute.value,
                tile.fill.value,
                tile.drain.value,
                tile.up_to.value if tile.up_to else float("inf"),
            )
            for tile in spec.configurations
        ),
        launch_s=spec.launch.value,
        launches=_whole(spec.launches),
        memory=spec.memory,
        moves=spec.moves,
        sharpness=spec.sharpness.value if spec.sharpness else float("inf"),
        log_error=spec.log_error,
        source=source,
    )


def _kernels(spec: ProcessorSpec, read: KernelReader) -> Surfaces:
    """The named kernels and the file's own; a kind whose efficiency the file states hides the named."""
    table = spec.kernels
    if table is None:
        return {}
    own = {key.partition(".")[0] for key in spec.efficiency.kinds} if spec.efficiency else set()
    named = read(table.like) if table.like else {}
    shown = {key: surface for key, surface in named.items() if KIND_OF[key[0]] not in own}
    return shown | surfaces_of(table.fits)


def _measured_on(spec: ProcessorSpec, at: str) -> str:
    """The device whose kernels are used: the file's own are those of the device they stand at."""
    if spec.kernels is None:
        return ""
    return spec.kernels.like or (at.split(".")[1] if spec.kernels.fits else "")


def _efficiency(
    table: EfficiencyTable, family: FamilyReader, sources: Mapping[str, str], at: str
) -> dict[str, Efficiency]:
    made: dict[str, Efficiency] = {}
    if table.like is not None:
        base, origin = family(table.like)
        made = _efficiency(base, family, origin, "")
    dot = f"{at}." if at else ""
    own = {key: _curves(spec, sources.get(f"{dot}kinds.{key}", "")) for key, spec in table.kinds.items()}
    # A changed kind also hides the family's entries by data type, or the change would not be seen.
    hidden = {key for key in made if key.partition(".")[0] in own}
    return {key: value for key, value in made.items() if key not in hidden} | own


def _curves(spec: EfficiencySpec, source: str) -> Efficiency:
    return Efficiency(
        compute=spec.compute,
        memory=spec.memory,
        floor_s=spec.floor.value if spec.floor else 0.0,
        sharpness=spec.sharpness.value if spec.sharpness else float("inf"),
        source=source,
    )


def _memory(name: str, spec: MemorySpec) -> Memory:
    latency = spec.latency.value if spec.latency else 0.0
    return Memory(name, spec.capacity.value, spec.bandwidth.value, latency, _energy(spec.energy))


def _price(spec: PriceSpec) -> Price:
    return Price(spec.per_hour.value, spec.vendor, spec.date.isoformat())


def _host(
    spec: HostSpec, family: FamilyReader, kernels: KernelReader, sources: Mapping[str, str], at: str
) -> Host:
    memory = _memory("ram", spec.memory)
    return Host(
        processor=_processor(
            "cpu", spec.processor, {"ram": spec.memory}, family, kernels, sources, f"{at}.processor"
        ),
        memory=memory,
        sockets=_whole(spec.sockets),
        storage=_memory("storage", spec.storage) if spec.storage else None,
    )


def _link(spec: LinkSpec, at: str, sources: Mapping[str, str], domain: int) -> Link:
    fits = {name: _fits(c, spec.bandwidth.value) for name, c, _ in spec.collectives.items()}
    paths = [f"{at}.{key}" for key in ("bandwidth", "latency", "efficiency")]
    paths += [f"{at}.collectives.{path}" for _, _, path in spec.collectives.items()]
    cited = dict.fromkeys(sources[path] for path in paths if sources.get(path))
    return Link(
        name=spec.name,
        bandwidth_bytes_per_s=spec.bandwidth.value,
        latency_s=spec.latency.value,
        efficiency=spec.efficiency.value,
        domain=domain,
        topology=spec.topology,
        collectives=fits,
        source=" | ".join(cited),
        shape=tuple(_whole(extent) for extent in spec.shape),
        planes=_whole(spec.planes) if spec.planes else 1,
        leaf=_whole(spec.leaf) if spec.leaf else None,
        taper=spec.taper.value if spec.taper else 1.0,
        hop_s=spec.hop.value if spec.hop else None,
        multicast=spec.multicast,
        energy_per_byte=_energy(spec.energy),
    )


def _fits(spec: CollectiveSpec, bandwidth: float) -> tuple[CollectiveFit, ...]:
    two = bool(spec.small_share)
    return tuple(
        CollectiveFit(
            int(ranks.value),
            spec.latency[i].value,
            spec.share[i].value * bandwidth,
            spec.small_share[i].value * bandwidth if two else None,
            spec.bulk_latency[i].value if two else None,
        )
        for i, ranks in enumerate(spec.ranks)
    )


def _exchange(spec: ExchangeSpec, sources: Mapping[str, str], at: str) -> Exchange:
    paths = [f"{at}.{way}.{leg}" for way in ("dispatch", "combine") for leg in ("up", "out")]
    cited = dict.fromkeys(sources[path] for path in paths if sources.get(path))
    return Exchange(
        dispatch=_one_way(spec.dispatch, spec.sharpness.value),
        combine=_one_way(spec.combine, spec.sharpness.value),
        once=spec.once,
        source=" | ".join(cited),
    )


def _one_way(spec: OneWaySpec, sharpness: float) -> OneWay:
    return OneWay(
        floor_s=spec.floor.value,
        sharpness=sharpness,
        up=_leg(spec.up),
        out=_leg(spec.out) if spec.out else None,
        residual=spec.residual.value if spec.residual else None,
    )


def _leg(spec: LegSpec) -> Leg:
    return Leg(
        latency_s=spec.latency.value,
        share=spec.share.value,
        rate_bytes_per_s=spec.rate.value if spec.rate else float("inf"),
        scan_s=spec.scan.value if spec.scan else 0.0,
        spread=spec.spread.value if spec.spread else 0.0,
    )
