"""The shape of a model, as far as routing is concerned, and how a trace is fitted to it.

A trace says how many rows its layer axis has, how many experts each token chose and how far the expert ids
reach; seldom more. What is missing - which decoder layers the rows are, how many experts there are - comes,
in this order, from the file itself, from what the caller says, from the smallest known model that fits, and
last from the ids alone. Every step down that ladder leaves a warning on the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from moesim.errors import Fault, TraceError
from moesim.trace.schema import MAX_EXPERTS, MAX_TOP_K


@runtime_checkable
class ShapeLike(Protocol):
    """What a shape is read from; `moesim.model.types.Model` and `Shape` both are."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def num_layers(self) -> int: ...  # noqa: D102
    @property
    def moe_layer_ids(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def num_experts(self) -> int: ...  # noqa: D102
    @property
    def top_k(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers, experts and top-k of a model.

    Parameters
    ----------
    name
        The model's name.
    num_layers
        Decoder layers, dense ones included.
    moe_layer_ids
        Decoder indices of the MoE layers.
    num_experts, top_k
        Routed experts per MoE layer, and how many of them a token chooses.

    Examples
    --------
    >>> Shape("deepseek-v3", 61, tuple(range(3, 61)), 256, 8).dense_layer_ids
    (0, 1, 2)
    """

    name: str
    num_layers: int
    moe_layer_ids: tuple[int, ...]
    num_experts: int
    top_k: int

    @classmethod
    def of(cls, model: ShapeLike) -> Shape:
        """The shape of a model."""
        return cls(model.name, model.num_layers, tuple(model.moe_layer_ids), model.num_experts, model.top_k)

    @property
    def dense_layer_ids(self) -> tuple[int, ...]:
        """Decoder indices without experts."""
        moe = set(self.moe_layer_ids)
        return tuple(i for i in range(self.num_layers) if i not in moe)


Candidates = Iterable[ShapeLike] | Callable[[], Iterable[ShapeLike]]


@dataclass(frozen=True, slots=True)
class Hints:
    """What the caller knows about a file that may not say it itself.

    Parameters
    ----------
    shape
        The model the trace is of; a trace that does not fit it is an error.
    num_experts
        Routed experts per layer.
    candidates
        Known models to look through when nothing else says what the trace is of, or a callable that
        lists them (called only then).
    top_k
        Experts per token, for files that hold scores of every expert, or ids without gaps between tokens.
    """

    shape: Shape | None = None
    num_experts: int | None = None
    candidates: Candidates = ()
    top_k: int | None = None

    @classmethod
    def of(
        cls,
        shape: ShapeLike | None = None,
        num_experts: int | None = None,
        candidates: Candidates = (),
        top_k: int | None = None,
    ) -> Hints:
        """Hints from what a caller gives.

        Raises
        ------
        TraceError
            If `num_experts` is no possible number of experts, or `top_k` of experts per token.
        """
        faults = []
        if num_experts is not None and not 1 <= num_experts <= MAX_EXPERTS:
            faults.append(Fault("is no number of experts", "num_experts", num_experts, f"1 to {MAX_EXPERTS}"))
        if top_k is not None and not 1 <= top_k <= MAX_TOP_K:
            faults.append(Fault("is no number of experts per token", "top_k", top_k, f"1 to {MAX_TOP_K}"))
        if faults:
            raise TraceError(faults)
        return cls(Shape.of(shape) if shape is not None else None, num_experts, candidates, top_k)

    @property
    def known_top_k(self) -> int | None:
        """Experts per token, as far as the caller knows."""
        return self.shape.top_k if self.shape is not None else self.top_k

    def known_shapes(self) -> Iterator[Shape]:
        """The candidates that have experts, smallest first."""
        listed = self.candidates() if callable(self.candidates) else self.candidates
        shapes = [Shape.of(c) for c in listed]
        yield from sorted((s for s in shapes if s.moe_layer_ids), key=lambda s: (s.num_experts, s.num_layers))


@dataclass(frozen=True, slots=True)
class Found:
    """What a file itself shows.

    Parameters
    ----------
    rows
        Length of the layer axis.
    max_id
        Largest expert id; one less than the width of a load count.
    top_k
        Experts per token, when the file shows it.
    num_experts, layer_ids, model
        When the file says so.
    blank
        Rows of the layer axis that hold nothing: no load, only zeros, or only holes.
    drop_blank
        Whether blank rows are dense layers when nothing else says what they are.
    """

    rows: int
    max_id: int
    top_k: int | None = None
    num_experts: int | None = None
    layer_ids: tuple[int, ...] | None = None
    model: str = ""
    blank: frozenset[int] = frozenset()
    drop_blank: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """The outcome: which rows to keep and what they are."""

    rows: tuple[int, ...]
    layer_ids: tuple[int, ...]
    num_experts: int
    top_k: int | None
    model: str
    warnings: tuple[str, ...] = ()


def fit(found: Found, hints: Hints, source: object) -> Fit:
    """Decide layers, experts and top-k of a trace.

    Parameters
    ----------
    found
        What the file shows.
    hints
        What the caller knows.
    source
        The file, for messages.

    Returns
    -------
    Fit
        With a warning for everything that was inferred.

    Raises
    ------
    TraceError
        If file and hints contradict each other; all contradictions are named.
    """
    faults = _count_faults(found, hints)
    if hints.shape is not None:
        faults += mismatches(found, hints.shape)
        if faults:
            raise TraceError(faults, source)
        return _fit_to(found, hints.shape, _doubts(found, hints.shape))
    if faults:
        raise TraceError(faults, source)
    if found.num_experts is not None and found.layer_ids is not None and found.top_k is not None:
        every = tuple(range(found.rows))
        return Fit(every, found.layer_ids, found.num_experts, found.top_k, found.model)
    known = (s for s in hints.known_shapes() if hints.top_k in (None, s.top_k))
    fitting = [s for s in known if _matches(found, s, hints.num_experts)]
    if fitting:
        best = fitting[0]
        return _fit_to(found, best, (_guess(best, fitting),))
    return _fit_alone(found, hints)


def mismatches(found: Found, shape: Shape) -> list[Fault]:
    """Everything about a trace that contradicts a model."""
    name, faults = shape.name, []
    if not shape.moe_layer_ids:
        return [Fault(f"{name} has no experts, so no trace can be of it")]
    if found.layer_ids is not None:
        strange = sorted(set(found.layer_ids) - set(shape.moe_layer_ids))
        if strange:
            listed = ", ".join(map(str, strange[:8])) + (", ..." if len(strange) > 8 else "")
            faults.append(Fault(f"trace has MoE layers {listed}, which {name} does not have"))
        if strange and found.rows != len(shape.moe_layer_ids):
            faults.append(_layers_fault(found, shape))
    elif found.rows == shape.num_layers:
        loaded = [i for i in shape.dense_layer_ids if i not in found.blank]
        if loaded:
            faults.append(
                Fault(f"{name} has no experts in layers {loaded[:8]}, but the trace has routing there")
            )
    elif found.rows != len(shape.moe_layer_ids):
        faults.append(_layers_fault(found, shape))
    if found.top_k is not None and found.top_k != shape.top_k:
        faults.append(Fault(f"trace has top-k {found.top_k}, {name} has {shape.top_k}"))
    if found.num_experts is not None:
        if found.num_experts != shape.num_experts:
            faults.append(
                Fault(f"trace has {found.num_experts} experts per layer, {name} has {shape.num_experts}")
            )
    elif found.max_id >= shape.num_experts or faults:
        faults.append(
            Fault(f"trace has expert ids up to {found.max_id}, {name} has {shape.num_experts} experts")
        )
    return faults


def _layers_fault(found: Found, shape: Shape) -> Fault:
    moe = len(shape.moe_layer_ids)
    of_all = "" if moe == shape.num_layers else f" (of {shape.num_layers} layers)"
    return Fault(f"trace has {found.rows} MoE layers, {shape.name} has {moe}{of_all}")


def _count_faults(found: Found, hints: Hints) -> list[Fault]:
    wanted, faults = hints.num_experts, []
    if None not in (hints.top_k, found.top_k) and hints.top_k != found.top_k:
        faults.append(Fault(f"trace has top-k {found.top_k}", "top_k", hints.top_k))
    if found.num_experts is not None and found.max_id >= found.num_experts:
        faults.append(
            Fault(f"trace has expert ids up to {found.max_id}, and says it has {found.num_experts} experts")
        )
    if wanted is None:
        return faults
    if found.num_experts is not None and found.num_experts != wanted:
        faults.append(Fault(f"trace has {found.num_experts} experts per layer", "num_experts", wanted))
    elif found.max_id >= wanted:
        allowed = f"at least {found.max_id + 1}"
        faults.append(Fault(f"trace has expert ids up to {found.max_id}", "num_experts", wanted, allowed))
    if hints.shape is not None and hints.shape.moe_layer_ids and hints.shape.num_experts != wanted:
        faults.append(
            Fault(f"{hints.shape.name} has {hints.shape.num_experts} experts", "num_experts", wanted)
        )
    return faults


def _matches(found: Found, shape: Shape, num_experts: int | None) -> bool:
    return num_experts in (None, shape.num_experts) and not mismatches(found, shape)


def _fit_to(found: Found, shape: Shape, warnings: tuple[str, ...]) -> Fit:
    rows = tuple(range(found.rows))
    if found.layer_ids is not None:
        ids = found.layer_ids
    else:
        ids = shape.moe_layer_ids
        if found.rows != len(ids):
            rows = ids
    empty = [layer for row, layer in zip(rows, ids, strict=True) if row in found.blank]
    if empty and len(empty) < len(ids):
        warnings = (*warnings, f"MoE layers {empty} carry no routing in this trace")
    return Fit(rows, ids, shape.num_experts, shape.top_k, shape.name, warnings)


def _doubts(found: Found, shape: Shape) -> tuple[str, ...]:
    doubts: tuple[str, ...] = ()
    if found.num_experts is None and found.max_id < shape.num_experts // 2:
        doubts += (
            f"no expert above {found.max_id} is ever chosen, and {shape.name} has {shape.num_experts}: "
            "is this its trace?",
        )
    if found.model and found.model != shape.name:
        doubts += (f"recorded as {found.model}, read as {shape.name}, which has the same shape",)
    return doubts


def _guess(best: Shape, fitting: list[Shape]) -> str:
    alike = [
        s.name
        for s in fitting[1:]
        if (s.num_experts, s.moe_layer_ids) == (best.num_experts, best.moe_layer_ids)
    ]
    others = f"; {', '.join(alike[:3])} would fit as well" if alike else ""
    return (
        f"the file does not name its model: taken as {best.name}, the smallest known model with these "
        f"layers, top-k and expert ids{others}"
    )


def _fit_alone(found: Found, hints: Hints) -> Fit:
    rows = tuple(range(found.rows))
    warnings = []
    if found.drop_blank and 0 < len(found.blank) < found.rows:
        rows = tuple(i for i in rows if i not in found.blank)
        warnings.append(f"layers {sorted(found.blank)} hold no routing and were taken to be dense")
    ids = rows if found.layer_ids is None else tuple(found.layer_ids[i] for i in rows)
    if not warnings and found.layer_ids is None:
        # Rows kept for dense layers mean that the axis counts decoder layers; otherwise nothing tells.
        warnings.append("the file does not say which decoder layers it covers: numbered as stored")
    experts = found.num_experts or hints.num_experts
    if experts is None:
        experts = found.max_id + 1
        warnings.append(f"number of experts unknown: taken as {experts}, the largest id plus one")
    return Fit(rows, ids, experts, found.top_k or hints.top_k, found.model, tuple(warnings))
