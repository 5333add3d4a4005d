"""The devices of the reference execution, told how each case is to be played."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from moesim.reference.layer import Case, IntArray, Prepared, Runner
from moesim.validate.reference.execute import Open
from moesim.validate.reference.predict import Work
from moesim.validate.reference.works import RULE

if TYPE_CHECKING:
    from moesim.reference.cuda import CudaRunner


def opener(device: str, *, emulated: bool = False) -> Open:
    """What opens ``cpu`` or ``cuda``; `emulated` has the host play a GPU, for tests of a few tokens."""

    @contextlib.contextmanager
    def gpu(played: Mapping[Case, Work]) -> Iterator[Runner]:
        from moesim.reference.cuda import CudaRunner

        # Only times are of interest, and drawing the weights of every expert takes longer than all runs.
        with CudaRunner(emulated=emulated, alike=True, rule=RULE) as runner:
            yield _Played(runner, played)

    return _cpu if device == "cpu" else gpu


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


class _Played:
    """A GPU whose experts are resident as the tokens before have left them."""

    def __init__(self, runner: CudaRunner, played: Mapping[Case, Work]) -> None:
        self._runner, self._played = runner, played
        self.device = runner.device

    def prepare(self, case: Case, ids: IntArray | None = None) -> Prepared:
        return self._runner.prepare(case, ids, before=self._played[case].before)
