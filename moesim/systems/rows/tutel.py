"""Tutel (arXiv:2206.03382): sparse dispatch, two-level all-to-all, adaptive pipelining."""

from __future__ import annotations

import functools

from moesim.hardware import load_hardware
from moesim.hardware.types import Hardware
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.systems.scmoe import Setting, block_seconds, swin
from moesim.systems.tutel import FAIRSEQ, TUTEL, Layer, Options, layer_bytes, tutel_seconds

SOURCE = "arXiv:2206.03382 (full text)"
LAYER = Layer(16384, 2048, 2048, 2, 2)
#: What was added one after the other in Fig. 14.
STEPS = (
    FAIRSEQ,
    Options(True, False, False, False),
    Options(True, True, False, False),
    Options(True, True, True, False),
    TUTEL,
)
GIB = 2.0**30


def _efficiency(gpus: int) -> Assumption:
    low, high = {2: (0.52, 0.81)}.get(gpus // 8, (0.62, 0.85))
    # 134 MB is half of the way from 16 MB to 1 GB on a logarithmic scale.
    middle = round((low + high) / 2.0, 2)
    return Assumption(
        "efficiency",
        middle,
        low,
        high,
        "of the network's rate in an all-to-all: SimAI's ata_ratio.csv between 16 MB and 1 GB, on 2 or 16 "
        "nodes",
    )


MESSAGE = Assumption(
    "message_s",
    4e-6,
    2e-6,
    12e-6,
    "of a peer: one thread posts a send to it and a receive from it, 2 us each on AMD hosts in NCCL (1 us "
    "with Intel); 6 us each in SimAI (AS_SEND_LAT)",
)
CONGESTION = (
    "2047 messages of 64 KiB per exchange would have to take some 45 us each, 1.5 of the card's 25 GB/s; "
    "posting them takes 4 and the links' rate 3; a published exchange of 64 H800 needs no such term. "
    "The congestion behind it is not modelled"
)


@functools.cache
def cluster(gpus: int) -> Hardware:
    """Azure's ND96amsr A100 v4: eight 80 GB A100 and eight HDR cards to a node."""
    return load_hardware("a100-sxm-80gb-8", nodes=gpus // 8)


def step_seconds(case: Case, gpus: int, step: int) -> float:
    """Seconds of the layer, forward and backward, with so many of Fig. 14's steps."""
    return tutel_seconds(
        LAYER, cluster(gpus), STEPS[step], message_s=case["message_s"], efficiency=case["efficiency"]
    )


def gain(case: Case, gpus: int, before: int = 0, after: int = 4) -> float:
    """Speedup of some steps together."""
    return step_seconds(case, gpus, before) / step_seconds(case, gpus, after)


def _layer(name: str, gpus: int, figure: Figure, before: int, after: int, **more: object) -> Row:
    return Row(
        "Tutel",
        name,
        figure,
        lambda case: gain(case, gpus, before, after),
        "training",
        "Timeline(chunks, best degree) + Collective(linear | two-level)",
        hardware=f"a100-sxm-80gb-8, {gpus // 8} nodes",
        workload="16384 tokens per GPU, D = H = 2048, two experts per GPU, top-2, forward and backward",
        assumed=(_efficiency(gpus), MESSAGE),
        **more,  # type: ignore[arg-type]
    )


def _step(value: float, what: str) -> Figure:
    return Figure(
        f"speedup from {what}", "x", value, baseline="previous step", source=SOURCE, locator="Fig 14"
    )


@functools.cache
def _fixed_bytes() -> float:
    """What a process holds besides: from the smallest of Table 5's cells, Tutel at 4096 tokens."""
    return 2.9 * GIB - layer_bytes(Layer(4096, 4096, 4096, 2, 2), True)


def memory_gib(tokens: int, kernels: bool) -> float:
    """Memory of the layer of Table 5."""
    return (_fixed_bytes() + layer_bytes(Layer(tokens, 4096, 4096, 2, 2), kernels)) / GIB


def _memory(tokens: int, kernels: bool, value: float) -> Row:
    name = "tutel" if kernels else "fairseq"
    return Row(
        "Tutel",
        f"memory-{name}-{tokens}",
        Figure(f"memory of a layer, {name}", "GiB", value, source=SOURCE, locator="Table 5"),
        lambda _: memory_gib(tokens, kernels),
        "training",
        "Gate(sparse dispatch)",
        hardware="one A100",
        workload=f"{tokens} tokens, D = H = 4096, two experts, top-2; what does not grow with "
        "tokens is taken from the cell of Tutel at 4096 tokens",
    )


# -- SwinV2-MoE-B, Table 7

IMAGES = Assumption("images", 128, 64, 256, "per GPU: not printed with the table; 1024 on 8 GPUs is usual")
#: Images per second over those of the dense model: training, inference, by GPUs.
THROUGHPUT = {
    8: (274 / 291, 1053 / 1198),
    16: (253 / 290, 943 / 1198),
    32: (249 / 288, 892 / 1195),
    64: (234 / 285, 835 / 1187),
    128: (226 / 256, 792 / 1103),
}


def swin_seconds(case: Case, gpus: int, training: bool, options: Options | None) -> float:
    """Seconds of a pass over SwinV2-B, dense (None) or with experts in every other block of two stages."""
    total = 0.0
    for stage in swin(case["images"], 128, 4):
        own, mlp, _ = block_seconds(stage, Setting("a100-sxm-80gb-8", (), 0.0, 1.0, 32), "fp16")
        passes = 3.0 if training else 1.0
        moe = 0 if options is None else stage.moe
        total += passes * (stage.blocks * own + (stage.blocks - moe) * mlp)
        if options is not None and moe:
            tokens = round(stage.sequences * stage.length)
            layer = Layer(tokens, stage.hidden, 4 * stage.hidden, max(1, 32 // gpus), 1)
            total += moe * tutel_seconds(
                layer, cluster(gpus), options, message_s=case["message_s"], training=training
            )
    return total


DENSE = (
    "the dense model itself loses a tenth of its rate from 64 to 128 GPUs in the table, for which nothing "
    "here stands; with one post for each peer, as before 64 H800 were looked at, both rows were "
    "within 13 %"
)


def _swin(gpus: int, training: bool, value: float) -> Row:
    phase = "training" if training else "inference"
    return Row(
        "Tutel",
        f"swin-{phase}-{gpus}",
        Figure("images/s over those of the dense model", "fraction of dense", round(value, 4), source=SOURCE,
               locator="Table 7"),
        lambda case: swin_seconds(case, gpus, training, None)
        / swin_seconds(case, gpus, training, TUTEL),
        "training" if training else "serving",
        "Timeline(chunks, best degree)",
        hardware=f"a100-sxm-80gb-8, {gpus} GPUs",
        workload="SwinV2-MoE-B, 192 x 192, top-1 of 32, f = 1",
        assumed=(IMAGES, MESSAGE),
        reason=DENSE if gpus == 128 else "",
        cause="missing specification" if gpus == 128 else "",
    )  # fmt: skip


def _over_fairseq(training: bool, upper: bool) -> Row:
    phase = "training" if training else "inference"
    return Row(
        "Tutel",
        f"swin-over-fairseq-{phase}",
        claims()["Tutel/3"].figure("x", upper=upper),
        lambda case: swin_seconds(case, 128, training, FAIRSEQ) / swin_seconds(case, 128, training, TUTEL),
        "training" if training else "serving",
        "Timeline(chunks, best degree) + Gate(sparse dispatch)",
        hardware="a100-sxm-80gb-8, 128 GPUs",
        workload="SwinV2-MoE-B, 192 x 192, top-1 of 32, f = 1",
        assumed=(IMAGES, MESSAGE),
        claims=("Tutel/3",),
        reason="GPUs and batch of the largest gain are not stated",
        cause="missing specification",
    )


ROWS = (
    _layer("layer-16", 16, headline("Tutel"), 0, 4, headline=True, claims=("Tutel/1",)),
    _layer(
        "layer-128",
        128,
        Figure("single MoE layer speedup", "x", 3.11, baseline="fairseq", source=SOURCE, locator="Sec 5.2"),
        0,
        4,
    ),
    _layer(
        "layer-2048",
        2048,
        claims()["Tutel/2"].figure("x"),
        0,
        4,
        claims=("Tutel/2",),
        reason=CONGESTION,
        cause="our limit",
    ),
    _layer("kernels-16", 16, _step(3.52, "sparse dispatch"), 0, 1),
    _layer("kernels-2048", 2048, _step(1.04, "sparse dispatch"), 0, 1, reason=CONGESTION, cause="our limit"),
    _layer("2dh-2048", 2048, _step(4.25, "two-level all-to-all"), 1, 2, reason=CONGESTION, cause="our limit"),
    _layer("flexible-2048", 2048, _step(1.24, "flexible all-to-all"), 2, 3),
    _layer("pipelining-16", 16, _step(1.43, "adaptive pipelining"), 3, 4),
    _layer("pipelining-2048", 2048, _step(1.04, "adaptive pipelining"), 3, 4),
    *(
        _memory(tokens, kernels, value)
        for tokens, both in ((8192, (3.2, 6.2)), (16384, (4.0, 16.3)), (32768, (5.7, 57.9)))
        for kernels, value in zip((True, False), both, strict=True)
    ),
    _over_fairseq(True, False),
    _over_fairseq(False, True),
    *(
        _swin(gpus, training, value)
        for gpus, both in THROUGHPUT.items()
        for training, value in zip((True, False), both, strict=True)
    ),
)
