"""Exchanges in two levels: SMILE (arXiv:2212.05191), HetuMoE (2203.14685), SE-MoE (2205.10034)."""

from __future__ import annotations

import functools
from dataclasses import replace

from moesim.fabric import EFA, PeerCost, all_to_all
from moesim.hardware import load_hardware
from moesim.hardware.types import Hardware, Link
from moesim.ops.primitives import gemm
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.systems.tutel import Layer, expert_seconds, ordering_seconds, seconds_of

MESSAGE = Assumption(
    "message_s",
    2e-6,
    1e-6,
    20e-6,
    "of a peer: a send to it and a receive from it, 1 us each with Intel hosts in NCCL; more over TCP or SRD",
)


@functools.cache
def _cluster(name: str, nodes: int, bandwidth: float) -> Hardware:
    """A machine whose devices share a network card."""
    hardware = load_hardware(name, nodes=nodes)
    network = hardware.scale_out
    if network is None:
        raise ValueError(f"{name} has no network")
    return replace(hardware, scale_out=replace(network, bandwidth_bytes_per_s=bandwidth))


def _step_seconds(
    peer: PeerCost | float, layer: Layer, hardware: Hardware, algorithm: str, *, sparse: bool
) -> float:
    """A MoE layer forward and backward, one operation after the other."""
    devices = hardware.num_devices
    sent = float(
        all_to_all(
            hardware,
            devices,
            layer.sent_bytes,
            algorithm,
            message_s=peer,
            shared_nic=True,
        )
    )
    there, back = ordering_seconds(layer, hardware, sparse)
    gate = seconds_of(
        hardware, [gemm("gate", layer.tokens, layer.hidden, devices * layer.experts, layer.dtype)]
    )
    return 4.0 * sent + there + back + 3.0 * (gate + expert_seconds(layer, hardware, devices, True))


# -- SMILE

SMILE_WHY = "128 GPUs, 3.7 B parameters: cluster, layers and batch are in parts of the text that are not held"
PEER = Assumption(
    "peer",
    2.8,
    1.0,
    8.0,
    "times what a peer costs over EFA where each GPU has 50 GB/s (benchmarks/fabric/peer_cost.py): p4d has "
    "an eighth of that, so once if the cost is seconds, eight times if it is a part of the rate; the middle",
)
SMILE_TOKENS = Assumption("tokens", 16384, 4096, 65536, "of a device and micro-batch: " + SMILE_WHY)
DENSE = Assumption("dense_layers", 1.0, 0.5, 2.0, "Switch layers in every other block: blocks beside each")


def smile_gain(case: Case) -> float:
    """Throughput of routing to a node, then to a device, over routing at once."""
    # p4d nodes: eight A100 behind 400 Gb/s.
    hardware = _cluster("a100-sxm-40gb-8", 16, 400e9 / 8.0 / 8.0)
    layer = Layer(round(case["tokens"]), 768, 3072, 1, 1)
    tokens = case["tokens"]
    block = [
        gemm("attention", tokens, 768, 4 * 768, "fp16"),
        gemm("up", tokens, 768, 3072, "fp16"),
        gemm("down", tokens, 3072, 768, "fp16"),
    ]
    beside = 3.0 * (1.0 + case["dense_layers"]) * seconds_of(hardware, block)
    peer = replace(EFA, seconds_at_mb=case["peer"] * EFA.seconds_at_mb)
    flat, two = (
        _step_seconds(peer, layer, hardware, algorithm, sparse=True) for algorithm in ("flat", "two_level")
    )
    return (beside + flat) / (beside + two)


# -- HetuMoE

HETU_WHY = "GPU and network of the figure are not held; the text says commodity nodes with one card"
RATE = Assumption(
    "network_bytes_per_s", 12.5e9, 1.25e9, 12.5e9, "of a node's card: 10 to 100 Gb/s. " + HETU_WHY
)


def hetu_gain(case: Case, *, sparse: bool, batch: int) -> float:
    """HetuMoE over a layer that exchanges at once, with sparse or with dense dispatch."""
    # The authors' script: two nodes of eight, one expert of 2048 x 2048 each, top-1, 1024 tokens per sample.
    hardware = _cluster("v100-pcie-32gb-8", 2, case["network_bytes_per_s"] / 8.0)
    layer = Layer(batch * 1024, 2048, 2048, 1, 1, dtype="fp32")
    base = _step_seconds(case["message_s"], layer, hardware, "flat", sparse=sparse)
    # The script offers both exchanges; where it is about the exchange, it is the hierarchical one.
    offered = ("leader",) if sparse else ("flat", "leader")
    ours = min(
        _step_seconds(case["message_s"], layer, hardware, algorithm, sparse=True) for algorithm in offered
    )
    return base / ours


# -- SE-MoE

SE_NODES = 4
TAPER = Assumption(
    "taper",
    1.5,
    1.0,
    2.0,
    "bandwidth into a leaf switch over that out of it: not printed; cards of equal place share a leaf, so "
    "that what goes to another place crosses the spine; the middle between none and two to one",
)
SE_TOKENS = Assumption("tokens", 4096, 1024, 16384, "of a GPU in one exchange: not printed")


def se_moe_gain(case: Case) -> float:
    """Speed of the exchange in two levels over that at once, on four nodes whose cards form rails."""
    # Rate as printed, the rest as of the InfiniBand in the catalogue.
    rails = Link("roce-100g", 12.5e9, 14e-6, 0.9, 0, "rail", leaf=SE_NODES, taper=case["taper"])
    hardware = replace(load_hardware("a100-sxm-80gb-8", nodes=SE_NODES), scale_out=rails)
    flat, two = (
        float(all_to_all(hardware, 8 * SE_NODES, 2.0 * 4096 * case["tokens"], algorithm))
        for algorithm in ("flat", "two_level")
    )
    return flat / two


ROWS = (
    Row(
        "SMILE",
        "pretraining",
        headline("SMILE"),
        smile_gain,
        "training",
        "Collective(two-level)",
        hardware="a100-sxm-40gb-8, 16 nodes, 400 Gb/s each",
        workload="128 experts of 768 x 3072, top-1",
        assumed=(PEER, SMILE_TOKENS, DENSE),
        headline=True,
        claims=("SMILE/1",),
        reason=SMILE_WHY
        + "; the bytes that cross nodes are the same, so that only fewer and larger messages "
        "help here, which on up to 256 GPUs of EFA are measured",
        cause="missing specification",
    ),
    Row(
        "HetuMoE",
        "over-sparse",
        headline("HetuMoE"),
        lambda case: hetu_gain(case, sparse=True, batch=16),
        "training",
        "Collective(leader per node)",
        hardware="v100-pcie-32gb-8, 2 nodes with one card each",
        workload="experts of 2048 x 2048, top-1, 16 x 1024 tokens per GPU, FP32 exchanges",
        assumed=(MESSAGE, RATE),
        headline=True,
        claims=("HetuMoE/1",),
        reason=HETU_WHY + ". At these rates gathering at one device costs more than larger messages save",
        cause="missing specification",
    ),
    Row(
        "HetuMoE",
        "over-dense-dispatch",
        claims()["HetuMoE/1"].figure("x", upper=True),
        lambda case: hetu_gain(case, sparse=False, batch=32),
        "training",
        "Gate(sparse dispatch) + Collective(leader per node)",
        hardware="v100-pcie-32gb-8, 2 nodes with one card each",
        workload="experts of 2048 x 2048, top-1, 32 x 1024 tokens per GPU, against dense dispatch "
        "as in DeepSpeed-MoE",
        assumed=(MESSAGE, RATE),
        claims=("HetuMoE/1",),
        reason=HETU_WHY,
        cause="missing specification",
    ),
    Row(
        "SE-MoE",
        "hierarchical-exchange",
        Figure(
            "speed of all-to-all",
            "x",
            1.155,
            baseline="all-to-all at once",
            grade="S",
            source="arXiv:2205.10034 and journal version (note)",
            locator="hierarchical all-to-all, 80.7B on 32 GPUs",
        ),
        se_moe_gain,
        "training",
        "Collective(two-level)",
        hardware="a100-sxm-80gb-8, 4 nodes, 100 Gbit/s for each GPU",
        workload="width 4096, 16 bits",
        assumed=(TAPER, SE_TOKENS),
        reason="what is assumed spans a loss of 8 % and a gain of 1.6: the row shows that a narrow spine can "
        "explain the figure, not that it does",
    ),
)
