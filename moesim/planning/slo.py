"""Promises of latency, as people write them: ``--goodput ttft:500 tpot:50``, and those of MLPerf by name.

MLPerf Inference asks for the 99th percentile of TTFT and that of TPOT separately. A request counts here only
if it meets both, so that a plan for a preset is on the safe side of the benchmark by up to one request in a
hundred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesim.errors import ConfigError, Fault, nearest
from moesim.planning.types import Slo

#: Metrics that may be limited: as ``vllm bench serve --goodput`` spells them, and as they are named here.
METRICS: Mapping[str, str] = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "e2el_s"}

#: Share of requests that must meet the limits, if nobody says: the percentile of MLPerf's server scenario.
ATTAINMENT = 0.99

_LOADGEN = (
    "mlcommons/inference@001712e loadgen/mlperf.conf, <model>.Server.{ttft,tpot}_latency, "
    "*.Server.target_latency_percentile = 99"
)
_RULES = "mlcommons/inference_policies inference_rules.adoc, as of 2026-07-23 (Inference v6.0)"
#: Milliseconds of a second: dividing by it is exact where multiplying by its inverse is not.
_MS = 1e3
#: Beyond a year a limit is a slip.
_MOST_MS = 3.2e10


@dataclass(frozen=True, slots=True)
class Preset:
    """Limits that a benchmark sets.

    Parameters
    ----------
    ttft_ms, tpot_ms
        99th percentiles, in milliseconds as the benchmark has them.
    model
        Catalogue name of the model it is for; any may be planned with it.
    since
        Round of MLPerf Inference that brought it.
    source
        Where the numbers are.
    """

    ttft_ms: float
    tpot_ms: float
    model: str
    since: str
    source: str

    def slo(self, name: str) -> Slo:
        """The promise."""
        return Slo({"ttft_s": self.ttft_ms / _MS, "tpot_s": self.tpot_ms / _MS}, ATTAINMENT, name)


#: By name. LoadGen's later ``gpt-oss-120b-interactive.Server.tpot_latency`` is said to be 15 ms where the
#: rules have 20; the rules are followed.
PRESETS: Mapping[str, Preset] = {
    "mlperf-llama2-70b-server": Preset(2000, 200, "llama-2-70b", "v4.0", _LOADGEN),
    "mlperf-llama2-70b-interactive": Preset(450, 40, "llama-2-70b", "v5.0", _LOADGEN),
    "mlperf-mixtral-8x7b-server": Preset(2000, 200, "mixtral-8x7b", "v4.1", _LOADGEN),
    "mlperf-llama3.1-405b-server": Preset(6000, 175, "llama-3.1-405b", "v5.0", _LOADGEN),
    "mlperf-llama3.1-405b-interactive": Preset(4500, 80, "llama-3.1-405b", "v5.1", _LOADGEN),
    "mlperf-llama3.1-8b-server": Preset(2000, 100, "llama-3.1-8b", "v5.1", _LOADGEN),
    "mlperf-llama3.1-8b-interactive": Preset(500, 30, "llama-3.1-8b", "v5.1", _LOADGEN),
    "mlperf-deepseek-r1-server": Preset(2000, 80, "deepseek-r1", "v5.1", _LOADGEN),
    "mlperf-deepseek-r1-interactive": Preset(1500, 15, "deepseek-r1", "v6.0", _LOADGEN),
    "mlperf-gpt-oss-120b-server": Preset(3000, 80, "gpt-oss-120b", "v6.0", _RULES),
    "mlperf-gpt-oss-120b-interactive": Preset(2000, 20, "gpt-oss-120b", "v6.0", _RULES),
}


def parse_slo(goodput: Sequence[str] = (), preset: str | None = None, attainment: float | None = None) -> Slo:
    """A promise from options.

    Parameters
    ----------
    goodput
        ``METRIC:MILLISECONDS`` each, as `vllm bench serve` takes them; several may stand in one text. They
        take the place of the preset's limits of the same metrics.
    preset
        One of `PRESETS`.
    attainment
        Share of requests that must meet all limits; 0.99, or the preset's, if not given.

    Raises
    ------
    ConfigError
        With every fault.

    Examples
    --------
    >>> parse_slo(["ttft:500 tpot:50"], attainment=0.95)
    Slo(limits={'ttft_s': 0.5, 'tpot_s': 0.05}, attainment=0.95, name='')
    >>> parse_slo(preset="mlperf-deepseek-r1-interactive", goodput=["e2el:60000"]).limits
    {'ttft_s': 1.5, 'tpot_s': 0.015, 'e2el_s': 60.0}
    """
    faults: list[Fault] = []
    base = Slo({}, ATTAINMENT)
    if preset is not None:
        if preset in PRESETS:
            base = PRESETS[preset].slo(preset)
        else:
            faults.append(Fault("is no preset", "--slo", preset, _allowed(preset, PRESETS)))
    limits: dict[str, float] = {}
    for text in goodput:
        for part in text.split() or [text]:
            _limit(part, limits, faults)
    if not goodput and preset is None:
        faults.append(Fault("says what is promised", "--goodput or --slo", None, "as in ttft:500 tpot:50"))
    if attainment is not None and not 0 < attainment <= 1:
        faults.append(Fault("is a share of requests", "--attainment", attainment, "above 0, up to 1"))
    if faults:
        raise ConfigError(faults)
    share = base.attainment if attainment is None else attainment
    whole = {**base.limits, **limits}
    # With other limits it is no longer the benchmark's.
    own = any(whole[metric] != limit for metric, limit in base.limits.items()) or share != base.attainment
    return Slo(whole, share, "" if own else base.name)


def describe(slo: Slo) -> str:
    """The promise in words.

    >>> describe(parse_slo(["ttft:500", "tpot:50"]))
    'TTFT 500 ms and TPOT 50 ms for 99 % of requests'
    """
    limits = [f"{name[:-2].upper()} {value * _MS:g} ms" for name, value in slo.limits.items()]
    named = f" ({slo.name})" if slo.name else ""
    return f"{' and '.join(limits)} for {slo.attainment * 100:g} % of requests{named}"


def _limit(part: str, limits: dict[str, float], faults: list[Fault]) -> None:
    name, colon, number = part.partition(":")
    if not colon:
        faults.append(Fault("is no METRIC:MILLISECONDS", "--goodput", part, "as in ttft:500 tpot:50"))
        return
    if name not in METRICS:
        faults.append(Fault("is no metric", "--goodput", part, _allowed(name, METRICS)))
        return
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MOST_MS:
        faults.append(Fault("is no number of milliseconds", "--goodput", part, "above 0, and finite"))
    elif METRICS[name] in limits:
        faults.append(Fault("limits the same metric again", "--goodput", part, "each metric once"))
    else:
        limits[METRICS[name]] = value / _MS


def _allowed(name: str, known: Mapping[str, object]) -> str:
    near = nearest(name, known, 1)
    return (f"nearest: {near[0]}; " if near else "") + ", ".join(known)
