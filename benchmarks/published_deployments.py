"""Steps of published DeepSeek-V3/R1 deployments, predicted and as reported.

    python benchmarks/published_deployments.py

Throughput is compared per device (decode) or per node of 8 (prefill). Routing is taken as even, as the
reports with simulated or perfect balance have it. Nothing is fitted.
"""

from __future__ import annotations

import moesim as ms
from moesim.layout import ExpertMap
from moesim.ops import Batch
from moesim.prediction.kept import deployment_of

#: Name, hardware, nodes, ranks, redundant experts, sequences or prompts per rank, tokens, reported, source.
DECODE = [
    (
        "DeepSeek profile, EP128",
        "h800-sxm-8",
        16,
        128,
        0,
        128,
        4096,
        2325,
        "deepseek-ai/profile-data, tokens/s/device",
    ),
    ("SGLang, EP72", "h100-sxm-8", 9, 72, 32, 256, 2000, 22282 / 8, "SGLang blog, 96 H100"),
    ("SGLang, GB200, 48 ranks", "gb200-nvl72", 12, 48, 32, 1408, 2000, 7583, "SGLang blog, GB200 part 1"),
]
PREFILL = [
    (
        "DeepSeek profile, EP32",
        "h800-sxm-8",
        4,
        32,
        0,
        4,
        4096,
        62713,
        "deepseek-ai/profile-data, tokens/s/node",
    ),
    ("SGLang, EP32, perfect balance", "h100-sxm-8", 4, 32, 32, 4, 4096, 59337, "SGLang blog, 96 H100"),
]


def step_s(hardware: str, nodes: int, ranks: int, redundant: int, batch: Batch) -> float:
    """Seconds of one step with two-batch overlap, as all these deployments use."""
    model, machine = ms.load_model("deepseek-v3"), ms.load_hardware(hardware, nodes=nodes)
    plan = ExpertMap.contiguous(len(model.moe_layer_ids), model.num_experts, ranks, redundant)
    layout, engine = ms.Parallelism(dp=ranks, ep=ranks), ms.Engine(overlap="two-batch")
    return float(deployment_of(model, machine, layout, engine, None, plan, 0).step(batch).seconds[0])


def main() -> None:
    print(f"{'deployment':32} {'predicted':>10} {'reported':>10} {'ratio':>6}  source")
    for name, hardware, nodes, ranks, redundant, batch, context, reported, source in DECODE:
        ours = batch / step_s(hardware, nodes, ranks, redundant, Batch.decode(batch, context))
        print(f"{name + ', decode':32} {ours:10.0f} {reported:10.0f} {ours / reported:6.2f}  {source}")
    for name, hardware, nodes, ranks, redundant, prompts, length, reported, source in PREFILL:
        ours = (
            8 * prompts * length / step_s(hardware, nodes, ranks, redundant, Batch.prefill(prompts, length))
        )
        print(f"{name + ', prefill':32} {ours:10.0f} {reported:10.0f} {ours / reported:6.2f}  {source}")


if __name__ == "__main__":
    main()
