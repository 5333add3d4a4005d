"""Published throughput of DeepSeek-V3 and R1 in production and in profiles, as steps that moesim times.

Routing is taken as even, as the reports with simulated or perfect balance have it, and two half batches as
overlapped, which all these deployments do. Steps on a supernode are those of `moesim.supernode`; decoding has
typical loads there: nobody says that these were balanced. Nothing is fitted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from moesim.engine.speculation import Speculation
from moesim.errors import MoesimError
from moesim.hardware import Hardware, load_hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model import load_model
from moesim.ops import Batch
from moesim.prediction import Engine
from moesim.prediction.kept import deployment_of
from moesim.supernode import DIES, decode_instance, prefill_times
from moesim.validate.published_rows import Answer, PublishedRow

_MACHINES = {
    "GB200": "gb200-nvl72",
    "GB300": "gb300-nvl72",
    "H800": "h800-sxm-8",
    "H100": "h100-sxm-8",
    "H200": "h200-sxm-8",
    "H20": "h20-8",
    "B200": "b200-sxm-8",
    "CloudMatrix384": "cloudmatrix384",
}
#: Devices that one published unit holds: a package of CloudMatrix has two dies.
_DIES = {"cloudmatrix384": DIES}
_SYSTEMS = ("DeepSeek", "SGLang", "vLLM wide-EP", "CloudMatrix", "RTP-LLM", "TRT-LLM")
#: Spare experts that the deployments name; a profile has none.
_SPARES = 32


@dataclass(frozen=True, slots=True)
class _Step:
    """A step to time: where, over how many devices, with what on each of them, and with which drafts."""

    machine: str
    ranks: int
    redundant: int
    batch: tuple[float, float]
    prefill: bool
    speculation: tuple[int, float] = (0, 1.0)


def deployment_answer(row: PublishedRow) -> Answer | None:
    """What moesim says to a published deployment; None if the row is no such thing."""
    phase, metric = row.text("phase"), row.text("metric")
    if not row.system.startswith(_SYSTEMS) or phase not in ("prefill", "decode", "decode+prefill"):
        return None
    known = metric.startswith(("throughput_per_node", "throughput_per_device", "throughput_per_gpu"))
    if not known and metric != "TPOT":
        return None
    step = _step(row)
    if isinstance(step, str):
        return Answer(reason=step)
    size, length = step.batch
    try:
        seconds = _seconds(step)
    except MoesimError as error:
        return Answer(reason=f"not feasible: {str(error).splitlines()[0]}")
    if metric == "TPOT":
        ours = seconds * {"ms": 1e3, "s": 1.0}.get(row.text("unit"), float("nan"))
    else:
        per_device = size * (length if step.prefill else 1.0) / seconds
        ours = per_device * _devices(row, step.machine)
    drafts = f"{step.speculation[0]} draft(s), " if step.speculation[0] else ""
    if _spread(step):
        return Answer(ours, phase, f"an expert a die, {drafts}typical routing, two streams overlapped")
    spares = f"{step.redundant} spare experts, " if step.redundant else ""
    return Answer(ours, phase, f"{spares}{drafts}even routing, two half batches overlapped")


def _devices(row: PublishedRow, machine: str) -> int:
    if row.text("metric").startswith("throughput_per_node"):
        return 8
    return _DIES.get(machine, 1)


def _step(row: PublishedRow) -> _Step | str:
    """The step of a row, or why there is none."""
    hardware = row.text("hardware")
    machine = next((m for name, m in _MACHINES.items() if re.match(rf"{name}\b", hardware)), None)
    said = row.text("parallelism")
    if machine is None:
        return "no description of its hardware"
    if row.text("phase") == "decode+prefill":
        return "does not say how many requests are in the system"
    if "MTP" in row.system:
        return "imitates speculative decoding (MTP) by slower attention"
    if not (parallel := re.search(r"EP\s*(\d+)", said)) and not row.text("num_devices").isdigit():
        return "does not say over how many devices the experts lie"
    ranks = int(parallel[1]) if parallel else int(row.text("num_devices"))
    if machine in _DIES and not parallel:
        ranks *= _DIES[machine]
    size, length = row.first_number("batch"), row.first_number("input_len")
    prefill = row.text("phase") == "prefill"
    if not size or not length:
        return "does not say how many sequences a device has, or how long they are"
    # Profiles have no spares, and perfect balance needs none.
    spares = 0 if re.search("profile|perfect", row.system.lower()) else _SPARES
    if (256 + spares) % ranks:
        spares = -256 % ranks
    if "FP4" in row.text("precision").upper():
        return "mixed NVFP4 and FP8 weights of a checkpoint that the catalogue does not have"
    if prefill:
        return _Step(machine, ranks, spares, (size / length, length), True)
    # Sequences are counted by package: with 96 of them and 49.4 ms, CloudMatrix reports 1,943 tokens/s.
    return _Step(machine, ranks, spares, (size / _DIES.get(machine, 1), length), False, _drafts(said))


def _drafts(said: str) -> tuple[int, float]:
    """Drafted tokens and how many of them are accepted, of ``EP320, MTP1 (0.70 accept)``."""
    found = re.search(r"MTP\s*(\d+)\s*\(\s*([\d.]+)\s*accept", said)
    return (int(found[1]), float(found[2])) if found else (0, 1.0)


def _spread(step: _Step) -> bool:
    """Whether every die has one expert: the decoding of CloudMatrix-Infer."""
    return step.machine in _DIES and not step.prefill


@cache
def _seconds(step: _Step) -> float:
    model, machine = load_model("deepseek-v3"), load_hardware(step.machine)
    tokens, accepted = step.speculation
    size, length = step.batch
    if _spread(step):
        shared = step.ranks - model.num_experts - _SPARES
        drafts = Speculation(tokens, accepted)
        instance = decode_instance(model, machine, dies=step.ranks, shared=shared, drafts=drafts)
        return float(instance.decode(np.array([size * step.ranks]), np.array([length])).token_s[0])
    machine = _large_enough(machine, step.ranks)
    plan = ExpertMap.contiguous(len(model.moe_layer_ids), model.num_experts, step.ranks, step.redundant)
    layout = Parallelism(dp=step.ranks, ep=step.ranks)
    dtype = "auto" if "fp8" in machine.device.processor.peak_flops_per_s else "int8"
    engine = Engine(
        dtype=dtype,
        overlap="two-batch",
        speculative_tokens=tokens,
        acceptance_rate=accepted if tokens else None,
        routing="uniform",
    )
    deployment = deployment_of(model, machine, layout, engine, None, plan, 0)
    if step.prefill and step.machine in _DIES:
        return prefill_times(deployment, size, length).overlapped_s
    if step.prefill:
        return float(deployment.step(Batch.prefill(size, length)).seconds[0])
    return float(deployment.decode(np.array([size * step.ranks]), np.array([length])).token_s[0])


def _large_enough(machine: Hardware, ranks: int) -> Hardware:
    return machine.with_nodes(-(-ranks // machine.devices_per_node))
