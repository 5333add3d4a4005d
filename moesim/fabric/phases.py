"""Collectives as phases of traffic: each takes the latency of its longest path and the busiest link's bytes.

Who sends what to whom is known beforehand, so an algorithm on a network takes ``alpha + beta * bytes`` with
two numbers that are worked out once. The fastest algorithm for the size is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moesim.fabric.loads import busiest_seconds, link_loads, multicast_loads
from moesim.fabric.network import Network
from moesim.fabric.routes import latencies
from moesim.hardware.wiring import OUT, UP, Array, IntArray, Part


class Line(NamedTuple):
    """``alpha_s + beta_s * bytes``."""

    alpha_s: float
    beta_s: float

    def times(self, times: float) -> Line:
        """Again and again."""
        return Line(self.alpha_s * times, self.beta_s * times)

    def then(self, other: Line) -> Line:
        """One after the other."""
        return Line(self.alpha_s + other.alpha_s, self.beta_s + other.beta_s)

    def beside(self, other: Line) -> Line:
        """Both at once, over links of their own: no more than this."""
        return Line(max(self.alpha_s, other.alpha_s), max(self.beta_s, other.beta_s))


NOTHING = Line(0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Groups of devices that each do the same collective at the same time.

    Parameters
    ----------
    network
        Where they are.
    devices
        Of each group in the order of its ranks, ``[groups, ranks]``.
    message_s
        What a device takes for each further message of a phase after the first.
    """

    network: Network
    devices: IntArray
    message_s: float = 0.0

    @property
    def ranks(self) -> int:
        """Of each group."""
        return int(self.devices.shape[1])

    def part(self, devices: IntArray) -> Groups:
        """Other groups in the same place."""
        return Groups(self.network, devices, self.message_s)

    def phase(self, source: IntArray, target: IntArray, share: float, messages: int = 1) -> Line:
        """One phase in which each source sends `share` of the collective's bytes to its target."""
        n = int(self.devices.max()) + 1
        traffic = np.zeros((n, n))
        np.add.at(traffic, (source.ravel(), target.ravel()), share)
        np.fill_diagonal(traffic, 0.0)
        longest = float(latencies(self.network, n)[traffic > 0].max(initial=0.0))
        busiest = float(busiest_seconds(self.network, link_loads(self.network, traffic)))
        return Line(longest + (messages - 1) * self.message_s, busiest)


def groups_of(network: Network, ranks: int, span: int, message_s: float = 0.0) -> Groups:
    """Groups of `ranks` devices that together fill `span` devices, interleaved as ranks of a layout are.

    >>> from moesim.fabric import network_of
    >>> from moesim.hardware import load_hardware
    >>> groups_of(network_of(load_hardware("h100-sxm-8")), 2, 6).devices.tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    stride = max(1, span // ranks)
    return Groups(network, np.arange(ranks)[None, :] * stride + np.arange(stride)[:, None], message_s)


def lines(collective: str, groups: Groups) -> dict[str, Line]:
    """Every way to do a collective, by name.

    Parameters
    ----------
    collective
        ``all_gather``, ``reduce_scatter``, ``all_reduce``: bytes are those of the whole vector;
        ``all_to_all``: bytes that each rank holds, of which it keeps its own part.
    groups
        Who takes part.

    Returns
    -------
    dict
        ``direct`` (each to each), ``multicast`` (the same where switches copy; all-gather alone), ``ring``,
        ``doubling`` (partners twice as far each time; powers of two), ``axes`` (a whole grid: rings along one
        axis after the other, on all axes at once), ``nested ...`` (inside leaf switches or rows first).
    """
    if groups.ranks < 2:
        return {"none": NOTHING}
    if collective == "all_to_all":
        return {"direct": _direct(groups)}
    copies = collective == "all_gather"
    gather = dict(_gathers(groups, copies))
    # A reduce-scatter is an all-gather backwards, and an all-reduce is both.
    once = {"all_gather": 1.0, "reduce_scatter": 1.0, "all_reduce": 2.0}[collective]
    made = {name: line.times(once) for name, line in gather.items()}
    for inner in _inner_sizes(groups):
        inside, across = _nested(groups, inner)
        for (a, first), (b, second) in itertools.product(_gathers(inside, copies), _gathers(across, copies)):
            # Ranks across gather a share of the vector, those inside all of it.
            both = Line(second.alpha_s, second.beta_s / inner).then(first)
            made[f"nested {inner}: {a}, {b}"] = both.times(once)
    return made


def _gathers(groups: Groups, copies: bool) -> Iterator[tuple[str, Line]]:
    """All-gathers of a vector; `copies` says that switches which can may copy on the way."""
    r, devices = groups.ranks, groups.devices
    if r < 2:
        yield "none", NOTHING
        return
    yield "direct", _direct(groups)
    if copies and _copied(groups):
        yield "multicast", _multicast(groups)
    yield "ring", groups.phase(devices, np.roll(devices, -1, axis=1), 1.0 / r).times(r - 1)
    if r & (r - 1) == 0:
        total = NOTHING
        for step in range(r.bit_length() - 1):
            partner = devices[:, np.arange(r) ^ (1 << step)]
            total = total.then(groups.phase(devices, partner, float(1 << step) / r))
        yield "doubling", total
    part = _whole_grid(groups)
    if part is not None and len(part.shape) > 1:
        yield "axes", _axes(groups, part)


def _direct(groups: Groups) -> Line:
    """Each rank to each other."""
    r, devices = groups.ranks, groups.devices
    source = np.repeat(devices[:, :, None], r, axis=2)
    return groups.phase(source, source.swapaxes(1, 2), 1.0 / r, r - 1)


def _copied(groups: Groups) -> bool:
    """Whether all links between the ranks can copy."""
    network = groups.network
    domain = network.domain_of(network.devices)[groups.devices]
    near = bool((domain == domain[:, :1]).all())
    return UP in network.multicast if near else {UP, OUT} <= network.multicast


def _multicast(groups: Groups) -> Line:
    """Each rank to all others, over a tree of its own."""
    r, devices = groups.ranks, groups.devices
    n = int(devices.max()) + 1
    targets = np.zeros((devices.size, n), dtype=bool)
    np.put_along_axis(targets, np.repeat(devices, r, axis=0), True, axis=1)
    loads = multicast_loads(groups.network, devices.ravel(), targets, np.full(devices.size, 1.0 / r))
    longest = float(latencies(groups.network, n)[devices.ravel()][targets].max(initial=0.0))
    return Line(longest, float(busiest_seconds(groups.network, loads)))


def _whole_grid(groups: Groups) -> Part | None:
    """The grid that the ranks of one group fill, in its own order."""
    if len(groups.devices) != 1:
        return None
    for part in groups.network.parts:
        if part.pattern == "grid" and np.array_equal(part.devices, groups.devices[0]):
            return part
    return None


def _axes(groups: Groups, part: Part) -> Line:
    """An all-gather along one axis after the other, in as many parts as axes, each on another one.

    Links of different axes are not shared, so that all parts go on together.
    """
    axes = len(part.shape)
    nodes = part.devices.reshape(part.shape)
    total = NOTHING
    for stage in range(axes):
        together = NOTHING
        for colour in range(axes):
            axis = (colour + stage) % axes
            done = int(np.prod([part.shape[(colour + s) % axes] for s in range(stage)], dtype=np.int64))
            held = done / (nodes.size * axes)
            extent = part.shape[axis]
            lines_ = np.moveaxis(nodes, axis, -1).reshape(-1, extent)
            up, down = np.roll(lines_, -1, axis=1), np.roll(lines_, 1, axis=1)
            if part.closed and extent > 2:
                # Half of it goes either way round.
                both = np.concatenate([lines_, lines_]), np.concatenate([up, down])
                step = groups.phase(*both, held / 2.0)
            else:
                step = groups.phase(lines_, up, held)
            together = together.beside(step.times(extent - 1))
        total = total.then(together)
    return total


def _inner_sizes(groups: Groups) -> list[int]:
    """Neighbours among the ranks that are nearer to each other than to the rest."""
    sizes: set[int] = set()
    first = groups.devices[0]
    for part in groups.network.parts:
        if not np.isin(first, part.devices).all():
            continue
        if len(part.leaf):
            leaf = part.leaf[np.searchsorted(part.devices, first)]
            sizes.add(int((leaf == leaf[0]).sum()))
        if part.pattern == "grid":
            sizes.add(part.shape[-1])
    return [size for size in sorted(sizes) if 1 < size < groups.ranks and groups.ranks % size == 0]


def _nested(groups: Groups, inner: int) -> tuple[Groups, Groups]:
    """Groups of `inner` neighbours, and those of equal place among them."""
    blocks = groups.devices.reshape(len(groups.devices), -1, inner)
    return groups.part(blocks.reshape(-1, inner)), groups.part(
        blocks.swapaxes(1, 2).reshape(-1, blocks.shape[1])
    )


def fastest_line(found: dict[str, Line], data: Array) -> Array:
    """Seconds of the fastest way for each size."""
    alpha = np.array([line.alpha_s for line in found.values()])
    beta = np.array([line.beta_s for line in found.values()])
    data = np.asarray(data, dtype=np.float64)
    return np.asarray((alpha + beta * data[..., None]).min(axis=-1))
