"""Run prompts through a model, token by token where it generates, and write what its routers chose."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.recording.recorder import Recorder, Routed
from moesim.recording.routers import Module
from moesim.recording.rules import Rule
from moesim.recording.scores import ScoreWriter
from moesim.trace import DECODE, PREFILL, Header, TraceWriter
from moesim.trace.schema import ROUTING


@dataclass(frozen=True, slots=True)
class Recording:
    """What to record.

    Parameters
    ----------
    max_new_tokens
        Tokens to generate per prompt; the last one is never fed back, so decoding gives one row less.
    temperature
        0 takes the likeliest token, above it tokens are drawn.
    seed
        Seed of the draws.
    weights, token_ids
        Whether router weights and token ids go into the trace.
    scores, next_scores
        Folders for router logits, and for each layer's logits as the MoE layer before it would predict them,
        a file per layer (`ScoreWriter`); None for neither.
    """

    max_new_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    weights: bool = False
    token_ids: bool = True
    scores: str | os.PathLike[str] | None = None
    next_scores: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.max_new_tokens < 0:
            faults.append(Fault("is negative", "--max-new-tokens", self.max_new_tokens, "0 or more"))
        if not 0 <= self.temperature < float("inf"):
            faults.append(Fault("is no temperature", "--temperature", self.temperature, "0 or more"))
        if self.seed < 0:
            faults.append(Fault("is negative", "--seed", self.seed, "0 or more"))
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded.

    Parameters
    ----------
    requests, prefill_tokens, decode_tokens
        Rows of the trace.
    moe_layer_ids
        Decoder indices of the layers that route.
    warnings
        What had to be assumed.
    outputs
        The token ids each request generated.
    """

    requests: int
    prefill_tokens: int
    decode_tokens: int
    moe_layer_ids: tuple[int, ...]
    warnings: tuple[str, ...]
    outputs: tuple[tuple[int, ...], ...] = field(repr=False)


def record_requests(
    model: Module,
    prompts: Sequence[Sequence[int]],
    path: str | os.PathLike[str],
    recording: Recording | None = None,
    *,
    num_experts: int,
    top_k: int,
    rule: Rule | None = None,
    name: str = "",
    source: str = "",
    licence: str = "",
    metadata: Mapping[str, str] | None = None,
    eos: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Recorded:
    """Record the routing of prompts, one request at a time, into a canonical Parquet file.

    Parameters
    ----------
    model
        A causal language model of transformers, in evaluation mode.
    prompts
        Token ids of each request, at least one each.
    path
        The file to write; it appears when all is recorded, and not otherwise.
    recording
        What to record; the prompts alone by default.
    num_experts, top_k
        Routed experts per layer and per token.
    rule
        How logits become experts, for routers that leave it to their block.
    name, source, licence, metadata
        For the header of the trace.
    eos
        Token ids that end a request.
    progress
        Called with requests done and requests in all.

    Returns
    -------
    Recorded

    Raises
    ------
    ConfigError
        If a prompt is empty, no router is recognised, or a file cannot be written.
    """
    recording = recording or Recording()
    empty = [Fault("has no tokens", f"prompt {i}") for i, p in enumerate(prompts) if not len(p)]
    if empty or not prompts:
        raise ConfigError(empty or Fault("there are no prompts"))
    wanted = {"logits": recording.scores is not None, "next_logits": recording.next_scores is not None}
    recorder = Recorder(model, num_experts, top_k, rule, **wanted)
    layers = tuple(router.layer for router in recorder.routers)
    header = Header(
        kind=ROUTING,
        num_experts=num_experts,
        moe_layer_ids=layers,
        top_k=top_k,
        model=name,
        source=source,
        licence=licence,
        metadata=dict(metadata or {}),
    )
    outputs: list[tuple[int, ...]] = []
    rows = {PREFILL: 0, DECODE: 0}
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(
            TraceWriter(path, header, weights=recording.weights, token_ids=recording.token_ids)
        )
        scores = _score_writer(stack, recording.scores, layers, num_experts)
        next_scores = _score_writer(stack, recording.next_scores, layers[1:], num_experts)
        stack.enter_context(recorder)
        for request, prompt in enumerate(prompts):
            draw = np.random.default_rng((recording.seed, request))
            run = _Run(model, recorder, recording, draw, tuple(eos))
            for phase, position, tokens, routed in run.steps(prompt):
                n = len(tokens)
                writer.append(
                    routed.topk_ids,
                    np.full(n, request, np.int32),
                    np.arange(position, position + n, dtype=np.int32),
                    np.full(n, phase, np.int8),
                    routed.topk_weights,
                    np.asarray(tokens, np.int64),
                )
                for target, values in ((scores, routed.logits), (next_scores, routed.next_logits)):
                    if target is not None and values is not None:
                        target.append(values)
                rows[phase] += n
            outputs.append(tuple(run.generated))
            if progress is not None:
                progress(request + 1, len(prompts))
    warnings = ("experts follow from router logits by the config's rule",) if recorder.inferred else ()
    return Recorded(len(prompts), rows[PREFILL], rows[DECODE], layers, warnings, tuple(outputs))


class _Run:
    """One request: the prompt in one pass, then one token a pass."""

    def __init__(
        self,
        model: Module,
        recorder: Recorder,
        recording: Recording,
        draw: np.random.Generator,
        eos: tuple[int, ...],
    ) -> None:
        self.model, self.recorder, self.recording = model, recorder, recording
        self.draw, self.eos = draw, eos
        self.generated: list[int] = []
        self._cache: Any = None
        only_last = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if only_last else {}

    def steps(self, prompt: Sequence[int]) -> Any:  # noqa: ANN401 - a generator of steps
        """Yield phase, first position, tokens and routing of each pass."""
        tokens, position, phase = [int(t) for t in prompt], 0, PREFILL
        while True:
            logits, routed = self._forward(tokens)
            if (seen := len(routed.topk_ids)) != len(tokens):
                raise ConfigError(Fault("routers saw another number of tokens", "", seen, str(len(tokens))))
            yield phase, position, tokens, routed
            if len(self.generated) == self.recording.max_new_tokens:
                return
            self.generated.append(self._pick(logits))
            if self.generated[-1] in self.eos or len(self.generated) == self.recording.max_new_tokens:
                return
            position += len(tokens)
            tokens, phase = self.generated[-1:], DECODE

    def _forward(self, tokens: list[int]) -> tuple[npt.NDArray[np.float64], Routed]:
        import torch  # type: ignore[import-not-found, unused-ignore]

        ids = torch.tensor([tokens], device=self.model.device)
        with torch.inference_mode():
            out = self.model(ids, past_key_values=self._cache, use_cache=True, **self._options)
        self._cache = out.past_key_values
        return out.logits[0, -1].double().cpu().numpy(), self.recorder.take()

    def _pick(self, logits: npt.NDArray[np.float64]) -> int:
        temperature = self.recording.temperature
        if temperature == 0:
            return int(logits.argmax())
        weights = np.exp((logits - logits.max()) / temperature)
        return int(self.draw.choice(len(weights), p=weights / weights.sum()))


def _score_writer(
    stack: contextlib.ExitStack,
    folder: str | os.PathLike[str] | None,
    layers: tuple[int, ...],
    num_experts: int,
) -> ScoreWriter | None:
    return None if folder is None else stack.enter_context(ScoreWriter(folder, layers, num_experts))
