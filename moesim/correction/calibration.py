"""What measured serving runs taught: constants, effects beyond physics, and how far off answers are.

An answer's interval is its prediction times two factors. They are quantiles of what was left of held-out
runs, in units of the error to be expected there: of other sweeps of a measured layout, of layouts, of
whole systems or of whole models that were not (split-conformal prediction by group; Lei et al.,
Distribution-Free Predictive Inference for Regression, JASA 2018, section 5.2 for the units).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.correction.features import CATEGORIES, Identity
from moesim.correction.process import Process
from moesim.engine.traits import Traits

Array = npt.NDArray[np.float64]

#: How new a configuration is, from the best known to the least.
NOVELTY = ("layout known", "layout new", "system new", "model new", "all new")
METRICS = ("tpot", "ttft", "e2el")
#: The metric whose expected error stands for that of another.
_SCALE_OF = {"tpot": "tpot", "ttft": "ttft", "e2el": "tpot"}
_WHY = {
    "layout new": "no measured run has this layout",
    "system new": "no measured run has this model on this device with this engine",
    "model new": "no measured run is of this model with this engine",
    "all new": "no measured run is like this model, device and engine",
}


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
    """

    tpot_factor: Array
    ttft_factor: Array
    spans: Mapping[str, tuple[Array, Array]]
    novelty: str
    known_system: bool = True

    @property
    def why(self) -> str:
        """Why the interval is wide; empty if it is not."""
        return _WHY.get(self.novelty, "")


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Effects and errors of one family of deployments: mixtures, dense models, disaggregated ones.

    Parameters
    ----------
    tpot, ttft
        Logarithm of measured over physical.
    scales
        By metric, the logarithm of the error to be expected.
    quantiles
        By whether the campaign is known (``"campaign"``, ``"anonymous"``), novelty and metric: the lower
        and upper quantile of residuals in units of the expected error.
    """

    tpot: Process
    ttft: Process
    scales: Mapping[str, Process]
    quantiles: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]
    _seen: tuple[frozenset[tuple[int, ...]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Columns of a layout and of a system, in the order of `CATEGORIES`.
        rows = [tuple(int(c) for c in row) for row in self.tpot.codes]
        seen = (
            frozenset((r[0], r[1], r[2], r[3], r[6]) for r in rows),
            frozenset((r[0], r[1], r[2]) for r in rows),
            frozenset((r[0], r[2]) for r in rows),
        )
        object.__setattr__(self, "_seen", seen)

    def novelty_of(self, identity: Identity) -> str:
        """How new a deployment is."""
        return self._novelty(tuple(int(c) for c in self.tpot.encode([identity.labels()])[0]))

    def _novelty(self, c: tuple[int, ...]) -> str:
        layouts, systems, models = self._seen
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
            Whether kernels of the device, or of a near relative, were measured: all machines in the
            calibration have them, so that its errors on new machines are not those of others.
        """
        codes, values = self._queries(identity, input_len, output_len, concurrency)
        novelty = self._novelty(tuple(codes[0].tolist())) if kernels else NOVELTY[-1]
        quantiles = self.quantiles["campaign" if identity.campaign else "anonymous"][novelty]
        scales = {name: np.exp(process.mean(codes, values)) for name, process in self.scales.items()}
        spans = {}
        for metric in METRICS:
            low, high = quantiles[metric]
            scale = scales[_SCALE_OF[metric]]
            spans[metric] = (np.exp(low * scale), np.exp(high * scale))
        return Corrected(
            np.exp(self.tpot.mean(codes, values)),
            np.exp(self.ttft.mean(codes, values)),
            spans,
            novelty,
            bool(codes[0, CATEGORIES.index("system")] >= 0),
        )

    def factors(
        self, identity: Identity, input_len: Array, output_len: Array, concurrency: Array
    ) -> tuple[Array, Array]:
        """The factors of `correct` alone: of TPOT, and of TTFT beyond them."""
        queries = self._queries(identity, input_len, output_len, concurrency)
        return np.exp(self.tpot.mean(*queries)), np.exp(self.ttft.mean(*queries))

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
            "schema_version": 1,
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
    processes = {"tpot": family.tpot, "ttft": family.ttft} | {
        f"{name} scale": process for name, process in family.scales.items()
    }
    return {
        "rows": family.tpot.rows_dict(),
        "processes": {name: process.effects_dict() for name, process in processes.items()},
        "quantiles": {
            known: {
                novelty: {metric: [float(f"{q:.4g}") for q in pair] for metric, pair in by_metric.items()}
                for novelty, by_metric in by_novelty.items()
            }
            for known, by_novelty in family.quantiles.items()
        },
    }


def _family(table: Mapping[str, Any]) -> Family:
    processes = {
        name: Process.from_dicts(table["rows"], effects) for name, effects in table["processes"].items()
    }
    return Family(
        processes["tpot"],
        processes["ttft"],
        {name.removesuffix(" scale"): p for name, p in processes.items() if name.endswith(" scale")},
        {
            known: {
                novelty: {metric: (pair[0], pair[1]) for metric, pair in by_metric.items()}
                for novelty, by_metric in by_novelty.items()
            }
            for known, by_novelty in table["quantiles"].items()
        },
    )
