"""What a row of results may say."""

from __future__ import annotations

from collections.abc import Mapping

from moesim.metrics import DEFINITIONS

#: What became of a configuration: answered; it cannot be had; it makes no sense; moesim failed; its process
#: was killed again and again.
OK, INFEASIBLE, INVALID, ERROR, KILLED = "ok", "infeasible", "invalid", "error", "killed"
STATUSES = (OK, INFEASIBLE, INVALID, ERROR, KILLED)
#: Evaluated again when a study is continued.
FAILED = (ERROR, KILLED)

BOUNDED = ("ttft_s", "tpot_s", "e2el_s", "request_throughput", "output_throughput")
SPANNED = (*BOUNDED, "total_token_throughput", "output_throughput_per_device")
_TIMES = ("ttft_s", "tpot_s", "itl_s", "e2el_s", "queue_s")
_PERCENTILES = ("p50", "p90", "p95", "p99")
_RATES = ("request_throughput", "output_throughput", "total_token_throughput")
_COUNTED = ("request_throughput", "request_goodput", "attainment")
#: Columns that are text; all others are numbers.
TEXTS = ("bottleneck", "notes")
#: Columns of a row beside its settings, by kind of study.
VALUES: Mapping[str, tuple[str, ...]] = {
    "predict": (
        *DEFINITIONS,
        "devices",
        "concurrency",
        "running",
        "prefill_s",
        "tokens_per_step",
        *(f"{name}_bound" for name in BOUNDED),
        "interval_level",
        *(f"{name}_{end}" for name in SPANNED for end in ("lo", "hi")),
        "bottleneck",
        "notes",
    ),
    "simulate": (
        *_TIMES,
        *(f"{name}_{percentile}" for name in _TIMES for percentile in _PERCENTILES),
        *_RATES,
        "output_throughput_per_device",
        "request_goodput",
        "attainment",
        "slo_met",
        "requests",
        "completed",
        "lost",
        "unfinished",
        "duration_s",
        "waiting",
        "running",
        "utilisation",
        "steps",
        "kv_cache_mean",
        "kv_cache_max",
        "prefix_hit_ratio",
        "preemptions",
        "devices",
        "energy_busy_joules_per_output_token",
        "energy_joules_per_output_token",
        "cost_usd_per_hour",
        "cost_usd_per_million_output_tokens",
        "cost_usd_per_million_tokens",
        "interval_level",
        *(f"{name}_{end}" for name in (*_TIMES, *_COUNTED) for end in ("lo", "hi") if name != "itl_s"),
        *(
            f"{name}_{percentile}_{end}"
            for name in _TIMES
            for percentile in _PERCENTILES
            for end in ("lo", "hi")
            if name != "itl_s"
        ),
        "notes",
    ),
}
