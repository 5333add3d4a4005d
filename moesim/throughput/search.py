"""The best policy of a system on a box: one door for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from moesim.errors import InfeasibleError, UnknownNameError
from moesim.hardware.types import Hardware
from moesim.model.types import Model
from moesim.throughput import flexgen
from moesim.throughput.engine import ENGINE, Engine
from moesim.throughput.flexgen_lp import place
from moesim.throughput.lightning_search import best as best_lightning
from moesim.throughput.machine import Machine
from moesim.throughput.result import Plan, Workload
from moesim.throughput.shape import LayerShape

#: Micro-batches that FlexGen's search tries.
MICRO_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def best_policy(
    system: str,
    model: Model,
    hardware: Hardware,
    workload: Workload,
    *,
    weight_dtype: str = "bf16",
    engine: Engine = ENGINE,
) -> Plan:
    """What a system would do with a workload on a box, and its tokens per second.

    Parameters
    ----------
    system
        One of `SYSTEMS`.
    model, hardware, workload
        What runs where.
    weight_dtype
        Data type of the weights.
    engine
        What the software reaches.

    Raises
    ------
    InfeasibleError
        If nothing fits.
    UnknownNameError
        If there is no such system.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> box, model = load_hardware("l4"), load_model("mixtral-8x7b")
    >>> rates = [best_policy(name, model, box, Workload(512, 128)).tokens_per_s for name in SYSTEMS]
    >>> rates[0] == max(rates)
    True
    """
    if system not in SYSTEMS:
        raise UnknownNameError("system", system, list(SYSTEMS))
    shape = LayerShape.of(model, weight_dtype)
    return SYSTEMS[system](shape, hardware, workload, engine)


def _lightning(shape: LayerShape, hardware: Hardware, workload: Workload, engine: Engine) -> Plan:
    return best_lightning(shape, Machine.of(hardware), workload, engine)


def _flexgen(shape: LayerShape, hardware: Hardware, workload: Workload, engine: Engine) -> Plan:
    return _best_block(shape, hardware, workload, engine, cpu_attention=False)


def _flexgen_c(shape: LayerShape, hardware: Hardware, workload: Workload, engine: Engine) -> Plan:
    return _best_block(shape, hardware, workload, engine, cpu_attention=True)


def _zero(shape: LayerShape, hardware: Hardware, workload: Workload, engine: Engine) -> Plan:
    machine = Machine.of(hardware)
    most = flexgen.largest_zero_batch(shape, machine, workload)
    if most < 1:
        raise InfeasibleError(
            "two layers of weights and the cache of one request do not fit",
            resource="memory gpu",
            needed=flexgen.zero(shape, machine, workload, 1).memory_bytes["gpu"],
            available=flexgen.GPU_SHARE * machine.gpu_bytes,
        )
    return flexgen.zero(shape, machine, workload, min(most, workload.requests or most), engine)


def _best_block(
    shape: LayerShape, hardware: Hardware, workload: Workload, engine: Engine, *, cpu_attention: bool
) -> Plan:
    """The block that FlexGen's cost model likes best, at the times of its schedule.

    Time per sequence falls with the number of micro-batches, which share a layer's weights, so that the most
    that fit are tried, and half of them. Storage is left out: no published run on these boxes used it.
    """
    machine = Machine.of(hardware)
    found: list[tuple[float, flexgen.Block]] = []
    failure: InfeasibleError | None = None
    for mu in MICRO_BATCHES:
        if workload.requests is not None and mu > workload.requests:
            break
        most = _most_batches(shape, machine, workload, mu)
        for count in sorted({most, max(1, most // 2)}):
            try:
                block = flexgen.Block(mu, count, cpu_attention=cpu_attention)
                placed = place(shape, machine, workload, block, engine=engine)
            except InfeasibleError as error:
                failure = failure or error
                continue
            found.append((placed.seconds_per_sequence, placed.block))
    if not found:
        assert failure is not None  # something was tried
        raise failure
    chosen = min(found, key=lambda pair: pair[0])[1]
    return flexgen.plan(shape, machine, workload, chosen, engine)


def _most_batches(shape: LayerShape, machine: Machine, workload: Workload, mu: int) -> int:
    """Micro-batches whose cache and hidden states host memory holds beside the weights, at least one."""
    one, two = (flexgen.memory(shape, workload, flexgen.Block(mu, count))[1] for count in (1, 2))
    room = flexgen.HOST_SHARE * machine.host_bytes - one
    most = max(1, 1 + math.floor(room / (two - one)))
    return most if workload.requests is None else max(1, min(most, workload.requests // mu))


Search = Callable[[LayerShape, Hardware, Workload, Engine], Plan]

#: Searches by the name of their system.
SYSTEMS: Mapping[str, Search] = {
    "moe-lightning": _lightning,
    "flexgen": _flexgen,
    "flexgen-c": _flexgen_c,
    "deepspeed-zero": _zero,
}
