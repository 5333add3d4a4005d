"""Hooks on a torch model that keep which experts every token of every forward pass chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.recording.routers import Module, Router, Tensor, find_routers
from moesim.recording.rules import Rule, route


@dataclass(frozen=True, slots=True)
class Routed:
    """The routing of the tokens of one forward pass; layers are the model's MoE layers.

    Parameters
    ----------
    topk_ids
        Expert ids, int64 ``[tokens, layers, top_k]``, in the router's own order.
    topk_weights
        Router weights, float32 of the same shape.
    logits
        Router logits, float32 ``[tokens, layers, experts]``, or None if not asked for.
    next_logits
        The logits the *next* MoE layer's router would give for the hidden state that this layer's router
        sees, float32 ``[tokens, layers - 1, experts]``, or None: what a prefetcher can know one layer early.
    """

    topk_ids: npt.NDArray[np.int64]
    topk_weights: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32] | None
    next_logits: npt.NDArray[np.float32] | None


class Recorder:
    """Record routing while a model runs.

    The experts of a layer are, in this order: what its expert module is called with, what its router returns,
    and, for a router that returns logits alone, the choice that `rule` makes of them.

    Parameters
    ----------
    model
        A ``torch.nn.Module``, in evaluation mode.
    num_experts, top_k
        Routed experts per layer and per token.
    rule
        How logits become experts, for routers that do not say; without it such a router is an error.
    logits, next_logits
        Whether to keep router logits, and those of the next layer's router for this layer's hidden state.

    Attributes
    ----------
    routers : tuple of Router
        What is recorded, by rising layer.
    inferred : bool
        Whether some experts followed from `rule`.

    Examples
    --------
    ::

        with Recorder(model, num_experts=8, top_k=2) as recorder:
            model(input_ids)
            routed = recorder.take()
    """

    def __init__(
        self,
        model: Module,
        num_experts: int,
        top_k: int,
        rule: Rule | None = None,
        *,
        logits: bool = False,
        next_logits: bool = False,
    ) -> None:
        self.routers = find_routers(model, num_experts)
        self.inferred = False
        self._experts, self._top_k, self._rule = num_experts, top_k, rule
        self._logits, self._next = logits, next_logits
        self._hidden: dict[int, Tensor] = {}
        self._given: dict[int, tuple[Tensor, Tensor]] = {}
        self._outputs: dict[int, list[Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for index, router in enumerate(self.routers):
            self._hooks.append(
                router.module.register_forward_hook(self._after_router(index), with_kwargs=True)
            )
            if router.experts is not None:
                hook = self._before_experts(index)
                self._hooks.append(router.experts.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def take(self) -> Routed:
        """Hand over what was recorded since the last call, of one forward pass.

        Raises
        ------
        ConfigError
            If a router was not called, or its experts cannot be told.
        """
        missing = [r.name for i, r in enumerate(self.routers) if i not in self._hidden]
        if missing:
            raise ConfigError(Fault("these routers were not called", value=missing))
        chosen = [self._choice(i) for i in range(len(self.routers))]
        logits = next_logits = None
        if self._logits:
            logits = np.stack(
                [_numpy(_project(self._hidden[i], r)) for i, r in enumerate(self.routers)], axis=1
            )
        if self._next:
            pairs = enumerate(self.routers[1:])
            rows = [_numpy(_project(self._hidden[i], following)) for i, following in pairs]
            shape = (len(chosen[0][0]), 0, self._experts)
            next_logits = np.stack(rows, axis=1) if rows else np.zeros(shape, np.float32)
        for kept in (self._hidden, self._given, self._outputs):
            kept.clear()
        ids, weights = (np.stack(parts, axis=1) for parts in zip(*chosen, strict=True))
        return Routed(ids, weights, logits, next_logits)

    def _after_router(self, index: int) -> Any:  # noqa: ANN401 - a hook
        def hook(_: Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:  # noqa: ANN401
            hidden = next(t for t in _tensors((*args, *kwargs.values())) if _is_float(t))
            self._hidden[index] = hidden.detach().reshape(-1, hidden.shape[-1])
            self._outputs[index] = [t.detach() for t in _tensors(output)]

        return hook

    def _before_experts(self, index: int) -> Any:  # noqa: ANN401 - a hook
        def hook(_: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = self._pair([t.detach() for t in _tensors((*args, *kwargs.values()))])
            if given is not None:
                self._given[index] = given

        return hook

    def _pair(self, tensors: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        """Expert ids and weights among some tensors."""
        k = self._top_k
        ids = next((t for t in tensors if not _is_float(t) and t.ndim >= 2 and t.shape[-1] == k), None)
        if ids is None:
            return None
        ids = ids.reshape(-1, k).long()
        floats = [t.reshape(-1, t.shape[-1]) for t in tensors if _is_float(t) and t.ndim >= 2]
        floats = [t for t in floats if len(t) == len(ids)]
        exact = next((t for t in floats if t.shape[1] == k), None)
        if exact is not None:
            return ids, exact
        dense = next((t for t in floats if t.shape[1] == self._experts), None)
        return None if dense is None else (ids, dense.gather(1, ids))

    def _choice(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        router = self.routers[index]
        given = self._given.get(index) or self._pair(self._outputs[index])
        if given is not None:
            return given[0].cpu().numpy(), _numpy(given[1])
        if self._rule is None:
            raise ConfigError(Fault("returns no expert ids, and no rule was given", router.name))
        self.inferred = True
        correction = None if router.correction is None else _numpy(router.correction)
        ids, weights = route(_numpy(self._own_logits(index)), self._rule, correction)
        return ids, weights.astype(np.float32)

    def _own_logits(self, index: int) -> Tensor:
        """The logits a router returned: those of its outputs that are weights times hidden state."""
        router, hidden = self.routers[index], self._hidden[index]
        expected = _project(hidden, router)
        tolerance = 0.05 * float(expected.abs().max()) + 1e-6
        for output in self._outputs[index]:
            flat = output.reshape(-1, output.shape[-1]) if output.ndim else output
            if _is_float(output) and flat.shape == expected.shape:
                logits = flat.float()
                if float((logits - expected).abs().max()) <= tolerance:
                    return logits
        raise ConfigError(
            Fault(
                "returns neither expert ids nor weight times hidden state", router.name, type(router.module)
            )
        )


def _project(hidden: Tensor, router: Router) -> Tensor:
    logits = hidden.float() @ router.weight.detach().float().T
    return logits if router.bias is None else logits + router.bias.detach().float()


def _tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401 - whatever a module takes or returns
    if hasattr(value, "is_floating_point"):
        yield value
    elif isinstance(value, Iterable) and isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _is_float(value: Any) -> bool:  # noqa: ANN401 - a tensor or not
    return hasattr(value, "is_floating_point") and bool(value.is_floating_point())


def _numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(tensor.detach().float().cpu().numpy(), np.float32)
