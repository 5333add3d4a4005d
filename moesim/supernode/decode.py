"""A decode instance of a supernode: one expert on every die, drafts checked in the same step.

CloudMatrix-Infer decodes DeepSeek-R1 on 160 NPUs, which are 320 dies: attention data-parallel on all of them,
one expert on each. What it fuses, and how it splits the cores, is in the engine: `moesim.engine.streams`.
"""

from __future__ import annotations

from moesim.engine.deployment import Deployment
from moesim.engine.routing import assumed
from moesim.engine.speculation import Speculation
from moesim.hardware.types import Hardware
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.ops import Precision
from moesim.supernode.spread import spread_plan, spread_shared, spread_source

#: Dies of an NPU: CloudMatrix counts sequences and tokens by NPU.
DIES = 2
#: Operations inside MLAProlog, and inside the fused attention (arXiv 2506.12708, MLA operators).
FUSED = frozenset(("q_b_proj", "rope_cache_write", "q_absorb", "v_absorb"))
#: Layer batches drawn per size: layers are alike, and a step of 320 dies varies little.
_SAMPLES = 8


def decode_instance(
    model: Model,
    hardware: Hardware,
    *,
    dies: int = 320,
    shared: int = 32,
    drafts: Speculation | None = None,
    overlap: str = "streams",
    routing: str = "typical",
    seed: int = 0,
) -> Deployment:
    """The instance as a deployment: ask it for `decode` with sequences of all dies together.

    Parameters
    ----------
    model
        Its shared expert, as wide as a routed one, moves to ranks of its own.
    hardware
        The supernode; nodes are taken as needed.
    dies
        Ranks of the instance.
    shared
        Ranks with a copy of the shared expert; of the others, those beyond one per routed expert are spares
        of the most loaded.
    drafts
        Drafted and accepted tokens; none by default.
    overlap
        As of `moesim.engine.deployment.Deployment`.
    routing
        How unequally experts are loaded: ``typical`` or ``uniform``.
    seed
        Of the draws.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> found = decode_instance(load_model("deepseek-r1"), load_hardware("cloudmatrix384"))
    >>> found.layout.ep, found.hardware.num_devices, found.plan.slots_per_rank
    (320, 320, 1)
    """
    moe = model.moe
    if moe is None:
        raise ValueError(f"{model.name} has no experts")
    routed = assumed(routing, moe.num_experts, moe.top_k)
    return Deployment(
        spread_shared(model),
        hardware.with_nodes(-(-dies // hardware.devices_per_node)),
        Parallelism(dp=dies, ep=dies),
        Precision.of(model, "int8"),
        spread_source(routed),
        spread_plan(routed.inclusion, dies, shared),
        overlap,
        seed,
        speculation=drafts or Speculation(),
        samples=_SAMPLES,
        fused=FUSED,
    )
