"""A machine with known laws: runs take no time, and say what they would have taken."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from moesim.calibrate.reference.laws import Ceilings
from moesim.reference.cpu import CpuTiming
from moesim.reference.layer import Case

PEAK, READ = 100e9, 15e9
FLOOR_S = 5e-6
#: The way into the loop over the experts: in their part, and in the time of none.
GLUE_S = 30e-6
#: Copies of experts.
LATENCY_S, RATE = 20e-6, 7e9
CEILINGS = Ceilings({"fp32": PEAK, "bf16": PEAK}, READ, 8e9, 9e9)


def expert_s(n, hidden: int, width: int, dtype: str = "fp32"):
    """Packing costs three reads of the weights unless there is one token; arithmetic comes near the peak."""
    n = np.asarray(n, dtype=float)
    size = 3.0 * hidden * width * (4 if dtype == "fp32" else 2)
    slower = np.where(n == 1, 1.1, 3.0) * (1.0 if dtype == "fp32" else 2.5)
    compute = 6.0 * n * hidden * width / (0.9 * PEAK)
    return np.where(n > 0, FLOOR_S + size / READ * slower + compute, 0.0)


def parts_s(case: Case) -> dict[str, float]:
    s, tokens = case.shape, case.tokens
    return {
        "router": 20e-6 + 2.0 * tokens * s.hidden * s.num_experts / (0.5 * PEAK),
        "top_k": 10e-6 + 3e-9 * tokens * s.num_experts + 20e-9 * tokens * s.top_k,
        "weighted_sum": 4e-6 + 0.5e-9 * tokens * s.hidden * s.top_k,
    }


class PlantedRun:
    """Follows the laws, with noise and slow rounds."""

    def __init__(self, case: Case, ids, noise: float, slow) -> None:
        self.case, self.noise, self.slow = case, noise, slow
        self.counts = np.bincount(ids.ravel(), minlength=case.shape.num_experts)
        self.loaded = (np.arange(case.shape.num_experts) % 2 == 1) & (case.offloaded > 0) & (self.counts > 0)
        self.loads = int(self.loaded.sum())
        self.rng = np.random.default_rng(
            [case.tokens, case.shape.hidden, case.shape.width, case.dtype == "fp32"]
        )

    def _noisy(self, seconds):
        return (
            np.asarray(seconds)
            * np.exp(self.noise * self.rng.standard_normal(np.shape(seconds)))
            * self.slow()
        )

    def run(self) -> CpuTiming:
        s = self.case.shape
        experts = self._noisy(expert_s(self.counts, s.hidden, s.width, self.case.dtype))
        size = s.params * (4 if self.case.dtype == "fp32" else 2)
        copies = self._noisy(np.where(self.loaded, LATENCY_S + size / RATE, 0.0))
        parts = {name: float(self._noisy(seconds)) for name, seconds in parts_s(self.case).items()}
        parts |= {"experts": float(experts.sum()) + GLUE_S * self.slow(), "copy": float(copies.sum())}
        return CpuTiming(sum(parts.values()), parts, 0.0, experts, copies, self.loaded)

    def output(self):
        raise AssertionError

    def close(self) -> None:
        pass


class PlantedRunner:
    """Runs nothing."""

    device = "planted"

    def __init__(self, noise: float = 0.03, slow=lambda: 1.0, stop_after: int | None = None) -> None:
        self.noise, self.slow, self.left = noise, slow, stop_after

    def prepare(self, case: Case, ids=None) -> PlantedRun:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return PlantedRun(case, ids, self.noise, self.slow)


def opened(**how):
    """What `calibrate_cpu` opens runners with."""
    return lambda _backing: nullcontext(PlantedRunner(**how))
