"""SGLang's own choice of replicas, run from its wheel without installing it.

Get the wheel with ``pip download --no-deps sglang==0.5.23`` and name it in ``MOESIM_SGLANG_WHEEL``. Only
``expert_location.py`` is run: numpy stands in for the few tensor calls it makes, and what it asks of the
engine is answered here.
"""

from __future__ import annotations

import os
import sys
import types
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

VARIABLE = "MOESIM_SGLANG_WHEEL"
_SOURCE = "sglang/srt/eplb/expert_location.py"


class Tensor(np.ndarray):
    """An array that answers the calls of a tensor."""

    def cpu(self):
        return self

    def to(self, *_args, **_kwargs):
        return self


def tensor(data, device=None, dtype=None):  # noqa: ARG001 - as torch has it
    return np.asarray(data, dtype=dtype or np.int64).view(Tensor)


def sglang_table(plan, nodes):
    """Slot of each source as SGLang finds it, int64 [layers, ranks, experts]; skip without the wheel."""
    path = Path(os.environ.get(VARIABLE, ""))
    if not path.is_file():
        pytest.skip(f"{VARIABLE} does not name a wheel of sglang")
    with zipfile.ZipFile(path) as wheel:
        code = compile(wheel.read(_SOURCE), _SOURCE, "exec")
    moe = types.SimpleNamespace(ep_join_mode=None, moe_a2a_backend="deepep", ep_dispatch_algorithm="static")
    context = {
        "get_exec": lambda: types.SimpleNamespace(moe=moe),
        "get_parallel": lambda: types.SimpleNamespace(ep_size=plan.ranks, nnodes=nodes),
        "get_device": None,
        "get_resources": None,
    }
    stubs = {
        "torch": {"tensor": tensor, "Tensor": Tensor, "all": np.all},
        "torch.distributed": {},
        "torch.nn": {},
        "torch.nn.functional": {},
        "sglang": {},
        "sglang.srt": {},
        "sglang.srt.runtime_context": context,
        "sglang.srt.elastic_ep": {},
        "sglang.srt.elastic_ep.elastic_ep": {"elastic_expanded_world_enabled": lambda: False},
    }
    modules = {}
    for name, content in stubs.items():
        modules[name] = types.ModuleType(name)
        modules[name].__path__ = []
        vars(modules[name]).update(content)
        if "." in name:
            parent, child = name.rsplit(".", 1)
            setattr(modules[parent], child, modules[name])
    engine = types.ModuleType("sglang_expert_location")
    with mock.patch.dict(sys.modules, modules | {engine.__name__: engine}):
        exec(code, vars(engine))
        ranks = []
        for rank in range(plan.ranks):
            replicas = engine._compute_logical_to_all_physical_map(
                tensor(plan.physical_to_logical), plan.num_experts, plan.ranks, rank
            )
            ranks.append(
                engine.compute_logical_to_rank_dispatch_physical_map(replicas, plan.ranks, plan.slots, rank)
            )
    return np.stack(ranks, axis=1)
