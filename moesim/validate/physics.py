"""Physical times of measured rows: what is known of a row but its measurements goes in.

Rows of one deployment are evaluated together, so that thousands take seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import numpy.typing as npt

from moesim.engine.disaggregated import Side, disaggregated
from moesim.engine.load import Load
from moesim.engine.memory import cache_per_sequence
from moesim.engine.steady import Steady, steady
from moesim.engine.traits import Traits
from moesim.errors import ConfigError
from moesim.model import load_model
from moesim.prediction.kept import deployment_of
from moesim.prediction.question import check
from moesim.units import show
from moesim.validate.recipes import recipe_of
from moesim.validate.rows import ServingRow
from moesim.validate.served import MEMORY_UTILISATION, engine_of, machine_of

Array = npt.NDArray[np.float64]

PREDICTED, UNSUPPORTED, INFEASIBLE = "predicted", "unsupported", "infeasible"


@dataclass(slots=True, eq=False)
class Physics:
    """Physical times of rows, ``[rows]``; NaN where there are none.

    Parameters
    ----------
    tpot_s, ttft_fixed_s, ttft_steps, bound_tpot_s, bound_ttft_s, running
        As in `moesim.engine.steady.Steady`.
    status, reason
        ``predicted``, ``unsupported`` or ``infeasible``, and why.
    expert_dtype
        Data type of expert weights, or of dense blocks.
    """

    tpot_s: Array
    ttft_fixed_s: Array
    ttft_steps: Array
    bound_tpot_s: Array
    bound_ttft_s: Array
    running: Array
    status: list[str]
    reason: list[str]
    expert_dtype: list[str]

    @property
    def predicted(self) -> npt.NDArray[np.bool_]:
        """Rows that have an answer."""
        return np.array([status == PREDICTED for status in self.status], dtype=bool)

    def part(self, index: npt.NDArray[np.int64]) -> Physics:
        """Some of the rows."""
        return Physics(
            self.tpot_s[index],
            self.ttft_fixed_s[index],
            self.ttft_steps[index],
            self.bound_tpot_s[index],
            self.bound_ttft_s[index],
            self.running[index],
            [self.status[i] for i in index],
            [self.reason[i] for i in index],
            [self.expert_dtype[i] for i in index],
        )


#: What a row has of a steady state.
FIELDS = ("tpot_s", "ttft_fixed_s", "ttft_steps", "bound_tpot_s", "bound_ttft_s", "running")


def physics_of(rows: Sequence[ServingRow], traits: Mapping[str, Traits]) -> Physics:
    """Physical times of rows.

    Parameters
    ----------
    rows
        With or without measurements, which are not looked at.
    traits
        By backend.
    """
    tpot, fixed, steps, bound_tpot, bound_ttft, running = (np.full(len(rows), nan) for _ in FIELDS)
    table = Physics(
        tpot,
        fixed,
        steps,
        bound_tpot,
        bound_ttft,
        running,
        [UNSUPPORTED if not row.supported else PREDICTED for row in rows],
        [row.reason for row in rows],
        [""] * len(rows),
    )
    together: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row.supported:
            key = (
                row.model,
                row.hardware,
                row.nodes,
                row.dtype,
                row.backend,
                row.layout,
                row.prefill,
                row.decode,
                row.stand_ins,
                recipe_of(row).kv_cache_dtype,
            )
            together[key].append(i)
    # Layouts of one model share draws of routing, which are kept for a while.
    for _, members in sorted(together.items(), key=lambda item: str(item[0][0])):
        _fill(table, rows, members, traits)
    return table


def _fill(
    table: Physics, rows: Sequence[ServingRow], members: list[int], traits: Mapping[str, Traits]
) -> None:
    """Answer the rows of one deployment; those that do not fit are left out one by one."""
    one = rows[members[0]]
    try:
        sides = _sides(one, traits)
    except ConfigError as error:
        for i in members:
            table.status[i], table.reason[i] = UNSUPPORTED, str(error.faults[0])
        return
    load = _load([rows[i] for i in members])
    fits = np.ones(len(members), dtype=bool)
    for side in sides:
        room = side.deployment.memory(load.chunk_tokens, MEMORY_UTILISATION)
        whole = cache_per_sequence(
            side.deployment.kinds,
            side.deployment.layout,
            side.deployment.precision,
            load.input_len + load.output_len,
        )
        short = room.cache_budget_bytes < whole
        fits &= ~short
        for place in np.flatnonzero(short):
            i = members[place]
            table.status[i] = INFEASIBLE
            needed = room.weights_bytes + room.workspace_bytes + float(whole[place])
            table.reason[i] = (
                f"{show(needed, 'bytes')} of weights, "
                f"workspace and one request's cache do not fit {show(room.budget_bytes, 'bytes')} per device "
                f"with {side.deployment.layout}"
            )
    precision = sides[-1].deployment.precision
    for i in members:
        table.expert_dtype[i] = precision.weight("expert" if sides[-1].deployment.model.moe else "dense")
    if not fits.any():
        return
    part = load.part(fits)
    state = _state(sides, part)
    for name in FIELDS:
        getattr(table, name)[np.array(members)[fits]] = getattr(state, name)


def _state(sides: list[Side], load: Load) -> Steady:
    if len(sides) == 1:
        deployment = sides[0].deployment
        return steady(deployment, load, deployment.memory(load.chunk_tokens, MEMORY_UTILISATION))
    return disaggregated(sides[0], sides[1], load, MEMORY_UTILISATION)


def _load(rows: Sequence[ServingRow]) -> Load:
    lengths = np.array([(r.input_len, r.output_len, r.concurrency) for r in rows]).T
    waits = np.array([recipe_of(r).wait_steps for r in rows])
    return Load(lengths[0], lengths[1], lengths[2], wait_steps=waits)


def _sides(row: ServingRow, traits: Mapping[str, Traits]) -> list[Side]:
    """Workers of a row: one, or those of both pools."""
    model, engine = load_model(row.model), engine_of(row)
    workers = [1] if row.layout is not None else [pool.workers for pool in row.pools]
    sides = []
    for layout, count in zip(row.evaluated, workers, strict=True):
        machine = machine_of(row.hardware, row.nodes, layout)
        check(model, machine, layout, [], None, None, engine)
        deployment = deployment_of(
            model, machine, layout, engine, None, None, 0, traits.get(row.backend, Traits())
        )
        sides.append(Side(deployment, count))
    return sides
