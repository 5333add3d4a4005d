"""What measured serving runs taught: constants, effects beyond physics, and how far off answers are.

How far effects are believed depends on how new a deployment is: between layouts of one deployment they hold,
for an unseen model physics alone may be better.

An answer's interval is its prediction times two factors. They are quantiles of what was left of held-out
runs, in units of the error to be expected there: of other sweeps of a measured layout, of layouts, of
whole systems or of whole models that were not (split-conformal prediction by group; Lei et al.,
Distribution-Free Predictive Inference for Regression, JASA 2018, section 5.2 for the units).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.correction.features import CATEGORIES, VALUES, Identity
from moesim.correction.process import Process
from moesim.engine.traits import Traits

Array = npt.NDArray[np.float64]

#: How new a configuration is, from the best known to the least.
NOVELTY = ("layout known", "layout new", "system new", "model new", "all new")
METRICS = ("tpot", "ttft", "e2el")
#: Whether other runs of a configuration's campaign are known, which share what nobody recorded.
CAMPAIGN, ANONYMOUS = "campaign", "anonymous"
#: The metric whose expected error stands for that of another.
SCALE_OF = {"tpot": "tpot", "ttft": "ttft", "e2el": "tpot"}
#: Values that a load may have outside of all training rows, in words.
_RANGES = {
    "concurrency": "concurrency",
    "input": "prompts",
    "output": "outputs",
    "devices": "numbers of devices",
}
_WHY = {
    "layout new": "no measured run has this layout",
    "system new": "no measured run has this model on this device with this engine",
    "model new": "no measured run is of this model with this engine",
    "all new": "no measured run is like this model, device and engine",
}


@dataclass(frozen=True, slots=True)
class Span:
    """An interval around a prediction, in logarithm.

    Parameters
    ----------
    strength
        Power of the expected error that its ends are in units of; 0 if all rows have one width.
    low, high
        Its ends.
    """

    strength: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Corrected:
    """What is known of some loads of one deployment; arrays are ``[loads]``.

    Parameters
    ----------
    tpot_factor, ttft_factor
        Measured over physical; the second beyond what the first does to TTFT.
    spans
        By metric, lowest and highest over predicted.
    novelty
        One of `NOVELTY`.
    known_system
        Whether any measured run is on this device.
    beyond
        What of the loads is outside of all that was measured; empty if nothing is.
    """

    tpot_factor: Array
    ttft_factor: Array
    spans: Mapping[str, tuple[Array, Array]]
    novelty: str
    known_system: bool = True
    beyond: str = ""

    def lowered(self, by: Array) -> Corrected:
        """The same with lower ends of TPOT and end-to-end latency that are `by` times as high."""
        if np.all(by == 1.0):
            return self
        spans = {
            metric: (low * by if metric != "ttft" else low, high)
            for metric, (low, high) in self.spans.items()
        }
        return replace(self, spans=spans)

    @property
    def why(self) -> str:
        """Why the interval is wide; empty if it is not."""
        why = [_WHY[self.novelty]] if self.novelty in _WHY else []
        if self.beyond:
            why.append(f"no measured run has such {self.beyond}")
        return "; ".join(why)


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Effects and errors of one family of deployments: mixtures, dense models, disaggregated ones.

    Parameters
    ----------
    tpot, ttft
        Logarithm of measured over physical.
    scales
        By novelty and metric, the logarithm of the error to be expected.
    spans
        By whether the campaign is known (``"campaign"``, ``"anonymous"``), novelty and metric.
    trust
        By whether the campaign is known and novelty, the shares of TPOT's and TTFT's effects that are
        believed.
    """

    tpot: Process
    ttft: Process
    scales: Mapping[str, Mapping[str, Process]]
    spans: Mapping[str, Mapping[str, Mapping[str, Span]]]
    trust: Mapping[str, Mapping[str, tuple[float, float]]]
    _seen: tuple[frozenset[tuple[int, ...]], ...] = field(init=False, repr=False)
    _range: Mapping[str, tuple[float, float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Columns of a layout and of a system, in the order of `CATEGORIES`.
        rows = [tuple(int(c) for c in row) for row in self.tpot.codes]
        seen = (
            frozenset((r[0], r[1], r[2], r[3], r[6]) for r in rows),
            frozenset((r[0], r[1], r[2]) for r in rows),
            frozenset((r[0], r[2]) for r in rows),
            frozenset((r[0], r[2], r[5]) for r in rows),
        )
        object.__setattr__(self, "_seen", seen)
        columns = {name: self.tpot.values[:, VALUES.index(name)] for name in _RANGES}
        ends = {name: (float(np.nanmin(v)), float(np.nanmax(v))) for name, v in columns.items()}
        object.__setattr__(self, "_range", ends)

    def novelty_of(self, identity: Identity) -> str:
        """How new a deployment is."""
        return self._novelty(tuple(int(c) for c in self.tpot.encode([identity.labels()])[0]))

    def _novelty(self, c: tuple[int, ...], kernels: bool = True) -> str:
        layouts, systems, models, _ = self._seen
        if not kernels and c[1] < 0:
            return NOVELTY[-1]
        if (c[0], c[1], c[2], c[3], c[6]) in layouts:
            return "layout known"
        if (c[0], c[1], c[2]) in systems:
            return "layout new"
        if (c[0], c[2]) in models:
            return "system new"
        return "model new" if c[1] >= 0 else "all new"

    def correct(
        self,
        identity: Identity,
        input_len: Array,
        output_len: Array,
        concurrency: Array,
        *,
        kernels: bool = True,
    ) -> Corrected:
        """Factors and intervals for loads of a deployment.

        Parameters
        ----------
        identity
            What the deployment is.
        input_len, output_len, concurrency
            Of every load, ``[loads]``.
        kernels
            Whether kernels of the device were measured: all machines in the calibration have them, so that
            its errors on new machines are not those of others.
        """
        codes, values = self._queries(identity, input_len, output_len, concurrency)
        novelty = self._novelty(tuple(codes[0].tolist()), kernels)
        beyond = self._beyond(values)
        width = NOVELTY[-1] if beyond else novelty
        known = self._known(codes[0])
        spans = self.spans[known][width]
        scales = {
            metric: process.mean(codes, values)
            for metric, process in self.scales[width].items()
            if any(spans[m].strength for m in METRICS if SCALE_OF[m] == metric)
        }
        found = {}
        for metric, span in spans.items():
            unit = np.exp(span.strength * scales[SCALE_OF[metric]]) if span.strength else np.ones(len(values))
            found[metric] = (np.exp(span.low * unit), np.exp(span.high * unit))
        return Corrected(
            *self._factors(self.trust[known][novelty], codes, values),
            found,
            novelty,
            bool(codes[0, CATEGORIES.index("system")] >= 0),
            beyond,
        )

    def factors(
        self,
        identity: Identity,
        input_len: Array,
        output_len: Array,
        concurrency: Array,
        *,
        kernels: bool = True,
    ) -> tuple[Array, Array]:
        """The factors of `correct` alone: of TPOT, and of TTFT beyond them."""
        codes, values = self._queries(identity, input_len, output_len, concurrency)
        novelty = self._novelty(tuple(codes[0].tolist()), kernels)
        return self._factors(self.trust[self._known(codes[0])][novelty], codes, values)

    def _beyond(self, values: Array) -> str:
        """What is more than an octave outside of all training rows; empty if nothing is."""
        found = []
        for name, what in _RANGES.items():
            low, high = self._range[name]
            own = values[:, VALUES.index(name)]
            if own.min() < low - 1.0 or own.max() > high + 1.0:
                found.append(f"{what} (measured: {2.0**low:.4g} to {2.0**high:.4g})")
        return " and ".join(found)

    def _known(self, code: npt.NDArray[np.int64]) -> str:
        """Whether runs of a deployment's campaign were seen: of this model on this engine."""
        model, _, backend, _, _, campaign, *_ = code.tolist()
        return CAMPAIGN if (model, backend, campaign) in self._seen[3] else ANONYMOUS

    def _factors(
        self, trust: tuple[float, float], codes: npt.NDArray[np.int64], values: Array
    ) -> tuple[Array, Array]:
        tpot, ttft = (
            np.exp(share * process.mean(codes, values)) if share else np.ones(len(values))
            for share, process in zip(trust, (self.tpot, self.ttft), strict=True)
        )
        return tpot, ttft

    def _queries(
        self, identity: Identity, input_len: Array, output_len: Array, concurrency: Array
    ) -> tuple[npt.NDArray[np.int64], Array]:
        values = identity.values(input_len, output_len, concurrency)
        return np.repeat(self.tpot.encode([identity.labels()]), len(values), axis=0), values


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Everything that was learnt from serving runs.

    Parameters
    ----------
    traits
        Engines' constants, by backend.
    families
        By ``moe``, ``dense`` and ``disaggregated``.
    level
        Of the intervals.
    provenance
        Rows, sources and errors of the fit.
    """

    traits: Mapping[str, Traits]
    families: Mapping[str, Family]
    level: float = 0.9
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def family_of(self, identity: Identity, moe: bool) -> Family | None:
        """The family of a deployment."""
        if identity.prefill is not None:
            return self.families.get("disaggregated")
        return self.families.get("moe" if moe else "dense")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, written so that a fit to the same rows gives the same text."""
        return {
            "schema_version": 3,
            "level": self.level,
            "provenance": dict(self.provenance),
            "traits": {
                name: {f.name: float(f"{getattr(t, f.name):.4g}") for f in fields(t)}
                for name, t in self.traits.items()
            },
            "families": {name: _family_dict(family) for name, family in self.families.items()},
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` described."""
        return cls(
            {name: Traits(**t) for name, t in table["traits"].items()},
            {name: _family(t) for name, t in table["families"].items()},
            float(table["level"]),
            table["provenance"],
        )


def _family_dict(family: Family) -> dict[str, Any]:
    scales = {
        f"{novelty}: {metric}": process
        for novelty, by_metric in family.scales.items()
        for metric, process in by_metric.items()
    }
    return {
        "rows": family.tpot.rows_dict(),
        "processes": {
            name: process.effects_dict()
            for name, process in {"tpot": family.tpot, "ttft": family.ttft, **scales}.items()
        },
        "trust": {
            known: {
                novelty: [float(f"{share:.4g}") for share in pair] for novelty, pair in by_novelty.items()
            }
            for known, by_novelty in family.trust.items()
        },
        "spans": {
            known: {
                novelty: {
                    metric: [float(f"{value:.4g}") for value in (span.strength, span.low, span.high)]
                    for metric, span in by_metric.items()
                }
                for novelty, by_metric in by_novelty.items()
            }
            for known, by_novelty in family.spans.items()
        },
    }


def _family(table: Mapping[str, Any]) -> Family:
    processes = {
        name: Process.from_dicts(table["rows"], effects) for name, effects in table["processes"].items()
    }
    scales: dict[str, dict[str, Process]] = {novelty: {} for novelty in NOVELTY}
    for name, process in processes.items():
        if ": " in name:
            novelty, metric = name.split(": ")
            scales[novelty][metric] = process
    return Family(
        processes["tpot"],
        processes["ttft"],
        scales,
        {
            known: {
                novelty: {metric: Span(*values) for metric, values in by_metric.items()}
                for novelty, by_metric in by_novelty.items()
            }
            for known, by_novelty in table["spans"].items()
        },
        {
            known: {novelty: (pair[0], pair[1]) for novelty, pair in by_novelty.items()}
            for known, by_novelty in table["trust"].items()
        },
    )
