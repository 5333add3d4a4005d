"""A run as ``vllm bench serve --save-detailed`` writes it, but for the times of single tokens."""

from __future__ import annotations

import json
import os
from typing import IO, Any, cast

import numpy as np

from moesim.files import atomic_write
from moesim.provenance import clean
from moesim.serving.outcome import Outcome
from moesim.serving.statistics import meets


def write_bench(
    outcome: Outcome, path: str | os.PathLike[str], goodput: dict[str, float] | None = None
) -> None:
    """Write the result; it is of the whole run, as the benchmark's is.

    Parameters
    ----------
    outcome
        What happened.
    path
        The file to write.
    goodput
        Limits in seconds.

    Raises
    ------
    ConfigError
        If the path cannot be written.
    """
    done, requests, p = outcome.done, outcome.requests, outcome.state.progress
    begin, end = outcome.span_s
    duration = end - begin
    read, written = (
        int(t[done].sum(dtype=np.int64)) for t in (requests.input_tokens, requests.output_tokens)
    )
    per_s = 1.0 / duration if duration > 0 else None
    document: dict[str, Any] = {
        "backend": outcome.about.engine.backend if outcome.about else None,
        "label": "moesim simulate",
        "model_id": outcome.about.model if outcome.about else None,
        "num_prompts": len(requests),
        "request_rate": "inf" if requests.concurrency else "trace",
        "max_concurrency": requests.concurrency,
        "duration": duration,
        "completed": int(done.sum()),
        "failed": int((~done).sum()),
        "total_input_tokens": read,
        "total_output_tokens": written,
        "request_throughput": per_s and int(done.sum()) * per_s,
        "output_throughput": per_s and written * per_s,
        "total_token_throughput": per_s and (read + written) * per_s,
    }
    if goodput:
        document["request_goodput"] = per_s and int(meets(outcome, goodput).sum()) * per_s
    for name, times in (("ttft", outcome.ttft_s), ("tpot", outcome.tpot_s), ("e2el", outcome.e2el_s)):
        sample = times[done & np.isfinite(times)] * 1e3
        if len(sample):
            document[f"mean_{name}_ms"] = float(sample.mean())
            document[f"median_{name}_ms"] = float(np.median(sample))
            document[f"std_{name}_ms"] = float(sample.std())
            for q in (90, 95, 99):
                document[f"p{q}_{name}_ms"] = float(np.percentile(sample, q))
    document |= {
        "input_lens": requests.input_tokens,
        "output_lens": p.generated,
        "start_times": p.sent_s - begin,
        "ttfts": np.nan_to_num(outcome.ttft_s),
        "latencies": np.nan_to_num(outcome.e2el_s),
        "errors": ["" if fine else "not answered" for fine in done.tolist()],
    }
    with atomic_write(path) as stream:
        cast("IO[str]", stream).write(json.dumps(clean(document), allow_nan=False) + "\n")
