"""What a prediction says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesim.engine.roofline import Roofline, roofline_of
from moesim.engine.step import RESOURCES, StepTimes
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.parallelism import Parallelism
from moesim.metrics import DEFINITIONS
from moesim.shown import bars, block, span, table
from moesim.tabular import Tabular


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a breakdown of the time per output token.

    Parameters
    ----------
    op
        The operation; ``expert_imbalance`` is what the slowest rank takes beyond the mean, ``draft`` drafting
        of tokens, ``prefill`` what other requests' prefills cost, ``calibration`` what measured runs take
        beyond all that.
    seconds
        Per output token.
    bound_by
        The resource that most of it is spent on.
    """

    op: str
    seconds: float
    bound_by: str


@dataclass(frozen=True, slots=True, eq=False)
class Prediction(Tabular):
    """One configuration's answer. Names and units are those of `moesim.metrics.DEFINITIONS`.

    Parameters
    ----------
    layout
        Of the deployment; of a disaggregated one, of a worker that decodes.
    pools
        Of a disaggregated deployment.
    concurrency
        Requests in the system; on average, where they arrive at a `request_rate`.
    bounds
        Limits by metric, which no schedule beats.
    interval
        ``level`` and, by metric, the lowest and highest value expected at that level; None where no measured
        run is of such a deployment.
    calibration
        What measured runs did to the physical answer: ``tpot_factor``, ``ttft_factor``, and ``novelty``, how
        new the deployment is among them.
    running
        Requests that decode at once; fewer than `concurrency` when the cache is full.
    decode, draft_s, tokens_per_step
        A decode step of one worker: its times, those of drafting, and the tokens it yields per sequence.
    experts
        What routing does in a mean decode step: distinct experts, slots hit per rank.
    energy
        Joules per token of decode steps: ``joules_per_token`` (None where a constant is missing), ``scope``,
        ``parts`` and ``missing``; see `moesim.cost.energy`.
    """

    model: str
    hardware: str
    layout: Parallelism
    input_len: float
    output_len: float
    concurrency: float
    ttft_s: float
    tpot_s: float
    e2el_s: float
    request_throughput: float
    output_throughput: float
    total_token_throughput: float
    output_throughput_per_device: float
    memory_bytes: float
    memory_capacity_bytes: float
    load_imbalance: float | None
    running: float
    prefill_s: float
    bounds: Mapping[str, float]
    interval: Mapping[str, Any] | None
    experts: Mapping[str, float]
    memory: Mapping[str, float]
    warnings: tuple[str, ...]
    decode: StepTimes = field(repr=False)
    draft_s: float = 0.0
    tokens_per_step: float = 1.0
    calibration: Mapping[str, Any] = field(default_factory=dict)
    request_rate: float | None = None
    pools: Disaggregated | None = None
    feasible: bool = True
    energy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def devices(self) -> int:
        """Devices of the whole deployment."""
        return self.layout.world if self.pools is None else self.pools.world

    @property
    def title(self) -> str:
        """What was asked, in words."""
        requests = f"{self.concurrency:g} requests"
        if self.request_rate is not None:
            requests = f"{self.request_rate:g} requests/s ({self.concurrency:.4g} at once)"
        return (
            f"{self.model} on {self.devices} devices of {self.hardware}, {self.pools or self.layout}, "
            f"{requests} of {self.input_len:g} in and {self.output_len:g} out"
        )

    @property
    def breakdown(self) -> tuple[Line, ...]:
        """Where the time of an output token goes, longest first; the lines sum to `tpot_s`."""
        step_s = float(self.decode.seconds[0])
        lines = [
            Line(
                entry.op, float(entry.seconds[0]), max(entry.shares, key=lambda r: float(entry.shares[r][0]))
            )
            for entry in self.decode.entries()
        ]
        if self.decode.groups:
            wait = self._waiting_s
            lines = [
                Line(line.op, line.seconds - wait, line.bound_by) if line.op == "experts" else line
                for line in lines
            ]
            lines.append(Line("expert_imbalance", wait, "imbalance"))
        hidden = step_s - sum(line.seconds for line in lines)
        if hidden < -1e-9:
            lines.append(Line("overlap", hidden, "overlap"))
        lines.append(Line("draft", self.draft_s, "draft"))
        # A step yields several tokens where drafts are accepted.
        lines = [Line(line.op, line.seconds / self.tokens_per_step, line.bound_by) for line in lines]
        physical = self.tpot_s / self.calibration.get("tpot_factor", 1.0)
        lines.append(Line("prefill", physical - (step_s + self.draft_s) / self.tokens_per_step, "prefill"))
        lines.append(Line("calibration", self.tpot_s - physical, "calibration"))
        return tuple(sorted((line for line in lines if line.seconds != 0.0), key=lambda line: -line.seconds))

    @property
    def bottleneck(self) -> tuple[tuple[str, float], ...]:
        """Share of the physical time per output token by resource, largest first.

        ``imbalance`` is waiting for the slowest rank, ``prefill`` other requests' prefills, ``draft`` the
        drafting of tokens. With overlap the shares are those of the work before it is hidden.
        """
        sums = dict.fromkeys(RESOURCES, 0.0)
        for entry in self.decode.entries():
            for resource, seconds in entry.shares.items():
                sums[resource] += float(seconds[0])
        wait = self._waiting_s
        # The slowest rank's work was counted by resource; what exceeds the mean is imbalance.
        experts = next((e for e in self.decode.entries() if e.op == "experts"), None)
        if experts is not None and wait:
            total = float(experts.seconds[0])
            for resource, seconds in experts.shares.items():
                sums[resource] -= wait * float(seconds[0]) / total
        sums["imbalance"] = wait
        sums["draft"] = self.draft_s
        sums["prefill"] = self.tokens_per_step * max(
            (line.seconds for line in self.breakdown if line.op == "prefill"), default=0.0
        )
        whole = sum(sums.values())
        shares = [(name, value / whole) for name, value in sums.items() if value > 0]
        return tuple(sorted(shares, key=lambda item: -item[1]))

    @property
    def roofline(self) -> Roofline:
        """Operations of a mean decode step on one rank, under the roofs of the device."""
        return roofline_of(self.decode)

    @property
    def _waiting_s(self) -> float:
        """Seconds of a step in which ranks wait for the one with most expert work."""
        if not self.decode.groups:
            return 0.0
        return float(self.decode.expert_mean("experts_s")[0] - self.decode.expert_mean("balanced_s")[0])

    def columns(self) -> dict[str, list[Any]]:
        """A row per metric: value, interval and bound, in the metric's unit."""
        spans = [(self.interval or {}).get(name, (None, None)) for name in DEFINITIONS]
        return {
            "metric": list(DEFINITIONS),
            "unit": [unit for unit, _ in DEFINITIONS.values()],
            "value": [getattr(self, name) for name in DEFINITIONS],
            "low": [low for low, _ in spans],
            "high": [high for _, high in spans],
            "bound": [self.bounds.get(name) for name in DEFINITIONS],
        }

    def _repr_html_(self) -> str:
        interval = self.interval or {}
        level = f"{interval['level']:.0%} interval" if interval else "no interval"
        rows = [
            (
                words,
                getattr(self, name) * scale,
                span(interval.get(name), scale),
                self.bounds[name] * scale if name in self.bounds else None,
            )
            for words, name, scale in _SHOWN
        ]
        spent = [(line.op, line.seconds * 1e3) for line in self.breakdown if line.seconds > 0]
        few = spent[:6] + ([("the rest", sum(ms for _, ms in spent[6:]))] if spent[6:] else [])
        return block(
            self.title,
            table(["metric", "predicted", level, "bound"], rows),
            bars(few, "ms of TPOT"),
            notes=self.warnings,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "feasible": self.feasible,
            "model": self.model,
            "hardware": self.hardware,
            "layout": _degrees(self.layout),
            "pools": None
            if self.pools is None
            else {
                name: {"workers": pool.count, "layout": _degrees(pool.layout)}
                for name, pool in (("prefill", self.pools.prefill), ("decode", self.pools.decode))
            },
            "devices": self.devices,
            "input_len": self.input_len,
            "output_len": self.output_len,
            "concurrency": self.concurrency,
            "request_rate": self.request_rate,
            "running": self.running,
            **{name: getattr(self, name) for name in DEFINITIONS},
            "memory": dict(self.memory),
            "experts": dict(self.experts),
            "bounds": dict(self.bounds),
            "interval": None if self.interval is None else dict(self.interval),
            "calibration": dict(self.calibration),
            "energy": dict(self.energy),
            "tokens_per_step": self.tokens_per_step,
            "bottleneck": [{"resource": name, "share": share} for name, share in self.bottleneck],
            "breakdown": [
                {"op": line.op, "seconds": line.seconds, "bound_by": line.bound_by} for line in self.breakdown
            ],
            "roofline": self.roofline.to_dict(),
            "warnings": list(self.warnings),
        }


#: Words, metric and scale of what is shown at once.
_SHOWN = (
    ("TTFT, ms", "ttft_s", 1e3),
    ("TPOT, ms", "tpot_s", 1e3),
    ("end to end, s", "e2el_s", 1.0),
    ("output tokens/s", "output_throughput", 1.0),
    ("output tokens/s per device", "output_throughput_per_device", 1.0),
    ("memory per device, GB", "memory_bytes", 1e-9),
)


def _degrees(layout: Parallelism) -> dict[str, int]:
    return {n: getattr(layout, n) for n in ("tp", "pp", "dp", "ep", "moe_tp", "world")}


def first(values: np.ndarray[Any, Any] | float) -> float:
    """The only value of an array of one, or a number itself."""
    return float(np.asarray(values).reshape(-1)[0])
