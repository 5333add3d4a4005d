"""Capacity factors that drop no token, from recorded loads of models with 64 experts.

python benchmarks/training/capacity.py [FOLDER]

The folder is that of the shared traces (default: MOESIM_SHARED, else ../shared/data). Rows of MegaBlocks take
the mean over layers of OLMoE on C4.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from moesim.trace import load_trace

FILES = (
    "olmoe-counts/raw/olmoe_expert_counts_c4.pkl",
    "esft-deepseek-v2-lite/summary.npz",
    "esft-deepseek-v2-lite/intent.npz",
)


def main():
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("MOESIM_SHARED", "../shared/data"))
    for name in FILES:
        loads = load_trace(shared / "traces" / name).load_counts().totals
        factors = loads.max(axis=1) / loads.mean(axis=1)
        print(f"{name}: {len(factors)} layers, mean {factors.mean():.2f}, largest {factors.max():.2f}")


if __name__ == "__main__":
    main()
