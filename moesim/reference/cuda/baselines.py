"""What others make of the same products: torch's grouped product and cuBLAS, where torch sees the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Square product whose rate is taken for the ceiling of products.
CEILING_SIZE = 8192


@dataclass(frozen=True, slots=True)
class Baseline:
    """A product timed by torch's events.

    Parameters
    ----------
    name
        ``torch._grouped_mm``, say, or ``cuBLAS``.
    seconds
        Of each repeat.
    flops
        Of one.
    """

    name: str
    seconds: npt.NDArray[np.float64]
    flops: float

    @property
    def flops_per_s(self) -> float:
        """At the median."""
        return self.flops / float(np.median(self.seconds))


def absent() -> str:
    """Why there are no baselines here; empty if there are."""
    try:
        import torch
    except ImportError:
        return "torch is not installed: no baselines"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device: no baselines"
    return ""


def grouped(
    counts: npt.NDArray[np.int32], n: int, k: int, repeats: int = 20, device: str = "cuda"
) -> Baseline:
    """Products of sorted tokens with their experts' weights, ``[rows_e, k] x [k, n]`` for every expert.

    Parameters
    ----------
    counts
        Rows of each expert, int32 ``[E]``.
    n, k
        Columns of the result, and length of the sums.
    repeats
        How often it is timed.
    device
        ``cpu`` to see that the call is right.
    """
    import torch

    name, call = _grouped_mm(torch)
    rows, experts = int(counts.sum()), len(counts)
    x = torch.randn(rows, k, dtype=torch.bfloat16, device=device)
    weights = torch.randn(experts, n, k, dtype=torch.bfloat16, device=device).transpose(1, 2)
    ends = torch.cumsum(torch.as_tensor(counts), 0).to(torch.int32).to(device)
    return Baseline(
        name, _timed(torch, lambda: call(x, weights, offs=ends), repeats, device), 2.0 * rows * n * k
    )


def cublas(
    m: int = CEILING_SIZE, n: int = CEILING_SIZE, k: int = CEILING_SIZE, repeats: int = 20
) -> Baseline:
    """One product of random bf16 matrices, ``[m, k] x [k, n]``."""
    import torch

    x = torch.randn(m, k, dtype=torch.bfloat16, device="cuda")
    w = torch.randn(n, k, dtype=torch.bfloat16, device="cuda").t()
    return Baseline("cuBLAS", _timed(torch, lambda: x @ w, repeats, "cuda"), 2.0 * m * n * k)


def _grouped_mm(torch: Any) -> tuple[str, Callable[..., Any]]:  # noqa: ANN401
    """The public function of torch 2.10 and newer, or the one before it."""
    functional = torch.nn.functional
    if hasattr(functional, "grouped_mm"):
        return "torch.nn.functional.grouped_mm", functional.grouped_mm
    return "torch._grouped_mm", torch._grouped_mm


def _timed(torch: Any, work: Callable[[], object], repeats: int, device: str) -> npt.NDArray[np.float64]:  # noqa: ANN401
    import time

    work()
    if device == "cpu":
        start = time.perf_counter()
        work()
        return np.array([time.perf_counter() - start])
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in pairs:
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return np.array([start.elapsed_time(end) * 1e-3 for start, end in pairs])
