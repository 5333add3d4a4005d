"""Cases on a GPU: memory filled once, then run as often as wanted, cold, timed by the device's events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, UnknownNameError
from moesim.reference.cuda.backend import Backend, Launch, download, open_backend
from moesim.reference.cuda.graph import Flush, Timed
from moesim.reference.cuda.layer import EXPERTS, Layer, Pool, Workspace, layer_bytes, routing_of
from moesim.reference.cuda.layout import interleave
from moesim.reference.cuda.memory import out_of_memory
from moesim.reference.cuda.offload import HostExperts, Offloaded
from moesim.reference.cuda.routing import Routing
from moesim.reference.cuda.variants import VARIANTS, Variant, by_name, choose
from moesim.reference.exact import LayerInputs, bf16_values, inputs
from moesim.reference.layer import Case, IntArray, LayerShape, Timing

if TYPE_CHECKING:
    from moesim.reference.placed import PlacedCase

    Decide: TypeAlias = Callable[[Case, IntArray], PlacedCase]


@dataclass(slots=True)
class _Weights:
    """Weights of one shape and seed, where they have been needed."""

    shape: LayerShape
    given: LayerInputs
    pool: Pool | None = None
    host: HostExperts | None = None


class CudaRunner:
    """Runs cases in bf16.

    Parameters
    ----------
    emulated
        Whether the host plays the device: for tests of a few tokens.
    backend
        A device that is open already, and stays open.
    ordinal
        Which GPU is opened otherwise.
    variant
        Name of the experts' kernels for all cases; chosen for each case if absent.
    graph_tokens
        Largest batch that runs as a CUDA graph; by default all do, so that the host's calls are not what is
        timed. Layers with offloaded experts never do.
    alike
        Whether all experts have the weights of one, which are drawn soon: for timings only.
    rule
        What decides which experts stay, as for `moesim.reference.placed.placed_case`.
    decide
        Decides instead, given a case and the ids of its tokens.
    """

    def __init__(
        self,
        emulated: bool = False,
        *,
        backend: Backend | None = None,
        ordinal: int = 0,
        variant: str | None = None,
        graph_tokens: float = inf,
        alike: bool = False,
        rule: str = "lru",
        decide: Decide | None = None,
    ) -> None:
        self._mine = backend is None
        self.backend = open_backend(emulated=emulated, ordinal=ordinal) if backend is None else backend
        self.device = self.backend.name
        if variant is not None and variant not in (names := [known.name for known in VARIANTS]):
            raise UnknownNameError("kernel variant", variant, names)
        self.variant: Variant | None = None if variant is None else by_name(variant)
        self.graph_tokens, self.alike, self.rule, self.decide = graph_tokens, alike, rule, decide
        self._weights: dict[tuple[LayerShape, int], _Weights] = {}
        self._spaces: dict[tuple[LayerShape, int], Workspace] = {}
        self._open: list[CudaPrepared] = []
        self.flush = Flush(self.backend)

    def prepare(
        self,
        case: Case,
        ids: IntArray | None = None,
        *,
        given: LayerInputs | None = None,
        before: IntArray | None = None,
    ) -> CudaPrepared:
        """Fill memory for a case.

        Parameters
        ----------
        case
            What to run.
        ids
            Experts of each token, int32 ``[tokens, top_k]``, instead of the router's choice.
        given
            Tokens and weights to use; drawn from the case's seed if absent.
        before
            Experts of tokens that went through an offloaded layer before, ``[n, top_k]``: what is resident is
            what they leave. If absent they are drawn, as `moesim.reference.placed.placed_case` says.

        Raises
        ------
        ConfigError
            If the layer's sizes or type do not suit the kernels.
        InfeasibleError
            If memory is short.
        """
        routing = self._check(case, ids)
        weights = self._weights_of(case, given)
        self._fits(case, routing, weights)
        if given is None:
            drawn = inputs(case, weights=False)
            given = LayerInputs(drawn.x, drawn.router, weights.given.gate_up, weights.given.down)
        made = CudaPrepared(self, case, ids, given, weights, before)
        self._open.append(made)
        return made

    def close(self) -> None:
        """Give all memory back."""
        self.forget_all()
        self.flush.close()
        if self._mine:
            self.backend.close()

    def __enter__(self) -> CudaRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def space(self, case: Case) -> Workspace:
        """Room for the case; cases of one shape and size take turns in it."""
        key = case.shape, case.tokens
        if key not in self._spaces:
            self._spaces[key] = Workspace(self.backend, case.shape, case.tokens, self.variant)
        return self._spaces[key]

    def pool(self, weights: _Weights) -> Pool:
        """All experts on the device."""
        if weights.pool is None:
            given, backend = weights.given, self.backend
            pool = Pool.empty(backend, len(given.down), weights.shape)
            for expert, rows in enumerate(given.gate_up):
                backend.copy(pool.w13.rows(expert, expert + 1), interleave(rows)[None])
                backend.copy(pool.w2.rows(expert, expert + 1), given.down[expert : expert + 1])
                backend.synchronize()
            weights.pool = pool
        return weights.pool

    def host(self, weights: _Weights) -> HostExperts:
        """All experts in page-locked memory."""
        if weights.host is None:
            weights.host = HostExperts(self.backend, weights.given)
        return weights.host

    def forget(self, made: CudaPrepared) -> None:
        """Called by a case that closes."""
        if made in self._open:
            self._open.remove(made)

    def _weights_of(self, case: Case, given: LayerInputs | None) -> _Weights:
        key = case.shape, case.seed
        known = self._weights.get(key)
        if known is None or (given is not None and known.given.down is not given.down):
            if not self._open:
                self.forget_all()
            elif known is not None:
                raise ConfigError("weights of one shape and seed cannot be exchanged while a case is open")
            self._weights[key] = known = _Weights(case.shape, self._draw(case) if given is None else given)
        return known

    def _draw(self, case: Case) -> LayerInputs:
        if not self.alike:
            return inputs(case)
        shape = case.shape
        one = inputs(replace(case, shape=replace(shape, num_experts=1, top_k=1)))
        up: Any
        down: Any
        up, down = (np.broadcast_to(w, (shape.num_experts, *w.shape[1:])) for w in (one.gate_up, one.down))
        return LayerInputs(one.x, one.router, up, down)

    def forget_all(self) -> None:
        """Close all cases, and give back weights and room."""
        for made in list(self._open):
            made.close()
        for space in self._spaces.values():
            space.close()
        for weights in self._weights.values():
            if weights.pool is not None:
                weights.pool.free(self.backend)
            if weights.host is not None:
                weights.host.close()
        self._spaces.clear()
        self._weights.clear()

    def _fits(self, case: Case, routing: Routing, weights: _Weights) -> None:
        """Say what the whole case needs, rather than its first array for which there is no room."""
        shape = case.shape
        away = round(case.offloaded * shape.num_experts)
        slots = shape.num_experts - away if away or weights.pool is None else 0
        needed = 2 * slots * shape.params + layer_bytes(routing, shape.width)
        free, _ = self.backend.memory()
        if needed > free:
            raise out_of_memory(self.device, needed, free, case.name)

    def _check(self, case: Case, ids: IntArray | None) -> Routing:
        shape, faults = case.shape, list[Fault]()
        variant = self.variant or choose(
            case.tokens * shape.top_k / shape.num_experts, self.backend.capability
        )
        try:
            routing = routing_of(shape, case.tokens, variant, self.backend.multiprocessors)
        except ConfigError as error:
            faults += error.faults
        if case.dtype != "bf16":
            faults.append(Fault("is not what the CUDA path computes in", "dtype", case.dtype, "bf16"))
        if ids is not None and ids.shape != (case.tokens, shape.top_k):
            faults.append(Fault("has another shape", "ids", ids.shape, str((case.tokens, shape.top_k))))
        elif ids is not None and ids.size and not (ids.min() >= 0 and ids.max() < shape.num_experts):
            faults.append(Fault("names an absent expert", "ids", allowed=f"0 to {shape.num_experts - 1}"))
        if faults:
            raise ConfigError(faults, case.name)
        return routing


class CudaPrepared:
    """A case in the device's memory.

    Attributes
    ----------
    counts
        Tokens of each expert, int32 ``[E]``.
    loads
        Experts that one run copies.
    ids, weights
        Of each token, ``[T, k]``, as the kernels use them.
    graph
        Whether it runs as a CUDA graph.
    variant
        The experts' kernels.
    """

    def __init__(
        self,
        runner: CudaRunner,
        case: Case,
        ids: IntArray | None,
        given: LayerInputs,
        weights: _Weights,
        before: IntArray | None = None,
    ) -> None:
        self._runner, self.case, self._given = runner, case, given
        self._backend = backend = runner.backend
        self._held = contextlib.ExitStack()
        self._timed: Timed | None = None
        self._offloaded: tuple[Offloaded, PlacedCase] | None = None
        self.loads, self.graph = 0, False
        shape = case.shape
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            space = runner.space(case)
            self.layer = layer = Layer(space, given.x, given.router, ids)
            self._held.callback(layer.close)
            self.variant = space.variant.name
            self.ids, self.weights = layer.choose()
            self.counts: IntArray = np.bincount(self.ids.ravel(), minlength=shape.num_experts).astype(
                np.int32
            )
            if round(case.offloaded * shape.num_experts):
                from moesim.reference.placed import placed_case  # loads the replay engine

                if runner.decide is not None:
                    decided = runner.decide(case, self.ids)
                else:
                    decided = placed_case(case, self.ids, before=before, rule=runner.rule)
                pool = Pool.empty(backend, decided.slots, shape)
                self._held.callback(pool.free, backend)
                made = Offloaded([layer], [runner.host(weights)], pool)
                self._held.callback(made.close)
                self._offloaded, self.loads = (made, decided), decided.loads
            else:
                self.graph = case.tokens <= runner.graph_tokens
                parts = layer.parts(runner.pool(weights))
                self._timed = Timed(backend, parts, graph=self.graph)
                self._held.callback(self._timed.close)
            undo.pop_all()

    def run(self, parts: bool = True) -> Timing:
        """Run the layer once, cold: nothing of use is in the second-level cache.

        Parameters
        ----------
        parts
            Whether it is run once more for the times of its parts.
        """
        flush = self._runner.flush
        if self._offloaded is not None:
            layer, decided = self._offloaded
            layer.restore(decided.resident)
            flush()
            return layer.run([decided.cell])
        assert self._timed is not None
        seconds = self._timed.run(flush)
        if not parts:
            return Timing(seconds, {})
        times = self._timed.run_parts(flush)
        return Timing(seconds, {**times, "experts": sum(times[name] for name in EXPERTS)})

    def output(self) -> npt.NDArray[np.float32]:
        """What the last run computed, ``[T, H]``."""
        return bf16_values(download(self._backend, self.layer.out))

    def launches(self) -> list[Launch]:
        """Kernels of one run in their order; none where experts are offloaded."""
        parts = {} if self._timed is None else self._timed.parts
        return [launch for launches in parts.values() for launch in launches]

    def inputs(self) -> LayerInputs:
        """Tokens and weights."""
        return self._given

    def close(self) -> None:
        """Give back what is this case's own."""
        self._held.close()
        self._runner.forget(self)
