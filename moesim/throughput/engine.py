"""What the engines of these systems make of a box, where no hardware file can know it.

Both numbers come from Table 4 of MoE-Lightning (arXiv:2411.11217), by ``benchmarks/throughput/lightning.py
--fit``: ten rows on T4 and L4, synthetic reasoning and summarization. Table 5 and Figure 7 took no part.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Engine:
    """Shares that software reaches of what the hardware sustains.

    Parameters
    ----------
    prefill
        Of `Machine.gpu_flops` in prefill: fused expert kernels and attention in Triton, many padded tiles.
    cpu_attention
        Of `Machine.cpu_cache` by FlexGen's attention on the CPU: PyTorch in 32 bits, a micro-batch at a time.
    """

    prefill: float = 0.289
    cpu_attention: float = 0.0452


ENGINE = Engine()
