"""Find the routers of a torch model by their names, and by a weight of one row per expert."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from moesim.errors import ConfigError, Fault

#: Modules and tensors are torch's; torch is an optional dependency, so they have no type here.
Module = Any
Tensor = Any

_NAMES = {"gate", "router", "wg", "gating"}
_CLASS = re.compile(r"(Router|Gate|Gating)$")
_LAYER = re.compile(r"\.(\d+)(?=\.)")


@dataclass(frozen=True, slots=True)
class Router:
    """The router of one decoder layer.

    Parameters
    ----------
    layer
        Decoder index.
    name
        Path of the module inside the model.
    module
        What is called with the hidden states.
    weight, bias
        Its matrix ``[experts, hidden]``, and its bias ``[experts]`` or None: the logits are their product
        with the hidden state.
    correction
        A bias ``[experts]`` that takes part in the choice alone, or None.
    experts
        The module the choice is handed to, or None where the router's parent has none.
    """

    layer: int
    name: str
    module: Module
    weight: Tensor
    bias: Tensor | None
    correction: Tensor | None
    experts: Module | None


def find_routers(model: Module, num_experts: int) -> tuple[Router, ...]:
    """Find the router of every MoE layer.

    A router is a module called ``gate``, ``router``, ``wg`` or ``gating``, or of a class whose name ends so,
    whose weight (its own, or that of its only linear layer) has one row per expert, and whose path holds
    the number of its layer.

    Parameters
    ----------
    model
        A ``torch.nn.Module``.
    num_experts
        Routed experts per layer.

    Returns
    -------
    tuple of Router
        By rising layer, at least one.

    Raises
    ------
    ConfigError
        If there is none, or if several stacks of layers or several modules of a layer look alike.
    """
    modules = dict(model.named_modules())
    stacks: dict[str, list[Router]] = defaultdict(list)
    found: set[str] = set()
    for name, module in modules.items():
        if name.rpartition(".")[2] not in _NAMES and not _CLASS.search(type(module).__name__):
            continue
        number = _LAYER.search(f".{name}")
        holder = _holder(module, num_experts)
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if number is None or holder is None or inside:
            continue
        found.add(name)
        parent = modules.get(name.rpartition(".")[0])
        stack = f".{name}"[: number.start()] + ".N" + f".{name}"[number.end() :]
        stacks[stack].append(
            Router(
                layer=int(number[1]),
                name=name,
                module=module,
                weight=holder.weight,
                bias=getattr(holder, "bias", None),
                correction=_correction(module, parent, num_experts),
                experts=_experts(parent),
            )
        )
    if not stacks:
        raise ConfigError(
            Fault(
                "no router is recognised",
                value=type(model).__name__,
                allowed=f"modules named {', '.join(sorted(_NAMES))} with {num_experts} rows of weights",
            )
        )
    routers = sorted((r for s in stacks.values() for r in s), key=lambda r: r.layer)
    if len({r.layer for r in routers}) < len(routers):
        raise ConfigError(Fault("several modules of a layer look like its router", value=sorted(stacks)))
    return tuple(routers)


def _holder(module: Module, num_experts: int) -> Module | None:
    """The module itself, or its one linear part, with ``[experts, hidden]`` weights."""
    parts = [m for m in module.modules() if _is_matrix(getattr(m, "weight", None), num_experts)]
    return parts[0] if len(parts) == 1 else None


def _is_matrix(weight: Tensor | None, num_experts: int) -> bool:
    return weight is not None and getattr(weight, "ndim", 0) == 2 and weight.shape[0] == num_experts


def _correction(module: Module, parent: Module, num_experts: int) -> Tensor | None:
    for owner in (module, parent):
        for name in ("e_score_correction_bias", "expert_bias"):
            bias = getattr(owner, name, None)
            if bias is not None and getattr(bias, "shape", None) == (num_experts,):
                return bias
    return None


def _experts(parent: Module) -> Module | None:
    experts = getattr(parent, "experts", None)
    # A list of modules is never called itself.
    return experts if experts is not None and not hasattr(experts, "__len__") else None
