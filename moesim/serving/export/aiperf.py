"""A run as NVIDIA AIPerf writes it, so that whatever reads measured runs reads simulated ones.

``profile_export.jsonl`` has a line per request, ``profile_export_aiperf.json`` the statistics. Requests
outside the window are marked as warm-up, which readers leave out. AIPerf's inter-token latency is a request's
mean, once per request: TPOT here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from moesim._version import __version__
from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.serving.outcome import Outcome
from moesim.serving.statistics import meets, tokens_within
from moesim.serving.warmup import Window, window_of

F8 = npt.NDArray[np.float64]

STATISTICS_FILE, REQUESTS_FILE = "profile_export_aiperf.json", "profile_export.jsonl"
_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def write_aiperf(
    outcome: Outcome,
    folder: str | os.PathLike[str],
    window: Window | None = None,
    goodput: dict[str, float] | None = None,
) -> list[Path]:
    """Write both files; the folder is made if it is not there.

    Parameters
    ----------
    outcome
        What happened.
    folder
        Where to.
    window
        Whose requests count; found by MSER-5 by default.
    goodput
        Limits in seconds, as for `moesim.serving.statistics.summarise`.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ConfigError
        If the folder cannot be made or written.
    """
    place = Path(folder)
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(Fault(f"cannot be made: {reason}", "--aiperf", str(place), "a folder")) from None
    window = window_of(outcome) if window is None else window
    paths = [place / STATISTICS_FILE, place / REQUESTS_FILE]
    with atomic_write(paths[0]) as stream:
        text = json.dumps(_statistics(outcome, window, goodput), indent=2, allow_nan=False)
        cast("IO[str]", stream).write(text + "\n")
    with atomic_write(paths[1]) as stream:
        _requests(outcome, window, cast("IO[str]", stream))
    return paths


def _metric(unit: str, sample: F8) -> dict[str, Any]:
    marks = np.percentile(sample, _PERCENTILES).tolist()
    return {
        "unit": unit,
        "avg": float(sample.mean()),
        "min": float(sample.min()),
        "max": float(sample.max()),
        **{f"p{p}": value for p, value in zip(_PERCENTILES, marks, strict=True)},
        "std": float(sample.std()),
    }


def _statistics(outcome: Outcome, window: Window, goodput: dict[str, float] | None) -> dict[str, Any]:
    chosen = outcome.done & window.chosen
    requests, about = outcome.requests, outcome.about
    load = {"concurrency": requests.concurrency} if requests.concurrency else {}
    document: dict[str, Any] = {
        "schema_version": "1.0",
        "aiperf_version": f"moesim {__version__}",
        "input_config": {
            "endpoint": {"model_names": [about.model] if about is not None else []},
            "loadgen": load,
        },
        "was_cancelled": False,
        "request_count": {"unit": "requests", "avg": int(chosen.sum())},
        "error_request_count": {"unit": "requests", "avg": int(outcome.lost[window.chosen].sum())},
    }
    if chosen.any():
        tpot = outcome.tpot_s[chosen]
        samples = {
            "time_to_first_token": ("ms", outcome.ttft_s[chosen] * 1e3),
            "inter_token_latency": ("ms", tpot[np.isfinite(tpot)] * 1e3),
            "request_latency": ("ms", outcome.e2el_s[chosen] * 1e3),
            "input_sequence_length": ("tokens", requests.input_tokens[chosen].astype(np.float64)),
            "output_sequence_length": ("tokens", requests.output_tokens[chosen].astype(np.float64)),
        }
        document |= {name: _metric(unit, sample) for name, (unit, sample) in samples.items() if len(sample)}
    seconds = window.seconds
    document["benchmark_duration"] = {"unit": "sec", "avg": seconds}
    if seconds > 0:
        last = outcome.state.progress.last_s
        ended = outcome.done & (last >= window.from_s) & (last <= window.to_s)
        written = float(tokens_within(outcome, window.from_s, window.to_s).sum())
        document["request_throughput"] = {"unit": "requests/sec", "avg": int(ended.sum()) / seconds}
        document["output_token_throughput"] = {"unit": "tokens/sec", "avg": written / seconds}
        if goodput:
            good = int((ended & meets(outcome, goodput)).sum())
            document["goodput"] = {"unit": "requests/sec", "avg": good / seconds}
    return document


def _requests(outcome: Outcome, window: Window, stream: IO[str]) -> None:
    p, requests = outcome.state.progress, outcome.requests
    sent = np.flatnonzero(np.isfinite(p.sent_s))
    ttft, tpot, e2el, done = outcome.ttft_s, outcome.tpot_s, outcome.e2el_s, outcome.done
    for i in sent.tolist():
        start = round(float(p.sent_s[i]) * 1e9)
        ends = start + round(float(e2el[i]) * 1e9) if done[i] else None
        metadata = {
            "session_num": int(requests.session[i]) if requests.session is not None else i,
            "x_request_id": str(i),
            "worker_id": f"replica {int(p.lane[i]) // outcome.rules.lanes}",
            "request_start_ns": start,
            "request_end_ns": ends,
            "benchmark_phase": "profiling" if window.chosen[i] else "warmup",
            "was_cancelled": False,
        }
        if not done[i]:
            error = {"type": "Lost", "message": "the request was not answered"}
            stream.write(json.dumps({"metadata": metadata, "metrics": {}, "error": error}) + "\n")
            continue
        metrics = {
            "time_to_first_token": (float(ttft[i]) * 1e3, "ms"),
            "request_latency": (float(e2el[i]) * 1e3, "ms"),
            "input_sequence_length": (int(requests.input_tokens[i]), "tokens"),
            "output_sequence_length": (int(requests.output_tokens[i]), "tokens"),
        }
        if np.isfinite(tpot[i]):
            metrics["inter_token_latency"] = (float(tpot[i]) * 1e3, "ms")
        record = {
            "metadata": metadata,
            "metrics": {name: {"value": value, "unit": unit} for name, (value, unit) in metrics.items()},
            "error": None,
        }
        stream.write(json.dumps(record) + "\n")
