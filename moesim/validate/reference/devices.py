"""The devices of the reference execution, told how each case is to be played."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

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

    def plan(case: Case, _ids: IntArray) -> Plan:
        turns = played[case].turns
        runs = np.concatenate([turn.runs for turn in turns])
        return Plan(runs, np.isin(runs, np.concatenate([turn.copied for turn in turns])))

    with CpuRunner(residents=plan) as runner:
        yield runner


@contextlib.contextmanager
def _cuda(played: Mapping[Case, Work]) -> Iterator[Runner]:
    from moesim.reference.cuda import CudaRunner

    with CudaRunner(decide=lambda case, _ids: played[case].decided) as runner:
        yield runner
