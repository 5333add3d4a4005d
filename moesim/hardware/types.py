"""What a machine is: plain frozen values in SI units, made from YAML by `moesim.hardware.spec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from moesim.hardware.curves import Efficiency, Surfaces
from moesim.hardware.tiles import TileLaws
from moesim.shown import block, table
from moesim.units import show

#: What an energy constant counts: the memory or circuit alone, its interface too, or the whole board.
SCOPES = ("device", "device+phy", "board")


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of one byte or one FLOP.

    Published constants of the same part differ threefold, because they count different things.

    Parameters
    ----------
    joules
        Per byte, or per FLOP.
    scope
        One of `SCOPES`.
    """

    joules: float
    scope: str


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory of a device or a host.

    Parameters
    ----------
    latency_s
        From a request to the first byte; 0 where it is not known.
    energy_per_byte
        Of a byte read or written by the main processor.
    """

    name: str
    capacity_bytes: float
    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    energy_per_byte: Energy | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """The last cache in front of a device's main memory, shared by all that goes through the device.

    Parameters
    ----------
    hit_s, miss_s, write_s
        Latency of a hit, what a miss adds before the memory answers, and latency of a write.
    """

    capacity_bytes: float
    hit_s: float
    miss_s: float
    write_s: float


@dataclass(frozen=True, slots=True)
class Processor:
    """A compute unit of a device or a host.

    Parameters
    ----------
    peak_flops_per_s
        Dense peak by data type: ``fp32 tf32 bf16 fp16 fp8 int8 fp4``. A type that is absent is not supported.
    cores
        Streaming multiprocessors, compute units or cores: the number of tiles worked on at once.
    bandwidth_bytes_per_s
        Bandwidth of this processor to each memory it reaches, by memory name.
    efficiency
        By ``kind.dtype`` (``gemm.fp8``), else ``kind`` (``gemm``), else ``default``. The data type is the
        one computed in, or of the weights where these alone are packed (``expert_gemm.int4``).
        Kinds: ``gemm expert_gemm attention_prefill attention_decode elementwise``.
    kernels
        Measured kernels; where there is one it takes the place of the efficiency of its kind.
    measured_on
        Device whose kernels those are: this one, or a near relative; empty without any.
    energy_per_flop
        By data type; empty where no source says.
    energy_per_byte
        By memory name, where this processor's path to a memory differs from the memory's own constant.
    area_mm2
        What the processor adds to a die, where published.
    tile_rows
        Rows of a matrix product that its units take at once, all of them at work on one product: what an
        expert's tokens are rounded up to. None for tiles dealt to `cores`, as many rows as suit the tokens;
        beside a memory, where nothing is dealt, for no rounding.
    tiles
        Measured laws of grouped GEMMs by the data type of the weights; where there is one it takes the place
        of everything else that is known about them.
    """

    name: str
    peak_flops_per_s: Mapping[str, float]
    cores: int | None
    bandwidth_bytes_per_s: Mapping[str, float]
    efficiency: Mapping[str, Efficiency]
    kernels: Surfaces = field(default_factory=dict, repr=False)
    measured_on: str = ""
    energy_per_flop: Mapping[str, Energy] = field(default_factory=dict)
    energy_per_byte: Mapping[str, Energy] = field(default_factory=dict)
    area_mm2: float | None = None
    tile_rows: int | None = None
    tiles: TileLaws = field(default_factory=dict, repr=False)

    def efficiency_of(self, kind: str, dtype: str) -> Efficiency:
        """Efficiency of one kind of operation in one data type; ``nvfp4`` computes as ``fp4``."""
        table = self.efficiency
        dtype = "fp4" if dtype == "nvfp4" else dtype
        return table.get(f"{kind}.{dtype}") or table.get(kind) or table.get("default") or _IDEAL


_IDEAL = Efficiency()


@dataclass(frozen=True, slots=True)
class Price:
    """A dated price; cloud prices move weekly."""

    usd_per_hour: float
    vendor: str
    date: str


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator: processors that share memories.

    The first processor and the first memory are the main ones. A second processor sits beside a memory: each
    processor has its own bandwidth to each memory. MoNDE's reaches LPDDR at 512 GB/s that the GPU reaches at
    32 GB/s, Duplex's the GPU's own memory at four times the GPU's bandwidth. `kv_in` names the memory that
    holds the KV cache where that is not the main one.
    """

    name: str
    title: str
    processors: tuple[Processor, ...]
    memories: tuple[Memory, ...]
    tdp_w: float | None = None
    idle_w: float | None = None
    price: Price | None = None
    cache: Cache | None = None
    kv_in: str | None = None

    @property
    def processor(self) -> Processor:
        """The main processor."""
        return self.processors[0]

    @property
    def memory(self) -> Memory:
        """The main memory: it holds weights, and the KV cache unless `kv_in` says otherwise."""
        return self.memories[0]

    @property
    def kv_memory(self) -> Memory:
        """The memory that holds the KV cache."""
        return next((m for m in self.memories if m.name == self.kv_in), self.memory)

    @property
    def near(self) -> Processor | None:
        """The processor beside a memory (Logic-PIM, near-data), if there is one: the second one."""
        return self.processors[1] if len(self.processors) > 1 else None

    @property
    def near_memory(self) -> Memory | None:
        """The memory that the near processor reaches fastest; it may be the main one."""
        near = self.near
        if near is None:
            return None
        return max(self.memories, key=lambda memory: near.bandwidth_bytes_per_s[memory.name])


@dataclass(frozen=True, slots=True)
class CollectiveFit:
    """Latency and bus bandwidth of one collective, measured over `ranks` devices of one domain.

    Libraries send small messages one way and large ones another (NCCL's protocols LL and Simple, one-shot
    and two-shot all-reduce), and take the faster:

        time = min(alpha + factor(n) * bytes / small_busbw, bulk_alpha + factor(n) * bytes / busbw)

    Bus bandwidth follows the nccl-tests convention: factor 2(n-1)/n for all-reduce and (n-1)/n for the
    others.

    Parameters
    ----------
    ranks
        Devices.
    alpha_s, busbw_bytes_per_s
        Time of a small message, and bus bandwidth of a large one.
    small_busbw_bytes_per_s, bulk_alpha_s
        Bus bandwidth of the way of small messages, and latency of that of large ones; None where only one way
        is known.
    """

    ranks: int
    alpha_s: float
    busbw_bytes_per_s: float
    small_busbw_bytes_per_s: float | None = None
    bulk_alpha_s: float | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A kind of connection.

    Parameters
    ----------
    bandwidth_bytes_per_s
        Per device and direction.
    latency_s
        One message between two devices, with nothing to carry.
    efficiency
        Reachable fraction of the bandwidth for large messages, where no collective fit says more.
    domain
        Devices that reach each other over this link: 8 in an HGX node, 72 in an NVL72 rack.
    topology
        ``switch`` (any pair at full rate), ``full_mesh`` (point-to-point links that share the bandwidth
        between peers), ``ring``, ``tree`` (through a host bridge), ``fat_tree``, ``rail``, ``planes``,
        ``mesh`` (a rectangle of neighbours, routed first along one axis), ``torus`` (the same, closed).
    collectives
        Measured fits by collective: ``all_reduce all_gather reduce_scatter all_to_all``, rising in ranks;
        ``all_reduce_custom`` is what serving engines reach inside CUDA graphs with their own kernels, and
        ``all_reduce_custom.vllm`` one of them.
    source
        Where the numbers come from.
    shape
        Extents of a mesh or torus, ``(rows, columns)`` or more axes; empty for the squarest that fits. There
        the bandwidth is the sum over a device's own links: twice the axes, whether or not it is at an edge.
    planes
        Independent switch planes that a device is connected to; its bandwidth is split evenly over them.
    leaf
        Devices below one leaf switch of a tree, fat tree or planes; None for one switch without blocking.
    taper
        Bandwidth into a leaf switch from below over that out of it; 1 does not block.
    hop_s
        Latency of each hop through a switch or a neighbour; None where `latency_s` is all of it.
    multicast
        Whether switches copy: a token sent to many crosses each link once.
    energy_per_byte
        Of a byte over one hop.
    """

    name: str
    bandwidth_bytes_per_s: float
    latency_s: float
    efficiency: float
    domain: int
    topology: str
    collectives: Mapping[str, tuple[CollectiveFit, ...]] = field(default_factory=dict)
    source: str = ""
    shape: tuple[int, ...] = ()
    planes: int = 1
    leaf: int | None = None
    taper: float = 1.0
    hop_s: float | None = None
    multicast: bool = False
    energy_per_byte: Energy | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """One connection of a described fabric, the same both ways.

    Parameters
    ----------
    ends
        Names of what it connects: ``device:3`` and so on for devices, else names of switches and hosts.
    """

    ends: tuple[str, str]
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Fabric:
    """Connections described one by one, where no named topology says them.

    Parameters
    ----------
    switches
        Names of what is no device.
    topology
        ``tree`` promises that there is one way only between any two; ``any`` promises nothing.
    """

    switches: tuple[str, ...]
    wires: tuple[Wire, ...]
    topology: str = "any"


@dataclass(frozen=True, slots=True)
class Leg:
    """What one kind of link adds to an exchange of tokens between expert-parallel ranks.

    Parameters
    ----------
    latency_s
        From the first token handed over to the last signal seen, with nothing to carry.
    share
        Bandwidth over the link's, with as many ranks as it was measured with.
    rate_bytes_per_s
        What the cores that copy can move; infinity where copies are left to the links.
    scan_s
        Per token of a rank and peer: each peer's tokens are searched for in the whole batch.
    spread
        Part by which bytes take longer with each doubling of the ranks beyond 8, where tokens no longer
        reach every rank and meet at random.
    """

    latency_s: float
    share: float
    rate_bytes_per_s: float = float("inf")
    scan_s: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class OneWay:
    """One way of an exchange of tokens, to the experts or back.

    Parameters
    ----------
    floor_s
        Time with next to nothing to carry.
    sharpness
        Exponent that joins the floor and the legs: infinity is their maximum.
    up, out
        Inside a scale-up domain, and between domains.
    residual
        Median absolute error of the fit, as a fraction.
    """

    floor_s: float
    sharpness: float
    up: Leg
    out: Leg | None = None
    residual: float | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A measured way to send tokens to their experts and to bring the results back.

    Parameters
    ----------
    dispatch, combine
        To the experts, and back.
    once
        Whether a token goes once to a rank inside the domain, however many of its experts are there.
    source
        Where the numbers come from.
    """

    dispatch: OneWay
    combine: OneWay
    once: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """The CPUs and their memory in one node, and storage behind them."""

    processor: Processor
    memory: Memory
    sockets: int
    storage: Memory | None = None


#: What machines are, and how a list of them is headed, in its order.
KINDS = {
    "gpu": "GPUs",
    "npu": "NPUs",
    "tpu": "TPUs",
    "cpu": "CPUs",
    "cpu-gpu": "CPU-GPU boxes",
    "near-data": "PIM and near-data",
    "wafer": "wafers",
    "supernode": "supernodes and racks",
    "memory": "many memories",
    "edge": "edge devices",
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """A cluster of equal nodes.

    Parameters
    ----------
    name
        Catalogue name, ``device-form-count``: ``h200-sxm-8``.
    kind
        One of `KINDS`.
    device, devices_per_node
        The accelerators.
    scale_up
        The fast link between accelerators. Its domain may span nodes (a rack, a supernode).
    scale_out
        The network between nodes, per device; None for a machine that stands alone.
    host_link
        Accelerator to host memory, per device and direction.
    fabric
        Connections between devices one by one; None where the links' topologies say them.
    exchanges
        Measured exchanges between expert-parallel ranks: ``low_latency`` and ``high_throughput``, each also
        with a serving engine as in ``low_latency.sglang``.
    sources
        Provenance by dotted path of each number in the description.
    path
        The file it came from.
    """

    name: str
    title: str
    kind: str
    device: Device
    devices_per_node: int
    scale_up: Link
    scale_out: Link | None
    host: Host | None
    host_link: Link | None
    nodes: int = 1
    max_nodes: int | None = None
    exchanges: Mapping[str, Exchange] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    fabric: Fabric | None = None

    @property
    def num_devices(self) -> int:
        """Accelerators in the whole cluster."""
        return self.nodes * self.devices_per_node

    @property
    def domain(self) -> int:
        """Accelerators that share one scale-up domain, at most those there are."""
        return min(self.scale_up.domain, self.num_devices)

    def _repr_html_(self) -> str:
        device, price = self.device, self.device.price
        links = [
            (name, link)
            for name, link in (("scale-up", self.scale_up), ("scale-out", self.scale_out))
            if link
        ]
        peaks = device.processor.peak_flops_per_s.items()
        said = [
            (
                "devices",
                f"{self.num_devices} in {self.nodes} nodes" if self.nodes > 1 else f"{self.num_devices}",
            ),
            *((memory.name, _memory(memory)) for memory in device.memories),
            *((f"peak {dtype}", show(peak, "flops_per_s")) for dtype, peak in peaks),
            *(
                (name, f"{link.name} {show(link.bandwidth_bytes_per_s, 'bytes_per_s')}")
                for name, link in links
            ),
            ("price", f"{price.usd_per_hour:g} USD/h ({price.vendor}, {price.date})" if price else "-"),
        ]
        return block(
            f"{self.name}: {self.title}",
            table(["", "device and links"], said, words=2),
            notes=[f"{len(self.sources):,} numbers with a source: .sources"] if self.sources else [],
        )

    def with_nodes(self, nodes: int) -> Hardware:
        """The same machine with another number of nodes."""
        return replace(self, nodes=nodes)


def _memory(memory: Memory) -> str:
    capacity, bandwidth = memory.capacity_bytes, memory.bandwidth_bytes_per_s
    return f"{show(capacity, 'bytes')} at {show(bandwidth, 'bytes_per_s')}"
