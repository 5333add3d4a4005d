"""What a peer costs in an all-to-all over EFA, as a power of the message: fitted on 16 to 128 GPUs.

Judged on 256. The data are those of github.com/crazyguitar/aws-gpu-communication-benchmark (CC BY 4.0,
data/nccl_alltoall.csv): nccl-tests on p5.48xlarge, eight H100 and 400 Gb/s for each, algorithm bandwidth
out of place and in place.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from moesim.fabric import EFA, PEER_S, PeerCost, all_to_all
from moesim.hardware import load_hardware

DATA = Path(__file__).with_name("efa_all_to_all.csv")
#: GPUs that are only judged.
HELD_OUT = 256


def measured() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """GPUs, bytes of each, and seconds (geometric mean of both ways)."""
    with DATA.open(encoding="utf-8", newline="") as file:
        lines = [{k: float(v) for k, v in line.items()} for line in csv.DictReader(file)]
    gpus = np.array([line["gpus"] for line in lines]).astype(int)
    size = np.array([line["size_mb"] for line in lines]) * 2.0**20
    rate = np.sqrt([line["out_gb_per_s"] * line["in_gb_per_s"] for line in lines]) * 1e9
    return gpus, size, size / rate


def modelled(cost: PeerCost | float) -> np.ndarray:
    """Seconds of each measured exchange."""
    gpus, size, _ = measured()
    machines = {n: load_hardware("h100-sxm-8", nodes=int(n) // 8) for n in set(gpus.tolist())}
    return np.array(
        [
            float(all_to_all(machines[n], int(n), s, "flat", message_s=cost))
            for n, s in zip(gpus, size, strict=True)
        ]
    )


def fit() -> PeerCost:
    """Least squares of logarithms, all but the largest group."""
    from scipy.optimize import least_squares

    gpus, size, seconds = measured()
    # Peers pay one after the other: without any cost, and with one second each.
    free = modelled(0.0)
    peers = modelled(1.0) - free
    train = gpus < HELD_OUT

    def off(at: np.ndarray) -> np.ndarray:
        ours = free + peers * PeerCost(float(np.exp(at[0])), float(at[1]))(size / gpus)
        return np.asarray(np.log(ours / seconds)[train])

    found = least_squares(off, [np.log(5e-6), 0.5]).x
    return PeerCost(float(np.exp(found[0])), float(found[1]))


def main() -> None:
    """Print the fit, and errors by number of GPUs."""
    gpus, _, seconds = measured()
    found = fit()
    print(f"{found.seconds_at_mb * 1e6:.1f} us at 1 MB, power {found.power:.2f}")
    for name, cost in (("links", 0.0), ("2 us a peer", PEER_S), ("fitted", found), ("shipped", EFA)):
        error = np.abs(modelled(cost) / seconds - 1.0)
        by = ", ".join(
            f"{n}: {np.median(error[gpus == n]):.1%} (at most {error[gpus == n].max():.0%})"
            for n in np.unique(gpus)
        )
        print(f"{name:12s} {by}")


if __name__ == "__main__":
    main()
