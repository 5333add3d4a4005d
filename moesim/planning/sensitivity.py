"""What a little more of something buys: bandwidth, memory, compute, network, balance.

The chosen layout is asked again on a machine that has 10 % more of one thing, everything else as it is. Peaks
and bandwidths move roofline and measured kernels alike, since these are corrections of a roofline; bus
bandwidths that were measured grow with their link. Latencies and launch costs stay.

Balance is that of expert-parallel ranks: loads of experts are scaled rank by rank until the busiest rank is
10 % nearer to the mean one, or all are equal. How unequal the experts of a rank are stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesim.engine.routing import assumed
from moesim.hardware import CollectiveFit, Device, Fabric, Hardware, Link, Memory, Processor
from moesim.layout import Disaggregated, ExpertMap
from moesim.planning.prices import usd_per_million
from moesim.planning.types import Candidate
from moesim.trace.types import LoadCounts, RoutingTrace

FloatArray = npt.NDArray[np.float64]

#: How much more there is of each thing.
MORE = 0.1
#: Rounds in which loads of replicated experts settle, each scaled by the mean of its ranks' factors; and how
#: far ranks may then differ.
_ROUNDS, _EQUAL = 1000, 1e-4


class Carries(Protocol):
    """What `moesim.planning.rank.capacity` gives."""

    @property
    def request_rate(self) -> float:
        """Requests per second of one replica within the promise."""

    @property
    def at_traffic(self) -> Mapping[str, float]:
        """Means at the traffic that was planned for; empty where it is not carried."""


#: What one replica of a candidate carries, with a routing and the candidate's own placement.
Ask = Callable[[Candidate, RoutingTrace | LoadCounts | None], Carries]
#: Mean latencies of a candidate in the simulator, by metric.
Simulate = Callable[[Candidate], Mapping[str, float]]

#: Changes that are simulated: those that buy most.
SIMULATED = 2
_LATENCIES = ("ttft_s", "tpot_s", "e2el_s")


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What more of one thing buys.

    Parameters
    ----------
    what
        Of which there is more.
    change
        By how much, as a fraction; None for all there is to gain.
    request_rate
        Requests per second a replica then carries within the promise.
    rate_gain, tpot_gain, cost_gain
        What is gained, as fractions: of that rate, of the time per token at the planned traffic, and of the
        cost of a token at full load. None where it is not known.
    usd_per_million_tokens
        Output tokens at full load; None without a price.
    simulated
        Fractions by which mean latencies at the planned traffic are shorter in the simulator, by metric;
        empty where that was not asked.
    """

    what: str
    change: float | None
    request_rate: float
    rate_gain: float
    tpot_gain: float | None
    cost_gain: float | None
    usd_per_million_tokens: float | None
    simulated: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "what": self.what,
            "change": self.change,
            "request_rate_per_replica": self.request_rate,
            "rate_gain": self.rate_gain,
            "tpot_gain": self.tpot_gain,
            "cost_gain": self.cost_gain,
            "usd_per_million_output_tokens": self.usd_per_million_tokens,
            "simulated_gain": dict(self.simulated),
        }


def sensitivities(
    candidate: Candidate,
    output_tokens: float,
    ask: Ask,
    *,
    simulate: Simulate | None = None,
    trace: RoutingTrace | LoadCounts | None = None,
    placement: ExpertMap | None = None,
) -> list[Sensitivity]:
    """What 10 % more of each thing buys, most first.

    Parameters
    ----------
    candidate
        The plan.
    output_tokens
        Of a request, on average.
    ask
        What a replica carries; with the placement below.
    simulate
        Mean latencies of all replicas at the planned traffic; None for the steady state alone.
    trace
        Routing; without it the loads that `Engine.routing` assumes are balanced.
    placement
        Which rank holds which expert; contiguous by default.
    """
    base = ask(candidate, trace)
    if not base.request_rate > 0:
        return []
    price = candidate.hardware.device.price
    usd = None
    if price is not None:
        hourly = price.usd_per_hour * candidate.devices / candidate.replicas
        usd = usd_per_million(hourly, base.request_rate * output_tokens)

    def bought(what: str, change: float | None, before: Carries, after: Carries) -> Sensitivity:
        gain = after.request_rate / before.request_rate - 1.0
        tpots = [point.at_traffic.get("tpot_s") for point in (before, after)]
        return Sensitivity(
            what,
            change,
            base.request_rate * (1.0 + gain),
            gain,
            None if tpots[0] is None or tpots[1] is None else 1.0 - tpots[1] / tpots[0],
            None if usd is None else gain / (1.0 + gain),
            None if usd is None else usd / (1.0 + gain),
        )

    changed = {what: replace(candidate, hardware=h) for what, h in machines(candidate.hardware)}
    found = [bought(what, MORE, base, ask(other, trace)) for what, other in changed.items()]
    if simulate is not None:
        found = _simulated(sorted(found, key=_most), candidate, changed, simulate)
    loads = balances(candidate, trace, placement)
    if loads is not None:
        # Routing by loads alone differs from a trace's: gains are judged among their kind.
        own, nearer, even = (ask(candidate, counts) for counts in loads)
        if own.request_rate > 0:
            found.append(bought("balance of ranks", MORE, own, nearer))
            found.append(bought("balance of ranks, perfect", None, own, even))
    return sorted(found, key=_most)


def _most(gain: Sensitivity) -> float:
    return -gain.rate_gain


def _simulated(
    gains: list[Sensitivity], candidate: Candidate, changed: Mapping[str, Candidate], simulate: Simulate
) -> list[Sensitivity]:
    """Gains, the first of them with what the simulator says."""
    before = simulate(candidate)
    found = []
    for gain in gains[:SIMULATED]:
        after = simulate(changed[gain.what])
        shorter = {
            name: 1.0 - after[name] / before[name]
            for name in _LATENCIES
            if before.get(name, 0.0) > 0
            and math.isfinite(before[name])
            and math.isfinite(after.get(name, math.inf))
        }
        found.append(replace(gain, simulated=shorter))
    return found + gains[SIMULATED:]


def machines(hardware: Hardware) -> Iterator[tuple[str, Hardware]]:
    """A machine with more of one thing each, and what it is."""
    device = hardware.device
    yield "memory bandwidth", replace(hardware, device=_faster_memory(device))
    memories = (_larger(device.memory), *device.memories[1:])
    yield "memory capacity", replace(hardware, device=replace(device, memories=memories))
    processors = (_stronger(device.processor), *device.processors[1:])
    yield "compute", replace(hardware, device=replace(device, processors=processors))
    if hardware.num_devices > 1:
        wider = replace(hardware, scale_up=_wider(hardware.scale_up))
        yield "network, scale-up", replace(wider, fabric=_wider_fabric(hardware.fabric))
    if hardware.scale_out is not None and hardware.num_devices > hardware.domain:
        yield "network, scale-out", replace(hardware, scale_out=_wider(hardware.scale_out))


def balances(
    candidate: Candidate, trace: RoutingTrace | LoadCounts | None, placement: ExpertMap | None
) -> tuple[LoadCounts, LoadCounts, LoadCounts] | None:
    """Loads as they are, nearer to balance, and balanced; None where there is nothing to balance."""
    layout = candidate.layout
    if isinstance(layout, Disaggregated):
        layout = layout.decode.layout
    model = candidate.model
    if model.moe is None or layout.ep == 1:
        return None
    loads = loads_of(candidate, trace)
    plan = placement or ExpertMap.contiguous(len(loads), model.num_experts, layout.ep, candidate.redundant)
    even = balance(loads, plan)
    layers = tuple(model.moe_layer_ids)

    def counts(table: FloatArray) -> LoadCounts:
        return LoadCounts(table[None], layers, model.top_k, model.name)

    return counts(loads), counts((1.0 - MORE) * loads + MORE * even), counts(even)


def loads_of(candidate: Candidate, trace: RoutingTrace | LoadCounts | None) -> FloatArray:
    """Load of each expert, ``[layers, experts]``: the trace's, or what is assumed without one."""
    model = candidate.model
    if trace is not None:
        return np.asarray(trace.load_counts().totals, dtype=np.float64)
    layers = len(model.moe_layer_ids)
    return np.array(assumed(candidate.engine.routing, model.num_experts, model.top_k, layers).inclusion)


def balance(loads: FloatArray, plan: ExpertMap) -> FloatArray:
    """Loads scaled rank by rank until all ranks are equal, ``[layers, experts]``.

    An expert's load is split evenly over its replicas. Each layer keeps its total.

    Examples
    --------
    >>> balance(np.array([[3.0, 1.0, 1.0, 1.0]]), ExpertMap.contiguous(1, 4, 2)).round(3)
    array([[2.25, 0.75, 1.5 , 1.5 ]])
    """
    table = plan.physical_to_logical
    layers, slots = table.shape
    per = slots // plan.ranks
    row = np.repeat(np.arange(layers), slots)
    column = table.ravel()
    copies = np.zeros(loads.shape)
    np.add.at(copies, (row, column), 1.0)
    found = np.array(loads, dtype=np.float64)
    for _ in range(_ROUNDS):
        ranks = (found / np.maximum(copies, 1.0))[row, column].reshape(layers, plan.ranks, per).sum(axis=2)
        mean = ranks.mean(axis=1, keepdims=True)
        factor = np.divide(mean, ranks, out=np.ones_like(ranks), where=ranks > 0)
        of_expert = np.zeros(loads.shape)
        np.add.at(of_expert, (row, column), np.repeat(factor, per, axis=1).ravel())
        found *= of_expert / np.maximum(copies, 1.0)
        found *= loads.sum(axis=1, keepdims=True) / np.maximum(found.sum(axis=1, keepdims=True), 1e-300)
        if np.ptp(ranks, axis=1).max() <= _EQUAL * float(mean.min()):
            break
    return found


def _faster_memory(device: Device) -> Device:
    name = device.memory.name
    memory = replace(device.memory, bandwidth_bytes_per_s=device.memory.bandwidth_bytes_per_s * (1.0 + MORE))

    def reach(processor: Processor) -> Processor:
        rates = {
            n: rate * (1.0 + MORE) if n == name else rate
            for n, rate in processor.bandwidth_bytes_per_s.items()
        }
        return replace(processor, bandwidth_bytes_per_s=rates)

    return replace(
        device, memories=(memory, *device.memories[1:]), processors=tuple(map(reach, device.processors))
    )


def _larger(memory: Memory) -> Memory:
    return replace(memory, capacity_bytes=memory.capacity_bytes * (1.0 + MORE))


def _stronger(processor: Processor) -> Processor:
    peaks = {name: peak * (1.0 + MORE) for name, peak in processor.peak_flops_per_s.items()}
    return replace(processor, peak_flops_per_s=peaks)


def _wider(link: Link) -> Link:
    def fit(found: CollectiveFit) -> CollectiveFit:
        small = found.small_busbw_bytes_per_s
        return replace(
            found,
            busbw_bytes_per_s=found.busbw_bytes_per_s * (1.0 + MORE),
            small_busbw_bytes_per_s=None if small is None else small * (1.0 + MORE),
        )

    return replace(
        link,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * (1.0 + MORE),
        collectives={name: tuple(map(fit, fits)) for name, fits in link.collectives.items()},
    )


def _wider_fabric(fabric: Fabric | None) -> Fabric | None:
    if fabric is None:
        return None
    more = (replace(w, bandwidth_bytes_per_s=w.bandwidth_bytes_per_s * (1.0 + MORE)) for w in fabric.wires)
    return replace(fabric, wires=tuple(more))
