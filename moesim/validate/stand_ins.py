"""Layouts that are evaluated in the place of recorded ones, which cannot have been.

The last step of reading a row: no measurement is looked at. Every stand-in is named among the repairs of its
row, and makes it doubtful.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from moesim.engine.memory import memory_use
from moesim.errors import ConfigError
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import LayerKinds, Precision
from moesim.prediction import Engine
from moesim.units import show
from moesim.validate.rows import ServingRow
from moesim.validate.served import engine_of, machine_of

#: Devices of one worker beyond which no larger layout is tried.
MOST = 64


def with_stand_ins(row: ServingRow) -> ServingRow:
    """A row with the layouts that it is evaluated with, if those recorded cannot have been.

    Neither reading is certain. Degrees that do not divide the model's heads or experts are taken for the
    next lower power of two of devices, in data and expert parallelism. A worker of a disaggregated
    deployment that is too small for the weights has its tensor parallelism doubled until they fit: where one
    device is recorded for a model that needs many, its degrees were not written down.

    Parameters
    ----------
    row
        As it was read. What is unsupported stays as it is.
    """
    if not row.supported or not row.evaluated:
        return row
    found, reasons = [], []
    sides = ("prefill: ", "decode: ") if row.layout is None else ("",)
    for side, layout in zip(sides, row.evaluated, strict=True):
        try:
            layout_run, why = _possible(row.model, layout)
            if side:
                layout_run, small = _large_enough(row, layout_run)
                why = why or small
        except ConfigError:
            # Nothing stands in: the prediction will say what is wrong.
            return row
        found.append(layout_run)
        if why:
            reasons.append(f"{side}{_degrees(layout)} {why}, evaluated as {_degrees(layout_run)}")
    if not reasons:
        return row
    return replace(
        row,
        stand_ins=tuple(found),
        repairs=(*row.repairs, *reasons),
        doubtful=row.doubtful or "the recorded layout cannot be evaluated as it is",
    )


@lru_cache(maxsize=1024)
def _possible(name: str, layout: Parallelism) -> tuple[Parallelism, str]:
    """A layout that a model can have, and what keeps it from having the recorded one."""
    model = load_model(name)
    faults = layout.faults(model)
    if not faults:
        return layout, ""
    devices = 1 << (layout.world.bit_length() - 1)
    return Parallelism(dp=devices, ep=devices if model.moe is not None else 1), faults[0].message


def _large_enough(row: ServingRow, layout: Parallelism) -> tuple[Parallelism, str]:
    """A layout whose devices hold the weights, and by how much those of the recorded one do not."""
    engine, why = engine_of(row), ""

    def room_of(layout: Parallelism) -> float:
        return _room(row.model, row.hardware, row.nodes, engine, layout)

    while layout.world < MOST and (room := room_of(layout)) <= 0.0:
        why = why or f"lacks {show(-room, 'bytes')} per device for the weights"
        layout = Parallelism(tp=2 * layout.tp, dp=layout.dp, ep=2 * layout.ep if layout.ep > 1 else 1)
        layout.check(load_model(row.model))
    return layout, why


@lru_cache(maxsize=1024)
def _room(name: str, machine: str, nodes: int | None, engine: Engine, layout: Parallelism) -> float:
    """Bytes that are left for the cache on the fullest device."""
    model = load_model(name)
    return memory_use(
        model,
        LayerKinds.of(model),
        layout,
        Precision.of(model, engine.dtype, engine.kv_cache_dtype),
        machine_of(machine, nodes, layout),
        chunk_tokens=engine.chunk_tokens,
        utilisation=engine.memory_utilisation,
    ).cache_budget_bytes


def _degrees(layout: Parallelism) -> str:
    """Degrees other than 1.

    >>> _degrees(Parallelism(dp=8, ep=8)), _degrees(Parallelism())
    ('DP 8 with EP 8', 'TP 1')
    """
    named = (("TP", layout.tp), ("PP", layout.pp), ("DP", layout.dp), ("EP", layout.ep))
    return " with ".join(f"{name} {n}" for name, n in named if n > 1) or "TP 1"
