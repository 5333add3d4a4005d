"""Towards MoE Deployment (arXiv:2303.06182): dynamic gating, expert buffering, balancing."""

from __future__ import annotations

from moesim.model import load_model
from moesim.model.types import MoE
from moesim.systems.headlines import headline
from moesim.systems.row import Case, Figure, Row

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
        None,
        "routing",
        "Gate(exact, no capacity)",
        hardware=BOX,
        workload="LM 52B, one node",
        headline=True,
        reason="to be modelled",
    ),
)
