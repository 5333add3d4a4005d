"""Composition of Experts: Samba-CoE on a node of SN40L, against DGX A100 and DGX H100 (arXiv 2405.07518).

The paper measures its own node and estimates the others from published latencies. Here all three come from
descriptions of the machines: the GPUs from the engine with tensor parallelism of 8, the SN40L from its
memory, which it fills to 85 %, and from what its Table IV leaves per layer beyond that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from moesim.engine.deployment import Deployment
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model, params
from moesim.ops import Batch, Precision
from moesim.supernode import Tiers, batch_s
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row

SYSTEM, PAPER = "Composition of Experts", "arXiv:2405.07518 (full text in a public repository)"
#: From DDR to HBM of a node: over 1 TB/s (sections I and VI-C). The data sheet's 100 GB/s per socket is less.
COPY = 1e12
#: Into a DGX from its host: the paper's 32 and 64 GB/s (section VI-C), one PCIe link.
HOST = {"a100-sxm-80gb-8": 32e9, "h100-sxm-8": 64e9}
#: Share of the memory's bandwidth that decoding reaches (section VI-B).
STREAMED = 0.85
#: Tokens per second and user of Llama 3.1 8B on 16 sockets (Table IV).
LLAMA_8B = 1042.0
BF16 = 2.0
#: Experts at which the node is compared: the most that a DGX holds.
EXPERTS, OUTPUTS = 150, (20, 200)

PROMPT = Assumption(
    "prompt", 512.0, 64.0, 4096.0, "tokens of a prompt; benchmarks of the paper have up to 4096"
)
SKEW = Assumption("skew", 0.0, 0.0, 1.0, "Zipf exponent of which expert is asked for; 0 is none preferred")
COMPUTE = Assumption("compute", 0.5, 0.3, 0.8, "share of the SN40L's peak that a prompt reaches")


@functools.cache
def expert_bytes() -> float:
    """Of one Llama 2 7B."""
    return BF16 * params(load_model("llama-2-7b")).total


@functools.cache
def layer_s() -> float:
    """What a layer takes on 16 sockets beyond streaming its weights, from Table IV."""
    model, hardware = load_model("llama-3.1-8b"), load_hardware("sn40l-8")
    streamed = BF16 * params(model).total / (16 * STREAMED * hardware.device.memory.bandwidth_bytes_per_s)
    return (1.0 / LLAMA_8B - streamed) / model.num_layers


@functools.cache
def sn40l(prompt: float, compute: float) -> Tiers:
    """A node of eight sockets with Llama 2 7B on all of them."""
    model, hardware = load_model("llama-2-7b"), load_hardware("sn40l-8")
    device, count = hardware.device, hardware.devices_per_node
    rate = count * device.memory.bandwidth_bytes_per_s
    token = expert_bytes() / (STREAMED * rate) + model.num_layers * layer_s()
    first = max(
        expert_bytes() * prompt / (compute * count * device.processor.peak_flops_per_s["bf16"]), token
    )
    slow = next(memory for memory in device.memories if memory.name == "ddr")
    return Tiers(count * device.memory.capacity_bytes, count * slow.capacity_bytes, COPY, first, token)


@functools.cache
def dgx(name: str, prompt: float) -> Tiers:
    """A DGX with Llama 2 7B on all of its GPUs."""
    model, hardware = load_model("llama-2-7b"), load_hardware(name)
    deployment = Deployment(model, hardware, Parallelism(tp=8), Precision.of(model, "bf16"))
    token = float(deployment.step(Batch.decode(1.0, prompt + OUTPUTS[1] / 2.0)).seconds[0])
    first = float(deployment.step(Batch.prefill(1.0, prompt)).seconds[0])
    host = hardware.host
    if host is None:
        raise ValueError(f"{name} has no host memory")
    return Tiers(
        8 * hardware.device.memory.capacity_bytes, host.memory.capacity_bytes, HOST[name], first, token
    )


def node(name: str, case: Case) -> Tiers:
    """One of the three machines."""
    return sn40l(case["prompt"], case["compute"]) if name == "sn40l" else dgx(name, case["prompt"])


def overall(name: str, prompts: int, outputs: int) -> Callable[[Case], float]:
    """Time of a batch on a DGX over that on the SN40L, router included, with 150 experts."""

    def compute(case: Case) -> float:
        seconds = []
        for machine in (name, "sn40l"):
            found = node(machine, case)
            router = prompts * found.first_s
            seconds.append(
                batch_s(
                    found,
                    expert_bytes(),
                    EXPERTS,
                    prompts,
                    outputs,
                    router_s=router,
                    skew=case["skew"],
                    seed=case.seed,
                )
            )
        return seconds[0] / seconds[1]

    return compute


def expert(name: str, outputs: int) -> Callable[[Case], float]:
    """Time of one expert in place on a DGX over that on the SN40L."""
    return lambda case: node(name, case).answer_s(outputs) / node("sn40l", case).answer_s(outputs)


def switching(name: str) -> Callable[[Case], float]:
    """Time to bring an expert on a DGX over that on the SN40L."""

    def compute(_: Case) -> float:
        other = dgx(name, PROMPT.value)
        return other.switch_s(expert_bytes()) / sn40l(PROMPT.value, COMPUTE.value).switch_s(expert_bytes())

    return compute


def held(_: Case) -> float:
    """Experts that a node of SN40L holds."""
    return float(sn40l(PROMPT.value, COMPUTE.value).most(expert_bytes()))


def held_dgx(_: Case) -> float:
    """Experts that a DGX holds in host memory."""
    return float(dgx("h100-sxm-8", PROMPT.value).most(expert_bytes()))


def spilled(_: Case) -> float:
    """Experts that a DGX holds in GPU memory."""
    return float(dgx("a100-sxm-80gb-8", PROMPT.value).at_once(expert_bytes()))


def footprint(case: Case) -> float:
    """DGX nodes whose GPU memory holds what one node of SN40L does, with room for a router on each."""
    return -(-held(case) // (spilled(case) - 1.0))


def _row(
    name: str,
    metric: str,
    value: float,
    locator: str,
    compute: Callable[[Case], float],
    baseline: str = "",
    unit: str = "x",
    assumed: tuple[Assumption, ...] = (),
    cause: str = "",
    reason: str = "",
) -> Row:
    return Row(
        SYSTEM,
        name,
        Figure(metric, unit, value, baseline=baseline, source=PAPER, locator=locator),
        compute,
        "storage",
        "Residency(lru over whole models) + Transfer(on demand)",
        hardware="sn40l-8",
        workload="Llama 2 7B experts in 16 bits, all sockets or GPUs together",
        assumed=assumed,
        cause=cause,
        reason=reason,
    )


LATENCIES = (
    "the paper takes the GPUs' latencies from elsewhere, 5.4 ms per token on A100 by its own ratios where "
    "the engine says 3.1, and does not say how long prompts are"
)
MACHINES = (("a100-sxm-80gb-8", "DGX A100"), ("h100-sxm-8", "DGX H100"))
#: Prompts in a batch, answer, and gains over DGX A100 and DGX H100 (Table V).
OVERALL = ((8, 20, (6.6, 3.7)), (1, 20, (4.8, 2.8)), (8, 200, (4.2, 2.7)), (1, 200, (3.9, 2.6)))
EXPERT = ((20, (2.0, 1.5)), (200, (3.2, 2.3)))

ROWS = (
    Row(
        SYSTEM,
        "switch",
        headline(SYSTEM),
        switching("h100-sxm-8"),
        "storage",
        "Residency(lru over whole models) + Transfer(on demand)",
        hardware="sn40l-8",
        workload="one Llama 2 7B, from DDR beside the sockets and over one host link of a DGX H100",
        headline=True,
        claims=("Composition of Experts/1",),
        cause="missing specification",
        reason="a direction alone is claimed",
    ),
    *(
        _row(
            f"switch-{name[:4]}",
            "time to switch",
            value,
            "Table V",
            switching(name),
            f"DGX {name[:4].upper()}",
        )
        for name, value in (("a100-sxm-80gb-8", 31.0), ("h100-sxm-8", 15.0))
    ),
    *(
        _row(
            f"batch-{prompts}-{outputs}-{name[:4]}",
            "time of a batch",
            value,
            f"Table V: overall, BS {prompts}, {outputs} tokens",
            overall(name, prompts, outputs),
            label,
            assumed=(PROMPT, SKEW, COMPUTE),
            cause="missing specification",
            reason=LATENCIES,
        )
        for prompts, outputs, gains in OVERALL
        for (name, label), value in zip(MACHINES, gains, strict=True)
    ),
    *(
        _row(
            f"expert-{outputs}-{name[:4]}",
            "time of an expert in place",
            value,
            f"Table V: expert, {outputs} tokens",
            expert(name, outputs),
            label,
            assumed=(PROMPT, COMPUTE),
            cause="missing specification",
            reason=LATENCIES,
        )
        for outputs, gains in EXPERT
        for (name, label), value in zip(MACHINES, gains, strict=True)
    ),
    _row("held", "experts of one node", 850.0, "Sec VI-C, system footprint", held, unit="experts"),
    _row("held-dgx", "experts of one DGX", 150.0, "Sec VI-C", held_dgx, unit="experts"),
    _row("spilled", "experts beyond which a DGX copies", 50.0, "Sec VI-C", spilled, unit="experts"),
    _row("footprint", "DGX nodes for as many experts", 19.0, "Sec VI-C", footprint, unit="nodes"),
)
