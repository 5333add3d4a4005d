"""Towards MoE Deployment (arXiv:2303.06182): dynamic gating, expert buffering, balancing."""

from __future__ import annotations

import functools
from dataclasses import replace

from moesim.cost import op_times
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.model.types import Dense, GroupedQuery, Layer, Model, MoE
from moesim.ops import Batch, Precision, step_work
from moesim.systems.gating import GatedLayer, dynamic_s, static_s
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row

SOURCE = "arXiv:2303.06182"
GPUS = 8
#: Static memory per GPU of the translation model, bytes: what the 32.2 % are of.
STATIC_BYTES = 18.68e9
BOX = "8x V100-32GB, NVLink 300 GB/s, PCIe 3"


def _decoder() -> tuple[int, int, float]:
    """MoE layers of the decoder of NLLB-MoE, experts of each on a GPU, bytes of an expert in 16 bits."""
    model = load_model("nllb-moe-54b")
    moe = next(layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE))
    bytes_ = 2.0 * moe.matrices * model.hidden * moe.intermediate
    return len(model.moe_layer_ids), moe.num_experts // GPUS, bytes_


def buffered_bytes(cached: int) -> float:
    """Bytes per GPU that leave GPU memory when so many experts of each decoder layer stay."""
    layers, experts, each = _decoder()
    return layers * (experts - cached) * each


def waste(num_experts: int, capacity_factor: float, top_k: int = 2) -> float:
    """Rows that experts work on under static gating over those that are used: ``E C S / (k S)``.

    >>> waste(512, 0.05), waste(128, 1.0)
    (12.8, 64.0)
    """
    return num_experts * capacity_factor / top_k


def buffering(case: Case) -> float:
    """Static memory without over that with one expert of each layer cached."""
    del case
    return STATIC_BYTES / (STATIC_BYTES - buffered_bytes(1))


#: MoE layers of the language model, and tokens of a sequence, which only its attention sees.
MOE_LAYERS, LENGTH = 12, 512


@functools.cache
def dense_model(dense_layers: int) -> Model:
    """24 layers of width 1024, so many of them with a feed-forward block, the others with attention alone."""
    attention = GroupedQuery(heads=16, kv_heads=16, qk_dim=64, v_dim=64)
    blocks = (Layer(attention, Dense(4096, 2)),) * dense_layers
    bare = (Layer(attention, Dense(1, 2)),) * (24 - dense_layers)
    return replace(
        load_model("mixtral-8x7b"),
        name="lm-dense",
        hidden=1024,
        vocab=51200,
        layers=blocks + bare,
        max_context=2048,
    )


@functools.lru_cache(maxsize=64)
def dense_s(tokens: int, length: int, dense_layers: int) -> float:
    """Seconds of a forward pass on one V100, without the routed experts."""
    model = dense_model(dense_layers)
    batch = Batch.prefill(tokens / length, length)
    table = step_work(model, Parallelism(), batch, Precision.of(model, "fp16")).table
    seconds = op_times(table, load_hardware("v100-sxm-32gb-8").device).seconds
    return float((seconds * table.counts).sum())


def dynamic_gain(case: Case) -> float:
    """Throughput of dynamic over static gating, with as many tokens."""
    hardware = load_hardware("v100-sxm-32gb-8")
    layer = GatedLayer(round(case["tokens"]), 1024, 4096, 512, 2, 0.05)
    rest = dense_s(layer.tokens, LENGTH, 24 - MOE_LAYERS)
    static = rest + MOE_LAYERS * static_s(layer, hardware, case["passes"])
    return static / (rest + MOE_LAYERS * dynamic_s(layer, hardware))


ROWS = (
    Row(
        "Towards MoE Deployment",
        "expert-buffering",
        Figure(
            "static memory reduction",
            "x",
            1.47,
            baseline="no buffering",
            source="abstract of Towards MoE Deployment",
            locator="abstract; 1 / (1 - 0.322)",
        ),
        buffering,
        "offload",
        "Residency(layer, inactive first, then LIFO)",
        hardware=BOX,
        workload="NLLB-MoE-54B decoder, one of 16 experts of each layer cached, 18.68 GB static per GPU",
    ),
    Row(
        "Towards MoE Deployment",
        "buffer-of-10",
        Figure("static memory saved", "GiB", 2.25, source=SOURCE, locator="Sec III-VII (printed as GB)"),
        lambda _: buffered_bytes(10) / 2**30,
        "offload",
        "Residency(layer, inactive first, then LIFO)",
        hardware=BOX,
        workload="NLLB-MoE-54B decoder, 10 of 16 experts of each layer cached",
    ),
    Row(
        "Towards MoE Deployment",
        "waste-lm",
        Figure("rows computed over rows used", "x", 12.8, source=SOURCE, locator="Sec III: E C S / (2 S)"),
        lambda _: waste(512, 0.05),
        "routing",
        "Gate(static capacity)",
        workload="512 experts, capacity factor 0.05",
    ),
    Row(
        "Towards MoE Deployment",
        "waste-mt",
        Figure("rows computed over rows used", "x", 64.0, source=SOURCE, locator="Sec III: E C S / (2 S)"),
        lambda _: waste(128, 1.0),
        "routing",
        "Gate(static capacity)",
        workload="128 experts, capacity factor 1",
    ),
    Row(
        "Towards MoE Deployment",
        "dynamic-gating-lm",
        headline("Towards MoE Deployment"),
        dynamic_gain,
        "routing",
        "Gate(exact, no capacity)",
        hardware="v100-sxm-32gb-8",
        workload="LM 52B, one node, batch 8",
        assumed=(
            Assumption(
                "tokens",
                2048,
                512,
                8192,
                "per GPU: one or eight sequences on each, of 512 or 1024 tokens; the geometric middle",
            ),
            Assumption(
                "passes", 12, 4, 24, "of a tensor of the mask's size, in 16 bits: a dozen in fairseq's gate"
            ),
        ),
        headline=True,
        reason="larger batches, which fit only without the mask, are left out: both run as many tokens",
    ),
)
