"""Published exchanges of tokens: DeepEP, DeepEP-Ascend and TensorRT-LLM's one-sided kernels.

Libraries print bytes over seconds, and count the bytes their own way. DeepEP counts what stays on a rank or
in a node as if it had travelled; so the same count stands over our seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from moesim.cost import (
    HIGH_THROUGHPUT,
    LOW_LATENCY,
    direct_traffic,
    exchange_of,
    one_way_seconds,
    two_level_traffic,
)
from moesim.hardware import Hardware, load_hardware
from moesim.validate.published_rows import Answer, PublishedRow

_WAYS = ("dispatch", "combine")
_UNITS = {"us": 1e6, "ms": 1e3, "s": 1.0}
#: DeepSeek-V3, which all of them measure unless they say otherwise.
_HIDDEN, _TOP_K, _EXPERTS, _NODE_LIMIT = 7168, 8, 256, 4


@dataclass(frozen=True, slots=True)
class _Library:
    """How one library was measured.

    Parameters
    ----------
    hardware
        Name in the catalogue; None to go by the row.
    mode
        Of the exchange.
    count
        What the printed bandwidth counts: ``pairs``, ``once`` to a rank, or ``levels``.
    fitted
        Largest group that moesim's numbers were fitted to.
    backend
        Whose exchange it is.
    """

    hardware: str | None
    mode: str
    count: str
    fitted: int = 0
    backend: str = ""


_LIBRARIES = {
    "DeepEP V1 low-latency": _Library("h800-sxm-8", LOW_LATENCY, "pairs", 16),
    "DeepEP V1 normal": _Library("h800-sxm-8", HIGH_THROUGHPUT, "levels", 8),
    "DeepEP V2": _Library(None, HIGH_THROUGHPUT, "levels"),
    "DeepEP-Ascend low-latency": _Library("cloudmatrix384", LOW_LATENCY, "pairs", 16, "sglang"),
    "DeepEP-Ascend normal": _Library("cloudmatrix384", HIGH_THROUGHPUT, "pairs", 32),
    "CANN EP": _Library("cloudmatrix384", LOW_LATENCY, "pairs", 256),
    "TRT-LLM NVLinkOneSided": _Library("gb200-nvl72", LOW_LATENCY, "once", 16, "trtllm"),
}


def exchange_answer(row: PublishedRow) -> Answer | None:
    """What moesim says to a published exchange; None if the row is no such thing."""
    library = next((found for name, found in _LIBRARIES.items() if row.system.startswith(name)), None)
    way = row.text("phase").lower()
    if library is None or way not in _WAYS:
        return None
    ranks, tokens = _ranks(row), row.first_number("batch")
    if not ranks or not tokens:
        return Answer(reason="does not say how many ranks, or how many tokens a rank has")
    hardware, note = _hardware(row, library, ranks)
    if hardware is None:
        return Answer(reason=note)
    width = _token_bytes(row, way)
    if width is None:
        return Answer(reason="does not say how wide a token is")
    shape = _shape(row)
    seconds, counted = _seconds(library, hardware, way, ranks, tokens, width, shape)
    if (scale := _UNITS.get(row.text("unit"))) is not None and "latency" in row.text("metric").lower():
        ours = seconds * scale
    elif "bandwidth" in row.text("metric").lower() and "GB/s" in row.text("unit"):
        ours = counted * width / seconds / 1e9
    else:
        return Answer(reason=f"moesim has no {row.text('metric')} of an exchange in {row.text('unit')}")
    fitted = row.grade == "P" and ranks <= library.fitted
    if library.count == "once":
        fitted = fitted and row.text("precision") == "BF16"
    return Answer(ours, "exchange", note, fitted)


def _seconds(
    library: _Library,
    hardware: Hardware,
    way: str,
    ranks: int,
    tokens: float,
    width: float,
    shape: tuple[int, int, int],
) -> tuple[float, float]:
    """Seconds, and token vectors that the library counts."""
    _, top_k, experts = shape
    found = exchange_of(hardware, library.mode, library.backend)
    assert found is not None, "every library's machine has its exchange"
    domain = hardware.domain
    if library.count == "levels":
        sent = two_level_traffic(tokens, ranks, domain, experts, top_k, _NODE_LIMIT)
        nodes = ranks // domain
        counted = sent.out * nodes / (nodes - 1) if nodes > 1 else sent.total
    else:
        copies = min(top_k, ranks) if library.count == "once" else top_k
        sent = direct_traffic(tokens, ranks, domain, copies)
        counted = sent.total
    fit = found.dispatch if way == "dispatch" else found.combine
    if library.hardware is None:
        # Its kernels copy with more SMs, or more per SM, than those that the machine's file has a rate of.
        fit = replace(fit, up=replace(fit.up, rate_bytes_per_s=float("inf"), share=_share_of_v1(way)))
    seconds = one_way_seconds(fit, hardware, sent.up * width, sent.out * width, ranks, tokens, domain)
    return float(seconds), counted


@cache
def _share_of_v1(way: str) -> float:
    """Share of NVLink that DeepEP V1 reaches where no SM limits it."""
    found = load_hardware("h800-sxm-8").exchanges[HIGH_THROUGHPUT]
    return (found.dispatch if way == "dispatch" else found.combine).up.share


def _hardware(row: PublishedRow, library: _Library, ranks: int) -> tuple[Hardware | None, str]:
    if library.hardware is not None:
        return _load(library.hardware, ranks), ""
    text = " ".join((row.text("hardware"), row.text("parallelism"), row.text("notes"))).upper()
    if "SM100" in text or "B200" in text:
        machine = _load("b200-sxm-8", ranks)
        note = "NVLink at the share of DeepEP V1"
        if "CX7" in text or "400" in text:
            # Its network cards are those of Hopper.
            assert machine.scale_out is not None
            machine = replace(machine, scale_out=replace(machine.scale_out, bandwidth_bytes_per_s=50e9))
            note += "; 400 Gbit/s network cards"
        return machine, note
    if "SM90" in text or "H100" in text or "H800" in text or "H200" in text:
        return _load("h100-sxm-8", ranks), "H100; NVLink at the share of DeepEP V1"
    return None, "does not name a device of the catalogue"


@cache
def _load(name: str, ranks: int) -> Hardware:
    machine = load_hardware(name)
    return machine.with_nodes(max(machine.nodes, -(-ranks // machine.devices_per_node)))


def _ranks(row: PublishedRow) -> int | None:
    text = row.text("parallelism")
    if pair := re.search(r"(\d+)\s*x\s*(\d+)", text):
        return int(pair[1]) * int(pair[2])
    if one := re.search(r"EP\s*(\d+)", text):
        return int(one[1])
    number = row.text("num_devices")
    return int(number) if number.isdigit() and int(number) > 0 else None


def _shape(row: PublishedRow) -> tuple[int, int, int]:
    """Hidden width, experts per token, experts."""
    text = row.text("model")
    hidden, top = re.search(r"\b(\d{4,5})\b", text), re.search(r"top-?(\d+)\b", text)
    experts = re.search(r"(\d+) experts", text)
    return (
        int(hidden[1]) if hidden else _HIDDEN,
        int(top[1]) if top else _TOP_K,
        int(experts[1]) if experts else _EXPERTS,
    )


def _token_bytes(row: PublishedRow, way: str) -> float | None:
    """Bytes of one token vector on the wire, scales included."""
    hidden = _shape(row)[0]
    text = row.text("precision").upper()
    part = next((p for p in text.split("/") if way.upper() in p), text)
    if "BF16" in part or (way == "combine" and "FP8" not in part):
        return 2.0 * hidden
    if "INT8" in part:
        return hidden + 512.0
    if "MXFP8" in part:
        return hidden + hidden / 32.0
    if "FP8" in part:
        return hidden + hidden / 128.0 * 4.0
    if "NVFP4" in part or "FP4" in part:
        return hidden / 2.0 + hidden / 16.0
    return None
