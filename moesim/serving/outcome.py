"""What a simulation says: every request, and sums over steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.hardware.types import Hardware
from moesim.layout.apart import Apart
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.parallelism import Parallelism
from moesim.prediction.question import Engine
from moesim.requests import RequestTrace
from moesim.serving.settings import Fleet, Scheduler
from moesim.serving.state import DONE, LOST, Rules, State
from moesim.shown import block, span, table
from moesim.tabular import Tabular

if TYPE_CHECKING:
    from moesim.serving.cluster import Down

F8 = npt.NDArray[np.float64]

#: Names of `moesim.serving.state`'s stages, in its order; a run that ended leaves the first three to requests
#: that nobody served.
STAGES = ("ahead", "waiting", "running", "done", "lost", "held", "reserved")


#: Words, metric and scale of what a notebook shows at once.
_SHOWN = (
    ("TTFT, ms", "ttft_s", 1e3),
    ("TPOT, ms", "tpot_s", 1e3),
    ("between tokens, ms", "itl_s", 1e3),
    ("end to end, s", "e2el_s", 1.0),
    ("in the queue, ms", "queue_s", 1e3),
)


@dataclass(frozen=True, slots=True, eq=False)
class About:
    """What served.

    Parameters
    ----------
    model
        Its name.
    hardware, layout
        Of one replica.
    engine, scheduler, fleet
        Settings.
    engines
        Engines that step on their own: the pipeline stages of all replicas.
    request_s, first_steps
        Of `moesim.engine.traits.Traits`.
    seed
        Of all that was drawn.
    notes
        What had to be assumed.
    period_tokens, period_stall_s
        Of routing that drifts: tokens served when each period begins, and seconds for which every engine then
        stands still, ``[periods]``; None where it does not.
    """

    model: str
    hardware: Hardware
    layout: Parallelism | Disaggregated | Apart
    engine: Engine
    scheduler: Scheduler
    fleet: Fleet
    engines: int
    request_s: float = 0.0
    first_steps: float = 0.0
    seed: int = 0
    notes: tuple[str, ...] = ()
    period_tokens: F8 | None = None
    period_stall_s: F8 | None = None

    @property
    def devices(self) -> int:
        """Of all replicas."""
        return self.layout.world * self.fleet.replicas


@dataclass(frozen=True, slots=True, eq=False)
class Outcome(Tabular):
    """What happened; arrays are ``[requests]`` in order of arrival.

    Parameters
    ----------
    requests
        Who was served.
    state
        What the loops left behind.
    rules
        Of the engines.
    about
        What served; None for the loops alone.
    down
        What failures did; None without any.
    """

    requests: RequestTrace
    state: State
    rules: Rules
    about: About | None = None
    down: Down | None = None

    @property
    def done(self) -> npt.NDArray[np.bool_]:
        """Requests that got all their tokens."""
        return np.asarray(self.state.progress.stage == DONE)

    @property
    def lost(self) -> npt.NDArray[np.bool_]:
        """Requests that a failure ended."""
        return np.asarray(self.state.progress.stage == LOST)

    @property
    def late_s(self) -> F8:
        """What a token takes from the engine to the client beyond the step that gave it.

        A request's own constant, and so many steps of it as pass before its first token is at the client: as
        in the steady state (`moesim.engine.steady`).
        """
        if self.about is None:
            return np.zeros(len(self.requests))
        return self.about.request_s + self.about.first_steps * np.nan_to_num(self.tpot_s)

    @property
    def ttft_s(self) -> F8:
        """From sending to the first token at the client."""
        return self.state.progress.first_s - self.state.progress.sent_s + self.late_s

    @property
    def e2el_s(self) -> F8:
        """From sending to the last token at the client."""
        return self.state.progress.last_s - self.state.progress.sent_s + self.late_s

    @property
    def tpot_s(self) -> F8:
        """Mean time between tokens of each request; NaN with one token."""
        later = self.state.progress.generated - 1
        whole = self.state.progress.last_s - self.state.progress.first_s
        return np.where(later > 0, whole / np.maximum(later, 1), np.nan)

    @property
    def queue_s(self) -> F8:
        """From sending to the first step with the request in it."""
        return self.state.progress.scheduled_s - self.state.progress.sent_s

    @property
    def span_s(self) -> tuple[float, float]:
        """When the first request was sent, and when the last token was given."""
        p = self.state.progress
        begin = float(np.nanmin(p.sent_s, initial=np.inf, where=np.isfinite(p.sent_s)))
        end = float(np.nanmax(p.last_s, initial=-np.inf, where=np.isfinite(p.last_s)))
        return (begin, max(end, begin)) if np.isfinite(begin) else (0.0, 0.0)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """A row per request, as `table` has them."""
        return self.table()

    def _repr_html_(self) -> str:
        from moesim.serving.statistics import summarise

        found = summarise(self)
        values, latency = found.values, found.values["latency"]
        marks = ("mean", "p50", "p90", "p99")
        rows = []
        for words, name, scale in _SHOWN:
            spread = [latency[name][mark] for mark in marks]
            numbers = [None if one is None else one * scale for one in spread]
            rows.append((words, numbers[0], span(found.interval.get(name), scale), *numbers[1:]))
        level = f"{found.level:.0%} interval" if found.interval else "no interval"
        rates = [
            (words, values.get(name), span(found.interval.get(name)))
            for words, name in (
                ("requests/s", "request_throughput"),
                ("output tokens/s", "output_throughput"),
                ("requests running, mean", "running"),
                ("requests waiting, mean", "waiting"),
            )
        ]
        title = f"{int(self.done.sum()):,} of {len(self.requests):,} requests served"
        if self.about is not None:
            about = self.about
            title += f": {about.model} on {about.devices} devices of {about.hardware.name}, {about.layout}"
        return block(
            title,
            table(["latency", "mean", level, "p50", "p90", "p99"], rows),
            table(["rate", "mean", level], rates),
            notes=[*(self.about.notes if self.about is not None else ()), *found.notes],
        )

    def table(self) -> dict[str, npt.NDArray[Any]]:
        """One row per request, in order of arrival; times in seconds, NaN where something did not happen."""
        p, requests = self.state.progress, self.requests
        columns: dict[str, npt.NDArray[Any]] = {
            "request": np.arange(len(requests)),
            "stage": np.array(STAGES)[p.stage],
            "arrival_s": requests.arrival_s,
            "sent_s": p.sent_s,
            "scheduled_s": p.scheduled_s,
            "first_s": p.first_s,
            "last_s": p.last_s,
            "input_tokens": requests.input_tokens,
            "output_tokens": requests.output_tokens,
            "generated_tokens": p.generated,
            "cached_tokens": p.cached,
            "preempted": p.preempted,
            "replica": np.where(p.lane >= 0, p.lane // self.rules.lanes, -1),
            "lane": p.lane,
            "queue_s": self.queue_s,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "e2el_s": self.e2el_s,
        }
        if requests.session is not None:
            columns["session"] = requests.session
        return columns
