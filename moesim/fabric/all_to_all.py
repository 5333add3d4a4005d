"""All-to-all in one step, in two, or through leaders.

``flat``: every rank sends to every other: `n - 1` messages each, nearly all over the network once there are
many domains. ``two_level``: first to the rank of the target's place in the own domain, then from there to the
target: as many bytes over the network, but ``n / g - 1`` messages, and two copies that put what travels
together side by side (Tutel's 2DH, SMILE's bi-level routing, rail-aligned exchanges). ``leader``: a domain
gathers at one rank, leaders exchange, and scatter (HetuMoE): the largest messages, but through one rank.

Beyond the first, each peer over the network costs what posting a send to it and a receive from it takes: one
host thread of a rank serves both (NVIDIA/nccl#1138). With Intel hosts that is 2 us; of an exchange of 8 MiB
among 64 H800 (NVIDIA/nccl#1531: 296 us in place, 338 us out of place) it leaves 3 to 15 % unexplained.
"""

from __future__ import annotations

import numpy as np

from moesim.fabric.collectives import POST_S, across_lines, inside_lines, shares_links
from moesim.fabric.measured import fastest, fit_of
from moesim.fabric.network import network_of
from moesim.fabric.peers import PeerCost
from moesim.fabric.phases import Groups, Line, fastest_line
from moesim.hardware.types import Hardware
from moesim.hardware.wiring import Array

ALGORITHMS = ("flat", "two_level", "leader")
#: Of each peer after the first: its send and its receive are posted by the same thread.
PEER_S = 2.0 * POST_S


def all_to_all(
    hardware: Hardware,
    ranks: int,
    bytes_per_rank: Array | float,
    algorithm: str = "best",
    *,
    message_s: PeerCost | float | None = None,
    shared_nic: bool = False,
    copies: bool = True,
) -> Array:
    """Seconds of an even all-to-all over the first `ranks` devices.

    Parameters
    ----------
    hardware
        The cluster.
    ranks
        Devices; beyond a domain, whole domains.
    bytes_per_rank
        What a rank holds; an equal part of it goes to each rank, its own stays.
    algorithm
        One of `ALGORITHMS`, or ``best`` for the fastest at each size.
    message_s
        What each peer over the network costs after the first, also by its message; `PEER_S` if None.
    shared_nic
        Whether a domain has one network card that all its devices share: a leader then has all of it.
    copies
        Whether the copies through device memory that put together what travels together count.

    Returns
    -------
    ndarray
        Seconds, as `bytes_per_rank`.

    Examples
    --------
    Small messages suffer most from their number.

    >>> from moesim.hardware import load_hardware
    >>> cluster = load_hardware("a100", nodes=64)
    >>> flat, two = (float(all_to_all(cluster, 512, 1e6, name)) for name in ("flat", "two_level"))
    >>> flat > 3 * two
    True
    """
    if algorithm == "best":
        every = [
            all_to_all(
                hardware,
                ranks,
                bytes_per_rank,
                name,
                message_s=message_s,
                shared_nic=shared_nic,
                copies=copies,
            )
            for name in ALGORITHMS
        ]
        return np.asarray(np.min(every, axis=0))
    parts = all_to_all_parts(
        hardware,
        ranks,
        bytes_per_rank,
        algorithm,
        message_s=message_s,
        shared_nic=shared_nic,
        copies=copies,
    )
    return np.asarray(sum(parts.values()))


def all_to_all_parts(
    hardware: Hardware,
    ranks: int,
    bytes_per_rank: Array | float,
    algorithm: str,
    *,
    message_s: PeerCost | float | None = None,
    shared_nic: bool = False,
    copies: bool = True,
) -> dict[str, Array]:
    """Seconds of each phase of `all_to_all`, one after the other; parameters as there."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"no algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    data = np.asarray(bytes_per_rank, dtype=np.float64)
    local = min(ranks, network_of(hardware).domain)
    if ranks > local and ranks % local:
        raise ValueError(f"{ranks} ranks do not fill whole domains of {local}")
    domains = ranks // local

    def posted(messages: float, bytes_: Array) -> Array:
        """Seconds of all peers of a rank but the first, each sent so many bytes."""
        if isinstance(message_s, PeerCost):
            return messages * message_s(bytes_)
        return np.full_like(bytes_, messages * (PEER_S if message_s is None else message_s))

    if domains == 1 and algorithm != "leader":
        return {"intra": _inside(hardware, local, data)}
    if algorithm == "flat":
        out = _flat_across(hardware, local, domains)
        within = _inside(hardware, local, data / domains)
        start = out.alpha_s + posted(local * (domains - 1) - 1, data / ranks)
        return {"exchange": np.maximum(within, start + out.beta_s * data)}
    memory = hardware.device.memory.bandwidth_bytes_per_s
    copied = 4.0 * data / memory if copies else np.zeros_like(data)
    if algorithm == "two_level":
        out = _across(hardware, local, domains)
        inter = out.alpha_s + posted(domains - 2, data / domains) + out.beta_s * data
        return {"intra": _inside(hardware, local, data), "copy": copied, "inter": inter}
    gather = _gathered(hardware, local)
    moved = gather.alpha_s + gather.beta_s * data if local > 1 else np.zeros_like(data)
    found = {"gather": moved, "copy": copied * local}
    if domains > 1:
        out = _across(hardware, 1, domains)
        sent = out.beta_s * data * (1.0 if shared_nic else local)
        found["exchange"] = out.alpha_s + posted(domains - 2, local * data / domains) + sent
    return {**found, "scatter": moved}


def _inside(hardware: Hardware, ranks: int, data: Array) -> Array:
    """An all-to-all inside a domain: as measured, else on its links."""
    if ranks <= 1:
        return np.zeros_like(data)
    link = hardware.scale_up
    if "all_to_all" in link.collectives and not shares_links(link) and hardware.fabric is None:
        return fastest(fit_of("all_to_all", ranks, link), (ranks - 1) / ranks * data)
    return fastest_line(inside_lines(hardware, "all_to_all", ranks, ranks), data)


def _across(hardware: Hardware, inside: int, domains: int) -> Line:
    """All-to-all of ranks of equal place, without what posting to peers costs."""
    line = across_lines(hardware, "all_to_all", inside, domains)["direct"]
    return Line(line.alpha_s - (domains - 2) * POST_S, line.beta_s)


def _flat_across(hardware: Hardware, local: int, domains: int) -> Line:
    """What crosses the network where each rank sends to each of the other domains' ranks."""
    network = network_of(hardware)
    key = ("flat", local, domains)
    if key not in network.known:
        ranks = np.arange(local * domains)
        source, target = np.nonzero(ranks[:, None] // local != ranks[None, :] // local)
        network.known[key] = Groups(network, ranks[None, :]).phase(source, target, 1.0 / len(ranks))
    line: Line = network.known[key]
    return line


def _gathered(hardware: Hardware, local: int) -> Line:
    """A domain's first rank is sent all that the others hold."""
    network = network_of(hardware)
    key = ("gather", local)
    if key not in network.known:
        ranks = np.arange(local)
        network.known[key] = Groups(network, ranks[None, :]).phase(ranks, np.zeros_like(ranks), 1.0)
    line: Line = network.known[key]
    return line
