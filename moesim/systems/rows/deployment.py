"""Towards MoE Deployment (arXiv:2303.06182): dynamic gating, expert buffering, balancing."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from moesim.cost import op_times
from moesim.engine.eager import LAUNCH_RANGE_S, LAUNCH_S
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.model.types import Dense, GroupedQuery, Layer, Model, MoE
from moesim.ops import Batch, Precision, step_work
from moesim.ops.primitives import elementwise
from moesim.systems.gating import GatedLayer, activation_bytes, dynamic_s, static_s, tutel_s
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


@dataclass(frozen=True, slots=True)
class Part:
    """A model or half of one, as the paper runs it.

    Parameters
    ----------
    hidden, width, heads, layers
        Of the dense model.
    attentions
        Attention blocks of a layer: two where there is cross-attention.
    moe_layers, experts, capacity
        Layers with experts in place of the feed-forward block.
    batch
        Sequences of a device.
    decoding
        Whether a step is one token of each.
    vocab
        Columns of the output; 1 without.
    """

    hidden: int
    width: int
    heads: int
    layers: int
    attentions: int
    moe_layers: int
    experts: int
    capacity: float
    batch: int
    decoding: bool
    vocab: int


LM = Part(1024, 4096, 16, 24, 1, 12, 512, 0.05, 8, False, 51200)
ENCODER = Part(2048, 8192, 16, 24, 1, 6, 128, 1.0, 48, False, 1)
DECODER = Part(2048, 8192, 16, 24, 2, 6, 128, 1.0, 48, True, 256206)
MACHINE = "v100-sxm-32gb-8"
#: Tensors of the size of the scores, in 16 bits, that fairseq's attention moves beyond a plain softmax: the
#: mask added in place (2), probabilities written in 32 bits (1), read again and cast back (3): ``softmax`` of
#: its ``utils.py`` and ``type_as`` behind it in ``multihead_attention.py``.
SCORE_TENSORS = 2 + 1 + 3


@functools.cache
def dense_model(part: Part, dense_layers: int) -> Model:
    """So many layers with a feed-forward block, all others with attention alone."""
    dim = part.hidden // part.heads
    attention = GroupedQuery(heads=part.heads, kv_heads=part.heads, qk_dim=dim, v_dim=dim)
    blocks = (Layer(attention, Dense(part.width, 2)),) * dense_layers
    bare = (Layer(attention, Dense(1, 2)),) * (part.layers * part.attentions - dense_layers)
    return replace(
        load_model("mixtral-8x7b"),
        name="dense",
        hidden=part.hidden,
        vocab=part.vocab,
        layers=blocks + bare,
        max_context=2048,
    )


@functools.lru_cache(maxsize=256)
def dense_s(part: Part, length: float, dense_layers: int, launch_s: float) -> float:
    """Seconds of a step on one V100 without routed experts; the host starts kernel after kernel."""
    model = dense_model(part, dense_layers)
    count = float(part.batch)
    batch = Batch.decode(count, length) if part.decoding else Batch.prefill(count, length)
    table = step_work(model, Parallelism(), batch, Precision.of(model, "fp16"), fused=False).table
    queries = 1.0 if part.decoding else length
    scores = count * part.heads * queries * length
    # The host's part was calibrated with attention as one kernel, so that these count for none.
    kernels = sum(max(op.launches, 1) * times for op, times in table.ops)
    moved = elementwise("scores", scores, flops_each=0.0, tensors=SCORE_TENSORS, launches=0)
    table = replace(table, ops=(*table.ops, (moved, part.layers * part.attentions)))
    seconds = op_times(table, load_hardware(MACHINE).device).seconds
    return max(float((seconds * table.counts).sum()), launch_s * kernels)


def gated(part: Part, case: Case, nodes: int = 1) -> GatedLayer:
    """A MoE layer of a part."""
    tokens = part.batch if part.decoding else round(part.batch * case["length"])
    return GatedLayer(
        tokens,
        part.hidden,
        part.width,
        part.experts,
        2,
        part.capacity,
        fullest=case["fullest"],
        launch_s=case["launch_us"] * 1e-6,
        nodes=nodes,
        nic_bytes_per_s=case["network"] * 1e9,
    )


def latency_s(part: Part, case: Case, gate: str, nodes: int = 1) -> float:
    """Seconds of a step: ``dense``, or with experts under a ``static``, ``tutel`` or ``dynamic`` gate."""
    launch_s = case["launch_us"] * 1e-6
    if gate == "dense":
        return dense_s(part, case["length"], part.layers, launch_s)
    hardware, layer = load_hardware(MACHINE), gated(part, case, nodes)
    each = {
        "static": lambda: static_s(layer, hardware, case["passes"]),
        "tutel": lambda: tutel_s(layer, hardware),
        "dynamic": lambda: dynamic_s(layer, hardware),
    }[gate]()
    rest = dense_s(part, case["length"], part.layers - part.moe_layers, launch_s)
    return rest + part.moe_layers * each


def dynamic_gain(part: Part, case: Case, over: str = "static", nodes: int = 1) -> float:
    """Throughput of dynamic gating over another, with as many tokens."""
    return latency_s(part, case, over, nodes) / latency_s(part, case, "dynamic", nodes)


def activation_saved_gb(part: Part, case: Case, batch: int) -> float:
    """GB of activations of one layer that a dynamic gate does without."""
    layer = gated(replace(part, batch=batch, decoding=False), case)
    return (activation_bytes(layer, static=True) - activation_bytes(layer, static=False)) / 1e9


COMMON = (
    Assumption("passes", 12, 4, 24, "of a tensor of the mask's size, in 16 bits: a dozen in fairseq's gate"),
    Assumption(
        "launch_us",
        LAUNCH_S * 1e6,
        LAUNCH_RANGE_S[0] * 1e6,
        LAUNCH_RANGE_S[1] * 1e6,
        "see moesim.engine.eager",
    ),
    Assumption("network", 12.5, 3.0, 25.0, "GB/s of a node's network, 100 Gb/s; not printed"),
)
OF_LM = (
    Assumption(
        "length", 512, 128, 1024, "tokens of a sequence; not printed, fairseq's default for such models"
    ),
    Assumption(
        "fullest", 0.6, 0.4, 0.7, "share of the fullest device: more than 0.6 before balancing, as printed"
    ),
    *COMMON,
)
OF_MT = (
    Assumption("length", 32, 20, 64, "tokens of a sentence, padding included; not printed"),
    Assumption("fullest", 0.4, 0.2, 0.7, "share of the fullest device: printed for the language model alone"),
    *COMMON,
)


def _latency_row(name: str, part: Part, gate: str, value_ms: float) -> Row:
    assumed = OF_LM if part is LM else OF_MT
    return Row(
        "Towards MoE Deployment",
        f"latency-{name}-{gate}",
        Figure("latency", "ms", value_ms, source=SOURCE, locator="Sec III and Table I"),
        lambda case: 1e3 * latency_s(part, case, gate),
        "routing",
        "Gate(static capacity)" if gate == "static" else "none: a dense model",
        hardware=MACHINE,
        workload=f"{name}, batch {part.batch} on each GPU",
        assumed=assumed,
        cause="missing specification",
        reason="lengths of sequences and the host's part of the time are not printed",
    )


def _gain_row(name: str, part: Part, over: str, nodes: int, value: float) -> Row:
    assumed = OF_LM if part is LM else OF_MT
    return Row(
        "Towards MoE Deployment",
        f"dynamic-over-{over}-{name}-{nodes}-node{'s' if nodes > 1 else ''}",
        Figure(
            "throughput from dynamic gating",
            "x",
            value,
            baseline=f"{over} gating",
            source=SOURCE,
            locator="Sec VII",
        ),
        lambda case: dynamic_gain(part, case, over, nodes),
        "routing",
        "Gate(exact, no capacity)",
        hardware=MACHINE,
        workload=f"{name}, batch {part.batch} on each GPU, {nodes} node{'s' if nodes > 1 else ''}",
        assumed=assumed,
        cause="missing specification",
        reason="lengths, balance and network are not printed, and larger batches, which fit without padding, "
        "are left out",
        claims=_CLAIMS.get((name, over, nodes), ()),
    )


_CLAIMS = {
    ("MT encoder", "static", 1): ("Towards MoE Deployment/2",),
    ("MT decoder", "static", 1): ("Towards MoE Deployment/3",),
}

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
        claims=("Towards MoE Deployment/4",),
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
        lambda case: dynamic_gain(LM, case),
        "routing",
        "Gate(exact, no capacity)",
        hardware=MACHINE,
        workload="LM 52B, one node, batch 8",
        assumed=OF_LM,
        headline=True,
        cause="missing specification",
        reason="larger batches, which fit only without the mask, are left out: both run as many tokens",
        claims=("Towards MoE Deployment/1",),
    ),
    _gain_row("LM", LM, "tutel", 1, 3.32),
    _gain_row("LM", LM, "static", 4, 11.23),
    _gain_row("MT encoder", ENCODER, "static", 1, 5.75),
    _gain_row("MT encoder", ENCODER, "tutel", 1, 5.33),
    _gain_row("MT encoder", ENCODER, "static", 4, 10.98),
    _gain_row("MT decoder", DECODER, "static", 1, 2.58),
    _gain_row("MT decoder", DECODER, "tutel", 1, 1.88),
    _gain_row("MT decoder", DECODER, "static", 4, 5.71),
    _latency_row("LM", LM, "dense", 74.2),
    _latency_row("LM", LM, "static", 1090.0),
    _latency_row("MT encoder", ENCODER, "dense", 101.0),
    _latency_row("MT encoder", ENCODER, "static", 2260.0),
    _latency_row("MT decoder", DECODER, "dense", 32.0),
    _latency_row("MT decoder", DECODER, "static", 90.0),
    Row(
        "Towards MoE Deployment",
        "activation-lm",
        Figure(
            "activation memory saved", "GB", 6.29 - 1.28, source=SOURCE, locator="Sec VII: 6.29 to 1.28 GB"
        ),
        lambda case: activation_saved_gb(LM, case, 8),
        "routing",
        "Gate(exact, no capacity)",
        hardware=MACHINE,
        workload="LM 52B, batch 8",
        assumed=OF_LM,
        cause="missing specification",
        reason="the length of sequences is not printed, and which tensors live at once is the allocator's",
    ),
    Row(
        "Towards MoE Deployment",
        "activation-mt",
        Figure(
            "activation memory saved", "GB", 1.89 - 1.05, source=SOURCE, locator="Sec VII: 1.89 to 1.05 GB"
        ),
        lambda case: activation_saved_gb(ENCODER, case, 8),
        "routing",
        "Gate(exact, no capacity)",
        hardware=MACHINE,
        workload="MT 54B, batch 8",
        assumed=OF_MT,
        cause="missing specification",
        reason="the length of sentences is not printed, and which tensors live at once is the allocator's",
    ),
)
