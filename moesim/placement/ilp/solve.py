"""Run a PuLP problem, and say truthfully how it ended.

PuLP calls a solution "Optimal" when a solver ran out of time with one, and drops the bound that the solver
has proven. So status and bound are read from the solver itself: from highspy's model, or from CBC's log.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.placement.ilp.quiet import highs

#: Solvers by name; ``highs`` runs in this process, ``cbc`` is the program that PuLP brings along.
SOLVERS = ("highs", "cbc")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    status
        ``optimal`` (within the gap asked for), ``feasible``, ``time limit``, ``infeasible`` or ``none`` (no
        solution, and no proof that there is none).
    value
        Objective of the best solution; infinite without one.
    bound
        What no solution is below; minus infinity if nothing is proven.
    """

    status: str
    value: float
    bound: float


@dataclass(frozen=True, slots=True)
class Run:
    """How programmes are solved.

    Parameters
    ----------
    solver
        One of `SOLVERS`.
    time_limit_s
        Wall time.
    gap
        Relative distance of value and bound at which a solution counts as optimal.
    seed
        Of the solver.
    threads
        Of the solver.
    progress
        Called with value, bound and seconds whenever HiGHS reports them; CBC reports at its end.
    """

    solver: str = "highs"
    time_limit_s: float = 60.0
    gap: float = 1e-6
    seed: int = 0
    threads: int = 1
    progress: Callable[[float, float, float], None] | None = None

    def __call__(self, problem: Any, start: Mapping[Any, float] | None = None) -> Outcome:
        """Solve a problem, from a start (variables to values, the others 0) if there is one.

        Raises
        ------
        ConfigError
            If there is no such solver.
        """
        if self.solver not in SOLVERS:
            raise ConfigError(Fault("is no solver", "solver", self.solver, ", ".join(SOLVERS)))
        return self._highs(problem, start) if self.solver == "highs" else self._cbc(problem, start)

    def _highs(self, problem: Any, start: Mapping[Any, float] | None) -> Outcome:
        import pulp

        highspy = highs()
        solver = pulp.HiGHS(
            msg=False,
            timeLimit=self.time_limit_s,
            gapRel=self.gap,
            threads=self.threads,
            random_seed=self.seed,
        )
        solver.createAndConfigureSolver(problem)
        solver.buildSolverModel(problem)
        model = problem.solverModel
        if start is not None:
            given = highspy.HighsSolution()
            given.col_value = [float(start.get(variable, 0.0)) for variable in problem.variables()]
            model.setSolution(given)
        if self.progress is not None:
            progress = self.progress

            def listen(kind: Any, text: str, out: Any, into: Any, data: Any) -> None:
                del kind, text, into, data
                progress(out.mip_primal_bound, out.mip_dual_bound, out.running_time)

            model.setCallback(listen, None)
            for kind in ("kCallbackMipImprovingSolution", "kCallbackMipLogging"):
                model.startCallback(getattr(highspy.cb.HighsCallbackType, kind))
        solver.callSolver(problem)
        status, info = model.getModelStatus(), model.getInfo()
        solver.findSolutionValues(problem)
        if status == highspy.HighsModelStatus.kInfeasible:
            return Outcome("infeasible", math.inf, math.inf)
        found = info.primal_solution_status == int(highspy.SolutionStatus.kSolutionStatusFeasible)
        value = info.objective_function_value if found else math.inf
        bound = info.mip_dual_bound
        if status == highspy.HighsModelStatus.kOptimal:
            # Solved in presolve, a problem has no dual bound of its own.
            return Outcome("optimal", value, bound if math.isfinite(bound) else value)
        if status == highspy.HighsModelStatus.kTimeLimit:
            return Outcome("time limit" if found else "none", value, bound)
        return Outcome("feasible" if found else "none", value, bound)

    def _cbc(self, problem: Any, start: Mapping[Any, float] | None) -> Outcome:
        import pulp

        if start is not None:
            for variable in problem.variables():
                variable.setInitialValue(float(start.get(variable, 0.0)), check=False)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "cbc.log"
            problem.solve(
                pulp.COIN_CMD(
                    path=_cbc_path(),
                    msg=False,
                    timeLimit=self.time_limit_s,
                    gapRel=self.gap,
                    threads=self.threads if self.threads > 1 else None,
                    warmStart=start is not None,
                    logPath=str(log),
                    options=[f"randomCbcSeed {self.seed + 1}"],
                )
            )
            outcome = read_cbc(log.read_text(encoding="utf-8", errors="replace"))
        if self.progress is not None:
            self.progress(outcome.value, outcome.bound, time.perf_counter() - started)
        return outcome


def _cbc_path() -> str:
    """The program in PuLP's own wheel, or else the one on the path."""
    from pulp.apis import coin_api

    return str(getattr(coin_api, "pulp_cbc_path", "cbc"))


def read_cbc(log: str) -> Outcome:
    """Status, value and bound from CBC's log.

    The summary's ``Lower bound`` has three decimals and may be rounded upwards; what the search said last,
    ``best possible``, has eight digits, of which the last is not trusted.

    Examples
    --------
    >>> read_cbc(
    ...     '''Cbc0005I Partial search - best objective 4.8418002 (best possible 4.8334538), took 9 iterations
    ... Result - Stopped on time limit
    ...
    ... Objective value:                4.84180023
    ... Lower bound:                    4.834
    ... '''
    ... )
    Outcome(status='time limit', value=4.84180023, bound=4.8334...)
    """
    number = r"([-+]?[\d.]+(?:e[-+]?\d+)?)"
    result = re.findall(r"^Result - (.*)$", log, re.MULTILINE)
    said = result[-1].strip().lower() if result else ""
    if "infeasible" in said:
        return Outcome("infeasible", math.inf, math.inf)
    values = re.findall(rf"^Objective value:\s+{number}", log, re.MULTILINE)
    value = float(values[-1]) if values else math.inf
    possible = re.findall(rf"best possible {number}", log)
    bound = float(possible[-1]) if possible else -math.inf
    bound -= abs(bound) * 1e-7 if math.isfinite(bound) else 0.0
    if said.startswith("optimal"):
        # Within the gap; CBC names a bound only if it had to search.
        closed = "(within gap tolerance)" not in said
        return Outcome("optimal", value, value if closed else bound)
    if not math.isfinite(value):
        return Outcome("none", math.inf, bound)
    return Outcome("time limit" if "time" in said else "feasible", value, min(bound, value))
