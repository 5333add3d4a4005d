"""Pre-gated MoE (arXiv:2308.12066): the gate of one block chooses the experts of the next."""

from __future__ import annotations

from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.systems.headlines import headline
from moesim.systems.parts import expert_params, moe_layers, moe_of
from moesim.systems.row import Assumption, Case, Figure, Row

SOURCE = "arXiv:2308.12066"
SLOTS = "Predictor(exact, next block) + Transfer"
FP32_BYTES = 4.0
MODES = ("pre-gated", "on-demand", "prefetch-all", "resident")

RUN = Assumption(
    "run",
    1 / 1.19,
    0.1,
    1.0,
    "of a block over copying one expert: a pre-gated block takes 1.19 of one that is all resident (published "
    "apart); a tenth by bare bandwidth",
)


def load_s(name: str) -> float:
    """Seconds in which one expert is copied, at the rate of the link that the paper names."""
    link = load_hardware("a100-pcie-epyc").host_link
    assert link is not None
    return FP32_BYTES * expert_params(load_model(name)) / link.bandwidth_bytes_per_s


def block_s(case: Case, name: str, mode: str) -> float:
    """Seconds of a MoE block whose one expert is copied in one of `MODES`."""
    load = load_s(name)
    run = case["run"] * load
    if mode == "resident":
        return run
    if mode == "on-demand":
        return run + load
    copies = moe_of(load_model(name)).num_experts if mode == "prefetch-all" else 1
    return max(run, copies * load)


def decode(case: Case, name: str, mode: str = "pre-gated") -> float:
    """Tokens per second: every second layer has experts, the others take as long as one that is resident."""
    model = load_model(name)
    dense = model.num_layers - moe_layers(model)
    blocks = moe_layers(model) * block_s(case, name, mode)
    return 1.0 / (blocks + dense * block_s(case, name, "resident"))


def ratio(case: Case, name: str, mode: str) -> float:
    """Block latency over that of Pre-gated MoE."""
    return block_s(case, name, mode) / block_s(case, name, "pre-gated")


def _ratio_row(name: str, value: float, model: str, mode: str, locator: str) -> Row:
    return Row(
        "Pre-gated MoE",
        name,
        Figure("block latency", "x", value, baseline=f"MoE-{mode}", source=SOURCE, locator=locator),
        lambda case: ratio(case, model, mode),
        "offload",
        SLOTS,
        hardware="a100-pcie-epyc, link at its full 32 GB/s",
        workload=f"{model} in FP32, batch 1",
        assumed=(RUN,),
    )


ROWS = (
    Row(
        "Pre-gated MoE",
        "decode-switch-large",
        headline("Pre-gated MoE"),
        lambda case: decode(case, "switch-large-128"),
        "offload",
        SLOTS,
        hardware="a100-pcie-epyc, link at its full 32 GB/s",
        workload="Switch-Large-128 in FP32, batch 1",
        assumed=(RUN,),
        headline=True,
        claims=("Pre-gated MoE/1",),
    ),
    Row(
        "Pre-gated MoE",
        "decode-switch-base",
        Figure(
            "decode throughput", "tok/s", 111, source=SOURCE, locator="Sec VI-A, average over Switch-Base"
        ),
        lambda case: decode(case, "switch-base-128"),
        "offload",
        SLOTS,
        hardware="a100-pcie-epyc, link at its full 32 GB/s",
        workload="Switch-Base-128 in FP32, batch 1",
        assumed=(RUN,),
        cause="missing specification",
        reason="the smaller model is less bound by copies: what its layers take beside them is not stated",
    ),
    _ratio_row("block-on-demand-large", 1.9, "switch-large-128", "on-demand", "Sec VI-A Fig 10"),
    _ratio_row("block-on-demand-base", 1.7, "switch-base-128", "on-demand", "Sec VI-A Fig 10, average"),
    _ratio_row("block-prefetch-all-large", 125, "switch-large-128", "prefetch-all", "Sec VI-A Fig 10"),
)
