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
TIMES = ("ttft_s", "tpot_s", "e2el_s")
SHARES = {"mean": None, "p50": 50.0, "p90": 90.0, "p99": 99.0}
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
        *(f"{name}_{share}" for name in TIMES for share in SHARES),
        "requests",
        "duration_s",
        "request_throughput",
        "output_throughput",
        "total_token_throughput",
        "output_throughput_per_device",
        "attainment",
        "goodput",
        "devices",
        "notes",
    ),
}
