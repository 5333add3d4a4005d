"""What the steps of a shape take, on grids of batch and prompt sizes: all that its batch limits share.

Grids hold powers of two, which are sizes at which batches of routed tokens are drawn anyway; between them is
interpolated in the logarithm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.engine.deployment import Deployment
from moesim.engine.memory import MemoryUse
from moesim.engine.routing import LoadSource, assumed
from moesim.engine.traits import Traits
from moesim.hardware import Hardware
from moesim.layout.expert_map import ExpertMap
from moesim.model import Model
from moesim.ops import Precision
from moesim.placement.solvers.greedy import greedy
from moesim.planning.candidates import Shape
from moesim.planning.crowd import Crowd
from moesim.trace.types import Routing

F8 = npt.NDArray[np.float64]

#: Layers whose routing is drawn while searching: a quarter of an octave of layouts differ by more than their
#: draws do. What is confirmed is drawn in full.
LAYERS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Pace:
    """Seconds of steps.

    Parameters
    ----------
    sequences
        Decoding sequences of the whole replica, rising powers of two times its stages, ``[n]``.
    step_s, tokens
        Of a step that decodes them, drafts and all, ``[n]``; and the tokens it gives to each.
    deployment
        For prompts, which depend on the chunk, and for memory.
    """

    sequences: F8
    step_s: F8
    tokens: float
    deployment: Deployment

    def steps(self, sequences: F8) -> F8:
        """Seconds of a step that decodes so many."""
        return _between(sequences, self.sequences, self.step_s)

    def prompts(self, lengths: F8, chunk_tokens: float) -> tuple[F8, F8, F8]:
        """Seconds of a prompt alone, seconds per prompt where all chunks are full, and of one full chunk."""
        top = max(float(lengths.max()), 2.0)
        grid = 4.0 ** np.arange(2, np.ceil(np.log(top) / np.log(4.0)) + 1)
        grid = np.concatenate([[1.0], grid]) if lengths.min() < grid[0] else grid
        alone, _, full = self.deployment.prompts(grid, chunk_tokens)
        layout = self.deployment.layout
        at = int(np.searchsorted(grid, chunk_tokens))
        at = min(at, len(grid) - 1)
        chunk = float(full[at]) * layout.dp * layout.pp * min(chunk_tokens / grid[at], 1e9)
        return _between(lengths, grid, alone), _between(lengths, grid, full), chunk

    def memory(self, chunk_tokens: float, utilisation: float) -> MemoryUse:
        """Of the fullest device."""
        return self.deployment.memory(chunk_tokens, utilisation)


def _between(x: F8, grid: F8, values: F8) -> F8:
    return np.exp(np.interp(np.log(x), np.log(grid), np.log(values)))


@dataclass(slots=True, eq=False)
class Paces:
    """Makes paces; shapes whose stages are alike share the draws of their routing.

    Parameters
    ----------
    crowd
        The traffic.
    trace, placement
        Routing, and where experts lie for layouts with as many expert ranks.
    traits_of
        What an engine adds to its kernels, by backend.
    most_sequences
        Of a data-parallel rank.
    """

    crowd: Crowd
    trace: Routing | None
    placement: ExpertMap | None
    traits_of: Callable[[str], Traits]
    most_sequences: float
    seed: int = 0
    _experts: dict[tuple[object, ...], Deployment] = field(default_factory=dict)
    _sources: dict[tuple[object, ...], tuple[LoadSource, list[int]]] = field(default_factory=dict)
    _maps: dict[tuple[object, ...], ExpertMap | None] = field(default_factory=dict)

    def deployment(self, shape: Shape) -> Deployment:
        """A shape laid out; nothing is drawn yet."""
        engine, model, layout = shape.engine, shape.model, shape.layout
        source = self._source_of(model, engine.routing)
        plan = self._map_of(shape, source)
        made = Deployment(
            model,
            shape.hardware,
            layout,
            Precision.of(model, engine.dtype, engine.kv_cache_dtype),
            source[0] if source is not None else None,
            plan,
            engine.overlap,
            self.seed,
            engine.backend,
            self.traits_of(engine.backend),
            engine.speculation,
            0.0,
            engine.routing,
            samples=LAYERS,
        )
        key = (
            id(model), engine.dtype, engine.backend, layout.tp, layout.dp, layout.ep, shape.redundant,
            *_cluster(shape.hardware),
        )  # fmt: skip
        made.share_experts(self._experts.setdefault(key, made))
        return made

    def of(self, shape: Shape) -> Pace:
        """Time the steps of a shape."""
        deployment = self.deployment(shape)
        layout = shape.layout
        octaves = np.ceil(np.log2(max(layout.dp * self.most_sequences / layout.pp, 2.0)))
        sequences = layout.pp * 2.0 ** np.arange(octaves + 1)
        decode = deployment.decode(sequences, np.full(len(sequences), self.crowd.context))
        return Pace(sequences, decode.seconds, decode.tokens, deployment)

    def _source_of(self, model: Model, routing: str) -> tuple[LoadSource, list[int]] | None:
        """Loads of a few layers, and which of the MoE layers they are."""
        if model.moe is None:
            return None
        key = (id(model), routing)
        if key not in self._sources:
            whole = loads_of(model, routing, self.trace)
            rows = np.unique(np.linspace(0, whole.layers - 1, min(LAYERS, whole.layers)).round().astype(int))
            self._sources[key] = LoadSource(whole.inclusion[rows], whole.top_k), rows.tolist()
        return self._sources[key]

    def _map_of(self, shape: Shape, source: tuple[LoadSource, list[int]] | None) -> ExpertMap | None:
        if source is None:
            return None
        key = (id(shape.model), shape.layout.ep, shape.redundant, shape.engine.routing)
        if key not in self._maps:
            loads, rows = source
            self._maps[key] = placement_of(shape.layout.ep, shape.redundant, loads, self.placement, rows)
        return self._maps[key]


def loads_of(model: Model, routing: str, trace: Routing | None) -> LoadSource:
    """How unequally experts are chosen: as recorded, or as is assumed, in each MoE layer."""
    if trace is None:
        return assumed(routing, model.num_experts, model.top_k, len(model.moe_layer_ids))
    return LoadSource.of(trace.load_counts(), model.top_k)


def placement_of(
    ep: int, redundant: int, loads: LoadSource, given: ExpertMap | None, rows: list[int] | None = None
) -> ExpertMap | None:
    """Where experts lie: as given, if that is for as many ranks and spares; else packed greedily with spares.

    Parameters
    ----------
    ep, redundant
        Expert-parallel ranks, and physical experts beyond one of each.
    loads
        Of all MoE layers, or of `rows`.
    given
        For all MoE layers.

    Returns
    -------
    ExpertMap or None
        None is in order, without spares.
    """
    if given is not None and given.ranks == ep and given.redundant == redundant:
        chosen = given.physical_to_logical if rows is None else given.physical_to_logical[rows]
        return ExpertMap(chosen, given.num_experts, ep)
    if ep == 1 or not redundant:
        return None
    return ExpertMap(greedy(loads.inclusion, ep, redundant), loads.num_experts, ep)


def _cluster(hardware: Hardware) -> tuple[object, ...]:
    return id(hardware.device), id(hardware.scale_up), hardware.nodes
