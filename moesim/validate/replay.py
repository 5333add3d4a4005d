"""Requests of a run, served by the simulator as its engine would, and what each of them would have seen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.traits import Traits
from moesim.hardware import Hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import Model
from moesim.prediction import Engine
from moesim.requests import RequestTrace
from moesim.serving.outcome import Outcome
from moesim.serving.settings import Fleet, Scheduler
from moesim.serving.simulate import simulate
from moesim.serving.state import BINS_PER_E, GAP_LOW_S, LOG_REPLICA, LOG_START
from moesim.validate.distances import Sample
from moesim.validate.runs import PER_TOKEN_MEAN, PICKED, TOKEN, Spread

Array = npt.NDArray[np.float64]

#: vLLM's first version that plans ahead by default.
PLANS_AHEAD = (0, 14)


@dataclass(frozen=True, slots=True)
class Setup:
    """What serves a run.

    Parameters
    ----------
    model, hardware, layout, engine
        As for a prediction.
    backend
        Whose scheduler forms the steps.
    traits
        What the engine adds to its kernels.
    version
        Of the engine, where it is known.
    """

    model: Model
    hardware: Hardware
    layout: Parallelism
    engine: Engine
    backend: str = "vllm"
    traits: Traits = field(default_factory=Traits)
    version: str = ""

    @property
    def scheduler(self) -> Scheduler:
        """How the engine forms steps, unless its user said otherwise.

        vLLM plans a step while the one before runs since 0.14 (``async_scheduling``), SGLang since 0.4
        (``--disable-overlap-schedule`` is off); vLLM captures graphs of 1, 2 and 4 tokens, of every 8 to 256
        and of every 16 to twice the sequences or 512 (``max_cudagraph_capture_size``).
        """
        usual = Scheduler.of(self.backend)
        if self.backend == "vllm":
            most = int(min(2 * self.engine.max_sequences, 512))
            sizes = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
            known = tuple(int(n) for n in re.findall(r"\d+", self.version)[:2])
            graphs = () if self.engine.enforce_eager else tuple(n for n in sizes if n <= most)
            return replace(usual, asynchronous=not known or known >= PLANS_AHEAD, graph_sizes=graphs)
        return replace(usual, asynchronous=self.backend == "sglang")


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """What every request saw, ``[requests]`` in order of arrival.

    Parameters
    ----------
    sent_s
        When the client sent it.
    picked_s
        When the engine looked for new requests next: at the first step that began then or later.
    first_s, last_s
        When its first and last token arrived.
    output_tokens
        Tokens it got.
    gaps
        Seconds between tokens, of all requests, by bins, and how many there are of each.
    """

    sent_s: Array
    picked_s: Array
    first_s: Array
    last_s: Array
    output_tokens: npt.NDArray[np.int64]
    gaps: Sample

    def samples(self, itl_of: str = TOKEN, counted_from: str = "") -> Mapping[str, Sample]:
        """Seconds by `moesim.validate.runs.RUN_METRICS`.

        Parameters
        ----------
        itl_of
            What an inter-token latency is a sample of.
        counted_from
            From when times to the first and last token are counted: `moesim.validate.runs.PICKED`, or when
            the client sent the request.
        """
        began = self.picked_s if counted_from == PICKED else self.sent_s
        later = self.output_tokens - 1
        each = np.where(later > 0, (self.last_s - self.first_s) / np.maximum(later, 1), np.nan)
        itl = Sample(each, np.maximum(later, 0)) if itl_of == PER_TOKEN_MEAN else Sample(each)
        return {
            "ttft": Sample(self.first_s - began, paired=True),
            "tpot": Sample(each, paired=True),
            "itl": self.gaps if itl_of == TOKEN else itl,
            "e2el": Sample(self.last_s - began, paired=True),
        }

    def metrics(self, itl_of: str = TOKEN, counted_from: str = "") -> Mapping[str, Spread]:
        """Statistics in seconds by `moesim.validate.runs.RUN_METRICS`."""
        return {name: Spread.of_sample(s) for name, s in self.samples(itl_of, counted_from).items()}

    @property
    def duration_s(self) -> float:
        """From the first request to the last token."""
        return float(self.last_s.max() - self.sent_s.min())


def replay(requests: RequestTrace, setup: Setup, seed: int = 0) -> Replayed:
    """Serve requests step by step.

    Parameters
    ----------
    requests
        Who arrives when; a closed loop sends the next request when one ends.
    setup
        What serves them. Microbatches of a pipeline take requests in turn, as engines of their own.
    seed
        Of routing draws.

    Raises
    ------
    ConfigError
        If the layout or the engine's settings are wrong.
    InfeasibleError
        If the weights, or the longest request's cache, do not fit.
    """
    fleet = Fleet(router="round-robin") if setup.layout.pp > 1 else Fleet()
    outcome = simulate(
        setup.model,
        setup.hardware,
        setup.layout,
        requests,
        engine=setup.engine,
        scheduler=setup.scheduler,
        fleet=fleet,
        traits=setup.traits,
        seed=seed,
    )
    return replayed_of(outcome)


def replayed_of(outcome: Outcome) -> Replayed:
    """What a simulation says of requests, as a client and the engine's own clock would."""
    progress = outcome.state.progress
    counts = outcome.state.tally.gaps
    found = np.flatnonzero(counts)
    # The middle of a bin; tokens of one step come at once.
    middles = np.where(found > 0, GAP_LOW_S * np.exp((found + 0.5) / BINS_PER_E), 0.0)
    return Replayed(
        progress.sent_s,
        _picked(outcome),
        progress.first_s,
        progress.last_s,
        outcome.requests.output_tokens.astype(np.int64),
        Sample(middles, counts[found]),
    )


def _picked(outcome: Outcome) -> Array:
    """When each request's engine next began a step; when it was sent, beyond the steps that were kept."""
    progress, tally = outcome.state.progress, outcome.state.tally
    log = tally.log[: min(int(tally.logged[0]), len(tally.log))]
    picked = progress.sent_s.copy()
    replica = progress.lane // outcome.rules.lanes
    for one in np.unique(replica):
        starts = log[log[:, LOG_REPLICA] == one, LOG_START]
        mine = np.flatnonzero(replica == one)
        place = np.searchsorted(starts, progress.sent_s[mine])
        inside = place < len(starts)
        picked[mine[inside]] = starts[place[inside]]
    return np.minimum(picked, progress.first_s)
