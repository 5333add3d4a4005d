"""KTransformers and llama.cpp: routed experts on the CPU, the rest on one GPU.

A token takes what the CPU needs to stream its experts, what the GPU needs for everything else, and the
hand-overs between them; shared experts run on the GPU meanwhile.

The rate at which the CPU streams is taken from differences of other rows of the same tutorial: with 6 experts
instead of 8 a token takes 15.1, 11.2, 9.7, 8.6 and 8.7 ms less (V0.2.1, prompts of 2 to 7678 tokens), so that
two experts of 58 layers stream at 204 to 357 GB/s over both sockets, 33 to 58 % of the peak.
"""

from __future__ import annotations

from moesim.hardware import load_hardware
from moesim.hardware.types import Host
from moesim.model import load_model, params
from moesim.systems.gguf import q4_k_m_expert_bits
from moesim.systems.headlines import headline
from moesim.systems.parts import KERNEL_S, device_s, expert_params, moe_layers
from moesim.systems.row import Assumption, Case, Figure, Row

TUTORIAL = "kvcache-ai/ktransformers doc/en/DeepseekR1_V3_tutorial.md"
BOX = "rtx-4090-workstation (4090D in V0.2), 2x Xeon Gold 6454S, 8x DDR5-4800 each"
SLOTS = "Placement(no expert on the GPU) + Executor(mask)"
MODEL = "deepseek-v3"
SOCKETS = 2
#: Kernels of a decode layer that the ops of moesim count already, each with its own floor.
COUNTED = 19
#: What AMX kernels reach on one Xeon of this generation in 8 bits.
AMX_OPS = 35e12
#: fp32 peak of one socket: 32 cores at 2.2 GHz, 64 operations a cycle.
AVX_FLOPS = 32 * 2.2e9 * 64

SHARE = Assumption(
    "share",
    0.47,
    0.33,
    0.58,
    "of the memory's peak, streaming experts; mean and range of the 6-expert rows of V0.2.1, not compared",
)
KERNELS = Assumption(
    "kernels",
    100,
    60,
    120,
    "of a decode layer: PyTorch modules captured as they are (8 per norm, 20 of the gate, 21 of rotary "
    "embedding and cache), counted in the modelling code",
)
SYNC = Assumption("sync_s", 50e-6, 20e-6, 150e-6, "hand-over to the CPU and back, per MoE layer")
AVX = Assumption(
    "avx", 0.5, 0.3, 0.8, "of the fp32 vector peak, for products of many tokens (hardware/efficiency/cpu-avx)"
)
NUMA = Assumption(
    "numa", 1.63, 1.3, 3.0, "slower without placement by socket; KTransformers (SOSP 2025) gains up to 1.63x"
)


def _host() -> Host:
    host = load_hardware("rtx-4090-workstation").host
    assert host is not None
    return host


def cpu_s(case: Case, experts: int, sockets: int) -> float:
    """Seconds in which the CPU streams the experts of one token."""
    model = load_model(MODEL)
    bits = q4_k_m_expert_bits(model.num_layers, model.moe_layer_ids[0])
    data = experts * moe_layers(model) * expert_params(model) * bits / 8
    return data / (case["share"] * _host().memory.bandwidth_bytes_per_s * sockets / SOCKETS)


def gpu_s(case: Case, context: float) -> float:
    """Seconds of the GPU for one token; shared experts run beside the CPU."""
    device = load_hardware("rtx-4090-workstation").device
    model = load_model(MODEL)
    busy = device_s(
        model, device, ("decode", 1, context), "int4", lambda op: not op.name.startswith("shared_")
    )
    return busy + max(case["kernels"] - COUNTED, 0) * KERNEL_S * model.num_layers


def decode(case: Case, experts: int = 8, sockets: int = 2, context: float = 500) -> float:
    """Tokens per second of one sequence."""
    handed = moe_layers(load_model(MODEL)) * case["sync_s"]
    return 1.0 / (cpu_s(case, experts, sockets) + gpu_s(case, context) + handed)


def _prefill(tokens: int, cpu: float) -> float:
    model = load_model(MODEL)
    device = load_hardware("rtx-4090-workstation").device
    return tokens / (cpu + device_s(model, device, ("prefill", tokens, 0), "int4"))


def _expert_flops(tokens: int, experts: int) -> float:
    model = load_model(MODEL)
    return 2.0 * tokens * experts * moe_layers(model) * expert_params(model)


def prefill_avx(case: Case, tokens: int, experts: int, sockets: int) -> float:
    """Tokens per second of a prompt whose experts run on vector units."""
    return _prefill(tokens, _expert_flops(tokens, experts) / (case["avx"] * AVX_FLOPS * sockets))


def prefill_amx(case: Case, tokens: int, experts: int) -> float:
    """Tokens per second of a prompt whose experts run on matrix units in 8 bits, all weights read once."""
    model = load_model(MODEL)
    host = _host()
    compute = _expert_flops(tokens, experts) / (SOCKETS * AMX_OPS)
    data = params(model).experts / (case["share"] * host.memory.bandwidth_bytes_per_s)
    return _prefill(tokens, max(compute, data))


def llama_decode(case: Case) -> float:
    """llama.cpp: every active weight from host memory, wherever its page happens to lie."""
    model = load_model(MODEL)
    bits = q4_k_m_expert_bits(model.num_layers, model.moe_layer_ids[0])
    data = params(model).active_without_embedding * bits / 8
    return case["share"] * _host().memory.bandwidth_bytes_per_s / case["numa"] / data


def llama_prefill(case: Case) -> float:
    """llama.cpp: every active weight multiplied by vector units."""
    work = 2.0 * params(load_model(MODEL)).active_without_embedding
    return case["avx"] * AVX_FLOPS * SOCKETS / work


def _decode_row(name: str, value: float, table: str, experts: int, sockets: int, context: float) -> Row:
    return Row(
        "KTransformers",
        name,
        Figure("decode throughput", "tok/s", value, source=TUTORIAL, locator=table),
        lambda case: decode(case, experts, sockets, context),
        "cpu-gpu",
        SLOTS,
        hardware=BOX,
        workload=f"DeepSeek-V3 Q4_K_M, batch 1, {experts} experts, {sockets} socket(s), context {context:g}",
        assumed=(SHARE, KERNELS, SYNC),
    )


def _prefill_row(name: str, value: float, tokens: int, experts: int, sockets: int, amx: bool) -> Row:
    return Row(
        "KTransformers",
        name,
        Figure(
            "prefill throughput",
            "tok/s",
            value,
            source=TUTORIAL,
            locator="V0.3-preview table" if amx else "V0.2 table",
        ),
        (lambda case: prefill_amx(case, tokens, experts))
        if amx
        else (lambda case: prefill_avx(case, tokens, experts, sockets)),
        "cpu-gpu",
        SLOTS,
        hardware=BOX,
        workload=f"DeepSeek-V3, prompt of {tokens}, {experts} experts, {sockets} socket(s)",
        assumed=(SHARE,) if amx else (AVX,),
        cause="our limit",
        reason="AMX kernels reach 35 TOPS by themselves (AMX.md); how layers of a prompt are handed between "
        "CPU and GPU, and what the GPU does with unfused attention, is not described"
        if amx
        else "",
    )


ROWS = (
    Row(
        "KTransformers",
        "decode-dual-8",
        headline("KTransformers"),
        decode,
        "cpu-gpu",
        SLOTS,
        hardware=BOX,
        workload="DeepSeek-V3 Q4_K_M, batch 1, 8 experts, 2 sockets, context 500",
        assumed=(SHARE, KERNELS, SYNC),
        headline=True,
    ),
    _decode_row("decode-single-8", 8.73, "V0.2 table", 8, 1, 500),
    _decode_row("decode-single-6", 10.303, "V0.2 table", 6, 1, 500),
    _decode_row("decode-dual-6", 13.69, "V0.2 table", 6, 2, 500),
    _decode_row("decode-v0.2.1-2", 13.4, "V0.2.1 table", 8, 2, 7),
    _decode_row("decode-v0.2.1-1k", 13.5, "V0.2.1 table", 8, 2, 969 + 150),
    _decode_row("decode-v0.2.1-2k", 13.4, "V0.2.1 table", 8, 2, 1930 + 150),
    _decode_row("decode-v0.2.1-4k", 13.2, "V0.2.1 table", 8, 2, 3846 + 150),
    _decode_row("decode-v0.2.1-8k", 12.4, "V0.2.1 table", 8, 2, 7678 + 150),
    _prefill_row("prefill-dual-8", 82.94, 500, 8, 2, amx=False),
    _prefill_row("prefill-single-6", 65.14, 500, 6, 1, amx=False),
    _prefill_row("prefill-v0.3-1k", 185.96, 1024, 8, 2, amx=True),
    _prefill_row("prefill-v0.3-2k", 255.26, 2048, 8, 2, amx=True),
    _prefill_row("prefill-v0.3-8k", 195.62, 8192, 8, 2, amx=True),
    _prefill_row("prefill-v0.3-2k-6", 286.55, 2048, 6, 2, amx=True),
    Row(
        "llama.cpp",
        "decode",
        headline("llama.cpp"),
        llama_decode,
        "cpu-gpu",
        "Placement(layers on the CPU) + Executor(mask)",
        hardware=BOX,
        workload="DeepSeek-V3 Q4_K_M, batch 1, context 500",
        assumed=(SHARE, NUMA),
        headline=True,
        cause="missing specification",
        reason="kernels and page placement of that day's llama.cpp are not described",
    ),
    Row(
        "llama.cpp",
        "prefill",
        Figure("prefill throughput", "tok/s", 10.31, source=TUTORIAL, locator="V0.2 table"),
        llama_prefill,
        "cpu-gpu",
        "Placement(layers on the CPU) + Executor(mask)",
        hardware=BOX,
        workload="DeepSeek-V3 Q4_K_M, prompt of 500",
        assumed=(AVX,),
        cause="disagreement",
        reason="its experts ran token by token then: the same rate as in decode would be 4 to 8 tok/s",
    ),
)
