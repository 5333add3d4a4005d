"""All statistics of a trace, from memory or streamed from a file of any size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.analysis.finish import finish, finish_counts
from moesim.analysis.partial import FAMILIES, Partial, Spec, merge, partial
from moesim.errors import ConfigError, Fault
from moesim.trace import Header, LoadCounts, Routing, RoutingTrace

if TYPE_CHECKING:
    from moesim.trace import TraceReader

Progress = Callable[[int, int], None]
ROWS = 65536


@dataclass(frozen=True, slots=True)
class Statistics:
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
            "warnings": list(self.warnings),
        }


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
    >>> sorted(stats.overall)[:3], len(stats.layers), stats.layers[0]["layer_id"]
    (['drift', 'drift_noise', 'entropy_normalised'], 24, 0)
    """
    unknown = [name for name in families if name not in FAMILIES]
    if unknown or not families:
        raise ConfigError(Fault("are no statistics", "families", unknown, ", ".join(FAMILIES)))
    if bootstrap < 0 or rows < 1:
        raise ConfigError(Fault("must not be negative", "--bootstrap", bootstrap))
    source = trace if isinstance(trace, RoutingTrace | LoadCounts) else open_trace(trace, hints)
    try:
        header = source.header if _is_stream(source) else Header.of(source)  # type: ignore[union-attr, arg-type]
        degrees = _degrees(ep, header.num_experts)
        if isinstance(source, LoadCounts):
            overall, layers, reasons = finish_counts(source, degrees)
            part, interval = None, None
        else:
            tokens = _tokens(source, phase)
            spec = spec_of(header, tokens, families, bootstrap, seed)
            part = _sum(source, spec, phase, rows, scheduler, progress)
            overall, layers, reasons, interval = finish(part, header.moe_layer_ids, degrees, bootstrap, seed)
    finally:
        if _is_stream(source):
            source.close()  # type: ignore[union-attr]
    return Statistics(
        overall=overall,
        layers=layers,
        reasons=reasons,
        interval=interval,
        model=header.model,
        num_experts=header.num_experts,
        top_k=header.top_k,
        tokens=None if part is None else part.tokens,
        warnings=header.warnings,
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


def spec_of(header: Header, tokens: int, families: Sequence[str], bootstrap: int, seed: int) -> Spec:
    """What to sum for these options."""
    layers, experts = len(header.moe_layer_ids), header.num_experts
    groups = 1
    if bootstrap:
        groups = 256 if layers * experts <= 4096 else 64
    return Spec(layers, experts, header.top_k or 0, tokens, tuple(families), groups, seed=seed)


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


def _sum(
    source: RoutingTrace | TraceReader,
    spec: Spec,
    phase: int | None,
    rows: int,
    scheduler: str | None,
    progress: Progress | None,
) -> Partial:
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


def _tokens(source: RoutingTrace | TraceReader, phase: int | None) -> int:
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


def _is_stream(source: object) -> bool:
    return hasattr(source, "batches")
