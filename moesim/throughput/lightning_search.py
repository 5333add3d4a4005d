"""The policy search of MoE-Lightning (arXiv:2411.11217, section 4.3): every policy of a grid at once.

The closed form of `moesim.throughput.lightning.estimate` ranks the policies that fit; the best few go on the
clocks of its schedule, and the fastest there is taken.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.errors import InfeasibleError
from moesim.throughput.engine import ENGINE, Engine
from moesim.throughput.lightning import GPU_SHARE, HOST_SHARE, Estimate, Policies, estimate, plan
from moesim.throughput.machine import Machine
from moesim.throughput.result import Plan, Workload
from moesim.throughput.shape import LayerShape

Floats = npt.NDArray[np.float64]

#: Micro-batches that are looked at: every one at first, then on a geometric grid.
SMALL = np.arange(1.0, 97.0)
LARGE = np.round(np.geomspace(100, 8192, 48))
#: Parts of the most micro-batches that fit.
PARTS = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.0])
#: Values of a share.
SHARES = 9
#: Policies that the clocks decide between.
FINALISTS = 12


def best(shape: LayerShape, machine: Machine, workload: Workload, engine: Engine = ENGINE) -> Plan:
    """The best policy and what it reaches.

    Parameters
    ----------
    shape, machine, workload
        What runs where. With a number of requests, no batch is larger.
    engine
        What the software reaches.

    Raises
    ------
    InfeasibleError
        If no policy fits the memories.

    Examples
    --------
    On a small GPU the CPU attends and the GPU runs the experts, as the paper finds:

    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> shape, t4 = LayerShape.of(load_model("mixtral-8x7b")), Machine.of(load_hardware("t4"))
    >>> found = best(shape, t4, Workload(418, 128))
    >>> found.policy["attention"], found.policy["experts"]
    ('cpu', 'gpu')
    """
    grid = policies(shape, machine, workload)
    made = estimate(shape, machine, workload, grid, engine)
    if not made.fits.any():
        raise _nowhere(made, machine)
    rates = np.where(made.fits, made.tokens_per_s(grid, workload), 0.0)
    leaders = np.argsort(-rates, kind="stable")[:FINALISTS]
    plans = [plan(shape, machine, workload, grid.at(int(i)), engine) for i in leaders if rates[i] > 0]
    return max(plans, key=lambda made: made.tokens_per_s)


def policies(shape: LayerShape, machine: Machine, workload: Workload) -> Policies:
    """Every policy of the grid.

    Shares rise evenly, and experts stay whole. Memory is linear in the number of micro-batches, so that the
    most that fit are known for each; they and parts of them are taken.
    """
    sizes = np.concatenate([SMALL, LARGE])
    if workload.requests is not None:
        sizes = np.unique(np.minimum(sizes, workload.requests))
    resident = np.unique(np.round(np.linspace(0, shape.experts, min(shape.experts, 16) + 1))) / shape.experts
    kept = np.linspace(0.0, 1.0, SHARES)
    choices = [
        # The CPU attends: where the cache lies plays no part. The CPU may run the experts too; resident ones
        # would then be in the way.
        np.meshgrid(sizes, [0.0], [1.0], resident, [0.0], indexing="ij"),
        np.meshgrid(sizes, [1.0], [1.0], resident, kept, indexing="ij"),
        np.meshgrid(sizes, [0.0], [0.0], [0.0], [0.0], indexing="ij"),
        np.meshgrid(sizes, [1.0], [0.0], [0.0], kept, indexing="ij"),
    ]
    rows, *rest = (np.concatenate([part[axis].ravel() for part in choices]) for axis in range(5))
    one, two = (estimate(shape, machine, workload, Policies(n * rows, rows, *rest)) for n in (1.0, 2.0))
    room = np.minimum(
        (GPU_SHARE * machine.gpu_bytes - one.gpu_bytes) / np.maximum(two.gpu_bytes - one.gpu_bytes, 1.0),
        (HOST_SHARE * machine.host_bytes - one.host_bytes) / np.maximum(two.host_bytes - one.host_bytes, 1.0),
    )
    largest = np.maximum(1.0, 1.0 + np.floor(room))
    if workload.requests is not None:
        largest = np.minimum(largest, np.ceil(workload.requests / rows))
    count = np.maximum(1.0, np.floor(largest[:, None] * PARTS))
    batch = count * rows[:, None]
    if workload.requests is not None:
        # What does not divide is served too: the last micro-batch is smaller.
        batch = np.minimum(batch, float(workload.requests))
    spread = (np.broadcast_to(x[:, None], count.shape).ravel() for x in (rows, *rest))
    return Policies(batch.ravel(), *spread)


def _nowhere(made: Estimate, machine: Machine) -> InfeasibleError:
    """What is short where least is."""
    limits = {"gpu": GPU_SHARE * machine.gpu_bytes, "host": HOST_SHARE * machine.host_bytes}
    used = {"gpu": made.gpu_bytes, "host": made.host_bytes}
    over = np.array([used[name] / limit for name, limit in limits.items()])
    nearest = int(np.argmin(over.max(axis=0)))
    name = list(limits)[int(np.argmax(over[:, nearest]))]
    return InfeasibleError(
        "no policy fits",
        resource=f"memory {name}",
        needed=float(used[name][nearest]),
        available=limits[name],
    )
