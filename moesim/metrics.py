"""One function per metric, named as serving benchmarks name them; times in seconds.

All take and give arrays or numbers alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Unit and formula of every metric.
DEFINITIONS: Mapping[str, tuple[str, str]] = {
    "ttft_s": ("s", "from a request's arrival to its first output token at the client, mean over requests"),
    "tpot_s": ("s", "engine time between two output tokens of a request, mean over requests"),
    "e2el_s": ("s", "ttft_s + (output tokens - 1) x tpot_s"),
    "request_throughput": ("requests/s", "concurrency / e2el_s, by Little's law"),
    "output_throughput": ("tokens/s", "request_throughput x output tokens"),
    "total_token_throughput": ("tokens/s", "request_throughput x (input + output tokens)"),
    "output_throughput_per_device": ("tokens/s", "output_throughput / devices"),
    "load_imbalance": (
        "1",
        "largest over mean token load of the expert-parallel ranks, mean over layers and steps",
    ),
    "memory_bytes": ("B", "weights, workspace and cache on the fullest device"),
    "memory_capacity_bytes": ("B", "capacity of a device's main memory"),
}


def e2el_s(ttft_s: Array | float, tpot_s: Array | float, output_len: Array | float) -> Array | float:
    """End-to-end latency of a request.

    >>> e2el_s(0.5, 0.01, 101.0)
    1.5
    """
    return ttft_s + (output_len - 1.0) * tpot_s


def request_throughput(concurrency: Array | float, e2el: Array | float) -> Array | float:
    """Requests per second of a closed loop: Little's law, L = lambda W.

    >>> request_throughput(64.0, 2.0)
    32.0
    """
    return concurrency / e2el


def output_throughput(requests_per_s: Array | float, output_len: Array | float) -> Array | float:
    """Output tokens per second."""
    return requests_per_s * output_len


def total_token_throughput(
    requests_per_s: Array | float, input_len: Array | float, output_len: Array | float
) -> Array | float:
    """Input and output tokens per second."""
    return requests_per_s * (input_len + output_len)
