"""How caches cross from workers that prefill to workers that decode: over which links, and how many bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.deployment import Deployment
from moesim.engine.memory import BLOCK_TOKENS
from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware, Link

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

LINKS = ("auto", "scale-out", "scale-up")
FIRST_TOKENS = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class HandOver:
    """How caches cross.

    Parameters
    ----------
    over
        One of `LINKS`: the network between nodes, the scale-up fabric, or the network where there is one.
    oversubscription
        Bandwidth of the smaller pool's links over that of the spine between the pools; 1 never blocks.
    overlap
        Whether a layer's cache crosses while later layers are computed (Mooncake), for which blocks are
        reserved before the prompt is read; else the decode worker reserves blocks once the prompt is read,
        and pulls (vLLM's NIXL connector).
    first_token
        Who gives the first token: the ``prefill`` worker (SGLang, TensorRT-LLM), or the ``decode`` worker,
        which computes the last token of the prompt once more (vLLM).
    """

    over: str = "auto"
    oversubscription: float = 1.0
    overlap: bool = False
    first_token: str = "prefill"

    def faults(self) -> list[Fault]:
        """What is wrong with the settings."""
        found = []
        for name, value, allowed in (
            ("--kv-link", self.over, LINKS),
            ("--first-token-from", self.first_token, FIRST_TOKENS),
        ):
            if value not in allowed:
                found.append(Fault("is unknown", name, value, ", ".join(allowed)))
        if not 1.0 <= self.oversubscription < np.inf:
            found.append(
                Fault("is out of range", "--kv-oversubscription", self.oversubscription, "1 or more")
            )
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Wires:
    """Links between the lanes of two pools, and what a prompt's cache asks of them.

    Parameters
    ----------
    capacity, names
        Bytes per second of every link, and what it is.
    sends, takes
        Link of each prefill lane, ``[prefill lanes]``, and of each decode lane, ``[decode lanes]``.
    spine
        Link between the pools; -1 where none can block.
    latency_s
        Before the first byte.
    sizes
        Bytes that cross for a prompt of so many blocks, to all devices of a lane.
    block
        Tokens of a block.
    layers
        Layers that are computed one after the other.
    """

    capacity: F8
    names: tuple[str, ...]
    sends: I8
    takes: I8
    spine: int
    latency_s: float
    sizes: F8
    block: int = BLOCK_TOKENS
    layers: int = 1

    def path(self, sender: int, receiver: int) -> tuple[int, ...]:
        """Links from a prefill lane to a decode lane."""
        ends = (int(self.sends[sender]), int(self.takes[receiver]))
        return ends if self.spine < 0 else (*ends, self.spine)

    def bytes_of(self, tokens: int) -> float:
        """Bytes that the cache of a prompt takes on its way."""
        return float(self.sizes[-(-tokens // self.block)])


def wires_of(
    prefill: Deployment, decode: Deployment, replicas: tuple[int, int], longest: int, how: HandOver
) -> Wires:
    """Links of a cluster.

    Every device has a link of its own, so a lane, which keeps a request's cache on all its devices, sends or
    receives over as many as it has. What is replicated among receivers, as a latent cache is, crosses once
    for each; `moesim.engine.disaggregated.hand_over_s` is one transfer alone, and the same where no sender
    has fewer devices than its receiver. The stages of a pipeline step as engines of their own
    (`moesim.serving.simulate.prepare`), on the same devices.

    Parameters
    ----------
    prefill, decode
        A worker of each pool.
    replicas
        Workers of each.
    longest
        Tokens of the longest cache that crosses.
    how
        Settings.

    Raises
    ------
    ConfigError
        Where the link that is asked for is not there, or does not reach all devices.
    """
    layouts = prefill.layout, decode.layout
    worlds = [many * layout.world for many, layout in zip(replicas, layouts, strict=True)]
    link = _link(prefill.hardware, how.over, sum(worlds))
    each = link.bandwidth_bytes_per_s * link.efficiency
    capacity: list[float] = []
    names: list[str] = []
    ends = []
    for pool, many, layout in zip(("prefill", "decode"), replicas, layouts, strict=True):
        links = len(names) + np.arange(many * layout.dp).reshape(many, layout.dp)
        ends.append(np.repeat(links, layout.pp, axis=0).ravel())
        names += [f"{pool} {r}.{lane}" for r in range(many) for lane in range(layout.dp)]
        capacity += [each * layout.tp * layout.pp] * links.size
    spine = -1
    if how.oversubscription > 1.0:
        spine = len(names)
        names.append("spine")
        capacity.append(each * min(worlds) / how.oversubscription)
    blocks = np.arange(-(-longest // BLOCK_TOKENS) + 1.0)
    receivers = decode.layout.tp * decode.layout.pp
    sizes = np.where(blocks > 0, receivers * decode.cache_bytes(blocks * BLOCK_TOKENS), 0.0)
    return Wires(
        np.array(capacity), tuple(names), ends[0], ends[1], spine, link.latency_s, sizes,
        layers=prefill.model.num_layers,
    )  # fmt: skip


def _link(hardware: Hardware, over: str, devices: int) -> Link:
    if over == "scale-out" and hardware.scale_out is None:
        raise ConfigError(Fault(f"{hardware.name} has no network between nodes", "--kv-link", over, "auto"))
    if over == "scale-up" and devices > hardware.scale_up.domain:
        raise ConfigError(
            Fault(
                f"{devices} devices do not share one scale-up domain of {hardware.name}, "
                f"which has {hardware.scale_up.domain}",
                "--kv-link",
                over,
                "auto",
            )
        )
    if over == "scale-up" or hardware.scale_out is None:
        return hardware.scale_up
    return hardware.scale_out
