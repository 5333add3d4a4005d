"""The engines' own loaders, lifted out of their wheels without installing them.

``pip download --no-deps sglang==0.5.23`` and ``pip download --no-deps --only-binary :all: --platform
manylinux_2_34_x86_64 vllm-ascend==0.23.0`` get the wheels; ``MOESIM_SGLANG_WHEEL`` and
``MOESIM_VLLM_ASCEND_WHEEL`` name them. TensorRT-LLM's wheels are not on PyPI: ``MOESIM_TRTLLM_SOURCE`` names
``tensorrt_llm/llmapi/llm_args.py`` of a checkout. numpy stands in for the few tensor calls they make.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import types
import typing
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pydantic
import pytest


class Tensor(np.ndarray):
    """An array that answers the calls of a tensor."""

    device = "cpu"

    def cpu(self):
        return self

    def to(self, *_args, **_kwargs):
        return self


def _tensor(data, device=None, dtype=None):  # noqa: ARG001 - as torch has it
    return np.asarray(data, dtype=np.int64).view(Tensor)


def _pad(array, widths, value):
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [widths], constant_values=value).view(Tensor)


TORCH = {
    "torch": {
        "tensor": _tensor,
        "Tensor": Tensor,
        "all": np.all,
        "int32": np.int32,
        "count_nonzero": lambda array, dim: np.count_nonzero(array, axis=dim).view(Tensor),
    },
    "torch.distributed": {},
    "torch.nn": {},
    "torch.nn.functional": {"pad": _pad},
}


def _wheel(variable, source):
    path = Path(os.environ.get(variable, ""))
    if not path.is_file():
        pytest.skip(f"{variable} names no wheel; {__name__}.py says how to get one")
    with zipfile.ZipFile(path) as wheel:
        return wheel.read(source)


def _modules(contents):
    found = {}
    for name, content in contents.items():
        found[name] = types.ModuleType(name)
        found[name].__path__ = []
        vars(found[name]).update(content)
        if "." in name:
            parent, child = name.rsplit(".", 1)
            setattr(found[parent], child, found[name])
    return found


def _definitions(source, names, scope):
    """Run some top-level definitions of a file, without its imports."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if getattr(node, "name", "") in names]
    assert len(tree.body) == len(names)
    exec(compile(tree, "engine", "exec", dont_inherit=True), scope)
    return [scope[name] for name in names]


def sglang_loads(path, model, ranks, redundant, rank=0):
    """Physical-to-logical map of a plan as SGLang has it in memory, int64 [decoder layers, slots]."""
    source = _wheel("MOESIM_SGLANG_WHEEL", "sglang/srt/eplb/expert_location.py")
    moe = SimpleNamespace(
        ep_join_mode=None,
        moe_a2a_backend="deepep",
        ep_dispatch_algorithm="static",
        ep_num_redundant_experts=redundant,
        init_expert_location=str(path),
    )
    context = {
        "get_exec": lambda: SimpleNamespace(moe=moe),
        "get_parallel": lambda: SimpleNamespace(ep_size=ranks, nnodes=1, elastic_ep_initial_size=None),
        "get_device": lambda: SimpleNamespace(device="cpu"),
        "get_resources": None,
    }
    architecture = SimpleNamespace(
        get_model_config_for_expert_location=lambda _: SimpleNamespace(
            num_layers=model.num_layers, num_logical_experts=model.num_experts, num_groups=None
        )
    )
    stubs = TORCH | {
        "sglang": {},
        "sglang.srt": {},
        "sglang.srt.runtime_context": context,
        "sglang.srt.model_loader": {"get_model_architecture": lambda _: (architecture, None)},
        "sglang.srt.elastic_ep": {},
        "sglang.srt.elastic_ep.elastic_ep": {"elastic_expanded_world_enabled": lambda: False},
    }
    engine = types.ModuleType("sglang_expert_location")
    with mock.patch.dict(sys.modules, _modules(stubs) | {engine.__name__: engine}):
        exec(compile(source, "expert_location.py", "exec"), vars(engine))
        config = SimpleNamespace(hf_config=None)
        return engine.compute_initial_expert_location_metadata(config, rank).physical_to_logical_map


def vllm_ascend_loads(path, layers):
    """Experts by device of a plan as vllm-ascend has it in memory, [MoE layers, ranks, slots per rank]."""
    source = _wheel("MOESIM_VLLM_ASCEND_WHEEL", "vllm_ascend/eplb/core/eplb_utils.py")
    scope = {"json": __import__("json"), "torch": SimpleNamespace(**TORCH["torch"])}
    (load,) = _definitions(source, ["expert_file_to_tensor"], scope)
    return np.stack([load(str(path), layer)[0] for layer in range(layers)])


def trtllm_config(values):
    """TensorRT-LLM's own configuration of a load balancer, made from the values of a YAML file."""
    path = Path(os.environ.get("MOESIM_TRTLLM_SOURCE", ""))
    if not path.is_file():
        pytest.skip(f"MOESIM_TRTLLM_SOURCE names no llm_args.py; {__name__}.py says which")
    scope = vars(typing) | {
        "Field": pydantic.Field,
        "PrivateAttr": pydantic.PrivateAttr,
        "StrictBaseModel": type(
            "StrictBaseModel",
            (pydantic.BaseModel,),
            {"model_config": pydantic.ConfigDict(extra="forbid"), "__module__": __name__},
        ),
        "__name__": __name__,
    }
    (config,) = _definitions(path.read_text(), ["MoeLoadBalancerConfig"], scope)
    return config(**values)


def sglang_flags():
    """Flags SGLang's launcher has, by its own fields and by name in its source."""
    path = Path(os.environ.get("MOESIM_SGLANG_WHEEL", ""))
    if not path.is_file():
        pytest.skip(f"MOESIM_SGLANG_WHEEL names no wheel; {__name__}.py says how to get one")
    with zipfile.ZipFile(path) as wheel:
        fields = [n for n in wheel.namelist() if n.startswith("sglang/srt/arg_groups/fields/")]
        texts = [wheel.read(n).decode() for n in ("sglang/srt/server_args.py", *fields)]
    text = "\n".join(texts)
    names = {"--" + name.replace("_", "-") for name in re.findall(r"^    (\w+): A\[", text, re.MULTILINE)}
    return names | set(re.findall(r"\"(--[a-z0-9-]+)\"", text))
