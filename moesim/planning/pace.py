"""What the steps of a shape take, on grids of batch and prompt sizes: all that its batch limits share.

Grids hold powers of two, which are sizes at which batches of routed tokens are drawn anyway; between them is
interpolated in the logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.engine.deployment import Deployment
from moesim.engine.memory import MemoryUse
from moesim.engine.routing import LoadSource, assumed
from moesim.engine.traits import Traits
from moesim.layout.expert_map import ExpertMap
from moesim.model import Model
from moesim.ops import Batch, LayerKinds, Precision
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
    lengths, reads
        Prompts, rising powers of four, ``[lengths]``; and for each chunk, seconds of one alone and of one
        where steps are full of them.
    deployment
        For memory.
    """

    sequences: F8
    step_s: F8
    tokens: float
    lengths: F8
    reads: Mapping[float, tuple[F8, F8]]
    deployment: Deployment

    @property
    def lanes(self) -> int:
        """Steps that are worked on side by side: on data-parallel ranks, and in stages."""
        return self.deployment.layout.dp * self.deployment.layout.pp

    def steps(self, sequences: F8) -> F8:
        """Seconds of a step that decodes so many."""
        return _between(sequences, self.sequences, self.step_s)

    def prompts(self, lengths: F8, chunk_tokens: float) -> tuple[F8, F8, float]:
        """Seconds of a prompt alone, its seconds where all steps are full, and those of a full step.

        Parameters
        ----------
        lengths
            Tokens of prompts.
        chunk_tokens
            One of those the pace was made for.
        """
        alone, packed = self.reads[chunk_tokens]
        full_s = float(packed[-1] / self.lengths[-1] * chunk_tokens * self.lanes)
        return _between(lengths, self.lengths, alone), _between(lengths, self.lengths, packed), full_s

    def memory(self, chunk_tokens: float, utilisation: float) -> MemoryUse:
        """Of the fullest device."""
        return self.deployment.memory(chunk_tokens, utilisation)


def _between(x: F8, grid: F8, values: F8) -> F8:
    return np.exp(np.interp(np.log(x), np.log(grid), np.log(values)))


def _powers_of_four(lengths: F8) -> F8:
    """From below the shortest to above the longest; little is gained by telling short ones apart."""
    low, high = np.floor(np.log2(max(lengths.min(), 64.0)) / 2.0), np.ceil(np.log2(lengths.max()) / 2.0)
    return np.asarray(4.0 ** np.arange(low, max(high, low + 1) + 1))


def _reads(deployment: Deployment, lengths: F8, chunks: Sequence[float]) -> dict[float, tuple[F8, F8]]:
    """Seconds of prompts alone and in full steps by tokens of a chunk, all timed at once."""
    layout = deployment.layout
    chunk = np.repeat(chunks, len(lengths))
    many = np.tile(lengths, len(chunks))
    steps = np.ceil(many / chunk)
    each = many / steps
    packed = np.maximum(1.0, np.floor(chunk / each))
    # As in `moesim.engine.prefill`: a middle chunk has half of the prompt behind it.
    both = deployment.step(
        Batch.of(
            prompts=np.concatenate([np.ones(len(many)), packed]),
            chunk=np.tile(each, 2),
            past=np.tile((many - each) / 2.0, 2),
            ranks=np.repeat([1.0, np.inf], len(many)),
        )
    ).seconds.reshape(2, len(chunks), len(lengths))
    alone = both[0] * steps.reshape(len(chunks), -1)
    full = both[1] * (steps / packed).reshape(len(chunks), -1) / (layout.dp * layout.pp)
    return {c: (alone[i], full[i]) for i, c in enumerate(chunks)}


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
    most_sequences, chunks
        Sequences of a data-parallel rank, at most; and tokens of its steps.
    """

    crowd: Crowd
    trace: Routing | None
    placement: ExpertMap | None
    traits_of: Callable[[str], Traits]
    most_sequences: float
    chunks: tuple[float, ...]
    seed: int = 0
    _alike: dict[tuple[object, ...], Deployment] = field(default_factory=dict)
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
        same = id(model), engine.dtype, shape.redundant
        device = id(model), id(shape.hardware.device), engine.dtype, engine.backend
        stage = (
            layout.tp,
            layout.dp,
            layout.ep,
            shape.redundant,
            id(shape.hardware.scale_up),
            shape.hardware.nodes,
        )
        made.share(
            self._alike.setdefault(("draws", *device, *stage), made),
            self._alike.setdefault(("weights", *same), made),
            self._alike.setdefault(("rates", *device), made),
        )
        return made

    def of(self, shape: Shape) -> Pace:
        """Time the steps of a shape."""
        deployment = self.deployment(shape)
        layout = shape.layout
        octaves = np.ceil(np.log2(max(layout.dp * self.most_sequences / layout.pp, 2.0)))
        sequences = layout.pp * 2.0 ** np.arange(octaves + 1)
        decode = deployment.decode(sequences, np.full(len(sequences), self.crowd.context))
        lengths = _powers_of_four(self.crowd.fresh)
        reads = _reads(deployment, lengths, self.chunks)
        return Pace(sequences, decode.seconds, decode.tokens, lengths, reads, deployment)

    def _source_of(self, model: Model, routing: str) -> tuple[LoadSource, list[int]] | None:
        """Loads of a few layers, and which of the MoE layers they are."""
        if model.moe is None:
            return None
        key = (id(model), routing)
        if key not in self._sources:
            whole = loads_of(model, routing, self.trace)
            # Layers of several kinds are told apart by their place: all are kept.
            many = LAYERS if len(LayerKinds.of(model).blocks) == 1 else whole.layers
            rows = np.unique(np.linspace(0, whole.layers - 1, min(many, whole.layers)).round().astype(int))
            self._sources[key] = LoadSource(whole.inclusion[rows], whole.top_k), rows.tolist()
        return self._sources[key]

    def _map_of(self, shape: Shape, source: tuple[LoadSource, list[int]] | None) -> ExpertMap | None:
        if source is None:
            return None
        key = (id(shape.model), shape.layout.ep, shape.redundant, shape.engine.routing)
        if key not in self._maps:
            loads, rows = source
            found = placement_of(shape.layout.ep, shape.redundant, loads, self.placement, rows)
            # One map for all machines, so that what is sent through it is kept between them.
            self._maps[key] = found or ExpertMap.contiguous(loads.layers, loads.num_experts, shape.layout.ep)
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
