"""What a replay with time says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.shown import bars, block, table
from moesim.tabular import Tabular


@dataclass(frozen=True, slots=True, eq=False)
class Timed(Tabular):
    """Times, counts and limits of one composition on one trace and box.

    Parameters
    ----------
    ttft_s, tpot_s, tpot_p50_s, tpot_p99_s, output_throughput
        As in `moesim.offload.latency.Latency`.
    seconds
        Of the whole replay.
    slots
        Of each pool, in experts of the widest level, ``[pools]``.
    counts
        By layer: `moesim.offload.kernel.COUNTS`, int64 ``[layers]`` each.
    bytes_moved
        By path: ``to_device from_device storage``.
    busy
        Seconds by resource: ``gpu cpu near to_device from_device storage``.
    stalls
        Seconds in which the GPU waits, by what for; with ``busy["gpu"]`` they add up to `seconds`.
    bounds
        Limits that no schedule of the same accesses on this box beats; see `moesim.offload.bounds`.
    assumptions
        What was assumed, in words.
    ends
        When each step is done, ``[steps]``.
    wall_s
        The replay itself took.
    spans
        What resources did, as `moesim.offload.given.SPANS` says; as much as was asked for, ``[spans, 5]``.
    experts_per_layer
        Experts that spans are numbered by: expert e of MoE layer l is ``l x experts_per_layer + e``.
    """

    ttft_s: float | None
    tpot_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    output_throughput: float
    seconds: float
    slots: npt.NDArray[np.int64]
    counts: Mapping[str, npt.NDArray[np.int64]]
    bytes_moved: Mapping[str, float]
    busy: Mapping[str, float]
    stalls: Mapping[str, float]
    bounds: Mapping[str, float | None]
    assumptions: tuple[str, ...]
    ends: npt.NDArray[np.float64] = field(repr=False)
    wall_s: float = 0.0
    spans: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 5)), repr=False)
    experts_per_layer: int = 1

    def total(self, name: str) -> int:
        """One of `counts` over all layers."""
        return int(self.counts[name].sum())

    @property
    def hits(self) -> int:
        """Accesses whose expert was on the device, or on its way, when the gate had run."""
        return self.total("hits")

    @property
    def accesses(self) -> int:
        """Accesses, skipped ones left out."""
        return self.total("accesses")

    @property
    def hit_ratio(self) -> float:
        """Hits over accesses."""
        return self.hits / max(self.accesses, 1)

    @property
    def loads(self) -> int:
        """Copies to the device on demand."""
        return self.total("loads")

    def columns(self) -> dict[str, Any]:
        """A row per MoE layer: counts of accesses."""
        layers = len(next(iter(self.counts.values())))
        return {"layer": np.arange(layers), **self.counts}

    def _repr_html_(self) -> str:
        rows = [
            ("TTFT, s", self.ttft_s, self.bounds.get("ttft_s")),
            ("TPOT, s", self.tpot_s, self.bounds.get("tpot_s")),
            ("TPOT p99, s", self.tpot_p99_s, None),
            ("output tokens/s", self.output_throughput, None),
            ("hit ratio", self.hit_ratio, self.bounds.get("hit_ratio")),
            ("moved, GB", sum(self.bytes_moved.values()) / 1e9, None),
        ]
        spent = {"GPU works": self.busy["gpu"], **{f"waits for {name}": s for name, s in self.stalls.items()}}
        return block(
            f"{len(self.ends):,} steps in {self.seconds:.4g} s",
            table(["metric", "replayed", "bound"], rows),
            bars([(name, s) for name, s in spent.items() if s > 0], "s"),
            notes=self.assumptions,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "tpot_p50_s": self.tpot_p50_s,
            "tpot_p99_s": self.tpot_p99_s,
            "output_throughput": self.output_throughput,
            "seconds": self.seconds,
            "hit_ratio": self.hit_ratio,
            **{name: self.total(name) for name in self.counts},
            "slots": int(self.slots.sum()),
            "slots_per_pool": self.slots.tolist(),
            "bytes_moved": dict(self.bytes_moved),
            "busy": dict(self.busy),
            "stalls": dict(self.stalls),
            "bounds": dict(self.bounds),
            "assumptions": list(self.assumptions),
            "wall_s": self.wall_s,
        }
