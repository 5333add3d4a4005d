"""What one core reaches at best: large products; reading, writing and copying more than caches hold."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from moesim.calibrate.reference.laws import Ceilings

#: Rows and columns of the product; bytes that are read and written.
PRODUCT, BYTES = 1536, 192 * 2**20
REPEATS = 5


def ceilings(clock: Callable[[], int] = time.thread_time_ns) -> Ceilings:
    """Measure the ceilings of the core this thread runs on; BLAS must have been given one thread.

    Parameters
    ----------
    clock
        Nanoseconds; the thread's CPU time, so that other processes do not count.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((PRODUCT, PRODUCT), dtype=np.float32) for _ in range(2))
    c = np.empty_like(a)
    here = np.ones(BYTES // 4, np.float32)
    there = np.zeros_like(here)

    def rate(work: Callable[[], object], amount: float) -> float:
        work()
        best = float("inf")
        for _ in range(REPEATS):
            begun = clock()
            work()
            best = min(best, (clock() - begun) * 1e-9)
        return amount / max(best, 1e-9)

    product = rate(lambda: np.matmul(a, b, out=c), 2.0 * PRODUCT**3)
    return Ceilings(
        # Numbers in 16 bits are widened and multiplied in 32.
        {"fp32": product, "bf16": product},
        rate(lambda: np.dot(here, here), BYTES),
        rate(lambda: there.fill(1.0), BYTES),
        rate(lambda: np.copyto(there, here), BYTES),
    )
