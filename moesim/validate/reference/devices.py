"""The devices of the reference execution, told how each case is to be played."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from moesim.reference.layer import Case, IntArray, Runner
from moesim.validate.reference.execute import Open
from moesim.validate.reference.predict import Work


def opener(device: str) -> Open:
    """What opens ``cpu`` or ``cuda``."""
    return _cpu if device == "cpu" else _cuda


@contextlib.contextmanager
def _cpu(played: Mapping[Case, Work]) -> Iterator[Runner]:
    from moesim.reference.cpu import CpuRunner
    from moesim.reference.cpu.residents import Plan

    def plan(case: Case, ids: IntArray, before: IntArray | None = None) -> Plan:  # noqa: ARG001
        runs = np.unique(ids).astype(np.int32)
        turns = played[case].turns if case.offloaded else ()
        return Plan(runs, np.isin(runs, [expert for turn in turns for expert in turn.copied]))

    with CpuRunner(residents=plan) as runner:
        yield runner


@contextlib.contextmanager
def _cuda(played: Mapping[Case, Work]) -> Iterator[Runner]:
    room: Any = importlib.import_module("moesim.reference.cuda")
    with room.CudaRunner(decide=lambda case, _ids: played[case].decided) as runner:
        yield runner
