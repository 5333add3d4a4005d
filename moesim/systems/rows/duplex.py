"""Duplex: expert and attention co-processing between H100 and its Logic-PIM."""

from __future__ import annotations

import functools
from dataclasses import replace

from moesim.hardware import load_hardware
from moesim.hardware.types import Hardware
from moesim.model import load_model
from moesim.model.types import Dense, GroupedQuery, Layer, Model, MoE
from moesim.systems.duplex import Traffic, speedup
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row

SOURCE = "arXiv:2409.01141 (full text)"
#: Tokens in, and as many out, of the runs of Fig 11.
LENGTHS = {"glam-8b-64e": (512, 1024, 2048)}
OTHER_LENGTHS = (256, 1024, 4096)
REQUESTS = (32, 64, 128)

SCALE = Assumption(
    "bandwidth",
    4.0,
    2.0,
    4.0,
    "of the PIM over the main processor's: the paper says 4, the code that came out halves it first",
)
DENSITY = Assumption(
    "op_per_byte", 8.0, 8.0, 8.25, "of the PIM: 8 in the text, 21.3 TFLOPS on 2.66 TB/s per stack is 8.0"
)


@functools.cache
def glam() -> Model:
    """GLaM 8B/64E: 32 layers of width 4096, every second a MoE of 64 experts 4096 -> 16384 -> 4096, top 2."""
    attention = GroupedQuery(heads=32, kv_heads=32, qk_dim=128, v_dim=128)
    dense = Layer(attention, Dense(16384, 2))
    moe = Layer(attention, MoE(64, 2, 16384, 2))
    return replace(
        load_model("mixtral-8x7b"),
        name="glam-8b-64e",
        layers=(dense, moe) * 16,
        vocab=256000,
        max_context=8192,
    )


def models() -> tuple[tuple[Model, int], ...]:
    """Models of the paper, and how many devices each runs on."""
    return (load_model("mixtral-8x7b"), 4), (glam(), 8), (load_model("grok-1"), 16)


@functools.lru_cache(maxsize=16)
def _box(scale: float, density: float) -> Hardware:
    hardware = load_hardware("h100-duplex-4")
    main, near = hardware.device.processors
    memory = hardware.device.memory.name
    bandwidth = scale * main.bandwidth_bytes_per_s[memory]
    near = replace(
        near, bandwidth_bytes_per_s={memory: bandwidth}, peak_flops_per_s={"bf16": density * bandwidth}
    )
    return replace(hardware, device=replace(hardware.device, processors=(main, near)))


def gain(case: Case, traffic: Traffic, mode: str, model: Model, devices: int) -> float:
    """Throughput over that of the GPUs alone."""
    return speedup(model, _box(case["bandwidth"], case["op_per_byte"]), devices, traffic, mode, case.seed)


def grid(model: Model) -> list[Traffic]:
    """Batches and lengths of Fig 11."""
    lengths = LENGTHS.get(model.name, OTHER_LENGTHS)
    return [Traffic(requests, length, length) for requests in REQUESTS for length in lengths]


def largest(case: Case) -> float:
    """Largest gain over models, batches and lengths of the paper's grid."""
    return max(
        gain(case, traffic, "tensor", model, devices)
        for model, devices in models()
        for traffic in grid(model)
    )


def mixtral(case: Case) -> float:
    """Gain on Mixtral with 64 requests of 256 and 256 tokens."""
    model, devices = models()[0]
    return gain(case, Traffic(64, 256, 256), "tensor", model, devices)


def mixtral_long(case: Case) -> float:
    """Largest gain on Mixtral with requests of 4096 and 4096 tokens, one processor at a time."""
    model, devices = models()[0]
    return max(gain(case, Traffic(requests, 4096, 4096), "duplex", model, devices) for requests in REQUESTS)


def glam_latency(case: Case) -> float:
    """End-to-end time saved on GLaM with 64 requests, mean over lengths."""
    model, devices = models()[1]
    gains = [
        gain(case, traffic, "tensor", model, devices) for traffic in grid(model) if traffic.requests == 64
    ]
    return 1.0 - sum(1.0 / g for g in gains) / len(gains)


def coprocessing(case: Case) -> float:
    """Mean gain of co-processing over choosing one processor for a layer's experts."""
    ratios = [
        gain(case, traffic, "coprocess", model, devices) / gain(case, traffic, "duplex", model, devices)
        for model, devices in models()
        for traffic in grid(model)
    ]
    return sum(ratios) / len(ratios)


def _row(name: str, metric: str, value: float, locator: str, compute: object, baseline: str) -> Row:
    return Row(
        "Duplex",
        name,
        Figure(metric, "x", value, baseline=baseline, grade="P/SIM", source=SOURCE, locator=locator),
        compute,  # type: ignore[arg-type]
        "near-data",
        "Executor(prefix)",
        hardware="h100-duplex-4",
        workload="uniform routing, as in the paper",
        assumed=(SCALE, DENSITY),
    )


ROWS = (
    Row(
        "Duplex",
        "max-speedup",
        headline("Duplex"),
        largest,
        "near-data",
        "Executor(prefix) + experts split over all devices",
        hardware="h100-duplex-4, 4 devices (Mixtral), 8 (GLaM), 16 (Grok-1)",
        workload="uniform routing; 32, 64, 128 requests, lengths of Fig 11",
        assumed=(SCALE, DENSITY),
        headline=True,
        reason="GLaM: 64 experts of one or two tokens gain all of the bandwidth here, 2.5 times there; the "
        "timing of the DRAM, which its authors simulate, is left out",
    ),
    _row("mixtral-256-b64", "throughput", 2.05, "Sec VII Fig 11, Mixtral (256,256) b64", mixtral, "H100 GPU"),
    _row(
        "mixtral-4096",
        "throughput",
        2.51,
        "Sec VII: Duplex alone, largest, Mixtral (4096,4096)",
        mixtral_long,
        "H100 GPU",
    ),
    Row(
        "Duplex",
        "glam-latency",
        Figure(
            "end-to-end latency reduction",
            "fraction",
            0.602,
            baseline="H100 GPU",
            grade="P/SIM",
            source=SOURCE,
            locator="Sec VII-B Fig 12, average",
        ),
        glam_latency,
        "near-data",
        "Executor(prefix) + experts split over all devices",
        hardware="h100-duplex-4, 8 devices",
        workload="GLaM, 64 requests of 512+512 to 2048+2048 tokens",
        assumed=(SCALE, DENSITY),
    ),
    _row("coprocessing", "throughput", 1.04, "Sec VII: +PE, average", coprocessing, "Duplex without it"),
)
