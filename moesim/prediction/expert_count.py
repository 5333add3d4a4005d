"""What serving costs against the number of experts, everything else of a model the same.

The cost model of "Toward Inference-optimal Mixture-of-Expert Large Language Models" (arXiv:2404.02852,
section 4): experts take memory from the cache, so fewer requests run at once and a token costs more devices.
Of any number of devices the cheapest counts, ``cost = G / throughput``. The paper profiles the latency of its
engine; here it is that of `moesim.prediction`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moesim.correction import Calibration, calibration_of
from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware
from moesim.layout import Parallelism
from moesim.model.types import Model
from moesim.prediction.question import Engine, Workload
from moesim.prediction.sweep import sweep

#: Requests at once that are tried; the cache holds fewer where it is small.
LOADS = tuple(2.0**n for n in range(11))


@dataclass(frozen=True, slots=True)
class ServingCost:
    """The cheapest way to serve one number of experts.

    Parameters
    ----------
    num_experts
        Routed experts of a layer.
    devices
        Tensor-parallel devices of a replica.
    concurrency
        Requests in a replica.
    token_throughput
        Tokens in and out per second of a replica.
    device_s_per_token
        Seconds of one device that a token takes: what is minimised.
    tpot_s
        Seconds per output token there.
    """

    num_experts: int
    devices: int
    concurrency: float
    token_throughput: float
    device_s_per_token: float
    tpot_s: float


def serving_costs(
    model_of: Callable[[int], Model],
    experts: Sequence[int],
    hardware: Hardware,
    *,
    input_len: float,
    output_len: float,
    tpot_s: float | None = None,
    engine: Engine | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
) -> list[ServingCost]:
    """Cheapest service for each number of experts.

    Parameters
    ----------
    model_of
        The model with so many experts.
    experts
        Numbers of experts to try.
    hardware
        Replicas take 1, 2, 4... of the devices of a node.
    input_len, output_len
        Tokens of a request.
    tpot_s
        Mean time per output token that must be kept; None is none.
    engine, calibration, seed
        As for `moesim.prediction.predict`; physics alone by default, as an unmeasured model gets it.

    Raises
    ------
    ConfigError
        If a number of experts fits nowhere, or keeps no such time.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> from moesim.model.types import MoE
    >>> mixtral = load_model("mixtral-8x7b")
    >>> def with_experts(n):
    ...     layers = [replace(l, ffn=replace(l.ffn, num_experts=n)) for l in mixtral.layers]
    ...     return replace(mixtral, layers=tuple(layers))
    >>> box = load_hardware("h100-sxm-8")
    >>> found = serving_costs(with_experts, [4, 16], box, input_len=512, output_len=512)
    >>> found[0].device_s_per_token < found[1].device_s_per_token
    True
    """
    calibration = calibration_of("none") if calibration is None else calibration
    sizes = [2**n for n in range(hardware.num_devices.bit_length()) if 2**n <= hardware.num_devices]
    workloads = [Workload(input_len, output_len, concurrency=load) for load in LOADS]
    found = []
    for count in experts:
        answers = sweep(
            model_of(count),
            hardware,
            [Parallelism(tp=size) for size in sizes],
            workloads,
            engine=engine,
            seed=seed,
            calibration=calibration,
        )
        throughput = answers["total_token_throughput"]
        kept = answers.feasible if tpot_s is None else answers.feasible & (answers["tpot_s"] <= tpot_s)
        cost = np.where(kept, np.array(sizes)[:, None] / np.where(kept, throughput, 1.0), np.inf)
        if not kept.any():
            raise ConfigError(Fault("fits on no number of devices, or is too slow on all", "experts", count))
        row, column = np.unravel_index(int(np.argmin(cost)), cost.shape)
        found.append(
            ServingCost(
                num_experts=count,
                devices=sizes[row],
                concurrency=LOADS[column],
                token_throughput=float(throughput[row, column]),
                device_s_per_token=float(cost[row, column]),
                tpot_s=float(answers["tpot_s"][row, column]),
            )
        )
    return found
