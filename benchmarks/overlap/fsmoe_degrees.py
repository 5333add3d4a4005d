"""Numbers of chunks of FSMoE's 1458 layers: by trying all, and by the paper's SLSQP on its closed form.

    python benchmarks/overlap/fsmoe_degrees.py   # two minutes

Prints process time per layer of both, how often they agree, and what the paper's choice costs.
Also prints Table 2's 64 operations by printed, corrected and held-out constants.
"""

from __future__ import annotations

import time

import numpy as np
from scipy.optimize import minimize

from moesim.overlap import (
    CORRECTED,
    PRINTED,
    LayerSeconds,
    grid,
    layer_of,
    layer_seconds,
    path_seconds,
    schedule_seconds,
)
from moesim.systems.fsmoe_table import cells, fitted_bed, held_out_seconds

FIELDS = tuple(LayerSeconds.__dataclass_fields__)
DEGREES = range(1, 33)
#: SLSQP takes too long for all of them.
EVERY = 9


def one(layers: LayerSeconds, i: int) -> LayerSeconds:
    return LayerSeconds(**{name: float(getattr(layers, name)[i]) for name in FIELDS})


def by_slsqp(layer: LayerSeconds) -> int:
    """Each path alone, where it is the longest of the four; then the best whole number beside."""
    found = []
    for path in range(4):
        limits = [
            {
                "type": "ineq",
                "fun": lambda d, p=path, q=q: float(
                    (path_seconds(layer, d[0])[p] - path_seconds(layer, d[0])[q]) * 1e3
                ),
            }
            for q in range(4)
            if q != path
        ]
        answer = minimize(
            lambda d, p=path: float(path_seconds(layer, d[0])[p] * 1e3),
            [2.0],
            method="SLSQP",
            bounds=[(1.0, 32.0)],
            constraints=limits,
        )
        found += [int(np.floor(answer.x[0])), int(np.ceil(answer.x[0]))]
    found = [min(max(d, 1), 32) for d in found]
    return min(found, key=lambda d: float(path_seconds(layer, d).max()))


def degrees() -> None:
    for bed, lengths in (("A", (512, 1024, 2048)), ("B", (256, 512, 1024))):
        forward, back = layer_of(grid(lengths), fitted_bed(bed))
        for phase, layers in (("forward", forward), ("backward", back)):
            began = time.process_time()
            exact = layer_seconds(layers, "fsmoe", DEGREES)
            each = (time.process_time() - began) / len(exact.degree)
            places = range(0, len(exact.degree), EVERY)
            began = time.process_time()
            chosen = [by_slsqp(one(layers, i)) for i in places]
            slow = (time.process_time() - began) / len(chosen)
            at = [
                float(schedule_seconds(one(layers, i), "fsmoe", d))
                for i, d in zip(places, chosen, strict=True)
            ]
            loss = np.array(at) / exact.seconds[::EVERY] - 1.0
            same = np.mean(np.array(chosen) == exact.degree[::EVERY])
            print(
                f"bed {bed} {phase:8s}  all 32: {1e6 * each:7.1f} us a layer   SLSQP: {1e6 * slow:9.1f} us   "
                f"same degree {same:5.1%}   its choice costs {loss.mean():.2%}, at most {loss.max():.1%}"
            )
        ours = [layer_seconds(part, "fsmoe").degree for part in (forward, back)]
        print(
            f"bed {bed}: {int((ours[0] != ours[1]).sum())} of {len(ours[0])} layers "
            "want another degree backward"
        )


def operations() -> None:
    def error(ours: float, theirs: float) -> float:
        return abs(ours - theirs) / theirs if theirs else abs(ours)

    ways = {
        "printed": lambda c: c.model_seconds(PRINTED[c.bed]),
        "corrected": lambda c: c.model_seconds(CORRECTED[c.bed]),
        "from the other model": held_out_seconds,
    }
    for name, way in ways.items():
        errors = np.array([error(way(c), c.seconds) for c in cells()])
        some = np.array([error(way(c), c.seconds) for c in cells() if c.seconds])
        print(
            f"64 operations, {name:20s} median {np.median(errors):.1%} "
            f"(without the 4 zeros {np.median(some):.1%}), "
            f"90 % within {np.percentile(errors, 90):.0%}"
        )
    for operation in dict.fromkeys(c.operation for c in cells()):
        some = [
            error(held_out_seconds(c), c.seconds) for c in cells() if c.operation == operation and c.seconds
        ]
        print(f"    {operation:15s} from the other model: median {np.median(some):.1%}")


if __name__ == "__main__":
    operations()
    degrees()
