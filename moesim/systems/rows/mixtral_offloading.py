"""mixtral-offloading (arXiv:2312.17238): least recently used experts stay, the next layer's are guessed.

The paper measures a ladder on four GPUs: accelerate as it is, no cache and no guesses, a cache alone, and
both. What a token takes beside copies of experts comes from the second rung of the same GPU, so that
this rung is an input and no row; what the other rungs add or save is computed:

    naive: rest + copies / pageable      cache: rest + copies (1 - hits)
    full:  rest + copies (1 - hits) (1 - recall)

with the time of `copies` of all chosen experts over the link, the hits of a replay, and the recall of the
next layer's gate that another paper measured on the same model.
"""

from __future__ import annotations

from statistics import mean

import numpy as np

from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.policy import Residency
from moesim.policy.published import ADAPMOE_NEXT_GATE
from moesim.residency import replay
from moesim.systems.headlines import headline
from moesim.systems.parts import expert_params, moe_layers, moe_of
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.systems.traces import routing

SOURCE = "arXiv:2312.17238 (note)"
MODEL = "mixtral-8x7b"
SLOTS = "Residency(layer, lru) + Transfer(width 2) + Predictor(next gate)"
#: 2 bits and an 8-bit scale and zero per group of 16 weights (HQQ, g16).
EXPERT_BITS = 2 + (8 + 8) / 16
ROUTING = "drawn from the profile mixtral: loads of three layers are measured, persistence is assumed"
#: GPU, hardware file, slots per layer, and tokens per second of the four rungs: naive, no cache, cache, full.
LADDER = (
    ("T4", "t4-colab", 4, (0.661, 1.17, 1.567, 2.092)),
    ("RTX 3060", "rtx-3060-desktop", 2, (0.92, 1.55, 2.05, 2.278)),
    ("RTX 3080 Mobile", "rtx-3080-mobile", 4, (1.06, 1.76, 2.23, 2.655)),
    ("A100", "a100-pcie-epyc", 4, (1.39, 2.27, 2.92, 3.061)),
)
RUNGS = ("naive", "no-cache", "cache", "full")

RECALL = Assumption(
    "recall",
    round(mean(ADAPMOE_NEXT_GATE), 3),
    0.7,
    0.95,
    "of the next layer's gate: mean over layers that AdapMoE's code holds, measured on Mixtral-8x7B",
)
PAGEABLE = Assumption(
    "pageable", 0.5, 0.25, 0.75, "of the link's rate for copies from memory that is not pinned"
)
LINK = Assumption("link", 1.0, 0.8, 1.2, "of the rate that the hardware file takes as reached")


def copies_s(case: Case, box: str) -> float:
    """Seconds in which all experts of a token are copied."""
    model = load_model(MODEL)
    link = load_hardware(box).host_link
    assert link is not None
    rate = case["link"] * link.bandwidth_bytes_per_s * link.efficiency
    experts = moe_layers(model) * moe_of(model).top_k
    return experts * (expert_params(model) * EXPERT_BITS / 8 / rate + link.latency_s)


def hits(case: Case, slots: int) -> float:
    """Part of the accesses that a cache of so many experts per layer holds."""
    trace = routing(case, "mixtral", phase=None if case.trace is not None else "decode")
    size = max(round(slots * trace.num_experts / moe_of(load_model(MODEL)).num_experts), 1)
    return replay(trace, Residency("lru"), np.full(trace.topk_ids.shape[1], size)).hit_ratio


def rung(case: Case, box: str, slots: int, no_cache: float, name: str) -> float:
    """Tokens per second of one rung, from those without cache and guesses."""
    copies = copies_s(case, box)
    rest = max(1.0 / no_cache - copies, 0.0)
    if name == "naive":
        return 1.0 / (rest + copies / case["pageable"])
    missed = copies * (1.0 - hits(case, slots))
    if name == "full":
        missed *= 1.0 - case["recall"]
    return 1.0 / (rest + missed)


def _row(gpu: str, box: str, slots: int, ladder: tuple[float, ...], name: str) -> Row:
    place = RUNGS.index(name)
    first = gpu == "T4" and name == "full"
    figure = Figure(
        "decode throughput",
        "tok/s",
        ladder[place],
        grade="S",
        source=SOURCE,
        locator=f"Table (Sec 4.3), {gpu}",
    )
    extra = {"naive": (PAGEABLE,), "full": (RECALL,)}.get(name, ())
    return Row(
        "mixtral-offloading",
        f"{gpu.replace(' ', '-').lower()}-{name}",
        headline("mixtral-offloading") if first else figure,
        lambda case: rung(case, box, slots, ladder[1], name),
        "offload",
        "Residency(layer, lru)" if name == "cache" else "none" if name == "naive" else SLOTS,
        hardware=box,
        workload=f"Mixtral-8x7B, experts in {EXPERT_BITS:g} bits, {slots} slots per layer, batch 1; "
        f"{ladder[1]} tok/s without cache and guesses is an input",
        assumed=(LINK, *extra),
        routing="" if name == "naive" else ROUTING,
        headline=first,
        cause="missing specification" if name == "naive" else "disagreement",
        reason="what accelerate copies, and how, is not stated"
        if name == "naive"
        else "the GPU of the box is slower there than its links and kernels say",
    )


ROWS = tuple(_row(*line, name) for line in LADDER for name in ("full", "cache", "naive"))
