"""The best policy of a system on a box: one door for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from moesim.errors import ConfigError, Fault, InfeasibleError, UnknownNameError
from moesim.hardware.types import Hardware
from moesim.model.types import Model
from moesim.throughput import flexgen
from moesim.throughput.engine import ENGINE, Engine
from moesim.throughput.flexgen_lp import place
from moesim.throughput.lightning_search import best as best_lightning
from moesim.throughput.machine import Machine
from moesim.throughput.result import Plan, Workload
from moesim.throughput.shape import LayerShape

#: How often MoE-Lens's cache is filled where no number of requests is given.
TURNS = 8
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
    >>> rates = {name: best_policy(name, model, box, Workload(512, 128)).tokens_per_s for name in SYSTEMS}
    >>> rates["moe-lightning"] > rates["flexgen"] > rates["deepspeed-zero"]
    True
    """
    if system not in SYSTEMS:
        raise UnknownNameError("system", system, list(SYSTEMS))
    return SYSTEMS[system](Case(model, hardware, workload, weight_dtype, engine))


@dataclass(frozen=True, slots=True)
class Case:
    """What a search is asked; see `best_policy`."""

    model: Model
    hardware: Hardware
    workload: Workload
    weight_dtype: str
    engine: Engine

    @property
    def shape(self) -> LayerShape:
        """The mean layer."""
        return LayerShape.of(self.model, self.weight_dtype)

    @property
    def machine(self) -> Machine:
        """Rates of the box."""
        return Machine.of(self.hardware)


def _lightning(case: Case) -> Plan:
    return best_lightning(case.shape, case.machine, case.workload, case.engine)


def _flexgen(case: Case) -> Plan:
    return _best_block(case, cpu_attention=False)


def _flexgen_c(case: Case) -> Plan:
    return _best_block(case, cpu_attention=True)


def _zero(case: Case) -> Plan:
    shape, machine, workload = case.shape, case.machine, case.workload
    most = flexgen.largest_zero_batch(shape, machine, workload)
    if most < 1:
        raise InfeasibleError(
            "two layers of weights and the cache of one request do not fit",
            resource="memory gpu",
            needed=flexgen.zero(shape, machine, workload, 1).memory_bytes["gpu"],
            available=flexgen.GPU_SHARE * machine.gpu_bytes,
        )
    return flexgen.zero(shape, machine, workload, min(most, workload.requests or most), case.engine)


def _gen(case: Case) -> Plan:
    from moesim.throughput import gen
    from moesim.throughput.gen_box import StreamBox
    from moesim.throughput.gen_work import ModelWork

    _only_16_bits(case)
    return gen.plan(ModelWork.of(case.model), StreamBox.of(case.hardware), case.workload)


def _lens(case: Case) -> Plan:
    from moesim.throughput import lens, lens_schedule

    _only_16_bits(case)
    box = lens.LensBox.of(case.model, case.hardware)
    room = flexgen.HOST_SHARE * case.machine.host_bytes - box.weight_bytes
    length = case.workload.prompt_len + case.workload.output_len
    if room < box.token_bytes * length:
        raise InfeasibleError(
            "weights and the cache of one request do not fit",
            resource="memory host",
            needed=box.weight_bytes + box.token_bytes * length,
            available=flexgen.HOST_SHARE * case.machine.host_bytes,
        )
    # Without a number of requests: so many that filling and draining the cache hardly count.
    enough = math.ceil(TURNS * room / (box.token_bytes * length))
    work = replace(case.workload, requests=case.workload.requests or enough)
    return lens_schedule.plan(box, work, room)


def _only_16_bits(case: Case) -> None:
    if case.weight_dtype not in ("bf16", "fp16"):
        raise ConfigError(
            Fault("is modelled in 16 bits only", "weight_dtype", case.weight_dtype, "bf16, fp16")
        )


def _best_block(case: Case, *, cpu_attention: bool) -> Plan:
    """The block that FlexGen's cost model likes best, at the times of its schedule.

    Time per sequence falls with the number of micro-batches, which share a layer's weights, so that the most
    that fit are tried, and half of them. Storage is left out: no published run on these boxes used it.
    """
    shape, machine, workload, engine = case.shape, case.machine, case.workload, case.engine
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


#: Searches by the name of their system.
SYSTEMS: Mapping[str, Callable[[Case], Plan]] = {
    "moe-lightning": _lightning,
    "flexgen": _flexgen,
    "flexgen-c": _flexgen_c,
    "deepspeed-zero": _zero,
    "moe-gen": _gen,
    "moe-lens": _lens,
}
