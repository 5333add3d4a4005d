"""Steps without CUDA graphs: the host starts kernel after kernel, and devices may wait for it.

With graphs a step is started at once. Without, it takes at least as long as the host needs to start all of
its kernels. What one start costs was read off public decode steps that nothing but it explains:

* 35 us: GPT-2, 12 layers, batch 1, vLLM on H200, 4.8 ms per token (DeepSpeed pull request 8352);
* 72 us: Qwen2.5-Omni-7B, 28 layers, vLLM on A800, 22.5 ms per token (vllm-omni issue 7960);

each divided by the kernels of `launches`.
"""

from __future__ import annotations

from math import sqrt

from moesim.ops import StepWork

#: Cheapest and dearest start of a kernel that was found.
LAUNCH_RANGE_S = (35e-6, 72e-6)
#: Their geometric mean.
LAUNCH_S = sqrt(LAUNCH_RANGE_S[0] * LAUNCH_RANGE_S[1])
#: Kernels of routed experts: sort, two products, activation, sum; and of an exchange, either way.
_EXPERT_KERNELS, _EXCHANGE_KERNELS = 5, 2


def launches(work: StepWork) -> int:
    """Kernels that one step starts."""
    table, layout = work.table, work.layout
    layers = sum(len(group.layers) for group in work.experts)
    each = _EXPERT_KERNELS + (_EXCHANGE_KERNELS if layout.stage > 1 else 0)
    return (
        # The host starts shared experts too, though devices work on something else meanwhile.
        sum(max(op.launches, op.name.startswith("shared_")) * count for op, count in table.ops)
        + sum(count for _, count in table.messages)
        + each * layers
    )
