"""The numbers of a page as tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesim.reporting.documents import (
    PLACEMENTS,
    PRICED,
    PlacementDocument,
    PredictionDocument,
    Price,
    Redundancy,
)

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; every column but the first is right-aligned if it is numeric.

    Parameters
    ----------
    columns
        Headings, with units.
    folded
        Whether it is shown only when asked for.
    compares
        Whether every row is a property, and every column but the first a result: rows that differ are marked.
    """

    title: str
    columns: Row
    rows: tuple[Row, ...]
    folded: bool = False
    compares: bool = False

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers only."""
        return tuple(i > 0 and all(_is_number(row[i]) for row in self.rows) for i in range(len(self.columns)))


def imbalance(document: PlacementDocument) -> Table:
    """Mean and worst imbalance by placement, and the bound."""
    other = document.load_imbalance["plan"].evaluated is not None
    columns = ("placement", "mean", "worst layer", *(("other load: mean", "worst layer") if other else ()))
    rows: list[Row] = []
    for name in PLACEMENTS:
        judged = document.load_imbalance.get(name)
        if judged is None:
            continue
        cells = [_fixed(judged.fitted.mean), _fixed(judged.fitted.worst)]
        if other:
            cells += ["-", "-"] if judged.evaluated is None else [
                _fixed(judged.evaluated.mean), _fixed(judged.evaluated.worst)
            ]  # fmt: skip
        rows.append((name, *cells))
    bound = [v for v in document.lower_bound.per_layer if v is not None]
    rows.append(
        (
            "lower bound",
            _fixed(document.lower_bound.mean),
            _fixed(max(bound, default=None)),
            *(("-", "-") if other else ()),
        )
    )
    return Table("Largest over mean rank load", columns, tuple(rows))


def priced(predicted: Mapping[str, Price], where: str = "") -> Table:
    """What each placement costs."""
    rows = tuple(
        (
            PRICED[name],
            _ms(price.ttft_s),
            _ms(price.tpot_s),
            f"{price.output_throughput:,.0f}",
            _fixed(price.load_imbalance, 3),
        )
        for name in PRICED
        if (price := predicted.get(name)) is not None
    )
    at = predicted["after"].concurrency
    columns = ("placement", "TTFT, ms", "TPOT, ms", "output tokens/s", "imbalance per step")
    return Table(f"Predicted{where} at {at:,.6g} concurrent requests", columns, rows)


def redundancy(numbers: Redundancy) -> Table:
    """Numbers of redundant experts, what they cost and what they buy."""
    rows = tuple(
        (
            str(choice.redundant),
            _short(None if choice.weights_bytes is None else choice.weights_bytes / 1e9),
            _short(None if choice.cache_tokens is None else choice.cache_tokens / 1e6),
            _fixed(choice.load_imbalance, 3),
            _ms(choice.tpot_s),
            "does not fit" if choice.output_throughput is None else f"{choice.output_throughput:,.0f}",
            "chosen" if choice.redundant == numbers.best else "",
        )
        for choice in numbers.choices
    )
    columns = (
        "redundant experts per layer",
        "weights per device, GB",
        "cache, million tokens",
        "imbalance per step",
        "TPOT, ms",
        "output tokens/s",
        "",
    )
    return Table("How many redundant experts", columns, rows)


def price_points(document: PlacementDocument) -> Table:
    """TPOT by batch size."""
    columns = ("tokens per rank", "before, ms", "best without redundancy, ms", "plan, ms")
    rows = tuple(
        (
            f"{point.tokens_per_rank:g}",
            *(_ms(s) for s in (point.before_tpot_s, point.balanced_tpot_s, point.after_tpot_s)),
        )
        for point in document.prices
    )
    return Table("TPOT by batch size", columns, rows)


def layers(document: PlacementDocument) -> Table:
    """Imbalance and bound of every layer."""
    names = [name for name in PLACEMENTS if name in document.load_imbalance]
    columns = ("decoder layer", *names, "lower bound")
    found = [document.load_imbalance[name].fitted.per_layer for name in names]
    rows = tuple(
        (str(layer), *(_fixed(values[i]) for values in (*found, document.lower_bound.per_layer)))
        for i, layer in enumerate(document.moe_layer_ids)
    )
    return Table("Largest over mean rank load, by layer", columns, rows, folded=True)


def emitted(document: PlacementDocument) -> Table:
    """The plans that were written."""
    rows = tuple((file.path, file.format, str(file.rows)) for file in document.emitted)
    return Table("Plans written", ("file", "format", "rows"), rows)


def compared(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Table:
    """Predictions side by side, one column each."""
    lines: list[tuple[str, list[str]]] = [
        ("model", [a.model for a in answers]),
        ("hardware", [f"{a.num_devices} devices of {a.hardware}" for a in answers]),
        ("layout", [a.layout_text for a in answers]),
        ("tokens in / out", [f"{a.input_len:,.6g} / {a.output_len:,.6g}" for a in answers]),
        ("requests/s that arrive", [_short(a.request_rate) for a in answers]),
        ("concurrent requests", [f"{a.concurrency:,.6g}" for a in answers]),
        ("running at once", [f"{a.running:,.6g}" for a in answers]),
        ("TTFT, ms", [_ms(a.ttft_s) for a in answers]),
        ("TPOT, ms", [_ms(a.tpot_s) for a in answers]),
        ("end to end, s", [f"{a.e2el_s:,.4g}" for a in answers]),
        ("requests/s", [f"{a.request_throughput:,.4g}" for a in answers]),
        ("output tokens/s", [f"{a.output_throughput:,.0f}" for a in answers]),
        ("output tokens/s per device", [f"{a.output_throughput_per_device:,.0f}" for a in answers]),
        ("all tokens/s", [f"{a.total_token_throughput:,.0f}" for a in answers]),
        (
            "memory per device, GB",
            [f"{a.memory_bytes / 1e9:.4g} of {a.memory_capacity_bytes / 1e9:.4g}" for a in answers],
        ),
        ("expert load, largest over mean rank", [_fixed(a.load_imbalance, 3) for a in answers]),
        (
            "distinct experts per layer and step",
            [_short(a.experts.get("distinct_experts")) for a in answers],
        ),
        ("expert slots hit per rank", [_short(a.experts.get("hit_slots_per_rank")) for a in answers]),
        ("bound of TPOT, ms", [_ms(a.bounds.get("tpot_s")) for a in answers]),
        ("interval of TTFT, ms", [_span(a, "ttft_s") for a in answers]),
        ("interval of TPOT, ms", [_span(a, "tpot_s") for a in answers]),
    ]
    rows = tuple((name, *cells) for name, cells in lines if set(cells) != {"-"})
    return Table("Predictions", ("", *labels), rows, compares=True)


def broken_down(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Table:
    """Milliseconds per output token of every operation."""
    parts = [{line.op: line for line in answer.breakdown} for answer in answers]
    order = {op: max(abs(p[op].seconds) for p in parts if op in p) for part in parts for op in part}
    rows = tuple(
        (
            op,
            next(part[op].bound_by for part in reversed(parts) if op in part),
            *(f"{part[op].seconds * 1e3:.4f}" if op in part else "-" for part in parts),
        )
        for op in sorted(order, key=lambda op: (-order[op], op))
    )
    return Table("Time per output token, ms", ("operation", "bound by", *labels), rows, folded=len(rows) > 8)


def _fixed(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.4g}"


def _span(answer: PredictionDocument, name: str) -> str:
    if answer.interval is None:
        return "-"
    low, high = getattr(answer.interval, name)
    return f"{_ms(low)} to {_ms(high)}"


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "", 1).lstrip("-").isdigit()
