"""From the arrays a reader found to a checked `RoutingTrace` or `LoadCounts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.schema import Header
from moesim.trace.shape import Fit, Found, Hints, fit
from moesim.trace.types import DECODE, PREFILL, LoadCounts, RoutingTrace

Array = npt.NDArray[Any]
_SHOWN = 3
_MAX_WEIGHT = np.finfo(np.float16).max


@dataclass(frozen=True, slots=True)
class Origin:
    """Where arrays come from and what the file says of itself."""

    path: object
    model: str = ""
    num_experts: int | None = None
    layer_ids: tuple[int, ...] | None = None
    source: str = ""
    licence: str = ""
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, header: Header, path: object) -> Origin:
        """What a canonical file says of itself."""
        return cls(
            path=path,
            model=header.model,
            num_experts=header.num_experts,
            layer_ids=header.moe_layer_ids,
            source=header.source,
            licence=header.licence,
            warnings=header.warnings,
            metadata=header.metadata,
        )


def routing_trace(
    ids: Array,
    origin: Origin,
    hints: Hints,
    *,
    request: Array | None = None,
    position: Array | None = None,
    phase: Array | None = None,
    weights: Array | None = None,
    token_id: Array | None = None,
    drop_blank: bool = False,
) -> RoutingTrace:
    """Check and complete a token-level trace.

    Parameters
    ----------
    ids
        Whole numbers ``[tokens, layers, top_k]``. A negative id is a hole, and so is the largest value of
        an unsigned type when the model has fewer experts than that. Slots that are holes throughout are
        dropped, and so is a token with a hole anywhere else.
    origin
        What the file says.
    hints
        What the caller knows.
    request, position, phase, token_id
        ``[tokens]``; a missing request is 0, a missing position the running index in the request, a
        missing phase is read from the word ``prefill`` or ``decode`` in the file's name, else prefill.
    weights
        ``[tokens, layers, top_k]``.
    drop_blank
        Whether layers that are zero throughout are dense layers when nothing says what they are.

    Raises
    ------
    TraceError
        Naming everything that is wrong with the arrays, or how they contradict the hints.
    """
    faults = _id_faults(ids)
    tokens = ids.shape[0] if ids.ndim else 0
    columns = {"request": request, "position": position, "phase": phase, "token_id": token_id}
    for name, column in columns.items():
        faults += _column_faults(column, name, tokens)
    if weights is not None and (weights.dtype.kind != "f" or weights.shape != ids.shape):
        faults.append(
            Fault(
                f"is {weights.dtype} {list(weights.shape)}", "topk_weights", allowed=f"real {list(ids.shape)}"
            )
        )
    if faults:
        raise TraceError(faults, origin.path)
    if weights is not None and not _fits_float16(weights):
        raise TraceError(Fault("holds NaN, or values beyond float16", "topk_weights"), origin.path)

    hole = _holes(ids, hints, origin)
    slots = _used_slots(hole)
    if slots is not None:
        ids, hole = ids[:, :, slots], hole[:, :, slots] if hole is not None else None
        weights = weights[:, :, slots] if weights is not None else None
    decided = fit(_found(ids, hole, origin, drop_blank), hints, origin.path)
    notes = list(origin.warnings)
    if decided.rows != tuple(range(ids.shape[1])):
        rows = list(decided.rows)
        ids = ids[:, rows]
        hole = hole[:, rows] if hole is not None else None
        weights = weights[:, rows] if weights is not None else None
    keep = _complete(hole)
    if keep is not None:
        if not keep.any():
            raise TraceError(Fault("no token has an expert in every layer and slot", "topk_ids"), origin.path)
        notes.append(f"dropped {int((~keep).sum())} of {tokens} tokens with a missing expert")
        ids, weights = ids[keep], weights[keep] if weights is not None else None
    dtype = np.uint8 if decided.num_experts <= 256 else np.uint16
    request32 = _column(request, np.int32, tokens)
    position32 = running_position(request32) if position is None else position.astype(np.int32)
    if request is None:
        notes.append("the file does not tell requests apart: taken as one request")
    phase8, phase_note = _phase(phase, tokens, origin)
    notes += phase_note
    chosen = slice(None) if keep is None else keep
    return RoutingTrace(
        topk_ids=np.ascontiguousarray(ids, dtype=dtype),
        request=request32[chosen],
        num_experts=decided.num_experts,
        moe_layer_ids=decided.layer_ids,
        position=position32[chosen],
        phase=phase8[chosen],
        topk_weights=None if weights is None else np.ascontiguousarray(weights, dtype=np.float16),
        token_id=None if token_id is None else token_id.astype(np.int32)[chosen],
        **_common(origin, decided, notes),
    )


def load_counts(counts: Array, origin: Origin, hints: Hints, top_k: int | None = None) -> LoadCounts:
    """Check and complete load counts.

    Parameters
    ----------
    counts
        Real numbers ``[layers, experts]`` or ``[steps, layers, experts]``. Steps that are zero throughout
        (unused places of a recorder's buffer) are dropped; so are dense layers.
    origin, hints
        As for `routing_trace`.
    top_k
        Experts per token, when the file says.

    Raises
    ------
    TraceError
        Naming the first few values that are negative or not finite, or how the file contradicts the hints.
    """
    if counts.ndim == 2:
        counts = counts[None]
    if counts.ndim != 3 or 0 in counts.shape or counts.dtype.kind not in "iuf":
        what = f"is {counts.dtype} {list(counts.shape)}"
        raise TraceError(Fault(what, "counts", allowed="numbers [steps, layers, experts]"), origin.path)
    with np.errstate(invalid="ignore"):  # A NaN that signals; it is named below.
        values = counts.astype(np.float64)
    faults = value_faults(values)
    if faults:
        raise TraceError(faults, origin.path)
    notes = list(origin.warnings)
    used: npt.NDArray[np.bool_] = np.asarray(values.any(axis=(1, 2)))
    if not used.any():
        raise TraceError(Fault("holds no load at all", "counts"), origin.path)
    if not used.all():
        notes.append(f"dropped {int((~used).sum())} of {len(used)} steps without any load")
        values = values[used]
    blank = frozenset(np.flatnonzero(~values.any(axis=(0, 2))).tolist())
    found = Found(
        rows=values.shape[1],
        max_id=values.shape[2] - 1,
        top_k=top_k,
        num_experts=origin.num_experts or values.shape[2],
        layer_ids=origin.layer_ids,
        model=origin.model,
        blank=blank,
        drop_blank=origin.layer_ids is None,
    )
    decided = fit(found, hints, origin.path)
    if decided.rows != tuple(range(values.shape[1])):
        values = np.ascontiguousarray(values[:, list(decided.rows)])
    return LoadCounts(
        counts=values,
        moe_layer_ids=decided.layer_ids,
        top_k=decided.top_k,
        **_common(origin, decided, notes),
    )


def running_position(request: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Index of each token inside its request, int32 ``[tokens]``.

    >>> running_position(np.array([0, 0, 5, 0, 5], np.int32)).tolist()
    [0, 1, 0, 2, 1]
    """
    order = np.argsort(request, kind="stable")
    grouped = request[order]
    starts = (
        np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]]) if len(request) else np.zeros(0, np.int64)
    )
    lengths = np.diff(np.r_[starts, len(request)])
    position = np.empty(len(request), np.int32)
    position[order] = np.arange(len(request)) - np.repeat(starts, lengths)
    return position


def _common(origin: Origin, decided: Fit, notes: list[str]) -> dict[str, Any]:
    return {
        "model": decided.model,
        "source": origin.source,
        "licence": origin.licence,
        "warnings": (*notes, *decided.warnings),
        "metadata": dict(origin.metadata),
    }


def _id_faults(ids: Array) -> list[Fault]:
    allowed = "whole numbers [tokens, layers, top_k]"
    if ids.ndim != 3 or ids.dtype.kind not in "iu":
        return [Fault(f"is {ids.dtype} {list(ids.shape)}", "topk_ids", allowed=allowed)]
    if 0 in ids.shape:
        return [Fault("is empty", "topk_ids", ids.shape, allowed)]
    if int(ids.max()) >= 2**16:
        return [Fault("has ids too large for an expert", "topk_ids", int(ids.max()), "below 65536")]
    return []


def _column_faults(column: Array | None, name: str, tokens: int) -> list[Fault]:
    if column is None:
        return []
    if column.dtype.kind not in "iu" or column.shape != (tokens,):
        return [Fault(f"is {column.dtype} {list(column.shape)}", name, allowed=f"whole numbers [{tokens}]")]
    low, high = (int(column.min()), int(column.max())) if tokens else (0, 0)
    top = DECODE if name == "phase" else 2**31 - 1
    if low < 0 or high > top:
        return [Fault(f"holds {low if low < 0 else high}", name, allowed=f"0 to {top}")]
    return []


def _fits_float16(weights: Array) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((np.abs(weights) <= _MAX_WEIGHT).all())


def value_faults(values: npt.NDArray[np.float64]) -> list[Fault]:
    """What is wrong with load counts ``[steps, layers, experts]``: the first few values, and how many."""
    faults = []
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values).all() and not np.isfinite(values.sum()):
            return [Fault("adds up to more than a number can hold", "counts")]
    for wrong, what in ((~np.isfinite(values), "is not finite"), (values < 0, "is negative")):
        places = np.argwhere(wrong)
        for step, layer, expert in places[:_SHOWN]:
            where = f"counts[{layer}][{expert}]" if len(values) == 1 else f"counts[{step}][{layer}][{expert}]"
            faults.append(Fault(what, where, float(values[step, layer, expert])))
        if len(places) > _SHOWN:
            faults.append(Fault(f"{len(places)} values in all: {what}", "counts"))
    return faults


def _holes(ids: Array, hints: Hints, origin: Origin) -> npt.NDArray[np.bool_] | None:
    """Where no expert is recorded, or None when there is no such place.

    A recorder marks it with -1, which a narrower unsigned type turns into its largest value.
    """
    mask: npt.NDArray[np.bool_]
    low, high = int(ids.min()), int(ids.max())
    known = origin.num_experts or hints.num_experts or (hints.shape.num_experts if hints.shape else None)
    if known is not None and known <= high and high in (255, 65535):
        mask = (ids == high) | (ids < 0)
        return mask
    if low < 0:
        mask = ids < 0
        return mask
    return None


def _used_slots(hole: npt.NDArray[np.bool_] | None) -> list[int] | None:
    if hole is None:
        return None
    # A layer of nothing but holes is a dense layer; it says nothing about the slots.
    layers = ~hole.all(axis=(0, 2))
    used = ~hole[:, layers].all(axis=(0, 1))
    return None if used.all() or not used.any() else np.flatnonzero(used).tolist()


def _found(ids: Array, hole: npt.NDArray[np.bool_] | None, origin: Origin, drop_blank: bool) -> Found:
    # Over tokens first: numpy reduces the outer axis many times faster than both at once.
    highest = (ids if hole is None else np.where(hole, 0, ids)).max(axis=0).max(axis=1)
    return Found(
        rows=ids.shape[1],
        max_id=int(highest.max()),
        top_k=ids.shape[2],
        num_experts=origin.num_experts,
        layer_ids=origin.layer_ids,
        model=origin.model,
        blank=frozenset(np.flatnonzero(highest == 0).tolist()),
        drop_blank=drop_blank,
    )


def _complete(hole: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
    if hole is None or not hole.any():
        return None
    keep: npt.NDArray[np.bool_] = ~np.asarray(hole.any(axis=(1, 2)))
    return keep


def _column(column: Array | None, dtype: type[np.int32], tokens: int) -> npt.NDArray[np.int32]:
    return np.zeros(tokens, dtype) if column is None else column.astype(dtype)


def _phase(phase: Array | None, tokens: int, origin: Origin) -> tuple[npt.NDArray[np.int8], list[str]]:
    if phase is not None:
        return phase.astype(np.int8), []
    name = str(origin.path).rsplit("/", 1)[-1].lower()
    decode = "decode" in name and "prefill" not in name
    why = "as the file's name says" if decode or "prefill" in name else "for want of anything better"
    note = f"the file does not tell prefill from decode: taken as {'decode' if decode else 'prefill'}, {why}"
    return np.full(tokens, DECODE if decode else PREFILL, np.int8), [note]
