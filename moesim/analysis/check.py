"""Find what is wrong with a routing trace or load counts, before anything is concluded from them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moesim.analysis.check_evidence import of_loads, of_scan
from moesim.analysis.check_rules import RULES_FOR_BOTH
from moesim.analysis.check_scan import Batch, Scan
from moesim.analysis.check_token_rules import RULES_FOR_TOKENS
from moesim.analysis.check_types import Finding, Report, worst_first
from moesim.errors import ConfigError, Fault, TraceError
from moesim.trace import Header, LoadCounts, Routing, Shape, ShapeLike
from moesim.trace.arrays import read_npz, text
from moesim.trace.assemble import Origin, routing_trace
from moesim.trace.peek import Peek
from moesim.trace.readers import Reader, find_reader
from moesim.trace.schema import MAX_EXPERTS, ROUTING, parse_header
from moesim.trace.shape import Candidates, Hints

#: How a reader's warning begins that it took the smallest known model that fits.
_GUESSED = "the file does not name its model"
_COLUMNS = ("request", "position", "phase", "token_id")


def check_trace(trace: Routing, *, shape: ShapeLike | None = None, ranks: Sequence[int] = ()) -> Report:
    """Check a trace held in memory.

    Parameters
    ----------
    trace
        Routing trace or load counts.
    shape
        The model it should be of.
    ranks
        Expert-parallel sizes at which to look for idle ranks; each must divide the experts.

    Returns
    -------
    Report

    Raises
    ------
    ConfigError
        If a number of ranks does not divide the experts.

    Examples
    --------
    >>> from moesim.files import data_dir
    >>> from moesim.trace import load_trace
    >>> report = check_trace(load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz"), ranks=[8])
    >>> report.ok
    True
    """
    question = _Question(None if shape is None else Shape.of(shape), tuple(ranks))
    return question.answer(Header.of(trace), trace if isinstance(trace, LoadCounts) else [trace])


def check_file(
    path: str | os.PathLike[str],
    *,
    shape: ShapeLike | None = None,
    num_experts: int | None = None,
    ranks: Sequence[int] = (),
    candidates: Candidates = (),
    top_k: int | None = None,
) -> Report:
    """Check a file in any known format; canonical Parquet is streamed.

    What a reader refuses is a finding. The file is then read without asking for a fit, as far as that goes,
    so that the report can say where and how often.

    Parameters
    ----------
    path
        The file.
    shape, num_experts, candidates, top_k
        As for `moesim.trace.load_trace`. A trace that names its model is checked against the candidate of
        that name.
    ranks
        As for `check_trace`.

    Returns
    -------
    Report

    Raises
    ------
    TraceError
        If the file is missing, may not be read, or is in no known format.
    ConfigError
        If a number of ranks does not divide the experts.
    """
    peek = Peek(path)
    reader = find_reader(peek)
    hints = Hints.of(shape, num_experts, candidates, top_k)
    question = _Question(hints.shape, tuple(ranks), hints)
    try:
        report = _strict(peek, reader, question)
    except TraceError as error:
        refused = Finding("refused", len(error.faults), "; ".join(map(str, error.faults)))
        try:
            report = _lenient(peek, reader, question)
        except TraceError:
            report = Report(())
        report = replace(report, findings=worst_first([refused, *report.findings]))
    return replace(report, format=reader.name)


@dataclass(frozen=True, slots=True)
class _Question:
    """What a trace is checked against."""

    shape: Shape | None
    ranks: tuple[int, ...]
    hints: Hints = field(default_factory=Hints)

    def answer(self, header: Header, data: LoadCounts | Iterable[Batch]) -> Report:
        """Look at everything and apply every rule."""
        model = self.shape or self._named(header)
        num_experts = model.num_experts if model else header.num_experts
        _check_ranks(self.ranks, num_experts)
        differences = _differences(header, model)
        scan = None
        if isinstance(data, LoadCounts):
            loads = replace(data, moe_layer_ids=header.moe_layer_ids)
            evidence = of_loads(loads, num_experts, model, self.ranks, differences)
        else:
            scan = Scan(header.moe_layer_ids, num_experts, header.top_k or 1)
            for batch in data:
                scan.add(batch)
            evidence = of_scan(scan, model, self.ranks, differences)
        findings = [Finding("note", 1, warning) for warning in header.warnings]
        for rule in (*RULES_FOR_BOTH, *RULES_FOR_TOKENS):
            findings += rule(evidence)
        return Report(
            findings=worst_first(findings),
            kind=header.kind,
            model=header.model,
            tokens=scan.tokens if scan else None,
            examined_tokens=scan.sequences.tokens if scan else None,
        )

    def _named(self, header: Header) -> Shape | None:
        """The model that the file itself names; one that a reader guessed proves nothing."""
        if not header.model or any(w.startswith(_GUESSED) for w in header.warnings):
            return None
        return next((shape for shape in self.hints.known_shapes() if shape.name == header.model), None)


def _strict(peek: Peek, reader: Reader, question: _Question) -> Report:
    """Read as every other command does, and check."""
    if _is_token_parquet(peek, reader):
        from moesim.trace.reader import TraceReader
        from moesim.trace.readers.parquet import fitted

        with TraceReader(peek.path) as stream:
            stream.header = fitted(stream.header, question.hints, peek.path)
            return question.answer(stream.header, stream.batches())
    trace = reader.read(peek, question.hints)
    return question.answer(Header.of(trace), trace if isinstance(trace, LoadCounts) else [trace])


def _lenient(peek: Peek, reader: Reader, question: _Question) -> Report:
    """Let ids pass that are beyond the experts of header or model, and check against those."""
    if _is_token_parquet(peek, reader):
        from moesim.trace.reader import TraceReader

        with TraceReader(peek.path) as stream:
            header = stream.header
            stream.header = replace(header, num_experts=MAX_EXPERTS)
            return question.answer(header, stream.batches())
    alone = Hints(top_k=question.hints.top_k)
    trace, header = _read_alone(peek, reader, alone)
    shape, num_experts = question.shape, question.hints.num_experts
    if shape is not None and not header.model and len(header.moe_layer_ids) == len(shape.moe_layer_ids):
        header = replace(header, moe_layer_ids=shape.moe_layer_ids)
    if num_experts is not None:
        header = replace(header, num_experts=num_experts)
    # What was assumed for want of a model is no news once the model is known.
    header = replace(header, warnings=())
    return question.answer(header, trace if isinstance(trace, LoadCounts) else [trace])


def _is_token_parquet(peek: Peek, reader: Reader) -> bool:
    if reader.name != "parquet":
        return False
    from moesim.trace.readers.parquet import stored_header

    return stored_header(peek).kind == ROUTING


def _read_alone(peek: Peek, reader: Reader, alone: Hints) -> tuple[Routing, Header]:
    """A trace read without hints, and its header; an ``.npz`` may contradict its own number of experts."""
    arrays = read_npz(peek.path, ("topk_ids", *_COLUMNS, "moesim")) if reader.name == "npz" else {}
    if "moesim" not in arrays or "topk_ids" not in arrays:
        trace = reader.read(peek, alone)
        return trace, Header.of(trace)
    try:
        fields = json.loads(text(arrays["moesim"]))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise TraceError(Fault("is no JSON object", "moesim.npy"), peek.path)
    header = parse_header({name: json.dumps(value) for name, value in fields.items()}, peek.path)
    ids = arrays["topk_ids"]
    if ids.ndim != 3 or ids.shape[1:] != (len(header.moe_layer_ids), header.top_k):
        raise TraceError(Fault("is not of the shape its header says", "topk_ids"), peek.path)
    columns: dict[str, Any] = {name: arrays[name] for name in _COLUMNS if name in arrays}
    origin = Origin.of(replace(header, num_experts=MAX_EXPERTS), peek.path)
    return routing_trace(ids, origin, alone, **columns), header


def _differences(header: Header, model: Shape | None) -> tuple[str, ...]:
    if model is None:
        return ()
    found = []
    if header.top_k not in (None, model.top_k):
        found.append(f"the trace has top-k {header.top_k}, {model.name} has {model.top_k}")
    if header.num_experts < model.num_experts and header.model:
        theirs = f"{model.name} has {model.num_experts}"
        found.append(f"the trace has {header.num_experts} experts per layer, {theirs}")
    return tuple(found)


def _check_ranks(ranks: Sequence[int], num_experts: int) -> None:
    wrong = [n for n in ranks if n < 1 or num_experts % n]
    if wrong:
        fitting = ", ".join(str(n) for n in range(1, num_experts + 1) if num_experts % n == 0)
        allowed = f"a divisor of {num_experts}: {fitting}"
        raise ConfigError([Fault("does not divide the experts", "--ep", n, allowed) for n in wrong])
