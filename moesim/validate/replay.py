"""Requests of a run, served step by step by the cost model, and what each of them would have seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from moesim.batching import MIXED, PREFILL_FIRST, Batcher, EngineClock, Schedule, StepTime, schedule
from moesim.engine.deployment import Deployment
from moesim.engine.load import Load
from moesim.engine.memory import cache_per_sequence
from moesim.engine.traits import Traits
from moesim.hardware import Hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import Model
from moesim.prediction import Engine
from moesim.prediction.kept import deployment_of
from moesim.prediction.room import check_room
from moesim.requests import RequestTrace, take
from moesim.validate.runs import PER_TOKEN_MEAN, TOKEN, Spread

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setup:
    """What serves a run.

    Parameters
    ----------
    model, hardware, layout, engine
        As for a prediction.
    backend
        ``sglang`` reads prompts before it decodes; others mix them.
    traits
        What the engine adds to its kernels.
    """

    model: Model
    hardware: Hardware
    layout: Parallelism
    engine: Engine
    backend: str = "vllm"
    traits: Traits = field(default_factory=Traits)


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """What every request saw, ``[requests]`` in order of arrival.

    Parameters
    ----------
    sent_s
        When the client sent it.
    first_s, last_s
        When its first and last token arrived.
    output_tokens
        Tokens it got.
    gaps
        Seconds between tokens, of all requests, ``[tokens]``.
    """

    sent_s: Array
    first_s: Array
    last_s: Array
    output_tokens: npt.NDArray[np.int64]
    gaps: Array

    def metrics(self, itl_of: str = TOKEN) -> Mapping[str, Spread]:
        """Statistics in seconds by `moesim.validate.runs.RUN_METRICS`."""
        many = self.output_tokens > 1
        each = (self.last_s - self.first_s)[many] / (self.output_tokens[many] - 1)
        weights = self.output_tokens[many] - 1 if itl_of == PER_TOKEN_MEAN else None
        return {
            "ttft": Spread.of(self.first_s - self.sent_s),
            "tpot": Spread.of(each),
            "itl": Spread.of(self.gaps) if itl_of == TOKEN else Spread.of(each, weights),
            "e2el": Spread.of(self.last_s - self.sent_s),
        }

    @property
    def duration_s(self) -> float:
        """From the first request to the last token."""
        return float(self.last_s.max() - self.sent_s.min())


def replay(
    requests: RequestTrace,
    setup: Setup,
    clock_of: Callable[[Deployment], StepTime] = EngineClock,
) -> Replayed:
    """Serve requests step by step.

    Parameters
    ----------
    requests
        Who arrives when; a closed loop sends the next request when one ends.
    setup
        What serves them. Data-parallel ranks take requests in turn, and so do the microbatches of a pipeline.
    clock_of
        What prices the steps of a deployment.

    Raises
    ------
    ConfigError
        If the layout or the engine's settings are wrong.
    InfeasibleError
        If the weights, or the mean request's cache, do not fit.
    """
    layout, engine = setup.layout, setup.engine
    layout.check(setup.model, setup.hardware)
    deployment = deployment_of(setup.model, setup.hardware, layout, engine, None, None, 0, setup.traits)
    clock = clock_of(deployment)
    lanes = min(layout.dp * layout.pp, len(requests))
    batcher = Batcher(int(engine.chunk_tokens), _most(requests, deployment, engine), _policy(setup.backend))
    found: list[Replayed] = []
    turns = [np.arange(lane, len(requests), lanes) for lane in range(lanes)]
    for lane, mine in enumerate(turns):
        part = take(requests, mine)
        if requests.concurrency is not None:
            part = replace(part, concurrency=max((requests.concurrency + lanes - 1 - lane) // lanes, 1))
        found.append(_follow(part, schedule(part, batcher, clock)))
    order = np.argsort(np.concatenate(turns), kind="stable")
    return Replayed(
        sent_s=np.concatenate([part.sent_s for part in found])[order],
        first_s=np.concatenate([part.first_s for part in found])[order],
        last_s=np.concatenate([part.last_s for part in found])[order],
        output_tokens=np.concatenate([part.output_tokens for part in found])[order],
        gaps=np.concatenate([part.gaps for part in found]),
    )


def _policy(backend: str) -> str:
    return PREFILL_FIRST if backend == "sglang" else MIXED


def _most(requests: RequestTrace, deployment: Deployment, engine: Engine) -> int:
    """Sequences of one lane that the engine and its cache hold."""
    layout = deployment.layout
    inputs, outputs = (np.array([a.mean()]) for a in (requests.input_tokens, requests.output_tokens))
    memory = deployment.memory(engine.chunk_tokens, engine.memory_utilisation)
    check_room(deployment, Load(inputs, outputs, np.ones(1)), memory, engine)
    each = cache_per_sequence(deployment.kinds, layout, deployment.precision, inputs + outputs / 2)
    room = int(memory.cache_budget_bytes / max(float(each[0]), 1.0) / layout.pp)
    return max(1, min(room, int(engine.max_sequences / layout.pp), int(engine.chunk_tokens)))


def _follow(requests: RequestTrace, steps: Schedule) -> Replayed:
    """When each request's tokens came."""
    ends = np.repeat(steps.start_s + steps.seconds, np.diff(steps.step_ptr))
    prompt = requests.input_tokens.astype(np.int64)
    # The step that reads the last prompt token gives the first output token.
    gives = steps.position >= prompt[steps.request] - 1
    request, when = steps.request[gives], ends[gives]
    order = np.argsort(request, kind="stable")
    request, when = request[order], when[order]
    bounds = np.searchsorted(request, np.arange(len(requests) + 1))
    first, last = when[bounds[:-1]], when[bounds[1:] - 1]
    same = request[1:] == request[:-1]
    sent = requests.arrival_s.copy()
    if requests.concurrency is not None and len(requests) > requests.concurrency:
        freed = np.sort(last)[: len(requests) - requests.concurrency]
        sent[requests.concurrency :] = np.maximum(sent[requests.concurrency :], freed)
    # A client that sends late does not make the engine serve early.
    sent = np.minimum(sent, first)
    return Replayed(sent, first, last, requests.output_tokens.astype(np.int64), np.diff(when)[same])
