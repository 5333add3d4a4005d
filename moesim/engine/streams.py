"""Two micro-batches on two streams that share a device's cores: attention on one, experts on the other.

While one micro-batch passes its attention on part of the cores, the other passes its gate, dispatch,
experts and combine on the rest; then they change places. With ``T_a`` and ``T_e`` seconds of a layer on
either stream, L layers take

    2 L max(T_a, T_e) + min(T_a, T_e)

A stream has its share of what belongs to cores: arithmetic, and what they copy or search while tokens
travel. The memory is one: either stream may fill it, both together cannot exceed it. Start-up latencies stay
what they are, and one stream computes through those of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from moesim.engine.routing import Array
from moesim.engine.timeline import Task
from moesim.hardware.types import Exchange, Hardware, Leg, OneWay, Processor

#: Shares of the cores that attention may get, of which an engine takes the best: whole pairs of 24 cores.
#: CloudMatrix-Infer takes 16 of them (arXiv 2506.12708, decode pipeline).
SPLITS = (8 / 24, 10 / 24, 12 / 24, 14 / 24, 16 / 24)


def with_cores(hardware: Hardware, share: float) -> Hardware:
    """The machine as a stream sees it that owns a share of every device's cores.

    >>> from moesim.hardware import load_hardware
    >>> third = with_cores(load_hardware("cloudmatrix384"), 1 / 3).device.processor
    >>> third.cores, round(third.peak_flops_per_s["int8"] / 1e12, 1)
    (8, 250.7)
    """
    device = hardware.device
    main = _of_cores(device.processor, share)
    return replace(
        hardware,
        device=replace(device, processors=(main, *device.processors[1:])),
        exchanges={name: _exchange(found, share) for name, found in hardware.exchanges.items()},
    )


def two_stream_layers(layers: int, attention: Array, experts: Array) -> Iterator[Task]:
    """Tasks of two micro-batches that take turns on a stream for attention and one for experts.

    Parameters
    ----------
    layers
        MoE layers in a row.
    attention, experts
        Seconds of one layer for one micro-batch on its stream, ``[batches]``; `experts` with everything from
        the gate to the combine.

    Examples
    --------
    >>> import numpy as np
    >>> from moesim.engine.timeline import makespan
    >>> float(makespan(two_stream_layers(10, np.array(3.0), np.array(2.0))))
    62.0
    """
    for layer in range(layers):
        for half in "ab":
            before = (f"experts{layer - 1}{half}",) if layer else ()
            yield Task(f"attention{layer}{half}", "attention", attention, before)
        for half in "ab":
            yield Task(f"experts{layer}{half}", "experts", experts, (f"attention{layer}{half}",))


def _of_cores(processor: Processor, share: float) -> Processor:
    return replace(
        processor,
        peak_flops_per_s={name: share * peak for name, peak in processor.peak_flops_per_s.items()},
        cores=None if processor.cores is None else max(1, round(share * processor.cores)),
    )


def _exchange(found: Exchange, share: float) -> Exchange:
    return replace(found, dispatch=_one_way(found.dispatch, share), combine=_one_way(found.combine, share))


def _one_way(way: OneWay, share: float) -> OneWay:
    return replace(way, up=_leg(way.up, share), out=None if way.out is None else _leg(way.out, share))


def _leg(leg: Leg, share: float) -> Leg:
    return replace(leg, rate_bytes_per_s=share * leg.rate_bytes_per_s, scan_s=leg.scan_s / share)
