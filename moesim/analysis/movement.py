"""How much of a decode step is moving expert weights and tokens rather than computing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moesim.engine.deployment import Deployment
from moesim.engine.routing import source_of
from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware
from moesim.layout import Parallelism
from moesim.model.types import Model
from moesim.ops import Precision
from moesim.trace import LoadCounts

#: Tokens of a step, of all devices together.
BATCHES = (64, 256, 1024, 4096, 16384)
#: Tokens that a sequence looks back on; the share is published at 4K.
CONTEXT = 4096.0


def expert_ranks(experts: int, devices: int) -> int:
    """The most devices that hold equally many experts each.

    >>> expert_ranks(256, 8), expert_ranks(128, 25), expert_ranks(7, 5)
    (8, 16, 1)
    """
    return max(n for n in range(1, devices + 1) if experts % n == 0)


def movement_shares(
    load: npt.NDArray[np.float64],
    model: Model,
    hardware: Hardware,
    batches: Sequence[int] = BATCHES,
    context: float = CONTEXT,
    seed: int = 0,
) -> dict[int, float]:
    """Share of a decode step that moves expert weights or tokens, by batch.

    Experts are spread over as many devices as divide them, and so are the sequences. What counts as movement
    is the exchange of tokens, and of the experts the seconds in which memory is slower than multiplying.

    Parameters
    ----------
    load
        How often each expert is chosen, ``[layers, experts]``.
    model, hardware
        Who decodes, and on what.
    batches
        Tokens of a step, of all devices together.
    context
        Tokens that a sequence looks back on.
    seed
        Of the draws of routing.

    Returns
    -------
    dict
        Fractions of the step's seconds, by batch.
    """
    if model.moe is None:
        raise ConfigError(Fault("is a dense model: it routes nothing", "--model", model.name))
    ranks = expert_ranks(model.num_experts, hardware.num_devices)
    counts = LoadCounts(load[None], tuple(range(len(load))), model.moe.top_k)
    deployment = Deployment(
        model,
        hardware,
        Parallelism(dp=ranks, ep=ranks),
        Precision.of(model),
        source=source_of(counts, model.moe.top_k),
        seed=seed,
    )
    size = np.asarray(batches, np.float64)
    step = deployment.decode(size, np.full(len(size), context)).step
    moved = np.zeros(len(size))
    total = np.zeros(len(size))
    for entry in step.entries():
        total += entry.seconds
        if entry.op in ("dispatch", "combine"):
            moved += entry.seconds
        elif entry.op == "experts":
            moved += entry.shares["memory"]
    return dict(zip(batches, (moved / total).tolist(), strict=True))
