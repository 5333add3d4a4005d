"""The layer on a CPU: numpy and its BLAS for products, numba for the rest."""

from moesim.reference.cpu.layer import CpuPrepared, CpuTiming
from moesim.reference.cpu.residents import Cached, Plan, Residents, fixed
from moesim.reference.cpu.runner import CpuRunner

__all__ = ["Cached", "CpuPrepared", "CpuRunner", "CpuTiming", "Plan", "Residents", "fixed"]
