"""Six insights into the routing of a trace, each a number with what chance alone would give.

They are those of "Orders in Chaos" (arXiv:2510.05497): how far a layer's experts tell the next layer's and
the next token's, how far prompts tell what decoding asks for, how hot the hottest expert is, how far experts
go in pairs, and how much of a step's time is moving experts and tokens.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.analysis import loads as of
from moesim.analysis.compare import spearman
from moesim.analysis.movement import BATCHES, CONTEXT, movement_shares
from moesim.analysis.partial import Partial
from moesim.analysis.stats import ROWS, Progress, open_trace, spec_of, sum_source, takes_turns, tokens_of
from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware
from moesim.model.types import Model
from moesim.trace import DECODE, PREFILL, Header, LoadCounts, Routing, RoutingTrace

Floats = npt.NDArray[np.float64]
#: Part of the experts, and of the pairs of experts, that count as likely.
LIKELY, LIKELY_PAIRS = 0.2, 0.1
#: How many of the hottest experts of prompts and of decoding are compared.
HOTTEST = (5, 10, 20)
NAMES = (
    "next_layer",
    "next_token",
    "prefill_decode",
    "hottest_expert",
    "pairs",
    "data_movement",
)
_NEEDS_TOKENS = "load counts have no tokens; it needs a token-level trace"


@dataclass(frozen=True, slots=True)
class Insight:
    """One insight.

    Parameters
    ----------
    name
        One of `NAMES`.
    values
        Means over the MoE layers that have load unless their name says else; empty where the trace or what
        was given with it does not say.
    reason
        Why there are none.
    """

    name: str
    values: dict[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Insights:
    """All six, in the order of `NAMES`.

    Parameters
    ----------
    found
        One for each name.
    model, num_experts, top_k, tokens
        What the trace is of; `tokens` is None for load counts.
    warnings
        What had to be assumed.
    """

    found: tuple[Insight, ...]
    model: str = ""
    num_experts: int = 0
    top_k: int | None = None
    tokens: int | None = None
    warnings: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Insight:
        return next(insight for insight in self.found if insight.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and texts by name; None for an insight that there is not."""
        return {
            "insights": {i.name: dict(i.values) or None for i in self.found},
            "insight_reasons": {i.name: i.reason for i in self.found if i.reason},
        }


def insights_of(
    trace: Routing | str | os.PathLike[str],
    *,
    model: Model | None = None,
    hardware: Hardware | None = None,
    batches: Sequence[int] = BATCHES,
    context: float = CONTEXT,
    seed: int = 0,
    progress: Progress | None = None,
    rows: int = ROWS,
    **hints: Any,  # noqa: ANN401 - as load_trace takes them
) -> Insights:
    """Six insights into a trace or load counts.

    Parameters
    ----------
    trace
        The trace, or a file in any known format; canonical Parquet is streamed, never held.
    model, hardware
        For the share of data movement in a decode step; without them that insight is missing.
    batches
        Tokens of the decode steps it is given for, of all devices together.
    context
        Tokens that each sequence looks back on.
    seed
        Of the draws of routing.
    progress
        Called with tokens done and tokens in all.
    rows
        Tokens of one batch; the answer does not depend on it.
    **hints
        `shape`, `num_experts`, `candidates` of `moesim.trace.load_trace`, for files.

    Examples
    --------
    >>> from moesim.files import data_dir
    >>> found = insights_of(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
    >>> round(found["next_layer"].values["cover"], 2), found["next_layer"].values["chance"]
    (0.41, 0.1875)
    >>> found["data_movement"].reason
    'needs --model and --hardware'
    """
    source = trace if isinstance(trace, RoutingTrace | LoadCounts) else open_trace(trace, hints)
    if isinstance(source, LoadCounts):
        header = Header.of(source)
        tables = [Insight(name, reason=_NEEDS_TOKENS) for name in ("next_layer", "next_token")]
        phases = Insight("prefill_decode", reason="load counts do not tell prefill from decode")
        pairs = Insight("pairs", reason=_NEEDS_TOKENS)
        load, tokens = source.totals, None
    else:
        with contextlib.nullcontext(source) if isinstance(source, RoutingTrace) else source:
            header = Header.of(source) if isinstance(source, RoutingTrace) else source.header
            if not isinstance(source, RoutingTrace) and takes_turns(source):
                source = source.read()
            tokens = tokens_of(source, None)
            families = ("load", "coupling", "pairs")
            spec, too_large = spec_of(header, tokens, families, 0, seed)
            part = sum_source(source, spec, None, rows, None, progress)
            by_phase = []
            for phase in (PREFILL, DECODE):
                spec, _ = spec_of(header, tokens_of(source, phase), ("load",), 0, seed)
                by_phase.append(_load(sum_source(source, spec, phase, rows, None, None)))
        load = _load(part)
        tables = [
            _candidates("next_layer", _joint(part), load[:-1].sum(axis=1) > 0, too_large),
            _candidates("next_token", part.sums.get("follow"), load.sum(axis=1) > 0, too_large),
        ]
        phases = _phases(*by_phase)
        pairs = _pairs(part.sums.get("together"), header.top_k or 0, too_large)
        # A decode step routes as decoding does, where the trace has any.
        load = by_phase[1] if by_phase[1].any() else load
    movement = _movement(load, header, model, hardware, batches, context, seed)
    found = (*tables, phases, _hottest(load if tokens is None else _load(part)), pairs, movement)
    warnings = tuple(header.warnings)
    return Insights(found, header.model, header.num_experts, header.top_k, tokens, warnings)


def _load(part: Partial) -> Floats:
    """Selections of each expert, ``[layers, experts]``."""
    return np.asarray(part.sums["load"].sum(axis=1), np.float64)


def _joint(part: Partial) -> npt.NDArray[np.int64] | None:
    joint = part.sums.get("joint")
    return None if joint is None else np.asarray(joint.sum(axis=1))


def _candidates(
    name: str, table: npt.NDArray[np.int64] | None, loaded: npt.NDArray[np.bool_], too_large: dict[str, str]
) -> Insight:
    """How much of what follows an expert its likeliest followers are."""
    if table is None:
        return Insight(name, reason=next(iter(too_large.values())))
    table = table[loaded]
    top = of.top_count(table.shape[-1], LIKELY)
    best = np.partition(table, -top, axis=-1)[..., -top:].sum((-1, -2))
    cover = of.ratio(best, table.sum((-1, -2)))
    cover = cover[~np.isnan(cover)]
    if not len(cover):
        what = "layer" if name == "next_layer" else "token of a request"
        return Insight(name, reason=f"there is no {what} with a next one")
    static = table.sum(axis=-2)
    popular = of.ratio(np.sort(static, -1)[..., -top:].sum(-1), static.sum(-1))
    return Insight(
        name,
        {
            "cover": float(cover.mean()),
            "least": float(cover.min()),
            "most": float(cover.max()),
            "popular": float(np.nanmean(popular)),
            "chance": top / table.shape[-1],
        },
    )


def _phases(prefill: Floats, decode: Floats) -> Insight:
    """How far the loads of prompts tell those of decoding."""
    loaded = (prefill.sum(axis=1) > 0) & (decode.sum(axis=1) > 0)
    if not loaded.any():
        missing = "decode" if prefill.any() else "prefill"
        return Insight("prefill_decode", reason=f"the trace has no {missing} tokens")
    prefill, decode = prefill[loaded], decode[loaded]
    rank = spearman(prefill, decode)
    values = {}
    if not np.isnan(rank).all():
        values = {"spearman": float(np.nanmean(rank)), "least_spearman": float(np.nanmin(rank))}
    before, after = (np.argsort(-load, axis=1, kind="stable") for load in (prefill, decode))
    for n in HOTTEST:
        if n < prefill.shape[1]:
            both = (before[:, :n, None] == after[:, None, :n]).any(axis=1)
            values[f"top{n}_overlap"] = float(both.mean())
            values[f"top{n}_chance"] = n / prefill.shape[1]
    return Insight("prefill_decode", values)


def _hottest(load: Floats) -> Insight:
    """How hot the hottest expert is."""
    loaded = load[load.sum(axis=1) > 0]
    if not len(loaded):
        return Insight("hottest_expert", reason="the trace has no load")
    skew = of.max_over_mean(loaded)
    values = {"max_over_mean": float(skew.mean()), "worst_layer": float(skew.max())}
    return Insight("hottest_expert", values)


def _pairs(table: npt.NDArray[np.int64] | None, top_k: int, too_large: dict[str, str]) -> Insight:
    """How far experts go in pairs; `table` has each pair once, in its upper triangle."""
    if table is None:
        return Insight("pairs", reason=next(iter(too_large.values())))
    experts = table.shape[-1]
    if top_k < 2 or experts < 3:
        return Insight("pairs", reason="tokens choose one expert each: there are no pairs")
    count = np.sort(table[:, *np.triu_indices(experts, 1)], -1)
    count = count[count.sum(-1) > 0]
    if not len(count):
        return Insight("pairs", reason="the trace has no load")
    top = max(1, int(LIKELY_PAIRS * count.shape[1]))
    share = count / count.sum(-1, keepdims=True)
    return Insight(
        "pairs",
        {
            "top10_share": float(share[:, -top:].sum(-1).mean()),
            "hottest_over_random": float((share[:, -1] * count.shape[1]).mean()),
            "worst_layer_over_random": float((share[:, -1] * count.shape[1]).max()),
            "chance": top / count.shape[1],
        },
    )


def _movement(
    load: Floats,
    header: Header,
    model: Model | None,
    hardware: Hardware | None,
    batches: Sequence[int],
    context: float,
    seed: int,
) -> Insight:
    missing = [name for name, value in (("--model", model), ("--hardware", hardware)) if value is None]
    if model is None or hardware is None:
        return Insight("data_movement", reason=f"needs {' and '.join(missing)}")
    if header.num_experts != model.num_experts:
        fault = Fault("has another number of experts", "--model", model.num_experts, str(header.num_experts))
        raise ConfigError(fault)
    loaded = load[load.sum(axis=1) > 0]
    if not len(loaded):
        return Insight("data_movement", reason="the trace has no load")
    shares = movement_shares(loaded, model, hardware, batches, context, seed)
    return Insight("data_movement", {f"batch_{n}": value for n, value in shares.items()})
