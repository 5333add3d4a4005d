"""All statistics of a trace, from memory or streamed from a file of any size."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.analysis.affinity import Affinity, affinity_of
from moesim.analysis.finish import NAMES, NOT_ASKED, WHOLE, finish, finish_counts
from moesim.analysis.partial import FAMILIES, WINDOWS, Partial, Spec, merge, partial, runs
from moesim.errors import ConfigError, Fault
from moesim.shown import block, span, table
from moesim.tabular import Tabular, rows_to_columns
from moesim.trace import Header, LoadCounts, Routing, RoutingTrace

if TYPE_CHECKING:
    from moesim.trace import TraceReader

Progress = Callable[[int, int], None]
ROWS = 65536
#: What a notebook shows at once, in words.
_SHOWN = {
    "max_over_mean": "largest over mean expert load",
    "entropy_normalised": "entropy of the load, 1 is even",
    "gini": "Gini coefficient of the load",
    "rank_max_over_mean_8": "largest over mean load of 8 ranks, experts in order",
    "consecutive_overlap": "experts kept from one token to the next",
    "random_pair_overlap": "experts that two random tokens share",
    "distinct_fraction_8": "distinct experts in 8 tokens, share of all",
    "distinct_fraction_32": "distinct experts in 32 tokens, share of all",
    "distinct_fraction_128": "distinct experts in 128 tokens, share of all",
    "next_layer_information_bits": "what a layer says of the next, bits",
    "lru_hit_ratio_0.25": "hits of a least-recently-used cache of a quarter",
    "lru_hit_ratio_0.5": "hits of a least-recently-used cache of half",
    "drift": "movement of the load over time",
    "drift_noise": "as much movement by chance alone",
}
#: The most memory of one kind of sums.
_TABLE_BYTES = 2e9


@dataclass(frozen=True, slots=True)
class Statistics(Tabular):
    """Statistics of a trace.

    Parameters
    ----------
    overall
        Mean over the MoE layers that have load, by name; some are themselves numbers by name. None where the
        trace does not say (see `reasons`).
    layers
        The same of each MoE layer, with its ``layer_id``.
    reasons
        Why a statistic is None.
    interval
        Lower and upper ends of the 95 % intervals of statistics of `overall`, if a bootstrap was asked for.
    model, num_experts, top_k, tokens
        What the trace is of; `tokens` is None for load counts.
    warnings
        What had to be assumed.
    affinity
        Of the two neighbouring layers that depend most on each other; None without ``coupling``, or with one
        MoE layer.
    loads
        Selections of every expert of every layer, ``[layers][experts]``; empty without ``load``.
    """

    overall: dict[str, Any]
    layers: list[dict[str, Any]]
    reasons: dict[str, str] = field(default_factory=dict)
    interval: dict[str, Any] | None = None
    model: str = ""
    num_experts: int = 0
    top_k: int | None = None
    tokens: int | None = None
    warnings: tuple[str, ...] = ()
    affinity: Affinity | None = None
    loads: tuple[tuple[float, ...], ...] = ()

    def columns(self) -> dict[str, Any]:
        """A row per MoE layer; a statistic of several numbers has a column for each."""
        return rows_to_columns([_flat(layer) for layer in self.layers])

    def _repr_html_(self) -> str:
        overall, spans = _flat(self.overall), _flat(self.interval or {})
        rows = [
            (words, overall[name], _ends(spans.get(name)))
            for name, words in _SHOWN.items()
            if isinstance(overall.get(name), int | float)
        ]
        rest = len(overall) - len(rows)
        what = f"{self.tokens:,} tokens" if self.tokens is not None else "load counts"
        k = f", top {self.top_k}" if self.top_k is not None else ""
        # What was left out by choice needs no words.
        unsaid = [f"{name}: {why}" for name, why in self.reasons.items() if not why.endswith(NOT_ASKED)]
        return block(
            f"{self.model or 'trace'}: {what}, {len(self.layers)} layers of {self.num_experts} experts{k}",
            table(["statistic", "mean of layers", "95 % interval"], rows),
            notes=[*self.warnings, *unsaid, *([f"{rest} more: .overall, .to_pandas()"] if rest else [])],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dictionaries, without NaN."""
        return {
            "model": self.model or None,
            "num_experts": self.num_experts,
            "top_k": self.top_k,
            "tokens": self.tokens,
            "overall": self.overall,
            "layers": self.layers,
            "reasons": self.reasons,
            "interval": self.interval,
            "affinity": None if self.affinity is None else self.affinity.to_dict(),
            "loads": [list(layer) for layer in self.loads],
            "warnings": list(self.warnings),
        }


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers by name; those of a statistic of several by its name and theirs."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}_{inner}": one for inner, one in value.items()}
        else:
            found[name] = value
    return found


def _ends(interval: Any) -> str | None:  # noqa: ANN401 - of a statistic
    return span(interval) if isinstance(interval, list | tuple) and None not in interval else None


def statistics(
    trace: Routing | str | os.PathLike[str],
    *,
    ep: Sequence[int] | None = None,
    seed: int = 0,
    families: Sequence[str] = FAMILIES,
    phase: int | None = None,
    bootstrap: int = 0,
    scheduler: str | None = None,
    progress: Progress | None = None,
    rows: int = ROWS,
    **hints: Any,  # noqa: ANN401 - as load_trace takes them
) -> Statistics:
    """Statistics of a routing trace or of load counts.

    Parameters
    ----------
    trace
        The trace, or a file in any known format; canonical Parquet is streamed, never held.
    ep
        Expert-parallel degrees to give rank loads for; each divides the number of experts. Not given: 8, if
        it does.
    seed
        Of the sample that `recall_k` and `sch_2k` are measured on, and of the bootstrap.
    families
        Some of ``load, locality, coupling, pairs, segments, cache, sample``; the fewer, the faster.
    phase
        Take only prefill (0) or decode (1) tokens.
    bootstrap
        Draws of the bootstrap over requests; 0 for no intervals.
    scheduler
        Address of a Dask scheduler that shares the work out (canonical Parquet only).
    progress
        Called with tokens done and tokens in all.
    rows
        Tokens of one batch; the answer does not depend on it.
    **hints
        `shape`, `num_experts`, `candidates` of `moesim.trace.load_trace`, for files.

    Raises
    ------
    TraceError
        If the file cannot be read.
    ConfigError
        If an option does not fit the trace.

    Examples
    --------
    >>> from moesim.files import data_dir
    >>> stats = statistics(data_dir("traces") / "gpt-oss-20b-synthetic.npz", families=("load",))
    >>> round(stats.overall["gini"], 3), len(stats.layers), stats.layers[0]["layer_id"]
    (0.375, 24, 0)
    """
    unknown = [name for name in families if name not in FAMILIES]
    if unknown or not families:
        raise ConfigError(Fault("are no statistics", "families (--only)", unknown, ", ".join(FAMILIES)))
    if bootstrap < 0:
        raise ConfigError(Fault("must not be negative", "--bootstrap", bootstrap))
    if rows < 1:
        raise ConfigError(Fault("must be at least 1", "rows", rows))
    source = trace if isinstance(trace, RoutingTrace | LoadCounts) else open_trace(trace, hints)
    if isinstance(source, LoadCounts):
        found = finish_counts(source, _degrees(ep, source.num_experts))
        return _of(Header.of(source), *found, loads=source.totals)
    with contextlib.nullcontext(source) if isinstance(source, RoutingTrace) else source:
        header = Header.of(source) if isinstance(source, RoutingTrace) else source.header
        degrees = _degrees(ep, header.num_experts)
        spec, too_large = spec_of(header, tokens_of(source, phase), families, bootstrap, seed)
        if not isinstance(source, RoutingTrace) and scheduler is None and takes_turns(source):
            source = source.read()
        part = sum_source(source, spec, phase, rows, scheduler, progress)
    overall, layers, reasons, interval = finish(part, header.moe_layer_ids, degrees, bootstrap, seed)
    joint = part.sums.get("joint")
    affinity = None if joint is None else affinity_of(joint.sum(1), header.moe_layer_ids)
    loads = part.sums.get("load")
    if loads is not None:
        loads = loads.sum(axis=1)
    return _of(header, overall, layers, reasons | too_large, interval, part.tokens, affinity, loads)


def _of(
    header: Header,
    overall: dict[str, Any],
    layers: list[dict[str, Any]],
    reasons: dict[str, str],
    interval: dict[str, Any] | None = None,
    tokens: int | None = None,
    affinity: Affinity | None = None,
    loads: Any = None,  # noqa: ANN401 - an array [layers, experts], or None
) -> Statistics:
    experts, top_k, warnings = header.num_experts, header.top_k, tuple(header.warnings)
    blank = {name: None for name in reasons if name not in overall}
    layers = [layer | {name: None for name in blank if name not in WHOLE} for layer in layers]
    overall = overall | blank
    return Statistics(
        overall,
        layers,
        reasons,
        interval,
        header.model,
        experts,
        top_k,
        tokens,
        warnings,
        affinity,
        () if loads is None else tuple(map(tuple, loads.tolist())),
    )


def open_trace(path: str | os.PathLike[str], hints: dict[str, Any]) -> Routing | TraceReader:
    """A trace of any format; canonical Parquet of tokens is only opened."""
    from moesim.trace import TraceReader
    from moesim.trace.peek import Peek
    from moesim.trace.readers import find_reader
    from moesim.trace.readers.parquet import READER, fitted, stored_header
    from moesim.trace.schema import ROUTING
    from moesim.trace.shape import Hints

    peek = Peek(path)
    wanted = Hints.of(hints.get("shape"), hints.get("num_experts"), hints.get("candidates", ()))
    reader = find_reader(peek)
    if reader is not READER or stored_header(peek).kind != ROUTING:
        return reader.read(peek, wanted)
    stream = TraceReader(path)
    try:
        stream.header = fitted(stream.header, wanted, path)
    except BaseException:
        stream.close()
        raise
    return stream


def spec_of(
    header: Header, tokens: int, families: Sequence[str], bootstrap: int, seed: int
) -> tuple[Spec, dict[str, str]]:
    """What to sum for these options, and the statistics that would take too much memory, with the reason."""
    layers, experts = len(header.moe_layer_ids), header.num_experts
    groups = 1
    if bootstrap:
        groups = 256 if layers * experts <= 4096 else 64
        while groups > 1 and layers * experts * groups * WINDOWS * 8 > _TABLE_BYTES:
            groups //= 2
    kept, too_large = tuple(families), {}
    if 2 * layers * experts**2 * 8 > _TABLE_BYTES:
        why = f"tables of {experts} by {experts} experts in {layers} layers are too large"
        kept = tuple(family for family in families if family not in ("coupling", "pairs"))
        too_large = dict.fromkeys((*NAMES["coupling"], *NAMES["pairs"], *NAMES["sample"][:3]), why)
    return Spec(layers, experts, header.top_k or 0, tokens, kept, groups, WINDOWS, seed), too_large


def sum_up(
    batches: Iterator[tuple[Any, Any]], spec: Spec, start: int, done: Callable[[int], None]
) -> Partial:
    """The sums of consecutive batches of ids ``[tokens, layers, top_k]`` and requests."""
    whole: Partial | None = None
    for ids, request in batches:
        part = partial(spec, ids, request, start)
        whole = part if whole is None else merge(whole, part)
        start += part.tokens
        done(start)
    if whole is None:
        empty = np.zeros((0, spec.layers, spec.top_k), np.uint16)
        whole = partial(spec, empty, np.zeros(0, np.int32), start)
    return whole


def sum_source(
    source: RoutingTrace | TraceReader,
    spec: Spec,
    phase: int | None,
    rows: int,
    scheduler: str | None,
    progress: Progress | None,
) -> Partial:
    """The sums of a whole trace, or of one phase of it."""

    def done(tokens: int) -> None:
        if progress is not None:
            progress(tokens, spec.tokens)

    if scheduler is not None:
        from moesim.analysis.cluster import sum_on_cluster

        if isinstance(source, RoutingTrace) or phase is not None:
            raise ConfigError(Fault("needs a canonical Parquet file and no --by", "--scheduler", scheduler))
        return sum_on_cluster(source, spec, scheduler, rows, done)
    if isinstance(source, RoutingTrace):
        return sum_up(_slices(source, phase, rows), spec, 0, done)
    return sum_up(_stream(source, phase, rows), spec, 0, done)


def _slices(trace: RoutingTrace, phase: int | None, rows: int) -> Iterator[tuple[Any, Any]]:
    ids, request = trace.topk_ids, trace.request
    if phase is not None:
        ids, request = ids[trace.phase == phase], request[trace.phase == phase]
    if len(np.flatnonzero(np.diff(request))) + 1 > len(np.unique(request)):
        # Requests that take turns: put the tokens of each together, requests in order of their first token.
        _, first, which = np.unique(request, return_index=True, return_inverse=True)
        order = np.argsort(first[which], kind="stable")
        ids, request = ids[order], request[order]
    for at in range(0, len(request), rows):
        yield ids[at : at + rows], request[at : at + rows]


def _stream(source: TraceReader, phase: int | None, rows: int) -> Iterator[tuple[Any, Any]]:
    for batch in source.batches(rows=rows, weights=False):
        if phase is None:
            yield batch.topk_ids, batch.request
        else:
            chosen = batch.phase == phase
            yield batch.topk_ids[chosen], batch.request[chosen]


def tokens_of(source: RoutingTrace | TraceReader, phase: int | None) -> int:
    """Tokens of a trace, or of one phase of it."""
    if phase is None:
        return source.num_tokens
    if isinstance(source, RoutingTrace):
        return int((source.phase == phase).sum())
    first = source.header.moe_layer_ids[:1]
    return sum(int((batch.phase == phase).sum()) for batch in source.batches(layers=first, weights=False))


def _degrees(ep: Sequence[int] | None, experts: int) -> tuple[int, ...]:
    if ep is None:
        return (8,) if experts % 8 == 0 else ()
    wrong = [n for n in ep if n < 1 or experts % n]
    if wrong:
        allowed = ", ".join(str(n) for n in range(1, experts + 1) if experts % n == 0)
        raise ConfigError([Fault("does not divide the experts", "--ep", n, allowed) for n in wrong])
    return tuple(ep)


def takes_turns(source: TraceReader) -> bool:
    """Whether tokens of other requests stand between those of one."""
    ended: set[int] = set()
    last = None
    for batch in source.batches(layers=source.header.moe_layer_ids[:1], weights=False):
        begin, _ = runs(batch.request)
        names = batch.request[begin].tolist()
        for name in names[1:] if names and names[0] == last else names:
            if last is not None:
                ended.add(last)
            if name in ended:
                return True
            last = name
    return False
